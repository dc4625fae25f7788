"""Figures and intervals against independent definitions and against simulation."""

import dataclasses
import json
import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from traitlens import Interval, auroc, auroc_difference, auroc_interval, evaluate


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auroc_agrees_with_scikit_learn_ties_included(rows):
    scores, labels = torch.tensor([float(s) for s, _ in rows]), torch.tensor([y for _, y in rows])
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="both classes"):
            auroc(scores, labels)
    else:
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_unknown_scores_are_left_out():
    scores, labels = torch.tensor([1.0, math.nan, 0.0, math.nan]), torch.tensor([True, True, False, False])
    assert auroc(scores, labels) == 1
    metrics = evaluate(scores, labels, [torch.arange(4)])
    assert (metrics.n_pos, metrics.n_neg) == (1, 1)


def test_figures_of_a_hand_made_case():
    scores = torch.tensor([2.0, 1.0, -0.5, 3.0, -1.0, -2.0, 0.5, -3.0])
    labels = torch.tensor([True] * 4 + [False] * 4)
    metrics = evaluate(scores, labels, [torch.arange(8)])
    assert metrics.auroc.value == pytest.approx(15 / 16)
    assert metrics.accuracy == pytest.approx(0.75)
    assert metrics.recall_at_1_fpr is None  # four negatives cannot show one in a hundred
    assert metrics.cohens_d == pytest.approx((1.375 + 1.375) / (2 * 6.6875 * 3 / (6 * 3)) ** 0.5)


def test_recall_is_above_the_second_of_two_hundred_negatives():
    neg = torch.arange(200.0)
    pos = torch.tensor([198.5, 198.0, 197.5, 500.0])
    scores, labels = torch.cat([pos, neg]), torch.arange(204) < 4
    assert evaluate(scores, labels, [torch.arange(204)]).recall_at_1_fpr == 0.5  # 198 itself is not above 198


@pytest.mark.parametrize(("n_neg", "rank"), [(98, None), (99, 1), (198, 1), (199, 2), (298, 2), (299, 3), (1, None)])
def test_recall_at_one_percent_needs_99_negatives_and_spares_one_of_every_hundred_with_the_next_one(n_neg, rank):
    neg = torch.arange(float(n_neg)).flip(0)
    pos = neg[:3] + 0.5  # the first is above all negatives, the second above all but one
    labels = torch.arange(len(pos) + n_neg) < len(pos)
    recall = evaluate(torch.cat([pos, neg]), labels, [torch.arange(len(labels))]).recall_at_1_fpr
    assert recall == (None if rank is None else pytest.approx(rank / 3))


def test_new_negatives_exceed_the_threshold_of_recall_at_most_one_time_in_a_hundred():
    scores = torch.randn(4000, 399, generator=torch.Generator().manual_seed(0))
    new = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    above = [
        evaluate(torch.cat([x[None], row]), torch.arange(400) < 1, [torch.arange(400)]).recall_at_1_fpr
        for x, row in zip(new[:1500], scores, strict=False)
    ]
    assert 0.004 < sum(above) / 1500 < 0.017


def test_figures_are_plain_numbers_that_json_knows():
    metrics = evaluate(torch.tensor([1.0, 2.0, -1.0, 0.5]), torch.arange(4) < 2, [torch.arange(4)])
    assert json.loads(json.dumps(dataclasses.asdict(metrics))) == dataclasses.asdict(metrics)
    assert type(auroc(torch.tensor([1.0, 0.0]), torch.tensor([True, False]))) is float


def test_a_score_on_the_boundary_counts_half_in_either_class():
    scores, labels = torch.tensor([0.0, 1.0, 2.0, 0.0, -1.0]), torch.tensor([True, True, True, False, False])
    assert evaluate(scores, labels, [torch.arange(5)]).accuracy == pytest.approx((2.5 / 3 + 1.5 / 2) / 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_classes_without_spread_have_a_large_but_finite_distance(sign):
    scores, labels = sign * torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.arange(4) < 2
    assert evaluate(scores, labels, [torch.arange(4)]).cohens_d == sign * 1e6


def test_the_interval_leaves_unknown_scores_out():
    scores, labels, clusters, _ = _simulated(torch.Generator().manual_seed(0))
    gap = [torch.cat([given, given[:1]]) for given in (scores, labels, clusters[0])]
    gap[0][-1] = math.nan
    assert auroc_interval(gap[0], gap[1], [gap[2]]) == auroc_interval(scores, labels, clusters[:1])


def test_the_interval_of_the_figures_is_that_of_the_scores():
    scores, labels, clusters, _ = _simulated(torch.Generator().manual_seed(0), n_instructions=5)
    assert evaluate(scores, labels, clusters).auroc == auroc_interval(scores, labels, clusters)


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        ([1.0, math.inf], [True, False], "scores hold infinity"),
        ([1.0, 0.0], [True, False, True], r"\[2\], \[3\], \[2\]: wanted \[n\] each"),
        ([1.0, 0.0], [1, 0], "wanted torch.bool"),
    ],
)
def test_scores_that_cannot_be_judged_are_refused(scores, labels, said):
    with pytest.raises(ValueError, match=said):
        evaluate(torch.tensor(scores), torch.tensor(labels), [torch.arange(2)])


