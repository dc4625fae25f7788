"""Stage 3 from activations on disk to vectors, side-cars, summary and verdict."""

import csv
import dataclasses
import json
import logging
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from extraction.fit import stage
from extraction.fit.contrast import read_contrast
from extraction.fit.settings import Settings
from extraction.monitoring.vectors import choose_vectors
from safetensors.torch import load_file, save_file

from tests.fit.conftest import DEFINITION, HIDDEN, N_LAYERS, write_trait
from tests.hardening.nursery import run_command
from traitlens import METHODS, Calibration, GradientMethod, projection
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import Experiment
from utils.formats.activation_files import (
    TENSOR,
    activations_path,
    read_activations,
    read_activations_info,
    write_activations_info,
)
from utils.formats.response_files import read_responses, write_responses, write_responses_metadata
from utils.formats.vector_files import read_summary, read_vector, write_summary, write_vector
from utils.formats.vector_metadata import CountsRecord, SummaryRow, VectorMetadata
from utils.vectors import load_vector

SCRIPT = Path(__file__).resolve().parents[2] / "extraction" / "3_extract_vectors.py"


def run(lab, *names, **settings):
    return stage.run(Settings(lab.name, traits=names, **settings, experiments_dir=lab.experiments_dir))


def written(folder):
    return sorted(path.name for path in folder.vectors_dir.glob("*"))


def command(lab, *arguments, **environment):
    return run_command(SCRIPT, "--experiment", lab.name, *arguments, folder=lab.experiments_dir.parent, **environment)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """An experiment whose trait is at layer 3, the trait's folder, and what a run with the defaults measured; read only."""
    lab = Experiment(tmp_path_factory.mktemp("full") / "experiments", "exp")
    folder = write_trait(lab, "alpha", signal_layer=3)
    return lab, folder, run(lab, "alpha")["alpha"]


def test_the_default_is_every_method_at_every_layer(full):
    _, folder, _ = full
    tensors = {f"{method}_layer{layer}.pt" for method in METHODS for layer in range(N_LAYERS)}
    side_cars = {name.replace(".pt", "_metadata.json") for name in tensors}
    assert set(written(folder)) == tensors | side_cars | {"summary.csv", "card.html"}


def test_the_command_writes_exactly_the_methods_and_layers_asked_for(lab):
    folder = write_trait(lab, "alpha")
    result = command(lab, "--trait", "alpha", "--methods", "mean_diff,probe", "--layers", "2")
    assert result.returncode == 0, result.stderr
    assert [p.name for p in sorted(folder.vectors_dir.glob("*.pt"))] == ["mean_diff_layer2.pt", "probe_layer2.pt"]
    assert "alpha: " in result.stderr
    assert "held-out AUROC" in result.stderr
    assert "best control" in result.stderr
    assert result.stdout == ""


def test_help_answers_quickly():
    start = time.monotonic()
    result = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "--methods" in result.stdout + result.stderr
    assert time.monotonic() - start < 5  # about half a second on a quiet machine


def test_a_vector_file_loads_safely_and_its_norm_is_as_documented(lab):
    folder = write_trait(lab, "alpha")
    run(lab, "alpha", methods=["probe"], layers=[2])
    vector = torch.load(folder.vectors_dir / "probe_layer2.pt")
    metadata = json.loads((folder.vectors_dir / "probe_layer2_metadata.json").read_text())
    assert vector.dtype == torch.float32
    assert vector.shape == (HIDDEN,)
    assert vector.norm().item() == pytest.approx(metadata["norm"], rel=1e-5)
    assert metadata["hook_point"] == {"path": "model.layers.1", "side": "output"}
    assert metadata["hyper_parameters"] == {"C": 0.1}
    assert metadata["fit"]["train_acc"] > 0.9


def test_the_mean_difference_on_disk_is_the_difference_of_the_class_means(lab):
    folder = write_trait(lab, "alpha")
    run(lab, "alpha", methods=["mean_diff"], layers=[2])
    states = [load_file(activations_path(folder, side))[TENSOR][:, 2].double() for side in ("pos", "neg", "neutral")]
    pos, neg, neutral = (rows.mean(dim=0) for rows in states)
    vector = read_vector(folder, "mean_diff", 2)
    assert torch.allclose(vector.vector, (pos - (neg + neutral) / 2).float())
    midpoint = (pos + neg) / 2
    assert vector.baseline == pytest.approx(projection(midpoint[None], vector.vector).item(), abs=1e-4)


