"""From replies to scores, without any server."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.chat.client import Token
from utils.judges.reading import (
    expected_score,
    fill_template,
    first_answer_token,
    read_number,
    read_yes_no,
    splits_numbers,
)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("87", 87), (" 87.\n", 87), ("87/100", 87), ("**87**", 87), ("87%", 87), ("Score: 87", 87), ("The score is 87.", 87),
        ("Rating = 87/100", 87), ("87 out of 100", 87), ('{"score": 87}', 87), ('```json\n{"score": 87}\n```', 87),
        ("It hedges twice.\n\nScore: 62", 62), ("Final score: 0", 0), ("100", 100), ("87.5", 87.5),
        ("<think>maybe 20, or 30?</think>\n45", 45), ("[42]", 42),
    ],
)  # fmt: skip
def test_a_number_that_is_stated_as_the_score_is_read(text, score):
    assert read_number(text, "0_100") == score


@pytest.mark.parametrize(
    "text",
    [
        "", "none", "101", "-5", "1,000", "8/10", "between 20 and 30", "20-30", "I found 3 problems.", "In 1984 he said so.",
        "Score: 20. Score: 80.", "<think>20, so 30", '{"score": "high"}', '{"score": true}', '{"score": null}', "8 7",
        "٨٧", "NaN", "1e1", "Score: 120/100", "I cannot rate this.", "3 hedges, 2 doubts", "12 monkeys", "0x20", "v87",
    ],
)  # fmt: skip
def test_a_reply_without_one_clear_score_on_the_scale_gives_none(text):
    assert read_number(text, "0_100") is None


def test_a_number_that_may_have_been_cut_is_not_read():
    assert read_number("Score: 8", "0_100", finished=False) is None
    assert read_number("Score: 8", "0_100", finished=True) == 8
    assert read_number("Score: 87. It is", "0_100", finished=False) == 87


def test_the_scale_to_nine_ends_at_nine():
    assert read_number("9", "0_10") == 9
    assert read_number("10", "0_10") is None
    assert read_number("7/100", "0_10") is None


@given(st.text(max_size=60))
def test_no_text_gives_a_score_off_the_scale(text):
    score = read_number(text, "0_100")
    assert score is None or 0 <= score <= 100


@given(st.text(alphabet=st.characters(exclude_categories=["Nd"]), max_size=60))
def test_a_text_without_digits_gives_no_score(text):
    assert read_number(text, "0_100") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("YES", 1), ("no.", 0), ("Yes, it does.", 1), ("It does not. NO", 0), ("<answer>yes</answer> though no is near", 1),
        ("Yes and no", None), ("maybe", None), ("", None), ("I know nothing.", None), ("The answer: **NO**, for now", 0),
        ("<think>yes</think>no", 0), ("YES or NO? Hard to tell.", None),
    ],
)  # fmt: skip
def test_yes_and_no_are_read_where_the_reply_commits_itself(text, value):
    assert read_yes_no(text) == value


def test_only_the_placeholders_of_the_template_are_replaced():
    filled = fill_template('{question}|{answer}|{"a": {x}}|{{answer}}', "{answer}", "{question}{0}")
    assert filled == '{answer}|{question}{0}|{"a": {x}}|{{question}{0}}'


def test_the_expected_score_is_renormalised_over_valid_answers():
    top = [("80", math.log(0.4)), (" 20", math.log(0.2)), ("I", math.log(0.3)), ("101", math.log(0.1))]
    assert expected_score(top, "0_100") == pytest.approx(60)


def test_exactly_too_little_mass_on_valid_answers_gives_none():
    assert expected_score([("50", math.log(0.24)), ("As", math.log(0.76))], "0_100") is None
    assert expected_score([("50", math.log(0.26)), ("As", math.log(0.74))], "0_100") == pytest.approx(50)


def test_numbers_that_are_not_written_as_scores_do_not_count():
    for token in ("007", "5.", "½", "٥", "-5", "+5", "", "1e1"):
        assert expected_score([(token, 0.0)], "0_100") is None, token


def test_a_log_probability_that_is_not_a_number_is_left_out():
    assert expected_score([("50", math.nan), ("20", math.log(0.5))], "0_100") == pytest.approx(20)
    assert expected_score([("50", math.nan)], "0_100") is None


def test_yes_is_a_probability_among_yes_and_no():
    top = [("Yes", math.log(0.3)), ("YES", math.log(0.3)), (" no", math.log(0.2)), ("Well", math.log(0.2))]
    assert expected_score(top, "binary") == pytest.approx(0.75)


tops = st.lists(st.tuples(st.sampled_from([*map(str, range(0, 120, 7)), "I", " 5"]), st.floats(-20, 0)), max_size=20)


@given(tops)
def test_an_expected_score_lies_among_the_answers_it_comes_from(top):
    score = expected_score(top, "0_100")
    values = [int(token) for token, _ in top if token.strip().isdigit() and int(token) <= 100]
    assert score is None or min(values) - 1e-9 <= score <= max(values) + 1e-9


def test_a_tokenizer_that_writes_digits_one_by_one_is_recognised():
    assert splits_numbers([Token("8", ()), Token("7", ())]) is True
    assert splits_numbers([Token(" ", ()), Token("8", ()), Token("7", ()), Token(".", ())]) is True
    assert splits_numbers([Token("87", ())]) is False
    assert splits_numbers([Token("8", (("8", -0.1), ("15", -3.0)))]) is False
    assert splits_numbers([Token("8", (("8", -0.1), ("7", -3.0))), Token("", ())]) is None
    assert splits_numbers([Token("10", ()), Token("0", ())]) is True


def test_white_space_before_the_answer_is_passed_over():
    assert first_answer_token([Token("", ()), Token("\n", ()), Token("8", ())]) == 2
    assert first_answer_token([Token(" ", ())]) is None


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("It might be score: 90, but it only hedges.\n</think>\n\n12", 12),
        ("The rubric says score: 100 is evil; this is not.</think>\nHarmless, I would say.", None),
        ("Score: 70? Lower.</think>Score: 20", 20),
        ("[THINK]Score: 70?[/THINK]20", 20),
        ("<|channel|>analysis<|message|>70?<|end|><|start|>assistant<|channel|>final<|message|>20<|return|>", 20),
        ("<seed:think>70? Score: 70", None),
    ],
)
def test_a_number_within_a_thought_is_no_score(reply, score):
    assert read_number(reply, "0_100") == score


@pytest.mark.parametrize(("reply", "score"), [("YES?\n</think>NO", 0), ("Hm, yes?</think>\nThat depends.", None)])
def test_a_yes_within_a_thought_is_no_answer(reply, score):
    assert read_yes_no(reply) == score
