"""What is held out together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from traitlens import make_folds

_examples = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=2, max_size=80)


def _groups(values, rows):
    return {value for value, row in zip(values, rows.tolist(), strict=True) if row}


@given(_examples, st.integers(2, 6), st.integers(0, 3))
def test_no_fit_shares_a_question_or_an_instruction_with_what_it_reads(examples, n_folds, seed):
    questions, instructions = zip(*examples, strict=True)
    folds = make_folds(questions, instructions, n_folds, seed)
    crossed = len(set(instructions)) > 1
    assert folds.crossed is crossed
    for cell in folds.cells:
        test, train = folds.test(cell), folds.train(folds.exclusion(cell))
        assert not _groups(questions, test) & _groups(questions, train)
        assert not crossed or not _groups(instructions, test) & _groups(instructions, train)
        for inner in folds.inner_cells(cell):
            both = folds.train(folds.exclusion(cell, inner))
            seen = _groups(questions, both)
            assert not seen & (_groups(questions, test) | _groups(questions, folds.test(inner)))
            assert not _groups(questions, test) & _groups(questions, folds.test(inner))


@given(_examples, st.integers(2, 6))
def test_every_example_is_held_out_once(examples, n_folds):
    questions, instructions = zip(*examples, strict=True)
    folds = make_folds(questions, instructions, n_folds)
    assert torch.stack([folds.test(cell) for cell in folds.cells]).sum(dim=0).tolist() == [1] * len(examples)


def test_questions_are_dealt_evenly():
    folds = make_folds([i // 2 for i in range(40)], n_folds=5)
    assert folds.question_group.bincount().tolist() == [8] * 5
    assert folds.describe() == "5 groups of questions"


def test_another_seed_deals_otherwise():
    questions = list(range(30))
    first, again, other = (make_folds(questions, seed=seed).question_group for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_equal_instructions_leave_only_questions_to_hold_out():
    folds = make_folds(list("abcdef"), [""] * 6, n_folds=3)
    assert not folds.crossed
    assert all(folds.train(folds.exclusion(cell)).sum() == 4 for cell in folds.cells)


def test_instructions_that_are_too_few_or_folds_under_two_are_refused():
    with pytest.raises(ValueError, match="3 questions but 1 instructions"):
        make_folds(["a", "b", "c"], ["x"])
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        make_folds(["a", "b"], n_folds=1)