def test_vectors_can_be_fitted_against_the_opposite_alone(lab):
    folder = write_trait(lab, "alpha")
    run(lab, "alpha", methods=["mean_diff"], layers=[2], negatives="neg")
    pos, neg = (load_file(activations_path(folder, side))[TENSOR][:, 2].double().mean(dim=0) for side in ("pos", "neg"))
    assert torch.allclose(read_vector(folder, "mean_diff", 2).vector, (pos - neg).float())


def test_the_layer_with_the_trait_is_chosen_and_measured_on_what_it_had_not_seen(full):
    _, folder, result = full
    rows = read_summary(folder)
    assert (rows[0].best, rows[0].layer) == (True, 3)
    assert sum(bool(row.best) for row in rows) == 1
    assert result.nested.value > 0.9
    assert result.nested.low <= result.nested.value <= result.nested.high
    by_layer = {layer: [r.auroc for r in rows if r.layer == layer] for layer in range(N_LAYERS)}
    assert max(by_layer[1]) < 0.75 < min(r.auroc for r in rows if r.layer == 3 and r.method != "ica")
    noise = next(r for r in rows if r.method == "probe" and r.layer == 1)
    assert noise.train_acc > noise.auroc + 0.2  # training accuracy would have praised it


def test_load_vector_gives_the_chosen_one(full):
    lab, _, result = full
    loaded = load_vector(lab.name, "alpha", experiments_dir=lab.experiments_dir)
    assert (loaded.method, loaded.layer) == (result.choice.method, 3)
    assert torch.equal(loaded.vector, result.best.vector)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("google/gemma-2-2b-it", 16), ("/models/gemma-2-2b-it", 16), ("meta-llama/Llama-3.1-8B-Instruct", 20),
        ("google/gemma-2-9b-it", 12),
    ],
)  # fmt: skip
def test_the_documented_layer_stays_the_default_of_its_model_and_others_get_the_best(lab, model, layer):
    folder = lab.trait("alpha")
    ranked = [("probe", 12), ("gradient", 20), ("probe", 20), ("gradient", 16), ("probe", 16)]
    for method, n in ranked:
        metadata = {"trait": "alpha", "method": method, "layer": n, "model": model, "baseline": 0.0, "hidden_size": 4}
        write_vector(folder, torch.ones(4), VectorMetadata.from_json(metadata))
    write_summary(folder, [SummaryRow(method=method, layer=n) for method, n in ranked])

    def place(**asked):
        vector = load_vector(lab.name, "alpha", experiments_dir=lab.experiments_dir, **asked)
        return vector.method, vector.layer

    assert place() == ("probe" if layer == 12 else "gradient", layer)
    assert place(layer=12) == ("probe", 12)
    assert choose_vectors(lab)["alpha"].main.layer == layer  # what run_dynamics takes
    if layer != 12:
        assert place(method="probe") == ("probe", layer)


def test_where_the_documented_layer_has_no_vector_the_best_is_given(lab):
    write_trait(lab, "alpha", signal_layer=3, model="google/gemma-2-2b-it")
    run(lab, "alpha", methods=["probe"])
    assert load_vector(lab.name, "alpha", experiments_dir=lab.experiments_dir).layer == 3


def test_the_calibrated_probability_applies_to_raw_projections(lab):
    folder = write_trait(lab, "alpha", strength=3.0)
    run(lab, "alpha", methods=["probe"], layers=[2])
    vector = read_vector(folder, "probe", 2)
    calibration = Calibration(**vector.metadata.calibration.to_json())
    pos, neg = (load_file(activations_path(folder, side))[TENSOR][:, 2] for side in ("pos", "neg"))
    shown, hidden = (calibration.probability(projection(side, vector.vector) - vector.baseline) for side in (pos, neg))
    assert shown.mean() > 0.75
    assert hidden.mean() < 0.25
    assert 0 < calibration.brier < 0.25


def test_neutral_tokens_set_the_thresholds(lab):
    folder = write_trait(lab, "alpha")
    run(lab, "alpha", methods=["mean_diff"], layers=[2])
    vector = read_vector(folder, "mean_diff", 2)
    scores = projection(load_file(activations_path(folder, "neutral_tokens"))[TENSOR][:, 2], vector.vector)
    assert (scores > vector.thresholds["fpr_5"]).float().mean().item() == pytest.approx(0.05, abs=0.01)
    assert vector.thresholds["fpr_5"] < vector.thresholds["fpr_1"]
    assert vector.metadata.neutral.n_tokens == 300


