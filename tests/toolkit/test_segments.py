import pytest

from traitlens import prompt_segments, response_segments

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hi there"},
    {"role": "user", "content": "Hi"},
]


def characters(text):
    return list(text)


def texts(tokens, segments):
    return [(s.role, s.turn, s.part, "".join(tokens[s.start : s.end])) for s in segments]


def test_every_message_is_found_in_its_order_even_if_texts_repeat():
    tokens = characters("<s>Be brief.</s><u>Hi</u><a>Hi there</a><u>Hi</u><a>")
    assert texts(tokens, prompt_segments(tokens, MESSAGES)) == [
        ("system", 0, None, "Be brief."), ("user", 1, None, "Hi"), ("assistant", 1, None, "Hi there"), ("user", 2, None, "Hi"),
    ]  # fmt: skip


def test_a_message_that_the_template_left_out_has_no_segment_and_moves_nothing():
    tokens = characters("<u>Hi</u><a>Hi there</a><u>Hi</u>")
    found = prompt_segments(tokens, MESSAGES)
    assert texts(tokens, found) == [
        ("user", 1, None, "Hi"),
        ("assistant", 1, None, "Hi there"),
        ("user", 2, None, "Hi"),
    ]


def test_a_token_that_holds_the_edge_of_a_message_belongs_to_it():
    found = prompt_segments(["Question", ": H", "i\n", "Answer:"], [{"role": "user", "content": "Hi"}])
    assert [(s.start, s.end) for s in found] == [(1, 3)]


@pytest.mark.parametrize("tags", ["<think> </think>", "<thinking> </thinking>", "[THINK] [/THINK]"])
def test_thinking_and_answer_are_apart_without_their_tags(tags):
    opening, closing = tags.split()
    tokens = ["\n", opening, "Hm", " so", closing, "\n", "Yes"]
    found = response_segments(tokens, turn=2)
    assert texts(tokens, found) == [("assistant", 2, "thinking", "Hm so"), ("assistant", 2, "answer", "\nYes")]


def test_thinking_that_the_prompt_opens_is_thinking():
    tokens = ["Hm", "</think>", "Yes"]
    wanted = [("assistant", 1, "thinking", "Hm"), ("assistant", 1, "answer", "Yes")]
    assert texts(tokens, response_segments(tokens, prompt="<a><think>\n")) == wanted
    assert texts(tokens, response_segments(tokens)) == wanted


def test_thinking_that_was_cut_off_has_no_answer():
    tokens = ["<think>", "Hm"]
    assert texts(tokens, response_segments(tokens)) == [("assistant", 1, "thinking", "Hm")]
    assert texts(["Hm"], response_segments(["Hm"], prompt="<think>")) == [("assistant", 1, "thinking", "Hm")]


def test_tags_spelled_over_several_tokens_are_tags():
    tokens = characters("<think>Hm</think>Yes")
    assert [s[2:] for s in texts(tokens, response_segments(tokens))] == [("thinking", "Hm"), ("answer", "Yes")]


def test_a_response_that_only_speaks_of_the_tags_is_no_thinking():
    tokens = ["Use", " <think>", " and", " </think>"]
    assert texts(tokens, response_segments(tokens)) == [("assistant", 1, None, "Use <think> and </think>")]


def test_empty_parts_and_responses_have_no_segment():
    assert response_segments([]) == []
    assert texts(["<think>", "</think>", "Yes"], response_segments(["<think>", "</think>", "Yes"])) == [
        ("assistant", 1, "answer", "Yes")
    ]
