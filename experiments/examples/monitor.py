"""Monitor one generation with the toolkit's parts, step by step. To copy to experiments/{name}/inference/monitor.py.

`TraitMonitor` does the same in one line, for batches too, and keeps only scores; this shows what there is to it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

try:
    import torch
    from extraction.cli import run_command
    from extraction.monitoring.verdicts import in_words, verdicts_on

    from traitlens import ActivationCapture, HookManager, layer_path, projection
    from utils.models import load_model
    from utils.prompts import encode_prompt, format_prompt, token_texts
    from utils.terminal import without_controls
    from utils.vectors import load_vector
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. In the project's folder run: pip install -e .") from None

EXPERIMENT = Path("experiments/smollm2_135m")
MODEL = "SmolLM2-135M-Instruct"
METHOD, LAYER = "probe", 19
TRAITS = ("refusal", "uncertainty")
PROMPT = "What is the capital of France?"
MAX_NEW_TOKENS = 100


def main() -> None:
    """Generate one answer, score its tokens on every trait, and save a file that visualization.html opens."""
    home = EXPERIMENT.parent
    vectors = {t: load_vector(EXPERIMENT.name, t, method=METHOD, layer=LAYER, experiments_dir=home) for t in TRAITS}
    loaded = load_model(MODEL)
    model, tokenizer = loaded.model, loaded.tokenizer
    inputs = torch.tensor([encode_prompt(tokenizer, format_prompt(tokenizer, PROMPT))], device=loaded.device)

    capture = ActivationCapture()
    with HookManager(model) as hooks:
        # Layer 19 is what leaves block 18, so this is the module "model.layers.18".
        hooks.add_forward_hook(layer_path(model, LAYER), capture.make_hook(f"layer_{LAYER}"))
        output = model.generate(inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)

    # The capture holds the prompt's states, then those of the new tokens but the last: generate never feeds that one
    # back, so it has no state and is left out here. Mostly it is the end-of-turn token, which nobody wants to see.
    acts = capture.get(f"layer_{LAYER}")[0, inputs.shape[1] :]
    response_ids = output[0, inputs.shape[1] : -1].tolist()
    trait_scores = {trait: projection(acts, vector.vector).tolist() for trait, vector in vectors.items()}

    tokens = token_texts(tokenizer, response_ids)
    verdicts = {trait: asdict(verdict) for trait, verdict in verdicts_on(trait_scores, vectors).items()}
    result = {
        "prompt": PROMPT, "response": "".join(tokens), "tokens": tokens, "trait_scores": trait_scores,
        "baselines": {trait: vector.baseline for trait, vector in vectors.items()}, "verdicts": verdicts,
    }  # fmt: skip
    sys.stdout.write(without_controls(f"{result['response']}\n{in_words(verdicts)}\n"))
    results_dir = EXPERIMENT / "inference" / "results"
    results_dir.mkdir(parents=True, exist_ok=True)
    (results_dir / "monitor.json").write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
