"""What monitoring costs: generation with 8 traits at all layers against plain generation, and memory over long texts.

    python benchmarks/monitoring.py [--tokens 100] [--rounds 5] [--batches 1,16]

Plain and monitored runs alternate, so that a machine that gets slower slows both; each round gives one ratio, and the
median of the ratios is reported, of time on the clock and of processor time. The clock needs a quiet machine; processor
time (on a CPU, with OMP_NUM_THREADS=1) does not mind others much.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from typing import NamedTuple

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
        times = paired_times(loaded, vectors, batch, tokens, rounds)
        plain, monitored = (statistics.median(pair[k].clock for pair in times) * 1000 / tokens for k in (0, 1))
        sys.stdout.write(f"batch {batch}: {plain:.1f} ms per step plain, {monitored:.1f} monitored; ")
        sys.stdout.write(
            f"ratio {ratios(times, 'clock')} on the clock, {ratios(times, 'processor')} of processor time\n"
        )
    if memory_tokens:
        sys.stdout.write(f"{memory_tokens} tokens: {memory(loaded, vectors, memory_tokens)}\n")


def random_vectors(loaded):
    """A random vector for each of 8 traits at every layer."""
    import torch

    from traitlens import n_layers

    hidden = loaded.model.config.get_text_config().hidden_size
    layers = range(n_layers(loaded.model))
    generator = torch.Generator().manual_seed(0)
    return {f"trait{i}": [(torch.randn(hidden, generator=generator), layer) for layer in layers] for i in range(TRAITS)}


class Seconds(NamedTuple):
    """What a run took: on the clock, and of processors."""

    clock: float
    processor: float


def ratios(times, kind):
    """Median and range of monitored to plain time over the rounds."""
    found = [getattr(monitored, kind) / getattr(plain, kind) for plain, monitored in times]
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def paired_times(loaded, vectors, batch, tokens, rounds):
    """Times of a plain and a monitored run, one pair per round."""
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
    return times


def timed(work, device):
    """Seconds that ``work()`` takes."""
    import torch

    gc.collect()
    clock, processor = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Seconds(time.perf_counter() - clock, time.process_time() - processor)


def memory(loaded, vectors, tokens):
    """Bytes that the monitor holds per token while a long text goes through the cache, at its most."""
    import torch

    from traitlens import TraitMonitor

    ids = torch.randint(100, 1000, (1, tokens), generator=torch.Generator().manual_seed(0)).to(loaded.device)
    cache, largest, read = None, 0.0, 0
    with TraitMonitor(loaded.model, vectors) as monitor, torch.inference_mode():
        while read < tokens:
            piece = ids[:, read : read + 20]
            output = loaded.model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, read = output.past_key_values, read + piece.shape[1]
            largest = max(largest, monitor.memory_usage() / read)
    places = sum(map(len, vectors.values()))
    return f"the monitor holds at most {largest:.1f} bytes per token (4 x {places} = {4 * places})"


if __name__ == "__main__":
    run_command(benchmark)
