"""Monitor one generation with the toolkit's parts, step by step. To copy to experiments/{name}/inference/monitor.py.

`TraitMonitor` does the same in one line, for batches too, and keeps only scores; this shows what there is to it.
"""

from __future__ import annotations

import json
from pathlib import Path

try:
    import torch
    from extraction.cli import run_command

    from traitlens import ActivationCapture, HookManager, layer_path, projection
    from utils.models import load_model
    from utils.prompts import encode_prompt, format_prompt, token_texts
    from utils.vectors import load_vector
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. In the project's folder run: pip install -e .") from None

EXPERIMENT = Path("experiments/gemma_2b_it_nov12")
MODEL = "google/gemma-2-2b-it"
METHOD, LAYER = "probe", 16
TRAITS = ("refusal", "uncertainty")
PROMPT = "What is the capital of France?"
MAX_NEW_TOKENS = 100


def main() -> None:
    """Generate one answer, score its tokens on every trait, and save a file that visualization.html opens."""
    home = EXPERIMENT.parent
    vectors = {
        t: load_vector(EXPERIMENT.name, t, method=METHOD, layer=LAYER, experiments_dir=home).vector for t in TRAITS
    }
    loaded = load_model(MODEL)
    model, tokenizer = loaded.model, loaded.tokenizer
    inputs = torch.tensor([encode_prompt(tokenizer, format_prompt(tokenizer, PROMPT))], device=loaded.device)

    capture = ActivationCapture()
    with HookManager(model) as hooks:
        # Layer 16 is what leaves block 15, so this is the module "model.layers.15".
        hooks.add_forward_hook(layer_path(model, LAYER), capture.make_hook(f"layer_{LAYER}"))
        output = model.generate(inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)

    # The capture holds the prompt's states, then those of the new tokens but the last: generate never feeds that one
    # back, so it has no state and is left out here. Mostly it is the end-of-turn token, which nobody wants to see.
    acts = capture.get(f"layer_{LAYER}")[0, inputs.shape[1] :]
    response_ids = output[0, inputs.shape[1] : -1].tolist()
    trait_scores = {trait: projection(acts, vector).tolist() for trait, vector in vectors.items()}

    tokens = token_texts(tokenizer, response_ids)
    result = {"prompt": PROMPT, "response": "".join(tokens), "tokens": tokens, "trait_scores": trait_scores}
    results_dir = EXPERIMENT / "inference" / "results"
    results_dir.mkdir(parents=True, exist_ok=True)
    (results_dir / "monitor.json").write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
