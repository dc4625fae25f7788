"""Held-out scores know nothing of what they read, find what can be found, and find nothing where nothing is."""

import pytest
import torch

from tests.validation.planted import planted
from traitlens import (
    METHODS,
    ContrastSpan,
    MeanDifferenceMethod,
    ProbeMethod,
    auroc,
    choose,
    cross_validate,
    get_method,
    make_folds,
)


@pytest.mark.parametrize("name", ["probe", "gradient"])
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_auroc_is_within_two_hundredths_of_the_optimal_classifier(name, seed):
    examples = planted(n=400, seed=seed)
    span = ContrastSpan(examples.pos, examples.neg)
    folds = make_folds(examples.questions)
    held_out = cross_validate(span, get_method(name), folds, nested=False).scores
    optimal = torch.cat([examples.pos, examples.neg]).double() @ examples.optimal
    best = auroc(optimal, span.labels)
    assert best > 0.95
    assert auroc(held_out, span.labels) > best - 0.02


@pytest.mark.parametrize("name", METHODS)
def test_labels_of_a_cell_change_none_of_the_scores_that_read_it(name):
    examples = planted(n=40, hidden=64)
    span = ContrastSpan(examples.pos, examples.neg)
    folds = make_folds(examples.questions, [i % 4 for i in range(80)], n_folds=4)
    before = cross_validate(span, get_method(name), folds)
    cell = folds.cells[5]
    test = folds.test(cell)
    changed = span.select(torch.ones(80, dtype=torch.bool), torch.where(test, ~span.labels, span.labels))
    after = cross_validate(changed, get_method(name), folds)
    assert test.any()
    assert torch.equal(before.scores[test], after.scores[test])
    assert torch.equal(before.inner[cell].nan_to_num(9), after.inner[cell].nan_to_num(9))
    assert not torch.equal(before.scores.nan_to_num(9), after.scores.nan_to_num(9))  # others did learn from it


def test_inner_scores_leave_out_whatever_shares_a_question_or_an_instruction():
    examples = planted(n=40, hidden=64)
    folds = make_folds(examples.questions, [i % 4 for i in range(80)], n_folds=4)
    held_out = cross_validate(ContrastSpan(examples.pos, examples.neg), MeanDifferenceMethod(), folds)
    for cell, scores in held_out.inner.items():
        shares = (folds.question_group == cell[0]) | (folds.instruction_group == cell[1])
        assert torch.equal(scores.isnan(), shares)


def test_scores_of_different_folds_are_comparable():
    generator = torch.Generator().manual_seed(0)
    pos, neg = torch.randn(2, 100, 5, generator=generator)
    pos = pos + torch.tensor([100.0, 0, 0, 0, 0])
    folds = make_folds(list(range(100)) * 2)
    scores = cross_validate(ContrastSpan(pos, neg), MeanDifferenceMethod(), folds, nested=False).scores
    assert scores[:100].mean().item() == pytest.approx(0.5, abs=0.02)
    assert scores[100:].mean().item() == pytest.approx(-0.5, abs=0.02)


def test_an_instruction_leak_reads_perfectly_in_a_random_split_and_not_at_all_when_instructions_are_held_out():
    generator = torch.Generator().manual_seed(0)
    marks = 10 * torch.randn(2, 5, 80, generator=generator)  # what each instruction's wording does to activations
    rows = [(question, pair) for question in range(20) for pair in range(5)]
    pairs = torch.tensor([pair for _, pair in rows])
    pos, neg = (marks[side][pairs] + torch.randn(100, 80, generator=generator) for side in (0, 1))
    span = ContrastSpan(pos, neg)
    random_split = make_folds(list(range(200)))
    honest = make_folds([q for q, _ in rows] * 2, [p for _, p in rows] * 2)
    leaked, held_out = (
        cross_validate(span, ProbeMethod(), folds, nested=False).scores for folds in (random_split, honest)
    )
    assert auroc(leaked, span.labels) > 0.99
    assert auroc(held_out, span.labels) < 0.75


def test_a_side_that_training_lacks_is_unknown_not_invented():
    pos, neg = torch.randn(4, 6), torch.randn(4, 6)
    folds = make_folds(["a"] * 4 + ["b"] * 4, n_folds=2)  # each question has one side only
    scores = cross_validate(ContrastSpan(pos, neg), MeanDifferenceMethod(), folds).scores
    assert scores.isnan().all()
    one_question = make_folds(["a"] * 8)
    assert cross_validate(ContrastSpan(pos, neg), MeanDifferenceMethod(), one_question).scores.isnan().all()


def _noise_sweep(seed, n_layers=25):
    generator = torch.Generator().manual_seed(seed)
    folds = make_folds([i % 16 for i in range(32)] * 2)
    held_out = {}
    for layer in range(n_layers):
        pos, neg = torch.randn(2, 32, 24, generator=generator)
        span = ContrastSpan(pos, neg)
        held_out["mean_diff", layer] = cross_validate(span, MeanDifferenceMethod(), folds)
    return held_out, span.labels, folds


def test_the_nested_figure_stays_at_chance_on_noise_where_the_best_of_many_does_not():
    nested, best = [], []
    for seed in range(12):
        held_out, labels, folds = _noise_sweep(seed)
        choice = choose(held_out, labels, folds, middle=12)
        nested.append(auroc(choice.nested_scores, labels))
        best.append(auroc(held_out[choice.method, choice.layer].scores, labels))
    assert sum(best) / 12 > 0.6
    assert abs(sum(nested) / 12 - 0.5) < 0.05


def test_equals_go_to_the_middle_and_layer_0_is_not_chosen():
    examples = planted(n=60, auroc=0.9999, massive=False)
    span, folds = ContrastSpan(examples.pos, examples.neg), make_folds(examples.questions)
    held = cross_validate(span, ProbeMethod(), folds)
    choice = choose({("probe", layer): held for layer in (0, 3, 6, 9)}, span.labels, folds, middle=5)
    assert (choice.method, choice.layer) == ("probe", 6)
    assert choose({("probe", layer): held for layer in (0, 9)}, span.labels, folds, middle=0).layer == 9
    assert choose({("probe", 0): held}, span.labels, folds, middle=5).layer == 0


def test_a_clearly_better_layer_wins_over_the_middle():
    good, poor = planted(n=60, auroc=0.999, seed=0), planted(n=60, auroc=0.7, seed=1)
    folds = make_folds(good.questions)
    spans = {("probe", 2): ContrastSpan(good.pos, good.neg), ("probe", 5): ContrastSpan(poor.pos, poor.neg)}
    held_out = {key: cross_validate(span, ProbeMethod(), folds) for key, span in spans.items()}
    choice = choose(held_out, spans["probe", 2].labels, folds, middle=5)
    assert choice.layer == 2
    assert set(choice.by_cell.values()) == {("probe", 2)}
