import json

import pytest

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.transcripts import prompts_of, read_prompts, read_texts


def written(tmp_path, name, value):
    path = tmp_path / name
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_prompt_that_looks_a_little_like_a_list_is_a_prompt():
    assert [t.prompt for t in prompts_of("[citation needed] why?")] == ["[citation needed] why?"]
    assert [t.prompt for t in prompts_of("[1, 2] is what?")] == ["[1, 2] is what?"]
    assert [t.prompt for t in prompts_of("[1, 2]")] == ["[1, 2]"]


def test_lines_of_a_text_file_are_prompts_and_empty_ones_are_not(tmp_path):
    path = written(tmp_path, "prompts.txt", "\ufeffOne, two\r\n\n  Three # four \n")
    assert [t.prompt for t in read_prompts(path)] == ["One, two", "Three # four"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", ["One", "Two"]),
        ("p.json", {"prompts": ["One", "Two"]}),
        ("p.json", [{"prompt": "One"}, {"question": "Two"}]),
        ("p.jsonl", '"One"\n{"messages": [{"role": "user", "content": "Two"}]}\n'),
        ("p.csv", "question,instruction\nOne,x\nTwo,y\n"),
    ],
)
def test_prompts_come_in_every_documented_form(tmp_path, name, content):
    assert [t.prompt for t in read_prompts(written(tmp_path, name, content))] == ["One", "Two"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'prompt,response\n"One, two","A ""b""\nc"\n'),
        ("t.json", [{"prompt": "One, two", "response": 'A "b"\nc'}]),
        ("t.json", {"prompt": "One, two", "response": 'A "b"\nc', "tokens": []}),
        ("t.jsonl", json.dumps({"prompt": "One, two", "response": 'A "b"\nc'}) + "\n\n"),
        ("t.json", [{"messages": None, "prompt": "One, two", "response": 'A "b"\nc'}]),
    ],
)
def test_texts_come_in_every_documented_form(tmp_path, name, content):
    (found,) = read_texts(written(tmp_path, name, content))
    assert (found.prompt, found.response) == ("One, two", 'A "b"\nc')


def test_the_question_is_taken_over_the_text_that_a_model_read(tmp_path):
    path = written(tmp_path, "pos.csv", "question,instruction,prompt,response\nWhy?,Refuse,<s>Why?</s>,No\n")
    assert read_texts(path)[0].prompt == "Why?"


def test_every_assistant_turn_of_a_chat_is_a_text_with_all_before_it(tmp_path):
    chat = {"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "See you"},
    ]}  # fmt: skip
    first, second = read_texts(written(tmp_path, "chat.jsonl", json.dumps(chat)))
    assert [m["role"] for m in first.messages] == ["system", "user"]
    assert (first.response, first.turn) == ("Hello", 1)
    assert (second.response, second.turn) == ("See you", 2)
    assert second.prompt.startswith("system: Be brief.\n\nuser: Hi\n\nassistant: Hello\n\nuser: Bye")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", '{"prompt": "a", "response": "b"}\n{oops\n', "line 2 is not JSON"),
        ("t.json", [{"prompt": "a"}], "entry 1 has no text under 'response'"),
        ("t.csv", "a,b\n1,2\n", "row 1 has neither"),
        ("t.csv", "prompt,response\na,b\nWhy?,No, because\n", "row 2 has more cells than the header"),
        ("t.csv", 'prompt,response\na,b\nWhy?,"Because', "it ends inside a text"),
        ("t.csv", 'prompt,response\nWhy?,"Because" I say\n', "not a CSV table"),
        ("t.json", [3], "entry 1 is int"),
        ("t.json", {"messages": [{"role": "tool", "content": "x"}]}, "role must be"),
        ("t.json", {"messages": [{"role": "assistant", "content": "x"}]}, "must begin with the user"),
        ("t.json", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
        ("t.json", {"messages": [{"role": "user", "content": 5}]}, "no text under 'content'"),
        ("t.json", [], "holds no responses"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, name, content, said):
    with pytest.raises(DamagedFileError, match=said):
        read_texts(written(tmp_path, name, content))


def test_a_missing_file_an_empty_one_and_an_unknown_ending_are_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"none\.txt not found"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(DamagedFileError, match="holds no prompts"):
        read_prompts(written(tmp_path, "empty.txt", "\n\n"))
    with pytest.raises(UserError, match="cannot tell the format"):
        read_texts(written(tmp_path, "t.parquet", "x"))
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    answered = written(tmp_path, "p.json", [{"messages": chat}])
    with pytest.raises(DamagedFileError, match="last message must be the user's"):
        read_prompts(answered)


def test_a_line_ends_at_a_line_break_and_nowhere_else(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("One\u2028still one\r\nTwo\x85still two\n\nThree\x0cstill three\rFour".encode())
    assert [t.prompt for t in read_prompts(path)] == [
        "One\u2028still one", "Two\x85still two", "Three\x0cstill three", "Four",
    ]  # fmt: skip
