"""What a checkpoint brings besides its weights: settings of generating, and a template where no tokenizer looks."""

import json
import logging

import pytest
from transformers import GenerationConfig

from tests.conftest import small_model
from tests.tiny_tokenizer import CHAT, tiny_tokenizer
from utils.errors import DamagedFileError
from utils.models.generation import Sampling, generate_batch
from utils.models.load import load_model

PROMPT = [1, 40, 50, 60]


@pytest.fixture
def saved(tmp_path):
    """A model's folder, saved with generation settings and a template file."""

    def save(template=None, **settings):
        model = small_model("llama")
        model.generation_config = GenerationConfig(eos_token_id=[2, 7], bos_token_id=1, pad_token_id=0, **settings)
        model.save_pretrained(tmp_path)
        tiny_tokenizer(None).save_pretrained(tmp_path)
        if template is not None:
            (tmp_path / "chat_template.json").write_text(template)
        return tmp_path

    return save


def greedy(folder):
    loaded = load_model(str(folder), device="cpu")
    [made] = generate_batch(loaded, [PROMPT], Sampling(8, temperature=0.0), seed=0)
    return loaded, made.ids


def test_settings_that_act_on_which_tokens_are_drawn_are_put_aside_and_said(saved, caplog):
    _, plain = greedy(saved())
    caplog.set_level(logging.INFO)
    settings = {"suppress_tokens": plain[:1], "no_repeat_ngram_size": 1, "min_p": 0.5, "repetition_penalty": 1.3}
    loaded, made = greedy(saved(do_sample=True, **settings))
    assert made == plain
    assert loaded.end_ids == {2, 7}
    assert loaded.model.generation_config.pad_token_id == 0
    [line] = [m for m in caplog.messages if "not applied" in m]
    assert all(name in line for name in (*settings, "do_sample"))


def test_a_checkpoint_without_settings_of_its_own_has_nothing_to_put_aside(saved, caplog):
    caplog.set_level(logging.INFO)
    greedy(saved())
    assert "not applied" not in caplog.text


def test_a_chat_template_in_a_file_of_its_own_is_used(saved):
    loaded = load_model(str(saved(json.dumps({"chat_template": CHAT}))), device="cpu")
    assert loaded.tokenizer.chat_template == CHAT


@pytest.mark.parametrize("text", ["[]", '{"chat_template": 3}', '{"chat_template": ""}', "{"])
def test_a_damaged_template_file_is_one_clear_error(saved, text):
    with pytest.raises(DamagedFileError, match=r"chat_template\.json"):
        load_model(str(saved(text)), device="cpu")
