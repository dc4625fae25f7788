"""Time of stage 3 at Gemma 2 2B's size: 27 layers x 4 methods, 100 + 100 responses in 2,304 dimensions.

    python benchmarks/vectors.py

First the fits alone, then the whole stage: held-out figures of every method and layer, the nested choice, controls,
files and card. Activations are random: a trait in the middle layers, a power law of variances, a massive dimension.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from extraction.cli import run_command
from extraction.fit.settings import Settings
from extraction.fit.stage import run
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits

from traitlens import METHODS, ContrastSpan, get_method
from traitlens.layers import LAYER_CONVENTION
from utils.experiment import Experiment, TraitFolder
from utils.formats.activation_files import TENSOR, activations_path, read_activations, write_activations_info
from utils.formats.response_files import responses_fingerprint, write_responses
from utils.records import ActivationsInfo, Polarity, Response

SIDES: tuple[Polarity, ...] = ("pos", "neg", "neutral")


def write_activations(folder: TraitFolder, n_layers: int, hidden: int, n_questions: int, n_pairs: int) -> None:
    """Random activations and the responses behind them."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, hidden + 1) ** -0.5
    direction = torch.randn(hidden, generator=generator) * scale
    responses: dict[Polarity, list[Response]] = {
        side: [
            Response(
                f"Question {q}?",
                f"{side} {p}",
                "",
                f"Words about {q} said in way {p}",
                {"pos": 95.0, "neg": 5.0}.get(side),
            )
            for q in range(n_questions)
            for p in range(n_pairs)
        ]
        for side in SIDES
    }
    folder.activations_dir.mkdir(parents=True)
    for side, sign in zip(SIDES, (0.3, -0.3, 0.0), strict=True):
        write_responses(folder, side, responses[side])
        states = torch.randn(n_questions * n_pairs, n_layers, hidden, generator=generator) * scale
        states[:, n_layers // 3 : 2 * n_layers // 3] += sign * direction
        states[..., 5] += 300
        save_file({TENSOR: states.half()}, activations_path(folder, side))
    tokens = torch.randn(1000, n_layers, hidden, generator=generator) * scale
    save_file({TENSOR: tokens.half()}, activations_path(folder, "neutral_tokens"))
    n = n_questions * n_pairs
    info = ActivationsInfo(
        model="random", revision=None, model_dtype="bfloat16", n_layers=n_layers, hidden_size=hidden,
        layers=list(range(n_layers)), hook_points={str(i): {"path": "", "side": "output"} for i in range(n_layers)},
        layer_convention=LAYER_CONVENTION, context="question", pooling="mean", template_hash="", dtype="float16",
        batch_size=0, batch_tokens=0, responses_from=folder.experiment.name,
        rows={side: list(range(n)) for side in SIDES},
        texts_sha256={side: responses_fingerprint(responses[side]) for side in SIDES},
        n_response_tokens={side: [40 + i % 9 for i in range(n)] for side in SIDES}, n_neutral_tokens=1000, versions={},
    )  # fmt: skip
    write_activations_info(folder.activations_dir, info)


def benchmark(n_layers: int = 27, hidden: int = 2304, n_questions: int = 20, n_pairs: int = 5) -> None:
    """Print the seconds that fits take, and the whole stage.

    Args:
        n_layers: layers of the model.
        hidden: its hidden size.
        n_questions: questions of the trait.
        n_pairs: instruction pairs; 1 holds out questions alone.
    """
    with tempfile.TemporaryDirectory() as directory:
        folder = Experiment(Path(directory), "benchmark").trait("trait")
        write_activations(folder, n_layers, hidden, n_questions, n_pairs)
        file = read_activations(folder)
        contrasts = [(file.layer("pos", layer), file.layer("neg", layer)) for layer in range(n_layers)]
        get_method("probe").extract(*contrasts[0])  # imports are not part of it
        started, spent = time.perf_counter(), time.process_time()
        with threadpool_limits(1):  # as stage 3 does
            for pos, neg in contrasts:
                span = ContrastSpan(pos, neg)
                for name in METHODS:
                    get_method(name).extract_from(span)
        print(f"fits alone: {_passed(started, spent)}")
        started, spent = time.perf_counter(), time.process_time()
        run(Settings("benchmark", experiments_dir=Path(directory)))
        print(f"whole stage: {_passed(started, spent)}")


def _passed(started: float, spent: float) -> str:
    seconds, processor = time.perf_counter() - started, time.process_time() - spent
    return f"{seconds:.1f} s, of which {processor:.1f} s of processor time"


if __name__ == "__main__":
    run_command(benchmark)
