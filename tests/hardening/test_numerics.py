"""Odd tensors have a defined result or a ValueError that says what is wrong: never NaN, never a silent guess."""

import dataclasses
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from traitlens.compute import (
    compute_derivative,
    compute_second_derivative,
    cosine_similarity,
    mean_difference,
    normalize_vectors,
    projection,
)
from traitlens.dynamics import analyze_dynamics, commitment_point, onset, persistence, smoothed
from traitlens.methods import METHODS
from traitlens.span import ContrastSpan
from traitlens.validation.calibration import calibrate, midpoint_baseline, neutral_scale
from traitlens.validation.controls import feature_control, random_directions, shuffled_labels
from traitlens.validation.cross_validation import cross_validate
from traitlens.validation.evaluation import auroc, auroc_difference, auroc_interval, evaluate
from traitlens.validation.folds import make_folds


@pytest.fixture(autouse=True)
def _fixed():
    torch.manual_seed(0)


def offset(value, hidden=8, n=6):
    """Two classes one apart, whose first feature lies at ``value``."""
    pos, neg = torch.randn(n, hidden) + 1, torch.randn(n, hidden)
    pos[:, 0] = pos[:, 0] + value
    neg[:, 0] = neg[:, 0] + value
    return pos, neg


def constant():
    pos, neg = offset(0.0)
    pos[:, 3] = neg[:, 3] = 7.0
    return pos, neg


