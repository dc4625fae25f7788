"""What monitoring costs: generation with 8 traits at all layers against plain generation, and memory over long texts.

    python benchmarks/monitoring.py [--tokens 100] [--rounds 5] [--batches 1,16]

Plain and monitored runs alternate, so that a machine that gets slower slows both; each round gives one ratio, and the
median of the ratios is reported. Run it on a quiet machine.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from pathlib import Path

from extraction.cli import run_command

TRAITS = 8


def benchmark(
    tokens: int = 100,
    rounds: int = 5,
    batches: list[int] | None = None,
    memory_tokens: int = 4000,
    model: str = "SmolLM2-135M-Instruct",
    device: str | None = None,
    dtype: str | None = None,
) -> None:
    """Measure the overhead of monitoring in time and memory.

    Args:
        tokens: new tokens per run.
        rounds: pairs of runs.
        batches: batch sizes, separated by commas.
        memory_tokens: length of the text whose scores are weighed; 0 leaves it out.
        model: what generates.
        device: cpu, cuda, cuda:1 or mps.
        dtype: float32, float16 or bfloat16.
    """
    from traitlens import n_layers
    from utils.models import load_model

    loaded = load_model(model, device=device, dtype=dtype)
    vectors = random_vectors(loaded)
    places = TRAITS * n_layers(loaded.model)
    dtype_name = str(loaded.model.dtype).removeprefix("torch.")
    sys.stdout.write(f"{model}, {dtype_name}, {loaded.device}, {places} scores per token\n")
    for batch in batches or [1, 16]:
        ratios, plain, monitored = time_ratios(loaded, vectors, batch, tokens, rounds)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        sys.stdout.write(
            f"batch {batch}: {plain * 1000:.1f} ms per step plain, {monitored * 1000:.1f} monitored, "
            f"ratio {statistics.median(ratios):.3f} ({spread})\n"
        )
    if memory_tokens:
        sys.stdout.write(f"{memory_tokens} tokens: {memory(loaded, vectors, memory_tokens)}\n")


def random_vectors(loaded):
    """Unit vectors for 8 traits at every layer."""
    import torch

    from traitlens import n_layers

    hidden = loaded.model.config.get_text_config().hidden_size
    layers = range(n_layers(loaded.model))
    generator = torch.Generator().manual_seed(0)
    return {f"trait{i}": [(torch.randn(hidden, generator=generator), layer) for layer in layers] for i in range(TRAITS)}


def time_ratios(loaded, vectors, batch, tokens, rounds):
    """Ratio of monitored to plain time per round, and the median seconds per step of both."""
    import torch

    from traitlens import TraitMonitor

    ids = torch.randint(100, 1000, (batch, 32), generator=torch.Generator().manual_seed(0)).to(loaded.device)
    arguments = {
        "attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False,
        "pad_token_id": loaded.tokenizer.pad_token_id,
    }  # fmt: skip

    def plain():
        loaded.model.generate(ids, **arguments)

    def monitored():
        with TraitMonitor(loaded.model, vectors) as monitor:
            loaded.model.generate(ids, **arguments)
        monitor.scores(0)

    plain(), monitored()
    times = []
    for i in range(rounds):
        order = (plain, monitored) if i % 2 == 0 else (monitored, plain)
        taken = {work: timed(work, loaded.device) for work in order}
        times.append((taken[plain], taken[monitored]))
    ratios = [m / p for p, m in times]
    return ratios, statistics.median(p for p, _ in times) / tokens, statistics.median(m for _, m in times) / tokens


def timed(work, device):
    """Seconds that ``work()`` takes."""
    import torch

    gc.collect()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def memory(loaded, vectors, tokens):
    """How much larger the process is after reading a text with a monitor than without, and what the scores hold.

    The text goes through the cache in small pieces, as in generating, so that what is left is the cache and the scores.
    """
    without, _ = growth(loaded, None, tokens)
    within, held = growth(loaded, vectors, tokens)
    places = sum(map(len, vectors.values()))
    return (
        f"scores hold {held / tokens:.1f} bytes per token (4 x {places} = {4 * places}), "
        f"the process grew {(within - without) / tokens:.0f} bytes per token more than without a monitor"
    )


def growth(loaded, vectors, tokens):
    """Bytes that the process grew by while reading, and bytes that the monitor holds."""
    import contextlib

    import torch

    from traitlens import TraitMonitor

    ids = torch.randint(100, 1000, (1, tokens), generator=torch.Generator().manual_seed(0)).to(loaded.device)
    gc.collect()
    before, cache = resident_bytes(), None
    watching = TraitMonitor(loaded.model, vectors) if vectors else contextlib.nullcontext()
    with watching, torch.inference_mode():
        for start in range(0, tokens, 20):
            piece = ids[:, start : start + 20]
            cache = loaded.model(
                input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1
            ).past_key_values
    gc.collect()
    return resident_bytes() - before, watching.memory_usage() if vectors else 0


def resident_bytes():
    """Size of the process in memory."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run_command(benchmark)
