"""Stage 2's forward passes against a bare backbone and against one text at a time, interleaved.

    python benchmarks/capture.py [--trait refusal]

The texts are the positive and negative starter responses of a trait, four or so to a question. Every round times all
variants in turn; a figure is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from extraction.capture.examples import Example, token_budget_batches
from extraction.capture.reading import read_batch
from extraction.cli import run_command

from traitlens import n_layers
from utils.experiment import Experiment
from utils.formats.response_files import read_responses
from utils.models import EMBEDDED_MODEL, LoadedModel, load_model
from utils.prompts import encode_prompt, encode_response, format_prompt

ROOT = Path(__file__).resolve().parents[1]


def examples_of(loaded: LoadedModel, trait: str, n: int) -> list[Example]:
    """The first ``n`` positive and the first ``n`` negative starter responses of a trait, with their prompts."""
    folder = Experiment(ROOT / "experiments", "starter").trait(trait)
    rows = []
    for side in ("pos", "neg"):
        for response in read_responses(folder, side)[:n]:
            prompt = encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, response.question))
            rows.append((prompt, prompt + encode_response(loaded.tokenizer, response.response)))
    return [Example("pos", i, ids, len(prompt)) for i, (prompt, ids) in enumerate(rows)]


def padded(batch: Sequence[Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and mask, as stage 2 makes them."""
    length = max(len(e.ids) for e in batch)
    ids = torch.tensor([e.ids + [pad_id] * (length - len(e.ids)) for e in batch])
    mask = torch.tensor([[1] * len(e.ids) + [0] * (length - len(e.ids)) for e in batch])
    return ids, mask


def one_at_a_time(loaded: LoadedModel, examples: list[Example]) -> None:
    """What a short script does: ``output_hidden_states`` of one text after the other."""
    for e in examples:
        states = loaded.model(input_ids=torch.tensor([e.ids]), output_hidden_states=True).hidden_states
        torch.stack([s[0, e.response_start :].float().mean(dim=0) for s in states])


def benchmark(
    model: str = EMBEDDED_MODEL,
    trait: str = "refusal",
    n: int = 64,
    rounds: int = 5,
    batch_tokens: int = 4096,
    threads: int = 2,
) -> None:
    """Print the ratios.

    Args:
        model: Hub id, local folder, or the embedded model's name.
        trait: whose starter responses are read.
        n: responses of each side.
        rounds: timed rounds.
        batch_tokens: token budget of a batch.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    loaded = load_model(model)
    examples = examples_of(loaded, trait, n)
    batches = token_budget_batches(examples, batch_tokens, 64)
    backbone, layers = loaded.model.base_model, range(n_layers(loaded.model))

    def bare() -> None:
        for batch in batches:
            ids, mask = padded(batch, loaded.tokenizer.pad_token_id)
            backbone(input_ids=ids, attention_mask=mask, use_cache=False)

    def stage_2() -> None:
        for batch in batches:
            read_batch(batch, loaded, layers)

    variants: dict[str, Callable[[], None]] = {
        "bare backbone, same batches": bare,
        "stage 2": stage_2,
        "one at a time, output_hidden_states": lambda: one_at_a_time(loaded, examples),
    }
    times = timed(variants, rounds)
    tokens, prompt_tokens = sum(len(e.ids) for e in examples), sum(e.response_start for e in examples)
    print(
        f"{model}, {loaded.model.dtype}, {len(examples)} responses, {tokens} tokens ({prompt_tokens} of prompts), "
        f"{len(batches)} batches, {threads} threads"
    )
    report(times, "bare backbone, same batches")


def timed(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round, in an order drawn for each, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    draw = random.Random(0)
    with torch.inference_mode():
        for round_number in range(rounds + 1):
            for name in draw.sample(list(variants), len(variants)):  # what ran before heats or cools the processor
                began = time.perf_counter()
                variants[name]()
                if round_number:
                    times[name].append(time.perf_counter() - began)
    return times


def report(times: dict[str, list[float]], reference: str) -> None:
    """Print each variant's median and the median, lowest and highest of its ratio to the reference, round by round."""
    for name, seconds in times.items():
        ratios = sorted(s / r for s, r in zip(seconds, times[reference], strict=True))
        print(
            f"{name:38s} median {statistics.median(seconds):6.2f} s   ratio {statistics.median(ratios):6.3f}"
            f"   ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    run_command(benchmark)
