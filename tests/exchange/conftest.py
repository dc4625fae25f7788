"""Vectors at several layers of the embedded model, as stage 3 would leave them."""

from dataclasses import replace

import pytest
import torch
from extraction.exchange import importing
from extraction.exchange.settings import ImportSettings

from utils.experiment import Experiment
from utils.formats.vector_files import read_vector, write_summary, write_vector
from utils.formats.vector_metadata import SummaryRow, VectorMetadata
from utils.records import TraitVector

HIDDEN, N_LAYERS = 576, 31  # the embedded model's


def import_into(*what, **settings):
    return importing.run(ImportSettings(*what, **settings))


def sidecar(layer, method="probe", **changes):
    return VectorMetadata.from_json({
        "trait": "sycophantic", "method": method, "layer": layer, "model": "SmolLM2-135M-Instruct", "baseline": layer / 7,
        "norm": 12.0, "hidden_size": HIDDEN, "n_layers": N_LAYERS, "revision": None, "template_hash": "872be49dbb638044",
        "layer_convention": "layer L is hidden_states[L]", "context": "question", "pooling": "mean over tokens",
        "neutral": {"mean": 0.1, "std": 1.5, "fpr_1": 3.25, "fpr_5": 2.125, "n_tokens": 900},
        "metrics": {"auroc": {"value": 0.96, "low": 0.92, "high": 0.99}, "cohens_d": 2.5, "n_pos": 64, "n_neg": 64},
        "controls": {"length": {"auroc": 0.56}, "bag of words": {"auroc": 0.79}},
        **changes,
    })  # fmt: skip


def random_vector(layer, length=12.0, hidden=HIDDEN):
    direction = torch.randn(hidden, generator=torch.Generator().manual_seed(layer))
    return direction / direction.norm() * length


@pytest.fixture
def folder(tmp_path):
    """A trait with two methods at four layers; the summary ranks the probe at layer 18 first."""
    folder = Experiment(tmp_path / "experiments", "smollm2_demo").trait("sycophantic")
    places = [(method, layer) for method in ("probe", "mean_diff") for layer in (18, 1, 10, 30)]
    for method, layer in places:
        write_vector(folder, random_vector(layer), sidecar(layer, method))
    write_summary(folder, [SummaryRow(method=m, layer=n, best=i == 0, auroc=0.9) for i, (m, n) in enumerate(places)])
    return folder


def changed(vector, **changes):
    """The vector with other metadata."""
    return replace(vector, metadata=replace(vector.metadata, **changes))


@pytest.fixture
def vectors(folder) -> list[TraitVector]:
    return [read_vector(folder, "probe", layer) for layer in (10, 18, 30)]
