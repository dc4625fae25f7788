"""Each trait's vector on each trait's responses."""

import csv
import dataclasses
import logging
import shutil
import threading
import time

import pytest
import torch
from extraction.fit import matrix, stage
from extraction.fit.charts import matrix_picture
from extraction.fit.settings import Settings
from safetensors.torch import load_file, save_file

from tests.exchange.conftest import import_into
from tests.fit.conftest import write_trait
from utils.errors import UserError
from utils.formats.activation_files import TENSOR, activations_path, read_activations_info, write_activations_info
from utils.formats.exchange.bundle import write_bundle
from utils.formats.vector_files import read_vector


def run(lab, *names, layer=2):
    return stage.run(
        Settings(lab.name, traits=names, methods=["mean_diff"], layers=[layer], experiments_dir=lab.experiments_dir)
    )


def table(lab):
    with lab.matrix_path.open() as file:
        return {row["vector"]: row for row in csv.DictReader(file)}


def turn(folder):
    """Move the trait of a folder from the first feature to the second, which no other trait uses."""
    for side in ("pos", "neg"):
        states = load_file(activations_path(folder, side))[TENSOR]
        save_file(
            {TENSOR: states[..., [1, 0, *range(2, states.shape[-1])]].contiguous()}, activations_path(folder, side)
        )


def test_own_responses_are_read_and_those_of_an_unrelated_trait_are_not(lab, caplog):
    write_trait(lab, "alpha", seed=1, strength=6.0)
    turn(write_trait(lab, "beta", seed=2, strength=6.0))
    result = run(lab)
    rows = table(lab)
    assert float(rows["alpha"]["auroc_alpha"]) == pytest.approx(result["alpha"].nested.value)
    assert float(rows["alpha"]["auroc_beta"]) < 0.8
    assert abs(float(rows["alpha"]["cosine_beta"])) < 0.4
    assert float(rows["beta"]["cosine_beta"]) == pytest.approx(1)
    assert "vector reads" not in caplog.text
    assert lab.matrix_path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_two_traits_on_one_direction_are_told_to_be_confused(lab, caplog):
    write_trait(lab, "alpha", seed=1, strength=6.0)
    write_trait(lab, "beta", seed=2, strength=6.0)
    run(lab)
    rows = table(lab)
    assert float(rows["alpha"]["auroc_beta"]) > 0.95
    assert float(rows["alpha"]["cosine_beta"]) == pytest.approx(float(rows["beta"]["cosine_alpha"]))
    assert "warning: the alpha vector reads beta responses at" in caplog.text


def test_a_vector_that_reads_another_trait_backwards_is_told_too(lab, caplog):
    write_trait(lab, "alpha", seed=1, strength=6.0)
    write_trait(lab, "beta", seed=2, strength=-6.0)
    run(lab)
    assert "backwards" in caplog.text


def test_the_off_diagonal_is_the_vector_on_the_other_trait(lab):
    from traitlens import auroc, projection

    folders = {name: write_trait(lab, name, seed=seed) for name, seed in (("alpha", 1), ("beta", 2))}
    run(lab)
    vector = read_vector(folders["alpha"], "mean_diff", 2).vector
    states = [load_file(activations_path(folders["beta"], side))[TENSOR][:, 2] for side in ("pos", "neg")]
    expected = auroc(projection(torch.cat(states), vector), torch.arange(40) < 20)
    assert float(table(lab)["alpha"]["auroc_beta"]) == pytest.approx(expected)


def test_a_layer_that_another_trait_was_not_captured_at_is_unknown(lab):
    write_trait(lab, "alpha", seed=1)
    other = write_trait(lab, "beta", seed=2)
    run(lab)
    info = read_activations_info(other)
    for side in ("pos", "neg", "neutral", "neutral_tokens"):
        states = load_file(activations_path(other, side))[TENSOR]
        save_file({TENSOR: states[:, 3:].contiguous()}, activations_path(other, side))
    write_activations_info(other.activations_dir, dataclasses.replace(info, layers=[3, 4]))
    run(lab, "beta", layer=3)
    rows = table(lab)
    assert (rows["alpha"]["layer"], rows["beta"]["layer"]) == ("2", "3")
    assert rows["alpha"]["auroc_beta"] == ""
    assert 0 <= float(rows["beta"]["auroc_alpha"]) <= 1


def test_one_trait_makes_no_matrix(lab):
    write_trait(lab, "alpha")
    run(lab, "alpha")
    assert not lab.matrix_path.exists()


def test_vectors_of_another_model_are_left_out(lab, caplog):
    caplog.set_level(logging.INFO)
    for name, model in (("alpha", "tiny"), ("beta", "tiny"), ("gamma", "another")):
        write_trait(lab, name, model=model)
    run(lab)
    assert set(table(lab)) == {"alpha", "beta"}
    assert "gamma is of another model (another)" in caplog.text


def test_the_traits_that_went_well_are_compared_though_one_failed(lab):
    for name, seed in (("alpha", 1), ("beta", 2), ("gamma", 3)):
        folder = write_trait(lab, name, seed=seed)
    activations_path(folder, "pos").unlink()
    with pytest.raises(UserError, match="gamma"):
        run(lab)
    assert set(table(lab)) == {"alpha", "beta"}


