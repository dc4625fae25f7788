"""Stage 1's generation against a bare batched ``generate`` and against one prompt at a time.

    python benchmarks/generation.py

Figures are ratios over interleaved rounds in one process, per generated token; one at a time is timed on a few prompts.
"""

from __future__ import annotations

from pathlib import Path

import torch
from extraction.cli import run_command
from extraction.generate.plan import plan
from extraction.generate.settings import GenerationSettings

from benchmarks.capture import report, timed
from utils.definition import read_definition
from utils.experiment import Experiment
from utils.models import EMBEDDED_MODEL, load_model
from utils.models.generation import Sampling, generate_batch, left_padded
from utils.prompts import encode_prompt, format_prompt

ROOT = Path(__file__).resolve().parents[1]


def benchmark(
    model: str = EMBEDDED_MODEL,
    n: int = 64,
    max_new_tokens: int = 100,
    rounds: int = 5,
    alone: int = 2,
    threads: int = 2,
) -> None:
    """Print the ratios, per generated token.

    Args:
        model: Hub id, local folder, or the embedded model's name.
        n: prompts, one batch.
        max_new_tokens: longest answer.
        rounds: timed rounds.
        alone: prompts to time one at a time.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    loaded = load_model(model)
    definition = read_definition(Experiment(ROOT / "experiments", "starter").trait("refusal"))
    asks = plan(definition, GenerationSettings())[:: max(1, 220 // n)][:n]
    prompts = [
        encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, a.question, a.instruction)) for a in asks
    ]
    sampling = Sampling(max_new_tokens)
    produced: dict[str, list[int]] = {"bare": [], "stage 1": [], "alone": []}

    def bare(rows: list[list[int]], name: str) -> None:
        torch.manual_seed(0)
        ids, mask = left_padded(rows, loaded.tokenizer.pad_token_id)
        output = loaded.model.generate(input_ids=ids, attention_mask=mask, **sampling.generate_arguments())
        ends = torch.tensor(sorted(loaded.end_ids))
        ended = torch.isin(output[:, ids.shape[1] :], ends).int().cumsum(dim=1) > 0
        produced[name].append(int((~ended).sum()))

    def stage_1() -> None:
        produced["stage 1"].append(sum(len(g.ids) for g in generate_batch(loaded, prompts, sampling, 0)))

    def one_at_a_time() -> None:
        before = len(produced["alone"])
        for prompt in prompts[:alone]:
            bare([prompt], "alone")
        produced["alone"][before:] = [sum(produced["alone"][before:])]

    times = timed({"bare": lambda: bare(prompts, "bare"), "stage 1": stage_1, "alone": one_at_a_time}, rounds)
    per_token = {
        name: [s / tokens for s, tokens in zip(seconds, produced[name][1:], strict=True)]
        for name, seconds in times.items()
    }
    print(f"{model}, {loaded.model.dtype}, batch of {len(prompts)}, up to {max_new_tokens} tokens, {threads} threads")
    print(f"tokens per round: {', '.join(f'{name} {counts[-1]}' for name, counts in produced.items())}")
    print("seconds per thousand generated tokens:")
    report({name: [1000 * s for s in seconds] for name, seconds in per_token.items()}, "bare")


if __name__ == "__main__":
    run_command(benchmark)
