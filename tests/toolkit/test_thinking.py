"""However a model marks its thought, the answer is found, and a plain answer can be put behind any prompt."""

import pytest

from traitlens import response_segments
from traitlens.thinking import FORMS, answer_of, before_answer, begins_to_think, find_thinking

# What models write: thought and answer between the marks of each form.
WRITTEN = {
    "think": "<think>\nHm.\n</think>\n\nYes.",
    "thinking": "<thinking>Hm.</thinking>Yes.",
    "EXAONE Deep": "<thought>\nHm.\n</thought>\n\nYes.",
    "Seed-OSS": "<seed:think>Hm.</seed:think>Yes.",
    "Magistral": "[THINK]Hm.[/THINK]Yes.",
    "Kimi": "◁think▷Hm.◁/think▷Yes.",
    "Apertus": "<|inner_prefix|>Hm.<|inner_suffix|>Yes.",
    "Command A": "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>",
    "Gemma 4": "<|channel>thought\nHm.<channel|>Yes.",
    "GPT-OSS": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
}
OPENED = {name: text[: text.index("Hm")] for name, text in WRITTEN.items()}


def parts(text, prompt=""):
    tokens = list(text)
    return {s.part: "".join(tokens[s.start : s.end]).strip() for s in response_segments(tokens, prompt=prompt)}


def test_every_form_is_tried_here():
    assert len(WRITTEN) == len(FORMS)


@pytest.mark.parametrize("name", WRITTEN)
def test_thought_and_answer_of_every_form_are_told_apart(name):
    text = WRITTEN[name]
    assert answer_of(text) == "Yes."
    assert parts(text)["thinking"] == "Hm."
    assert parts(text)["answer"].startswith("Yes.")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_thought_that_the_prompt_opens_is_found_with_and_without_the_prompt(name):
    opened = OPENED[name]
    rest = WRITTEN[name].removeprefix(opened)
    assert answer_of(rest, f"<user>?<assistant>{opened}") == answer_of(rest) == "Yes."
    assert parts(rest)["thinking"] == "Hm."


@pytest.mark.parametrize("name", WRITTEN)
def test_a_thought_that_was_cut_has_no_answer(name):
    cut = OPENED[name] + "Hm. It is 90"
    assert answer_of(cut) == ""
    assert answer_of("Hm. It is 90", OPENED[name]) == ""
    assert begins_to_think(cut)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_plain_answer_behind_an_opened_thought_is_no_thought(name):
    prompt = "<user>?<assistant>" + OPENED[name]
    said = OPENED[name] + before_answer(prompt) + "Yes."
    assert answer_of(said) == "Yes."
    assert parts(said).get("thinking", "") == ""


def test_a_plain_answer_of_gpt_oss_is_put_into_its_channel_of_answers():
    assert before_answer("<|end|><|start|>assistant") == "<|channel|>final<|message|>"
    assert answer_of("<|channel|>final<|message|>Yes.<|return|>") == "Yes."


@pytest.mark.parametrize(
    "text", ["Use <think> and </think>.", "I think so.", "", "Thinking of it, yes.", "a <| b |> c"]
)
def test_plain_texts_hold_no_thought(text):
    assert find_thinking(text) is None
    assert answer_of(text) == text
    assert before_answer(text) == ""
    assert not begins_to_think(text)


def test_a_model_that_thinks_twice_has_one_answer():
    assert answer_of("<think>a</think>\n<think>b</think>\nYes.") == "Yes."


@pytest.mark.parametrize("begun", ["<thi", "[THI", "<|channel|>", "<|channel|>ana"])
def test_the_first_tokens_of_an_opening_are_known(begun):
    assert begins_to_think(begun)
