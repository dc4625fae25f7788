"""Tiny experiments with random vectors of the embedded model, and the example scripts as modules."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import small_model
from utils.experiment import Experiment
from utils.formats.vector_files import write_summary, write_vector
from utils.formats.vector_metadata import SummaryRow, VectorMetadata

ROOT = Path(__file__).resolve().parents[2]
# hidden size, layers with vectors, the best of them
REAL, SMALL = (576, (0, 8, 16, 30), 16), (32, (0, 1, 2, 4), 2)


def write_vectors(experiments_dir, size=REAL, experiment="smollm2_test", model="SmolLM2-135M-Instruct"):
    """Random vectors of two traits."""
    hidden, layers, best = size
    generator = torch.Generator().manual_seed(0)
    for trait in ("evil", "refusal"):
        folder = Experiment(Path(experiments_dir), experiment).trait(trait)
        for layer in layers:
            metadata = {"trait": trait, "method": "probe", "layer": layer, "model": model, "baseline": 0.5,
                        "hidden_size": hidden, "neutral": {"fpr_1": 9.0, "fpr_5": 6.0}}  # fmt: skip
            write_vector(folder, torch.randn(hidden, generator=generator), VectorMetadata.from_json(metadata))
        best_first = sorted(layers, key=lambda layer: abs(layer - best))
        write_summary(folder, [SummaryRow(method="probe", layer=layer, auroc=0.9) for layer in best_first])


@pytest.fixture
def experiments(tmp_path):
    write_vectors(tmp_path / "experiments")
    return tmp_path / "experiments"


@pytest.fixture
def small_experiments(tmp_path):
    write_vectors(tmp_path / "experiments", SMALL)
    return tmp_path / "experiments"


@pytest.fixture(scope="session")
def small(embedded):
    """A random model of a few milliseconds per token, under the embedded model's name and with its tokenizer."""
    model = small_model("llama", vocab_size=len(embedded.tokenizer), max_position_embeddings=512)
    model.generation_config.eos_token_id = embedded.tokenizer.eos_token_id
    return dataclasses.replace(embedded, model=model)


def example(name):
    """An example script as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "experiments" / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
