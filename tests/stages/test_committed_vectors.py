"""The committed vectors of the embedded model are what their command makes."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.hardening.nursery import run_command
from traitlens import cosine_similarity
from utils.experiment import Experiment
from utils.formats.vector_files import (
    available_vectors,
    ranked_places,
    read_summary,
    read_vector,
    sidecar_path,
    summary_path,
    vector_path,
    write_summary,
    write_vector,
)
from utils.vectors import load_vector

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = Experiment(ROOT / "experiments", "smollm2_135m")
TRAITS = [
    "corrigibility",
    "evil",
    "hallucinating",
    "overconfidence",
    "refusal",
    "sycophantic",
    "uncertainty",
    "verbosity",
]


@pytest.mark.parametrize("trait", TRAITS)
def test_every_trait_has_its_best_and_its_middle_layer_by_all_methods(trait):
    best = load_vector("smollm2_135m", trait, experiments_dir=ROOT / "experiments")
    assert (best.method, best.layer) == ranked_places(COMMITTED.trait(trait))[0]
    assert best.baseline is not None
    assert best.thresholds["fpr_1"] > best.thresholds["fpr_5"]
    have = set(available_vectors(COMMITTED.trait(trait)))
    assert {(m, layer) for m in ("mean_diff", "probe", "ica", "gradient") for layer in (best.layer, 19)} <= have


@pytest.mark.parametrize("trait", TRAITS)
def test_every_committed_vector_side_car_and_summary_is_written_back_byte_for_byte(trait, tmp_path):
    committed, copy = COMMITTED.trait(trait), Experiment(tmp_path, "smollm2_135m").trait(trait)
    places = available_vectors(committed)
    assert len(places) >= 4
    for place in places:
        vector = read_vector(committed, *place)
        assert not vector.metadata.extra
        here, there = write_vector(copy, vector.vector, vector.metadata), vector_path(committed, *place)
        assert here.read_bytes() == there.read_bytes()
        assert sidecar_path(here).read_bytes() == sidecar_path(there).read_bytes()
    rows = read_summary(committed)
    assert len(rows) == 124
    write_summary(copy, rows)
    assert summary_path(copy).read_bytes() == summary_path(committed).read_bytes()


def test_the_commands_make_the_committed_vectors_again(tmp_path, embedded):
    trait, layer = "refusal", load_vector("smollm2_135m", "refusal", experiments_dir=ROOT / "experiments").layer
    for name in (trait, "everyday"):
        shutil.copytree(ROOT / "experiments" / "starter" / name, tmp_path / "starter" / name)
    shared = [
        "--experiment",
        "smollm2_135m",
        "--trait",
        trait,
        "--layers",
        str(layer),
        "--experiments_dir",
        str(tmp_path),
    ]
    for script, *flags in (
        ["2_extract_activations.py", "--responses_from", "starter", "--device", "cpu"],
        ["3_extract_vectors.py", "--methods", "mean_diff,probe"],
    ):
        run_command(ROOT / "extraction" / script, *shared, *flags, folder=tmp_path).check_returncode()
    again = Experiment(tmp_path, "smollm2_135m").trait(trait)
    assert available_vectors(again) == [("mean_diff", layer), ("probe", layer)]
    for method, _ in available_vectors(again):
        made, committed = read_vector(again, method, layer), read_vector(COMMITTED.trait(trait), method, layer)
        # Other processors round bfloat16 products otherwise; directions barely notice.
        assert cosine_similarity(made.vector, committed.vector) > 0.995
        assert float(made.vector.norm()) == pytest.approx(float(committed.vector.norm()), rel=0.05)
        assert made.vector.dtype == torch.float32
        assert made.vector.shape == (576,)