def test_an_interval_is_shown_with_two_decimals():
    assert str(Interval(0.5, 0.25, 0.751)) == "0.50 (0.25-0.75)"


def _simulated(generator, n_questions=24, n_instructions=1, per_cell=1, separation=1.5):
    """Scores with effects that questions (and instructions) share; the AUROC of the population is known."""
    question_effect = 0.5 * torch.randn(n_questions, 2, generator=generator)
    instruction_effect = 0.3 * torch.randn(n_instructions, 2, generator=generator) * (n_instructions > 1)
    scores, labels, questions, instructions = [], [], [], []
    for question in range(n_questions):
        for instruction in range(n_instructions):
            for side in (0, 1):
                for _ in range(per_cell):
                    effect = question_effect[question, side] + instruction_effect[instruction, side]
                    noise = torch.randn((), generator=generator)
                    scores.append(float(side * separation + effect + noise))
                    labels.append(bool(side))
                    questions.append(question)
                    instructions.append(instruction)
    variance = 2 * (1 + 0.25 + (0.09 if n_instructions > 1 else 0))
    truth = NormalDist().cdf(separation / math.sqrt(variance))
    return torch.tensor(scores), torch.tensor(labels), [torch.tensor(questions), torch.tensor(instructions)], truth


def test_resampling_responses_instead_of_questions_would_be_too_sure_of_itself():
    scores, labels, clusters, _ = _simulated(torch.Generator().manual_seed(3), per_cell=8)
    by_question = auroc_interval(scores, labels, clusters[:1])
    by_response = auroc_interval(scores, labels, [torch.arange(len(scores))])
    assert by_question.high - by_question.low > 1.2 * (by_response.high - by_response.low)


def test_crossed_clusters_widen_the_interval():
    scores, labels, clusters, _ = _simulated(torch.Generator().manual_seed(0), n_instructions=5)
    questions, both = auroc_interval(scores, labels, clusters[:1]), auroc_interval(scores, labels, clusters)
    assert both.high - both.low > questions.high - questions.low


def test_a_hundred_thousand_of_each_class_need_no_table_of_their_pairs():
    n = 100_000
    labels = torch.arange(2 * n) % 2 == 1  # each positive example is above one negative more than the one before it
    scores = torch.arange(2 * n)
    assert auroc(scores, labels) == (n + 1) / (2 * n)
    interval = auroc_interval(
        scores, labels, [torch.randint(1000, (2 * n,), generator=torch.Generator().manual_seed(0))]
    )
    assert 0.49 < interval.low < interval.value < interval.high < 0.51


@pytest.mark.parametrize(
    ("scores", "labels"), [([1.0, 0.0], [1, 0]), ([[1.0], [0.0]], [[True], [False]]), ([1.0, 0.0], [True])]
)
def test_every_figure_refuses_what_is_not_one_score_and_one_bool_for_each_example(scores, labels):
    scores, labels, cluster = torch.tensor(scores), torch.tensor(labels), torch.arange(2)
    for figure in (
        lambda: auroc(scores, labels),
        lambda: auroc_interval(scores, labels, [cluster]),
        lambda: auroc_difference(scores, scores, labels, [cluster]),
    ):
        with pytest.raises(ValueError, match="wanted"):
            figure()


def test_a_perfect_separation_is_not_claimed_to_be_certain():
    labels = torch.arange(40) < 20
    interval = auroc_interval(labels.double(), labels, [torch.arange(40) % 20])
    assert interval.value == interval.high == 1
    assert (
        0.9 < interval.low < 0.95
    )  # 20 clear questions: 1 - 0.025 ** (1 / 20) is 0.17, half of which a coin gets right


@pytest.mark.parametrize("sign", [1, -1])
def test_the_open_end_of_a_perfect_separation_is_of_the_fewer_clusters(sign):
    labels = torch.arange(40) < 20
    clusters = [torch.arange(40) % 10, torch.arange(40) % 4]
    interval = auroc_interval(sign * labels.double(), labels, clusters)
    missed = (1 - 0.025 ** (1 / 4)) / 2
    assert interval == (Interval(1.0, 1 - missed, 1.0, 4) if sign == 1 else Interval(0.0, 0.0, missed, 4))


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
def test_clusters_that_do_not_differ_leave_the_interval_open(scores):
    interval = auroc_interval(
        torch.tensor(scores), torch.tensor([True, False, True, False]), [torch.tensor([0, 0, 1, 1])]
    )
    assert interval.high - interval.low > 0.5
    nothing = auroc_interval(torch.tensor(scores), torch.tensor([True, False, True, False]), [torch.zeros(4)])
    assert nothing.high - nothing.low > 0.7  # one question says nothing of others


