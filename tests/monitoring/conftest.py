"""Tiny experiments with random vectors of the embedded model, and the example scripts as modules."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from utils.store import Experiment
from utils.vectors import write_summary, write_vector

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, LAYERS = 576, (0, 8, 16, 30)


def write_vectors(experiments_dir, experiment="smollm2_test", model="SmolLM2-135M-Instruct", hidden=HIDDEN):
    """Vectors of two traits, the best at layer 16; scores that look like scores."""
    generator = torch.Generator().manual_seed(0)
    for trait in ("evil", "refusal"):
        folder = Experiment(Path(experiments_dir), experiment).trait(trait)
        for layer in LAYERS:
            metadata = {"trait": trait, "method": "probe", "layer": layer, "model": model, "baseline": 0.5,
                        "hidden_size": hidden, "neutral": {"fpr_1": 9.0, "fpr_5": 6.0}}  # fmt: skip
            write_vector(folder, torch.randn(hidden, generator=generator), metadata)
        best_first = sorted(LAYERS, key=lambda layer: abs(layer - 16))
        write_summary(folder, [{"method": "probe", "layer": layer, "auroc": 0.9} for layer in best_first])


@pytest.fixture
def experiments(tmp_path):
    write_vectors(tmp_path / "experiments")
    return tmp_path / "experiments"


def example(name):
    """An example script as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "experiments" / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
