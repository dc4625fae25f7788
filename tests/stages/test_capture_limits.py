"""What stage 2 does with responses that are empty, unconfirmed or too long, and with states that no file can hold."""

import logging

import pytest
import torch
from extraction.capture.activations import capture_activations
from extraction.capture.settings import Settings
from extraction.distributed import Process

from tests.conftest import small_model
from tests.tiny_tokenizer import tiny_tokenizer
from utils.errors import UserError
from utils.experiment import Experiment
from utils.formats.activation_files import read_activations
from utils.formats.response_files import write_responses
from utils.models import LoadedModel
from utils.records import Response

LONG = "It rains when the air is cold. " * 8


def loaded(**changes):
    return LoadedModel(small_model("llama", **changes), tiny_tokenizer(), "small", "small", None)


@pytest.fixture
def capture(tmp_path):
    """Captures these positive responses, one ordinary negative one and one neutral one."""
    folder = Experiment(tmp_path, "lab").trait("calm")

    def run(*pos, model=None, **settings):
        ordinary = Response("Why?", "", "Why?", "Because.", 10.0)
        write_responses(folder, "pos", list(pos) or [Response("Why?", "Be calm.", "Why?", "All is well.", 90.0)])
        for side in ("neg", "neutral"):
            write_responses(folder, side, [ordinary])
        model = model or loaded()
        capture_activations(folder, folder, model, Settings("lab", **settings), Process(device="cpu"))
        return read_activations(folder).info

    return run


def test_empty_responses_are_left_out_and_counted(capture, caplog):
    info = capture(Response("Why?", "", "Why?", ""), Response("Why?", "", "Why?", "So."))
    assert info.rows["pos"] == [1]
    assert "1 of 2 pos responses are empty and left out" in caplog.text


def test_responses_whose_score_does_not_confirm_their_side_are_left_out_at_a_threshold(capture, caplog):
    caplog.set_level(logging.INFO)
    rows = [Response("Why?", "", "Why?", "So.", score) for score in (80.0, 30.0, None)]
    info = capture(*rows, threshold=60.0)
    assert info.rows["pos"] == [0]
    assert "1 of 3 pos responses pass the threshold 60" in caplog.text
    with pytest.raises(UserError, match="none of 3 responses can be read at --threshold 95; lower it or judge again"):
        capture(*rows, threshold=95.0)


def test_a_response_beyond_the_models_positions_is_cut_and_a_prompt_beyond_them_refused(capture, caplog):
    model = loaded(max_position_embeddings=40)
    info = capture(Response("Why?", "", "Why?", LONG), model=model)
    assert "1 responses are longer than the 40 positions of small and cut there" in caplog.text
    assert info.n_response_tokens["pos"][0] < 40
    with pytest.raises(UserError, match=r"a prompt has .* tokens, but small reads 40: 'It rains"):
        capture(Response(LONG, "", LONG, "So."), model=model)


@pytest.mark.parametrize("layers", [(0, 5), (-1,)])
def test_layers_that_the_model_does_not_have_are_refused(capture, layers):
    with pytest.raises(UserError, match="small has layers 0 to 4"):
        capture(layers=layers)


def test_an_empty_choice_of_layers_is_refused(capture):
    with pytest.raises(UserError, match="--layers names no layer"):
        capture(layers=())


def test_the_precision_asked_for_is_the_files(capture):
    assert capture(store_dtype="float32").dtype == "float32"


@pytest.mark.parametrize(
    ("scale", "said"), [(float("inf"), "hold NaN or infinity: load it with"), (1e9, "beyond float16: capture with")]
)
def test_states_that_no_file_of_this_precision_can_hold_are_refused(capture, scale, said):
    model = loaded()
    with torch.no_grad():
        model.model.model.embed_tokens.weight.mul_(scale)
    with pytest.raises(UserError, match=said):
        capture(model=model, store_dtype="float16")