def test_a_few_clusters_that_make_up_the_variance_widen_the_interval():
    labels = torch.arange(200) % 2 == 1
    questions = torch.arange(200) // 10
    spread, together = labels.double(), labels.double()
    spread[torch.arange(1, 200, 20)] = -1.0  # one positive example each of ten questions is below all
    together[torch.arange(1, 20, 2)] = -1.0  # all ten of two questions
    wide, narrow = (auroc_interval(s, labels, [questions]) for s in (together, spread))
    assert wide.value == narrow.value
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)


@pytest.mark.parametrize("clusters", [[], [torch.arange(4)] * 3])
def test_neither_no_clustering_nor_three_are_taken(clusters):
    with pytest.raises(ValueError, match="one clustering or two crossed ones"):
        auroc_interval(torch.arange(4.0), torch.arange(4) > 1, clusters)


def test_an_interval_says_how_many_clusters_it_rests_on():
    scores, labels, clusters, _ = _simulated(torch.Generator().manual_seed(0), n_instructions=5)
    assert auroc_interval(scores, labels, clusters[:1]).clusters == 24
    assert auroc_interval(scores, labels, clusters).clusters == 5
    scores[clusters[0] == 3] = math.nan
    assert auroc_interval(scores, labels, clusters[:1]).clusters == 23
    assert auroc_difference(scores, -scores, labels, clusters[:1]).clusters == 23


def test_pairs_that_say_nothing_leave_the_interval_about_that_of_the_questions():
    generator = torch.Generator().manual_seed(0)
    widths = []
    for _ in range(100):
        scores, labels, clusters, _ = _simulated(generator)
        pairs = torch.randint(5, scores.shape, generator=generator)
        both, questions = (auroc_interval(scores, labels, c) for c in ([*clusters[:1], pairs], clusters[:1]))
        widths.append((both.high - both.low) / (questions.high - questions.low))
    assert 1 <= sum(widths) / 100 < 1.4


def test_the_interval_of_independent_examples_is_the_one_of_delong():
    generator = torch.Generator().manual_seed(0)
    pos, neg = torch.randn(300, generator=generator) + 1, torch.randn(300, generator=generator)
    wins = (pos[:, None] > neg).double()
    error = (wins.mean(dim=1).var() / 300 + wins.mean(dim=0).var() / 300).sqrt().item()
    interval = auroc_interval(torch.cat([pos, neg]), torch.arange(600) < 300, [torch.arange(600)])
    assert interval.value - interval.low == pytest.approx(1.96 * error, rel=0.09)
    assert interval.high - interval.value == pytest.approx(1.96 * error, rel=0.09)


def test_the_difference_is_of_the_two_figures_on_the_examples_that_both_know():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) < 30
    first, second = labels + torch.randn(2, 60, generator=generator)
    first[3], second[50] = math.nan, math.nan
    known = ~(first.isnan() | second.isnan())
    difference = auroc_difference(first, second, labels, [torch.arange(60)])
    assert difference.value == pytest.approx(auroc(first[known], labels[known]) - auroc(second[known], labels[known]))
    assert difference.value != 0
    assert difference.low < difference.value < difference.high


def test_the_difference_is_paired():
    scores, labels, clusters, _ = _simulated(torch.Generator().manual_seed(0))
    nearly = scores + 0.01 * torch.randn(len(scores), generator=torch.Generator().manual_seed(1))
    difference = auroc_difference(scores, nearly, labels, clusters[:1])
    alone = auroc_interval(scores, labels, clusters[:1])
    assert difference.low <= 0 <= difference.high
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)
    same = auroc_difference(scores, scores, labels, clusters[:1])
    reach = (1 - 0.025 ** (1 / 24)) / 2  # what 24 questions that all agree can have missed
    assert (same.value, same.low, same.high) == pytest.approx((0, -reach, reach))


def test_an_example_that_neither_could_score_is_left_out_of_their_difference():
    generator = torch.Generator().manual_seed(3)
    labels, clusters = torch.arange(40) % 2 == 0, torch.arange(40) // 4
    scores, others = torch.randn(2, 40, generator=generator) + labels
    with_gaps = [torch.cat([s, torch.tensor([float("nan")])]) for s in (scores, others)]
    more_labels, more_clusters = torch.cat([labels, labels[:1]]), torch.cat([clusters, clusters[-1:]])
    expected = auroc_difference(scores, others, labels, [clusters])
    assert auroc_difference(*with_gaps, more_labels, [more_clusters]) == expected


def test_figures_cannot_be_changed():
    interval = auroc_interval(torch.arange(4.0), torch.arange(4) > 1, [torch.arange(4)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        interval.value = 0.5
    metrics = evaluate(torch.arange(4.0), torch.arange(4) > 1, [torch.arange(4)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.accuracy = 0.5