def test_a_run_on_one_trait_makes_an_earlier_matrix_again(lab):
    write_trait(lab, "alpha", seed=1)
    write_trait(lab, "beta", seed=2)
    run(lab)
    picture = lab.matrix_path.with_suffix(".png")
    before = lab.matrix_path.read_bytes(), picture.read_bytes()
    run(lab, "alpha", layer=3)
    rows = table(lab)
    assert (rows["alpha"]["layer"], rows["beta"]["layer"]) == ("3", "2")
    assert (lab.matrix_path.read_bytes(), picture.read_bytes()) != before
    assert picture.read_bytes() != before[1]


def test_a_matrix_that_cannot_be_made_again_does_not_stay(lab, caplog):
    caplog.set_level(logging.INFO)
    write_trait(lab, "alpha", seed=1)
    other = write_trait(lab, "beta", seed=2)
    run(lab)
    shutil.rmtree(other.activations_dir)  # as in a checkout: activations are not committed
    run(lab, "alpha")
    assert not lab.matrix_path.exists()
    assert not lab.matrix_path.with_suffix(".png").exists()
    assert "beta has vectors but no activations here: left out of the matrix" in caplog.text
    assert "no matrix: it needs two traits" in caplog.text


def test_a_matrix_that_was_interrupted_is_made_by_the_next_run_of_one_trait(lab, monkeypatch):
    write_trait(lab, "alpha", seed=1)
    write_trait(lab, "beta", seed=2)
    run(lab)
    before = {path: path.read_bytes() for path in lab.root.glob("vectors_matrix*")}

    def interrupted(*_):
        raise KeyboardInterrupt

    (lab.root / ".vectors_matrix.csv.1.partial").write_text("half", encoding="utf-8")  # a kill leaves it
    with monkeypatch.context() as patch:
        patch.setattr(matrix, "_measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(lab, "alpha")
    assert not lab.matrix_path.exists()
    run(lab, "alpha")
    assert {path: path.read_bytes() for path in lab.root.glob("*vectors_matrix*")} == before


def test_a_run_waits_for_the_matrix_of_another_and_makes_it_again(lab, caplog):
    caplog.set_level(logging.INFO)
    write_trait(lab, "alpha", seed=1)
    write_trait(lab, "beta", seed=2)
    run(lab)
    second = threading.Thread(target=run, args=(lab, "alpha"), kwargs={"layer": 3})
    with lab.locked_for_matrix():  # as the other run while it measures: it has read alpha's vector already
        lab.matrix_due_path.touch()
        rows = table(lab)
        lab.matrix_path.unlink()
        second.start()
        while "waiting for another run's matrix" not in caplog.text:
            assert second.is_alive()
            time.sleep(0.01)
        with lab.matrix_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows["alpha"])
            writer.writeheader()
            writer.writerows(rows.values())
        lab.matrix_due_path.unlink()
    second.join()
    assert table(lab)["alpha"]["layer"] == "3"


def test_an_import_over_the_best_vector_makes_the_matrix_again_and_another_import_leaves_it(lab, tmp_path):
    alpha = write_trait(lab, "alpha", seed=1, strength=6.0)
    write_trait(lab, "beta", seed=2, strength=6.0)
    run(lab)
    best = read_vector(alpha, "mean_diff", 2)
    before = float(table(lab)["alpha"]["auroc_beta"]), lab.matrix_path.stat().st_mtime_ns
    write_bundle(
        tmp_path / "other.safetensors",
        [dataclasses.replace(best, metadata=dataclasses.replace(best.metadata, method="imported", best=False))],
    )
    import_into(lab.name, "alpha", str(tmp_path / "other.safetensors"), experiments_dir=lab.experiments_dir)
    assert lab.matrix_path.stat().st_mtime_ns == before[1]
    write_bundle(tmp_path / "turned.safetensors", [dataclasses.replace(best, vector=-best.vector)])
    import_into(
        lab.name, "alpha", str(tmp_path / "turned.safetensors"), overwrite=True, experiments_dir=lab.experiments_dir
    )
    assert float(table(lab)["alpha"]["auroc_beta"]) == pytest.approx(1 - before[0])


def test_an_imported_vectors_own_figure_is_unknown_and_the_others_is_compared_all_the_same(lab, tmp_path, caplog):
    alpha = write_trait(lab, "alpha", seed=1, strength=6.0)
    write_trait(lab, "beta", seed=2, strength=6.0)
    run(lab)
    best = read_vector(alpha, "mean_diff", 2)
    write_bundle(
        tmp_path / "a.safetensors",
        [dataclasses.replace(best, metadata=dataclasses.replace(best.metadata, choice=None))],
    )
    caplog.clear()
    import_into(lab.name, "alpha", str(tmp_path / "a.safetensors"), overwrite=True, experiments_dir=lab.experiments_dir)
    told = [line for line in caplog.messages if "vector reads" in line]
    assert len(told) == 2  # each way, whichever of the two is unknown
    assert "(own responses unknown; beta's own vector " in told[0]
    assert "alpha's own vector unknown)" in told[1]


def test_a_picture_of_what_nothing_could_be_read_of_is_drawn_without_a_warning(tmp_path, recwarn):
    unknown = [[float("nan")] * 2] * 2
    matrix_picture(tmp_path / "matrix.png", {"AUROC": unknown, "cosine": [[1.0, -0.2], [-0.2, 1.0]]}, ["alpha", "beta"])
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")
    assert not recwarn.list