def test_without_neutral_tokens_thresholds_are_unknown(lab):
    folder = write_trait(lab, "alpha", neutral_tokens=0)
    run(lab, "alpha", methods=["mean_diff"], layers=[2])
    assert read_vector(folder, "mean_diff", 2).thresholds == {}


def test_the_same_activations_give_the_same_bytes(lab):
    folder = write_trait(lab, "alpha")
    settings = {"methods": ["probe", "ica"], "layers": [1, 2]}
    run(lab, "alpha", **settings)
    first = {name: (folder.vectors_dir / name).read_bytes() for name in written(folder)}
    run(lab, "alpha", **settings)
    assert {name: (folder.vectors_dir / name).read_bytes() for name in written(folder)} == first


def _rows(lab, side, scores):
    source = read_responses(write_trait(lab, "source"), side)
    return [dataclasses.replace(row, trait_score=score) for row, score in zip(source, scores, strict=True)]


def test_responses_that_miss_the_threshold_or_have_no_score_are_left_out_and_counted(lab, caplog):
    caplog.set_level(logging.INFO)
    scores = [40.0] * 3 + [None] * 2 + [70.0] * 15
    folder = write_trait(lab, "alpha", rows={"pos": _rows(lab, "pos", scores)})
    run(lab, "alpha", methods=["mean_diff"], layers=[2])
    counts = read_vector(folder, "mean_diff", 2).metadata.counts
    assert counts["pos"] == CountsRecord(read=20, used=15, dropped=3, unscored=2)
    assert counts["neg"] == CountsRecord(read=20, used=20, dropped=0, unscored=0)
    assert "15 of 20 pos responses are used (3 dropped at threshold 50, 2 unscored)" in caplog.text


def test_the_threshold_is_the_flag_else_the_one_of_stage_1_else_50(lab):
    folder = write_trait(lab, "alpha", rows={"pos": _rows(lab, "pos", [55.0] * 10 + [90.0] * 10)})
    used = lambda threshold: read_contrast(folder, threshold, 5, 0).counts["pos"].used  # noqa: E731
    assert used(None) == 20
    assert used(60.0) == 10
    write_responses_metadata(folder, {"threshold": 60.0})
    assert used(None) == 10
    assert used(50.0) == 20


def test_responses_that_nobody_judged_are_all_used_and_that_is_said(lab, caplog):
    caplog.set_level(logging.INFO)
    unscored = {side: _rows(lab, side, [None] * 20) for side in ("pos",)}
    other = [dataclasses.replace(row, trait_score=None) for row in read_responses(lab.trait("source"), "neg")]
    folder = write_trait(lab, "alpha", rows={**unscored, "neg": other})
    run(lab, "alpha", methods=["mean_diff"], layers=[2])
    metadata = read_vector(folder, "mean_diff", 2).metadata
    assert metadata.threshold is None
    assert metadata.counts["pos"].used == 20
    assert "not judged" in caplog.text


def test_an_empty_class_is_an_error_with_counts_and_remedies_and_nothing_is_written(lab):
    folder = write_trait(lab, "alpha", rows={"pos": _rows(lab, "pos", [10.0] * 19 + [None])})
    with pytest.raises(
        UserError, match=r"no pos example .* 20 responses, 19 against the threshold, 1 unscored.*--threshold"
    ):
        run(lab, "alpha")
    assert not folder.vectors_dir.exists()


def test_a_failed_method_names_itself_stops_its_trait_and_no_other(lab, caplog):
    broken, sound = write_trait(lab, "alpha"), write_trait(lab, "beta")
    states = {side: torch.zeros(20, N_LAYERS, HIDDEN) for side in ("pos", "neg", "neutral")}
    for side, values in states.items():
        values[:, :, 0] = torch.tensor([1.0, -1.0]).repeat(10)[:, None]  # equal means
        save_file({TENSOR: values.half()}, activations_path(broken, side))
    with pytest.raises(UserError, match="1 of 2 traits failed: alpha"):
        run(lab, methods=["mean_diff"], layers=[2])
    assert "alpha: mean_diff failed at layer 2" in caplog.text
    assert not broken.vectors_dir.exists()
    assert (sound.vectors_dir / "mean_diff_layer2.pt").is_file()


