"""What is called settled: levels that are reached and held, and no kind of noise."""

import itertools

import numpy as np
import pytest
from scipy.stats import ttest_ind

from traitlens.dynamics import commitment_point
from traitlens.settling import settling_p_value


def autoregressive(steps, share):
    values = [steps[0] / np.sqrt(1 - share**2)]
    for step in steps[1:]:
        values.append(share * values[-1] + step)
    return np.array(values)


def garch(steps):
    """Noise whose loudness follows the last values: volatility comes in clusters."""
    values, variance = [], 1.0
    for step in steps:
        values.append(np.sqrt(variance) * step)
        variance = 0.05 + 0.3 * values[-1] ** 2 + 0.65 * variance
    return np.array(values)


NOISE = {
    "independent": lambda steps, _: steps,
    "falling": lambda steps, t: steps * np.exp(-3 * t),
    "loud first quarter": lambda steps, t: steps * np.where(t < 0.25, 3, 0.5),
    "volatility clusters": lambda steps, _: garch(steps),
    "outlier at the first token": lambda steps, _: np.concatenate([steps[:1] + 8, steps[1:]]),
    "random walk": lambda steps, _: np.cumsum(steps),
    "autocorrelated": lambda steps, _: autoregressive(steps, 0.7),
}


def settled(make, n, rng, simulations=300):
    """Share of trajectories whose commitment point is called settled at 5 %."""
    found = 0
    for _ in range(simulations):
        scores = make(rng.normal(size=n), np.arange(n) / n)
        point = commitment_point(scores)
        p_value = settling_p_value(scores, point, flips=199) if point else None
        found += p_value is not None and p_value <= 0.05
    return found / simulations


@pytest.mark.parametrize("n", [20, 60, 200])
@pytest.mark.parametrize("kind", NOISE)
def test_noise_of_any_kind_is_called_settled_at_most_one_time_in_twenty(kind, n):
    assert settled(NOISE[kind], n, np.random.default_rng(n)) <= 0.06


def test_a_level_that_is_reached_and_held_is_told_from_noise():
    rng = np.random.default_rng(0)
    assert settled(lambda steps, t: 6 * (t >= 0.1) + 0.7 * steps, 40, rng) > 0.3
    assert settled(lambda steps, t: 6 * (1 - np.exp(-12 * t)) + 0.4 * steps, 80, rng) > 0.4


@pytest.mark.parametrize(("before", "after"), [(0, 40), (1, 40), (2, 7), (30, 7), (0, 0), (3, 0)])
def test_too_few_tokens_on_a_side_tell_nothing(before, after):
    scores = np.random.default_rng(0).normal(size=before + after)
    assert settling_p_value(scores, before) is None
    assert settling_p_value(np.zeros(20), 5) is None  # nor does a straight line
    assert settling_p_value(np.random.default_rng(0).normal(size=10), 2) is not None


def test_without_autocorrelation_another_level_is_that_of_welch():
    before, after = np.array([0.3, 0.9, -0.4, 0.1]), np.array([1.0, 2.0] * 10)  # which stays as no walk does
    expected = ttest_ind(before, after, equal_var=False).pvalue
    assert settling_p_value(np.concatenate([before, after]), 4, flips=99999) == pytest.approx(expected, rel=1e-6)


def test_staying_is_the_share_of_signs_that_spread_as_little():
    after = np.array([5.0, 5.9, 5.2, 5.6, 5.1, 5.4, 5.45, 5.0])
    walks = [np.cumsum([0, *(sign * np.diff(after))]).var() for sign in itertools.product((-1, 1), repeat=7)]
    share = np.mean(np.array(walks) <= after.var() + 1e-9)
    scores = np.concatenate([[-90.0, -91.0, -90.5, -90.2], after])  # another level beyond doubt
    assert settling_p_value(scores, 4, flips=20000) == pytest.approx(share, abs=0.01)
    assert share > 0.01


def test_neighbours_that_move_together_count_for_fewer():
    rng = np.random.default_rng(0)
    jumps, gentle = [], []
    for _ in range(50):
        steps = rng.normal(size=60)
        jump = 3.0 * (np.arange(60) >= 6)
        jumps.append(settling_p_value(steps + jump, 6))
        gentle.append(settling_p_value(autoregressive(steps, 0.8) * 0.6 + jump, 6))  # as loud
    assert np.median(jumps) < 0.01
    assert np.median(gentle) > 0.03


@pytest.mark.parametrize("unit", [1e-30, 0.125, 1e30])
def test_the_unit_of_the_scores_is_of_no_importance(unit):
    scores = np.random.default_rng(0).normal(size=30) + 4 * (np.arange(30) >= 6)
    assert settling_p_value(scores * unit, 6) == pytest.approx(settling_p_value(scores, 6))
