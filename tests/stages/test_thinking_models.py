"""Stages 1 and 2 with models that think before they answer: the answer is the response, and is read as one."""

import json
import types

import pytest
from extraction.capture.examples import encoded
from extraction.generate.local_model import LocalModel
from extraction.generate.plan import Ask, plan
from extraction.generate.settings import GenerationSettings

from tests.conftest import small_model
from tests.stages.conftest import DEFINITION
from tests.tiny_tokenizer import tiny_tokenizer
from utils.models.generation import Generated
from utils.models.load import LoadedModel
from utils.records import InstructionPair, Response, TraitDefinition

TURNS = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "[THINK]", "[/THINK]")
# What the template puts before the answer, and what the model then writes, in special tokens where it has them.
MODELS = {
    "tags": ("<assistant>", "<think>\nHm.\n</think>\n\nYes."),
    "opened by the template": ("<assistant><think>", "\nHm.\n</think>\n\nYes."),
    "special tokens": ("<assistant>", "[THINK]Hm.[/THINK]Yes."),
    "channels": (
        "<|start|>assistant",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
    ),
}


@pytest.fixture(params=MODELS)
def thinker(request, monkeypatch):
    """A model that answers every prompt with its thought and Yes."""
    begins, said = MODELS[request.param]
    tokenizer = tiny_tokenizer(TURNS + begins)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    loaded = LoadedModel(small_model("llama", vocab_size=320), tokenizer, "tiny", "tiny", None)

    def answers(loaded, prompts, *_):
        ids = tokenizer(said, add_special_tokens=False)["input_ids"]
        return [Generated(ids, "stop") for _ in prompts]

    monkeypatch.setattr("extraction.generate.local_model.generate_batch", answers)
    return types.SimpleNamespace(loaded=loaded, begins=begins)


def definition():
    pairs = tuple(InstructionPair(**pair) for pair in DEFINITION["instruction"])
    return TraitDefinition("alpha", pairs, tuple(DEFINITION["questions"]), DEFINITION["eval_prompt"])


def test_the_answer_alone_is_the_response_and_thoughts_are_counted(thinker):
    model, settings = LocalModel("tiny", lambda name: thinker.loaded), GenerationSettings()
    process = types.SimpleNamespace(mine=list)
    made = [r for batch in model.generate(definition(), settings, process, ()) for _, r in batch]
    assert {response.response for response in made} == {"Yes."}
    assert all(response.prompt.endswith(thinker.begins) for response in made)
    assert model.thoughts == len(plan(definition(), settings)) == len(made)


def test_without_thinking_the_prompt_leads_to_the_answer(thinker):
    model, settings = LocalModel("tiny", lambda name: thinker.loaded), GenerationSettings(enable_thinking=False)
    batches = model.generate(definition(), settings, types.SimpleNamespace(mine=list), ())
    _, response = next(iter(batches))[0]
    assert not response.prompt.endswith("<think>")
    assert not response.prompt.endswith("assistant")


def test_a_response_is_read_behind_an_ended_thought_and_one_with_its_thought_behind_an_open_one(thinker):
    rows = [(0, Response("Why?", "", "", "Yes.")), (1, Response("Why?", "", "", "Hm.\n</think>\n\nYes."))]
    plain, whole = encoded({"pos": rows, "neg": [], "neutral": []}, thinker.loaded, "question")
    decode = thinker.loaded.tokenizer.decode
    assert decode(plain.ids[plain.response_start :]) == "Yes."
    before = decode(plain.ids[: plain.response_start])
    assert before.rfind("<think>") <= before.rfind("</think>")
    assert not before.endswith("<|start|>assistant")
    assert decode(whole.ids[: whole.response_start]).endswith(thinker.begins)


def test_the_setting_is_part_of_what_a_run_must_share_to_continue():
    from extraction.generate.plan import fingerprint

    given = [fingerprint(definition(), GenerationSettings(enable_thinking=e), {}) for e in (None, True, False)]
    assert len({json.dumps(one, sort_keys=True) for one in given}) == 3


def test_special_tokens_within_an_answer_are_dropped_and_its_text_kept():
    tokenizer = tiny_tokenizer(TURNS)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    loaded = LoadedModel(small_model("llama", vocab_size=320), tokenizer, "tiny", "tiny", None)
    from extraction.generate.local_model import _response

    ids = tokenizer("[THINK]Hm.[/THINK] Yes<|end|>, do. ", add_special_tokens=False)["input_ids"]
    made = _response(Ask("pos", 0, "Why?", ""), "<assistant>", loaded, Generated(ids, "length"))
    assert (made.response, made.finish_reason) == ("Yes, do.", "length")