def test_nan_never_reaches_a_file(lab, monkeypatch):
    folder = write_trait(lab, "alpha")

    def overflowing(self, span):
        return torch.full((span.coordinates.shape[1],), torch.nan, dtype=torch.float64), {}

    monkeypatch.setattr(GradientMethod, "fit", overflowing)
    with pytest.raises(UserError, match="gradient failed at layer 1"):
        run(lab, "alpha", methods=["mean_diff", "gradient"], layers=[1, 2])
    assert not folder.vectors_dir.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["pca"]}, "--methods knows mean_diff, probe, ica, gradient, got pca"),
        ({"methods": []}, "--methods knows .* got none"),
        ({"layers": [99]}, r"layer 99 was not captured \(captured: 0..4\)"),
        ({"layers": []}, "--layers names no layer"),
        ({"threshold": 101.0}, "--threshold must be from 0 to 100"),
        ({"folds": 1}, "--folds must be at least 2"),
    ],
)
def test_settings_that_cannot_be_met_are_refused_and_nothing_is_written(lab, settings, message):
    folder = write_trait(lab, "alpha")
    with pytest.raises(UserError, match=message):
        run(lab, "alpha", **settings)
    assert not folder.vectors_dir.exists()


def test_missing_activations_name_the_command_that_makes_them(lab):
    write_trait(lab, "alpha")
    with pytest.raises(MissingInputError, match=r"2_extract_activations\.py --experiment exp"):
        run(lab, "beta")


def test_activations_of_responses_that_have_changed_are_refused(lab):
    folder = write_trait(lab, "alpha")
    rows = read_responses(folder, "pos")
    write_responses(folder, "pos", [dataclasses.replace(rows[0], response="edited"), *rows[1:]])
    with pytest.raises(UserError, match="has changed since its activations were captured"):
        run(lab, "alpha")


def test_a_truncated_activation_file_is_named(lab):
    folder = write_trait(lab, "alpha")
    path = activations_path(folder, "pos")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedFileError, match=r"pos\.safetensors"):
        run(lab, "alpha")


def test_several_processes_are_refused(lab):
    write_trait(lab, "alpha")
    result = command(lab, "--trait", "alpha", WORLD_SIZE="2", RANK="0")
    assert result.returncode == 1
    assert result.stderr == (
        "error: 3_extract_vectors.py is one process's work, and this launch has 2: run it without a launcher\n"
    )


def test_whole_instruction_pairs_are_held_out_where_there_are_several(lab):
    folder = write_trait(lab, "alpha", n_pairs=2)
    contrast = read_contrast(folder, None, 5, 0)
    assert contrast.folds.crossed
    instructions = [r.instruction for r in contrast.responses]
    pairs = {(i, int(group)) for i, group in zip(instructions, contrast.folds.instruction, strict=True)}
    number = dict(pairs)
    assert len(pairs) == 4
    assert all(number[pair["pos"]] == number[pair["neg"]] for pair in DEFINITION["instruction"])
    run(lab, "alpha", methods=["probe"], layers=[2])
    assert read_vector(folder, "probe", 2).metadata.held_out == "4 groups of questions x 2 of instruction pairs"


def _with_instructions(lab, texts):
    """Rows whose instructions are these per side, each question answered under all of them."""
    source = write_trait(lab, "source", n_pairs=2)
    numbered = {side: enumerate(read_responses(source, side)) for side in texts}
    return {
        side: [dataclasses.replace(r, instruction=texts[side][i % len(texts[side])]) for i, r in numbered[side]]
        for side in texts
    }


def _define(folder, pairs):
    definition = {**DEFINITION, "instruction": [{"pos": pos, "neg": neg} for pos, neg in pairs]}
    folder.definition_path.parent.mkdir(parents=True, exist_ok=True)
    folder.definition_path.write_text(json.dumps(definition))