with torch.random.fork_rng():  # the same numbers in every run, and no other test's changed
    torch.manual_seed(0)
    USABLE = {
        "one feature, two a side": (torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [-1.0]])),
        "one a side": (torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 0.0]])),
        "a constant feature": constant(),
        "duplicate rows": (torch.ones(5, 8), torch.zeros(5, 8)),
        "a massive dimension": offset(1e5),
        "float16 to its end": tuple(a.clamp(-65504, 65504).half() for a in offset(65000.0)),
        "100,000 features": (torch.randn(4, 100_000) + 0.1, torch.randn(4, 100_000)),
        "small numbers": (torch.randn(4, 8) * 1e-20 + 1e-20, torch.randn(4, 8) * 1e-20),
        "bfloat16 with gradient": ((torch.randn(4, 8) + 1).bfloat16().requires_grad_(), torch.randn(4, 8).bfloat16()),
        "not contiguous": ((torch.randn(8, 8) + 1).T[:4], torch.randn(8, 8)[::2]),
        "expanded": (torch.ones(1, 8).expand(4, 8), torch.randn(4, 8)),
    }
    REFUSED = {
        "all alike": (torch.ones(4, 8), torch.ones(4, 8), "same activation|coincide"),
        "identical classes": (torch.eye(4), torch.eye(4), "coincide"),
        "infinity": (torch.full((2, 4), torch.inf), torch.ones(2, 4), "NaN or infinity"),
        "NaN": (torch.ones(2, 4), torch.full((2, 4), torch.nan), "NaN or infinity"),
        "float16 overflow": ((torch.ones(2, 4) * 1e5).half(), torch.ones(2, 4).half(), "NaN or infinity"),
        "an empty class": (torch.ones(0, 4), torch.ones(2, 4), "no examples"),
        "no features": (torch.ones(2, 0), torch.ones(2, 0), "wanted"),
        "other sizes": (torch.ones(2, 4), torch.ones(2, 5), "wanted"),
        "one dimension": (torch.ones(4), torch.ones(4), "wanted"),
        "beyond float32": (torch.full((3, 4), 3e38), torch.full((3, 4), -3e38), "beyond float32"),
        "subnormal": (torch.rand(4, 8) * 1e-40, torch.rand(4, 8) * 1e-40, "same activation"),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", USABLE)
def test_odd_examples_give_a_finite_vector_with_its_promises_and_figures(case, method):
    pos, neg = USABLE[case]
    vector = METHODS[method]().extract(pos, neg)["vector"]
    assert vector.dtype == torch.float32
    assert torch.isfinite(vector).all()
    assert not vector.requires_grad
    means = pos.detach().double().mean(dim=0) - neg.detach().double().mean(dim=0)
    distance = float(means @ vector.double() / vector.double().norm())
    assert distance == pytest.approx(float(vector.double().norm()), rel=1e-2)
    assert math.isfinite(midpoint_baseline(pos, neg, vector))
    questions = [*range(len(pos)), *range(len(neg))]
    folds, span = make_folds(questions), ContrastSpan(pos, neg)
    held = cross_validate(span, METHODS[method](), folds)
    known = ~held.scores.isnan()
    for chance in (
        random_directions(span, folds, n_directions=3),
        shuffled_labels(span, METHODS[method](), folds, n_shuffles=2),
    ):
        assert chance is None or 0 <= chance.mean <= 1
    if case == "one a side":
        assert not known.any(), "nothing can be held out"
        return
    metrics = evaluate(held.scores, span.labels, [folds.question])
    figures = [*dataclasses.astuple(metrics.auroc), metrics.accuracy, metrics.cohens_d]
    assert metrics.recall_at_1_fpr is None
    found = calibrate(held.scores, span.labels, folds.question_group)
    assert all(map(math.isfinite, [*figures, found.slope, found.intercept, found.brier, found.brier_skill]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", REFUSED)
def test_examples_that_cannot_give_a_vector_are_refused_with_the_reason(case, method):
    pos, neg, reason = REFUSED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=reason):
            METHODS[method]().extract(pos, neg)


LABELS = torch.tensor([True, True, True, False, False, False])
THIRDS = torch.arange(6) // 2


@pytest.mark.parametrize("value", [0.0, 5.0, -1e30])
def test_equal_scores_tell_nothing_and_say_so(value):
    scores = torch.full((6,), value)
    metrics = evaluate(scores, LABELS, [THIRDS])
    assert (metrics.auroc.value, metrics.accuracy, metrics.cohens_d) == (0.5, 0.5, 0.0)
    found = calibrate(scores, LABELS, THIRDS)
    assert found.probability(scores).tolist() == pytest.approx([0.5] * 6, abs=1e-3)
    assert feature_control(scores, LABELS, make_folds(THIRDS.tolist())).nan_to_num().tolist() == [0.0] * 6
    assert auroc_difference(scores, -scores, LABELS, [THIRDS]).value == 0.0


def test_perfectly_separated_scores_have_finite_figures():
    scores = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    metrics = evaluate(scores, LABELS, [THIRDS])
    assert (metrics.auroc.value, metrics.accuracy, metrics.cohens_d) == (1.0, 1.0, 1e6)
    assert math.isfinite(calibrate(scores, LABELS, THIRDS).slope)


WRONG_SCORES = {
    "labels as numbers": (torch.rand(6), LABELS.long(), THIRDS),
    "fewer labels": (torch.rand(6), LABELS[:5], THIRDS),
    "fewer groups": (torch.rand(6), LABELS, THIRDS[:5]),
    "a table": (torch.rand(6, 1), LABELS, THIRDS),
    "no scores": (torch.rand(0), LABELS[:0], THIRDS[:0]),
    "one class": (torch.rand(3), LABELS[:3], THIRDS[:3]),
    "nothing known": (torch.full((6,), torch.nan), LABELS, THIRDS),
    "infinity": (torch.full((6,), torch.inf), LABELS, THIRDS),
}


@pytest.mark.parametrize("case", WRONG_SCORES)
def test_wrong_scores_and_labels_are_a_value_error(case):
    scores, labels, groups = WRONG_SCORES[case]
    for call in (
        lambda: evaluate(scores, labels, [groups]),
        lambda: calibrate(scores, labels, groups),
        lambda: auroc_difference(scores, scores, labels, [groups]),
        lambda: auroc_interval(scores, labels, [groups]),
    ):
        if case == "infinity" and call.__code__.co_names[0].startswith("auroc"):
            continue  # ranks have no need of finite numbers
        with pytest.raises(ValueError):  # noqa: PT011 - which one is told above
            call()
    assert auroc(torch.tensor([torch.inf, -torch.inf]), torch.tensor([True, False])) == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3),
        torch.full((3,), torch.nan),
        torch.tensor([1.0, torch.inf, 0]),
        torch.ones(0),
        torch.ones(2),
        torch.tensor(1.0),
        torch.ones(1, 3),
    ],
)
def test_a_vector_that_is_no_direction_is_refused(bad):
    with pytest.raises(ValueError):  # noqa: PT011
        projection(torch.ones(2, 3), bad)
    if bad.shape != (1, 3):
        with pytest.raises(ValueError):  # noqa: PT011
            cosine_similarity(bad, torch.ones(3))


