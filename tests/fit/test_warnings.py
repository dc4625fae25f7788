"""Verdict and warnings: a vector that a control matches says so."""

import dataclasses
import logging

import pytest
import torch
from extraction.fit.results import doubts_about
from extraction.fit.settings import Settings
from extraction.fit.stage import run
from safetensors.torch import load_file, save_file

from tests.fit.conftest import write_everyday, write_trait
from utils.formats.activation_files import TENSOR, activations_path, read_activations_info, write_activations_info
from utils.formats.response_files import read_responses


def sweep_of(lab, trait="alpha", **settings):
    return run(Settings(lab.name, trait, methods=["probe"], **settings, experiments_dir=lab.experiments_dir))[trait]


def control(result, name):
    return next(c for c in result.controls if c.name == name)


def test_a_sound_vector_gets_a_verdict_and_no_warning(lab, caplog):
    caplog.set_level(logging.INFO)
    write_everyday(lab)
    write_trait(lab, "alpha", strength=6.0)
    result = sweep_of(lab)
    assert doubts_about(result) == []
    assert "alpha: probe at layer 2, held-out AUROC" in caplog.text
    assert {c.name for c in result.controls} == {"length", "bag of words", "layer 0"}


def test_length_that_separates_as_well_is_said(lab, caplog):
    folder = write_trait(lab, "alpha", strength=4.0)
    info = read_activations_info(folder)
    lengths = {**info.n_response_tokens, "pos": [100 + i for i in range(20)], "neg": [10 + i for i in range(20)]}
    write_activations_info(folder.activations_dir, dataclasses.replace(info, n_response_tokens=lengths))
    result = sweep_of(lab)
    assert control(result, "length").auroc == 1
    assert "alpha: warning: length alone separates these responses as well (1.00)" in caplog.text


def test_an_instruction_that_leaks_into_the_words_is_caught(lab, caplog):
    source = write_trait(lab, "source")
    leak = [dataclasses.replace(r, response=f"{r.response}, as instructed") for r in read_responses(source, "pos")]
    write_trait(lab, "alpha", rows={"pos": leak}, strength=4.0)
    result = sweep_of(lab)
    assert control(result, "bag of words").auroc > 0.99
    assert "bag of words alone separates these responses as well" in caplog.text


def test_a_trait_that_the_embeddings_show_already_is_caught(lab, caplog):
    folder = write_trait(lab, "alpha", strength=4.0)
    for side in ("pos", "neg"):
        states = load_file(activations_path(folder, side))[TENSOR]
        states[:, 0] = states[:, 2]
        save_file({TENSOR: states.contiguous()}, activations_path(folder, side))
    result = sweep_of(lab)
    assert result.choice.layer != 0
    assert any(text.startswith("layer 0 alone separates") or "over layer 0" in text for text in doubts_about(result))


def test_layer_0_is_measured_as_a_control_though_another_layer_is_asked_for(lab):
    write_trait(lab, "alpha")
    result = sweep_of(lab, layers=[2])
    assert [v.layer for v in result.vectors] == [2]
    assert control(result, "layer 0").auroc < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_called_noise(lab, seed):
    write_trait(lab, "alpha", strength=0.0, seed=seed)
    found = doubts_about(sweep_of(lab))
    assert any("no better than chance" in text for text in found)


def test_shuffled_labels_and_random_directions_are_beside_the_vector(lab):
    write_trait(lab, "alpha", strength=6.0)
    result = sweep_of(lab)
    assert result.shuffled.mean == pytest.approx(0.5, abs=0.1)
    assert result.random.high < result.nested.value
    assert torch.isfinite(torch.tensor([result.shuffled.high, result.random.mean])).all()


def test_shuffled_labels_off_one_half_and_a_solver_that_did_not_finish_are_said(lab):
    write_everyday(lab)
    write_trait(lab, "alpha", strength=6.0)
    result = sweep_of(lab)
    unfinished = dataclasses.replace(result.best, extras={**result.best.extras, "converged": False})
    vectors = tuple(unfinished if v is result.best else v for v in result.vectors)
    shuffled = dataclasses.replace(result.shuffled, mean=0.75)
    found = doubts_about(dataclasses.replace(result, vectors=vectors, shuffled=shuffled))
    assert [text.split(":")[0] for text in found] == [
        "shuffled labels read 0.75 where 0.5 is right", "probe did not converge",
    ]  # fmt: skip