@pytest.mark.parametrize(
    ("pairs", "units"),
    [
        ([("a", "x"), ("b", "y")], [{"a", "x"}, {"b", "y"}]),
        ([("a", "x"), ("b", "x")], [{"a", "b", "x"}]),
        ([("a", "x"), ("b", "y"), ("b", "x")], [{"a", "b", "x", "y"}]),
        ([("a", "x"), ("b", "y"), ("c", "x")], [{"a", "c", "x"}, {"b", "y"}]),
        ([], [{"a", "x"}, {"b", "y"}]),
        ([("c", "z")], [{"a", "x"}, {"b", "y"}]),
    ],
    ids=lambda groups: str([sorted(group) for group in groups]),  # sets print in another order in each process
)
def test_instructions_that_share_a_text_are_held_out_together(lab, caplog, pairs, units):
    texts = {side: sorted({pair[i] for pair in pairs} - {"z"}) for i, side in enumerate(("pos", "neg"))}
    if len(pairs) < 2:
        texts = {"pos": ["a", "b"], "neg": ["x", "y"]}
    folder = write_trait(lab, "alpha", rows=_with_instructions(lab, texts))
    _define(folder, pairs) if pairs else folder.definition_path.unlink()
    contrast = read_contrast(folder, None, 5, 0)
    found = {}
    for response, unit in zip(contrast.responses, contrast.folds.instruction.tolist(), strict=True):
        found.setdefault(unit, set()).add(response.instruction)
    assert sorted(found.values(), key=min) == units
    assert contrast.folds.crossed == (len(units) > 1)
    said = "alpha: the instruction pairs share texts, so only questions are held out"
    assert (said in caplog.text) == (len(units) == 1)


def test_one_text_on_a_side_still_lets_questions_be_held_out(lab):
    texts = {"pos": ["a", "b", "c"], "neg": ["x"]}
    folder = write_trait(lab, "alpha", rows=_with_instructions(lab, texts))
    folder.definition_path.unlink()  # nothing tells which belong together
    run(lab, "alpha", methods=["mean_diff"], layers=[2])
    described = read_vector(folder, "mean_diff", 2).metadata
    assert described.held_out == "5 groups of questions"
    assert described.metrics.auroc.value > 0.9


def test_pairs_are_those_of_the_experiment_whose_responses_were_read(lab, tmp_path):
    texts = {"pos": ["a", "b"], "neg": ["y", "x"]}  # not in the order of the pairs
    rows = _with_instructions(lab, texts)
    source = Experiment(lab.root.parent, "source").trait("alpha")
    _define(source, [("a", "x"), ("b", "y")])
    folder = write_trait(lab, "alpha", rows=rows)
    folder.definition_path.unlink()
    for side in ("pos", "neg", "neutral"):
        write_responses(source, side, read_responses(folder, side))
    side_car = folder.activations_dir / "metadata.json"
    side_car.write_text(json.dumps({**json.loads(side_car.read_text()), "responses_from": "source"}))
    contrast = read_contrast(folder, None, 5, 0)
    together = {
        (r.instruction, unit) for r, unit in zip(contrast.responses, contrast.folds.instruction.tolist(), strict=True)
    }
    unit = dict(together)
    assert len(together) == 4
    assert unit["a"] == unit["x"] != unit["b"] == unit["y"]


def _few_questions(lab, n):
    """Rows of every side whose questions are only ``n``."""
    source = write_trait(lab, "source")
    rows = {side: read_responses(source, side) for side in ("pos", "neg", "neutral")}
    return {
        side: [dataclasses.replace(r, question=f"Question {i % n}?") for i, r in enumerate(responses)]
        for side, responses in rows.items()
    }


def test_one_question_is_said_to_prove_nothing(lab, caplog):
    caplog.set_level(logging.INFO)
    folder = write_trait(lab, "alpha", rows=_few_questions(lab, 1))
    result = run(lab, "alpha", methods=["mean_diff"])["alpha"]
    assert result.nested is None
    assert read_vector(folder, "mean_diff", 2).metadata.metrics is None
    assert "alpha: mean_diff at layer 2, not measured: nothing could be held out\n" in caplog.text
    assert "warning: nothing could be held out, so nothing says how good the vector is" in caplog.text
    assert "not measured: nothing could be held out" in (folder.vectors_dir / "card.html").read_text()


