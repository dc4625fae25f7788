import math

import pytest
from extraction.steering.damage import damage, perplexity, repeated_share, repetition
from extraction.steering.results import Answer

LOOP = [5, 6, 7] * 10
PLAIN = list(range(30))


def _answer(ids, surprise=1.0):
    surprise = surprise if ids else None
    return Answer("Why?", "So.", 0.0, None, surprise, repeated_share(ids), len(ids))


def test_a_loop_repeats_itself_and_an_answer_without_one_does_not():
    assert repeated_share(PLAIN) == 0
    assert repeated_share(LOOP) == 24 / 27  # of 27 4-grams three are new
    assert repeated_share([*PLAIN, *PLAIN]) == 27 / 57
    assert repeated_share([1, 1, 1]) is None


def test_figures_of_a_dose_are_of_its_tokens_not_of_its_answers():
    both = [_answer(PLAIN, 1.0), _answer(LOOP[:6], 3.0), _answer([])]
    assert perplexity(both) == pytest.approx(math.exp((30 * 1.0 + 6 * 3.0) / 36))
    assert repetition(both) == 0
    assert repetition([_answer(PLAIN), _answer(LOOP[:7])]) == pytest.approx(1 / 31)
    assert (perplexity([_answer([])]), repetition([_answer([1, 2])])) == (None, None)


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([_answer(PLAIN)] * 4, None),
        ([_answer(PLAIN, 1.6)] * 4, None),
        ([_answer(PLAIN, 1.8)] * 4, "perplexity is over 2 times"),
        ([_answer(LOOP, 0.1)] * 2 + [_answer(PLAIN)] * 2, "44% of the 4-grams are repetitions, 0% unsteered"),
        ([_answer([])] * 2 + [_answer(PLAIN)] * 2, None),
        ([_answer([])] * 3 + [_answer(PLAIN)], "more than half of the answers are empty"),
    ],
)
def test_a_dose_is_broken_by_surprise_by_loops_that_surprise_nobody_and_by_silence(answers, found):
    said = damage(answers, [_answer(PLAIN)] * 4)
    assert said is None if found is None else found in said


def test_a_model_that_loops_by_itself_is_not_broken_by_a_dose_under_which_it_loops_as_much():
    assert damage([_answer(LOOP)] * 4, [_answer(LOOP)] * 4) is None
