"""Simulated reports: how often a verdict is wrong, and whether it is ever right."""

from dataclasses import dataclass

import numpy as np
import pytest
from extraction.steering.results import Answer, Series
from extraction.steering.verdict import Readings, verdict_on, weigh

N_CONTROLS = 19


@dataclass(frozen=True)
class World:
    """How readouts come about: a direction's own slope, its questions' own ones, a bend, noise with heavy tails.

    A dose of 0.3 breaks the text of some directions, of strong ones sooner; then 0.15 decides.
    """

    n_prompts: int = 12
    spread: float = 1.0  # of the directions' own slopes, which makes even a random direction move all questions
    breaking: float = 0.3

    def direction(self, rng, slope=None):
        if slope is None:
            slope = self.spread * rng.standard_normal()
        slopes = slope + 1.5 * rng.standard_t(4, self.n_prompts)  # questions differ
        bend = 3 * rng.standard_normal() + rng.standard_normal(self.n_prompts)  # as much whether added or subtracted
        without = rng.standard_normal(self.n_prompts)
        dose = 0.15 if rng.random() < self.breaking * (0.5 + abs(slope)) else 0.3
        noise = 0.2 * rng.standard_t(3, (2, self.n_prompts))
        curve = bend * dose**2
        below, above = without + curve - slopes * dose + noise[0], without + curve + slopes * dose + noise[1]
        return Readings(dose, below, without, above)


def _reports(world, n, slope=None, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield weigh(world.direction(rng, slope), [world.direction(rng) for _ in range(N_CONTROLS)])


NULLS = {
    "directions differ": World(),
    "noise alone": World(spread=0.0, breaking=0.0),
    "four questions": World(n_prompts=4),
    "doses often break": World(breaking=0.8, spread=2.0),
}


@pytest.mark.parametrize("world", NULLS.values(), ids=NULLS.keys())
def test_a_vector_like_a_random_direction_is_called_causal_in_six_percent_of_reports_at_most(world):
    reports = list(_reports(world, 500))
    assert sum(report.causal is True for report in reports) <= 0.06 * len(reports)


def test_p_values_of_such_vectors_keep_their_level_where_an_interval_over_questions_alone_does_not():
    reports = list(_reports(NULLS["doses often break"], 500))
    for level in (0.05, 0.1, 0.5):
        assert sum(report.p_value <= level for report in reports) == pytest.approx(level * 500, abs=3 * 500**0.5 / 2)
    assert sum(report.push.both.low > 0 for report in reports) > 0.15 * 500


def test_a_vector_that_moves_the_trait_four_times_as_far_as_random_directions_is_found():
    reports = list(_reports(World(), 100, slope=4.0))
    assert sum(report.causal is True for report in reports) >= 85
    backwards = list(_reports(World(), 100, slope=-4.0))
    assert sum("its sign" in report.reason for report in backwards) >= 85
    assert not any(report.causal for report in backwards)


def _readings(below, above, n=6):
    without = np.linspace(-1, 1, n)
    wobble = 0.01 * np.cos(np.arange(n))
    return Readings(0.5, without + below + wobble, without, without + above - wobble)


WEAK = [_readings(-0.1, 0.1)] * 19


@pytest.mark.parametrize(
    ("vector", "controls", "causal", "reason"),
    [
        (_readings(-1, 1), WEAK, True, "random directions do less"),
        (_readings(-1, 1), [*WEAK[:18], _readings(-1, 1)], False, "random directions do as much"),
        (_readings(0.2, 1), WEAK, False, "only adding it"),
        (_readings(-1, -0.2), WEAK, False, "only subtracting it"),
        (_readings(1, -1), WEAK, False, "its sign does not mean what it says"),
        (_readings(1, 1), WEAK, False, "holds 0"),
        (_readings(0, 0), WEAK, False, "holds 0"),
        (_readings(-1, 1), WEAK[:18], None, "fewer than 19 random directions"),
        (_readings(-1, 1), [], None, "fewer than 19 random directions"),
        (_readings(-1, 1, n=1), WEAK, None, "one question gives no interval"),
        (None, [], None, "no dose left text"),
        (_readings(np.nan, 1), WEAK, None, "no dose left text"),
    ],
)
def test_the_verdict_says_which_condition_failed(vector, controls, causal, reason):
    found = weigh(vector, controls)
    assert found.causal is causal
    assert reason in found.reason


def test_p_counts_the_random_directions_that_are_as_strong_and_those_without_text_are_not():
    found = weigh(_readings(-1, 1), [*WEAK[:16], _readings(-1, 1), _readings(-2, 2), None])
    assert (found.n_as_strong, found.n_controls, found.p_value) == (2, 19, 3 / 20)
    assert weigh(_readings(-1, 1), []).p_value is None


def _answers(*readouts):
    return tuple(Answer("Why?", "So.", readout, None, 1.0, 0.0, 9) for readout in readouts)


def test_the_dose_that_decides_is_the_largest_whose_text_is_whole_on_both_sides():
    answers = {
        -0.3: _answers(-9, -9),
        -0.1: _answers(-1, -2),
        0.0: _answers(0, 0),
        0.1: _answers(2, 3),
        0.3: _answers(9, 9),
    }
    damage = dict.fromkeys(answers) | {-0.3: "loops"}
    vector = Series("vector", answers, damage)
    assert vector.deciding_dose == 0.1
    push = verdict_on([vector], "readout").push
    assert (push.dose, push.added.slope, push.subtracted.slope) == pytest.approx((0.1, 25, 15))
    assert verdict_on([vector], "judged").push is None
    assert Series("vector", answers, dict.fromkeys(answers, "loops")).deciding_dose is None
