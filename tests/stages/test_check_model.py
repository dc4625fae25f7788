import logging
import subprocess
import sys

import pytest
from extraction.capture.checks import check_loaded
from extraction.check_model import check_model

from tests.conftest import ARCHITECTURES, small_model
from tests.hardening.nursery import run_command
from tests.tiny_tokenizer import CHAT, tiny_tokenizer
from utils.errors import UserError
from utils.models import LoadedModel


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_check_holds_on_every_small_architecture(architecture):
    loaded = LoadedModel(small_model(architecture), tiny_tokenizer(), architecture, architecture, None)
    findings = check_loaded(loaded)
    assert len(findings) == 7
    assert [f for f in findings if not f.holds] == []


def test_every_check_holds_on_the_embedded_model(embedded):
    assert [f for f in check_loaded(embedded) if not f.holds] == []


def _failing(loaded):
    return {f.name for f in check_loaded(loaded) if not f.holds}


def test_a_model_that_ignores_its_attention_mask_is_found_out():
    model = small_model("gpt2")
    original = model.forward

    def deaf(*args, attention_mask=None, **kwargs):
        return original(*args, **kwargs)

    model.forward = deaf
    loaded = LoadedModel(model, tiny_tokenizer(), "deaf", "deaf", None)
    assert "left padding keeps next-token logits" in _failing(loaded)


def test_a_second_bos_is_found_out():
    tokenizer = tiny_tokenizer("{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}")
    loaded = LoadedModel(small_model("llama"), tokenizer, "double", "double", None)
    assert "one BOS" in _failing(loaded)


def test_a_tokenizer_without_bos_needs_none():
    tokenizer = tiny_tokenizer(CHAT.removeprefix("{{ bos_token }}"))
    tokenizer.bos_token = None
    loaded = LoadedModel(small_model("llama"), tokenizer, "none", "none", None)
    (finding,) = (f for f in check_loaded(loaded) if f.name == "one BOS")
    assert (finding.holds, finding.seen) == (True, "the model has none")


def test_a_failed_check_fails_the_command_by_name(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    small_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer(CHAT.replace("{{ bos_token }}", "{{ bos_token }}{{ bos_token }}")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="1 of 7 checks failed: one BOS"):
        check_model(str(tmp_path), device="cpu")
    assert "FAIL one BOS" in caplog.text


def test_hidden_states_that_are_not_what_the_blocks_pass_on_are_found_out():
    model = small_model("llama")
    original = model.forward

    def forward(*args, **kwargs):
        output = original(*args, **kwargs)
        if output.hidden_states is not None:
            output.hidden_states = tuple(state * 1.01 for state in output.hidden_states)
        return output

    model.forward = forward
    assert "hook equals hidden_states[L]" in _failing(LoadedModel(model, tiny_tokenizer(), "odd", "odd", None))


def test_the_command_prints_a_line_per_check_and_ends_with_its_status(tiny_model_folder, tmp_path):
    command = [sys.executable, "-m", "extraction.check_model", "--device", "cpu", "--model"]
    good = subprocess.run([*command, tiny_model_folder], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert good.stderr.count("ok  ") == 7
    missing = run_command(*command[1:], tiny_model_folder / "none", folder=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: cannot load the model")
    assert missing.stderr.count("\n") == 1
