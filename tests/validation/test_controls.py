"""Controls find what they are for, and nothing else."""

import pytest
import torch
from extraction.fit.text_controls import bag_of_words_scores

from tests.validation.planted import planted
from traitlens import (
    METHODS,
    ContrastSpan,
    auroc,
    feature_control,
    get_method,
    make_folds,
    random_directions,
    shuffled_labels,
)


@pytest.mark.parametrize("name", METHODS)
def test_shuffled_labels_read_one_half(name):
    examples = planted(n=40, hidden=60)
    span = ContrastSpan(examples.pos, examples.neg)
    chance = shuffled_labels(span, get_method(name), make_folds(examples.questions), n_shuffles=12)
    assert chance.mean == pytest.approx(0.5, abs=0.05)
    assert 0.5 < chance.high < 0.75


def test_length_separates_what_only_length_separates():
    labels = torch.arange(80) < 40
    folds = make_folds([i % 20 for i in range(80)])
    lengths = torch.where(labels, 20.0, 200.0) + torch.arange(80) % 7  # the shorter ones are positive
    assert auroc(feature_control(lengths, labels, folds), labels) == 1
    assert auroc(feature_control(torch.full((80,), 50.0), labels, folds), labels) == 0.5


def test_random_directions_read_a_trait_poorly_and_a_shift_of_everything_well():
    examples = planted(n=100, hidden=200, auroc=0.9, massive=False)
    folds = make_folds(examples.questions)
    trait = random_directions(ContrastSpan(examples.pos, examples.neg), folds)
    assert abs(trait.mean - 0.5) < 0.1
    generator = torch.Generator().manual_seed(0)
    pos, neg = torch.randn(2, 100, 200, generator=generator)
    everywhere = random_directions(ContrastSpan(pos + 5 * torch.randn(200, generator=generator), neg), folds)
    assert everywhere.mean > 0.9


def test_a_word_that_marks_one_side_is_caught_by_the_bag_of_words():
    labels = torch.arange(60) < 30
    folds = make_folds([i % 15 for i in range(60)])
    topics = [f"topic{i % 15} is what was asked about" for i in range(60)]
    marked = [text + (" honestly" if label else "") for text, label in zip(topics, labels.tolist(), strict=True)]
    assert auroc(bag_of_words_scores(marked, labels, folds), labels) > 0.99
    assert auroc(bag_of_words_scores(topics, labels, folds), labels) == pytest.approx(0.5, abs=0.1)


def test_texts_without_a_word_give_no_score():
    labels = torch.arange(8) < 4
    scores = bag_of_words_scores([""] * 8, labels, make_folds([0, 1, 2, 3] * 2, n_folds=2))
    assert scores.isnan().all()


def test_a_side_that_training_lacks_gives_no_score():
    labels = torch.tensor([True, False] * 2)
    scores = bag_of_words_scores(["yes", "no"] * 2, labels, make_folds(["a", "b", "a", "b"], n_folds=2))
    assert scores.isnan().all()


def test_marks_and_scripts_without_spaces_count_as_words():
    labels = torch.arange(40) < 20
    folds = make_folds([i % 10 for i in range(40)])
    texts = ["当然可以！" if label else "不行。" for label in labels.tolist()]
    assert auroc(bag_of_words_scores(texts, labels, folds), labels) == 1


def test_nothing_to_hold_out_gives_no_chance_level():
    examples = planted(n=10, hidden=20)
    span, folds = ContrastSpan(examples.pos, examples.neg), make_folds(["only"] * 20)
    assert shuffled_labels(span, get_method("mean_diff"), folds, n_shuffles=2) is None
    assert random_directions(span, folds) is None