@pytest.mark.parametrize("few", ["questions", "instruction pairs"])
def test_two_questions_or_pairs_measure_each_vector_but_not_the_choice_and_that_is_said(lab, caplog, few):
    caplog.set_level(logging.INFO)
    rows = _few_questions(lab, 2) if few == "questions" else {}
    folder = write_trait(lab, "alpha", signal_layer=3, rows=rows, n_pairs=2 if few == "instruction pairs" else 0)
    run(lab, "alpha", methods=["mean_diff", "probe"])
    said = "with two questions or two instruction pairs none are left to choose by"
    verdict, warning = (line for line in caplog.messages if said in line)
    assert verdict.startswith("alpha: ")
    assert "at layer 3, not measured: " in verdict
    assert "is the best of 10, optimistic" in verdict
    assert warning.endswith("so nothing says how good the vector is")
    first = read_summary(folder)[0]
    assert first.layer == 3
    assert math.isfinite(first.auroc)
    assert first.auroc_nested is None
    page = (folder.vectors_dir / "card.html").read_text()
    assert said in page
    assert '<td>the vector, chosen in a nested loop</td><td class="number">not measured</td>' in page
    assert "comes from a nested choice" not in page


def test_a_single_vector_needs_no_choice_so_two_questions_measure_it(lab):
    folder = write_trait(lab, "alpha", rows=_few_questions(lab, 2))
    result = run(lab, "alpha", methods=["mean_diff"], layers=[2])["alpha"]
    assert result.nested.value == pytest.approx(read_summary(folder)[0].auroc)


def test_vectors_of_earlier_runs_stay_and_the_summary_lists_this_run(lab, caplog):
    caplog.set_level(logging.INFO)
    folder = write_trait(lab, "alpha")
    run(lab, "alpha", methods=["mean_diff"], layers=[1, 2])
    run(lab, "alpha", methods=["probe"], layers=[3])
    assert len(list(folder.vectors_dir.glob("*.pt"))) == 3
    assert [(r.method, r.layer) for r in read_summary(folder)] == [("probe", 3)]
    assert "2 vectors of earlier runs stay" in caplog.text


def test_every_summary_row_is_complete(full):
    _, folder, _ = full
    with (folder.vectors_dir / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(METHODS) * N_LAYERS
    figures = (
        "auroc", "auroc_low", "auroc_high", "accuracy", "cohens_d", "brier", "brier_skill", "norm", "baseline",
        "neutral_mean", "neutral_std", "fpr_1", "fpr_5", "best_control_auroc",
    )  # fmt: skip
    assert all(math.isfinite(float(row[figure])) for row in rows for figure in figures)
    assert {row["recall_at_1_fpr"] for row in rows} == {""}  # these few negatives cannot show one in a hundred
    aurocs = [float(row["auroc"]) for row in rows[1:]]
    assert aurocs == sorted(aurocs, reverse=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [([1.0, bad], "NaN or infinity") for bad in (math.nan, math.inf, 1e30)] + [([0.0, 0.0], "a vector of zeros")],
)
def test_no_vector_with_nan_or_infinity_or_without_length_reaches_a_file(lab, values, said):
    folder = lab.trait("alpha")
    metadata = VectorMetadata.from_json(
        {"trait": "alpha", "method": "probe", "layer": 2, "model": "m", "hidden_size": 2}
    )
    with pytest.raises(UserError, match=f"probe gave {said} for alpha at layer 2"):
        write_vector(folder, torch.tensor(values), metadata)
    assert not folder.vectors_dir.exists()


def test_activations_that_are_not_what_their_side_car_describes_are_refused(lab):
    folder = write_trait(lab, "alpha")
    path = activations_path(folder, "pos")
    states = load_file(path)[TENSOR]
    save_file({TENSOR: states[:, :3].contiguous()}, path)
    with pytest.raises(UserError, match=r"has shape \[20, 3, 24\] where the side-car says \[20, 5, 24\]"):
        read_activations(folder).layer("pos", 2)
    with pytest.raises(UserError, match="layer 9 of alpha was not captured"):
        read_activations(folder).layer("pos", 9)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"pos\.safetensors"):
        read_activations(folder).layer("pos", 2)
    for large in (1e20, -1e20):  # their squares are beyond float32
        save_file({TENSOR: torch.full_like(states, large, dtype=torch.float32)}, path)
        with pytest.raises(UserError, match="numbers over 1e15 at layer 2"):
            read_activations(folder).layer("pos", 2)
    write_activations_info(folder.activations_dir, read_activations_info(folder))  # now with the files' fingerprints
    path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"is not the file that metadata\.json beside it describes"):
        read_activations(folder)
    path.unlink()
    with pytest.raises(MissingInputError, match=r"pos\.safetensors not found"):
        read_activations(folder)