@pytest.mark.parametrize("size", [1e-44, 1e-20, 1.0, 1e20, 3e38])
def test_a_projection_does_not_depend_on_the_vectors_length(size):
    assert projection(torch.tensor([3.0, 4.0]), torch.tensor([0.0, size])).item() == pytest.approx(4.0, rel=1e-3)
    assert normalize_vectors(torch.tensor([size, size])).tolist() == pytest.approx([2**-0.5] * 2, rel=1e-3)


def test_half_precision_is_read_in_float32():
    states = torch.full((2, 4096), 60000.0).half()
    assert projection(states, torch.ones(4096).half()).tolist() == pytest.approx([60000.0 * 64] * 2, rel=1e-3)
    assert torch.isfinite(mean_difference(states, -states)).all()


def test_neutral_tokens_that_are_too_few_or_have_no_spread_are_told_apart():
    vector = torch.tensor([0.0, 2.0])
    assert neutral_scale(torch.ones(99, 2), vector) is None
    scale = neutral_scale(torch.ones(100, 2, requires_grad=True), vector)
    assert (scale.mean, scale.std, scale.fpr_1) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("trajectory", [torch.tensor(1.0), torch.ones(0), torch.ones(1), torch.ones(2, 2)])
def test_derivatives_of_short_trajectories_are_empty_and_of_none_refused(trajectory):
    for derivative, order in ((compute_derivative, 1), (compute_second_derivative, 2)):
        if trajectory.ndim == 0:
            with pytest.raises(ValueError, match="no dimension"):
                derivative(trajectory)
        else:
            assert derivative(trajectory).shape[0] == max(len(trajectory) - order, 0)
            with pytest.raises(ValueError, match="no dimension"):
                derivative(trajectory, dim=3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e36, 1e36), max_size=12),
    st.sampled_from([1, 3, 5, 99]),
    st.none() | st.floats(-9, 9),
)
def test_dynamics_of_any_finite_trajectory_are_finite_or_none(scores, window, threshold):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dataclasses.asdict(analyze_dynamics(scores, smoothing=window, threshold=threshold, permutations=9))
    numbers = [v for value in found.values() for v in (value if isinstance(value, list) else [value])]
    assert all(v is None or math.isfinite(v) for v in numbers)
    assert len(found["velocity_profile"]) == max(len(scores) - 1, 0)
    assert len(found["acceleration_profile"]) == max(len(scores) - 2, 0)
    if threshold is None:
        assert found["onset"] is None


def test_a_flat_trajectory_moves_nowhere_and_commits_to_nothing():
    for flat in ([2.0] * 9, torch.full((9,), 2.0).bfloat16(), torch.full((9,), 65504.0).half().requires_grad_()):
        found = analyze_dynamics(flat)
        assert (found.commitment_point, found.peak_velocity, found.persistence, found.peak) == (None, 0.0, 0, 0)


@pytest.mark.parametrize("bad", [[math.nan], [math.inf, 1.0], [1e38, -1e38], [[1.0]], 3.0, [None]])
def test_a_trajectory_that_is_not_one_finite_score_per_token_is_refused(bad):
    for call in (analyze_dynamics, commitment_point, persistence, lambda s: onset(s, 0.0), lambda s: smoothed(s, 3)):
        with pytest.raises(ValueError, match="a trajectory is one finite score per token"):
            call(bad)


@pytest.mark.parametrize("window", [0, -1, 2])
def test_a_smoothing_window_that_has_no_middle_is_refused(window):
    with pytest.raises(ValueError, match="odd number"):
        smoothed([1.0, 2.0], window)
