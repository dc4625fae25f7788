"""Intervals hold the truth as often as they say: simulated responses that share their question and instruction pair."""

import math
from statistics import NormalDist

import pytest
import torch

from traitlens import auroc_difference, auroc_interval

SIMULATIONS = 500
PER_QUESTION = 5  # of a side; with crossed pairs one a pair


class Simulation:
    """Normal scores whose questions hold a fifth of the variance, and instruction pairs, where crossed, a tenth."""

    def __init__(self, n_questions: int, crossed: bool, seed: int) -> None:
        self.shape = (2, n_questions, PER_QUESTION)  # side, question, pair or repetition
        self.pair = 0.35 if crossed else 0.0
        self.generator = torch.Generator().manual_seed(seed)
        side, question, pair = (
            index.flatten() for index in torch.meshgrid(*map(torch.arange, self.shape), indexing="ij")
        )
        self.labels, self.clusters = side == 1, [question, pair] if crossed else [question]
        self.variance = 1 + 0.5**2 + self.pair**2

    def noise(self) -> torch.Tensor:
        """Scores without a difference between the sides."""
        sides, questions, pairs = self.shape
        return (
            0.5 * self._normal(sides, questions, 1)
            + self.pair * self._normal(sides, 1, pairs)
            + self._normal(*self.shape)
        )

    def scores(self, auroc: float, noise: torch.Tensor) -> torch.Tensor:
        """Scores [n] of the AUROC."""
        distance = NormalDist().inv_cdf(auroc) * math.sqrt(2 * self.variance)
        return (noise + distance * torch.arange(2.0)[:, None, None]).flatten()

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


@pytest.mark.parametrize("auroc", [0.75, 0.97, 0.99])
@pytest.mark.parametrize(("n_questions", "crossed"), [(8, False), (32, False), (20, True)])
def test_nineteen_of_twenty_intervals_hold_the_auroc(auroc, n_questions, crossed):
    simulation = Simulation(n_questions, crossed, seed=1)
    intervals = [
        auroc_interval(simulation.scores(auroc, simulation.noise()), simulation.labels, simulation.clusters)
        for _ in range(SIMULATIONS)
    ]
    held = sum(interval.low <= auroc <= interval.high for interval in intervals) / SIMULATIONS
    # Where every tenth sample is perfect, the rule for these errs on the wide side.
    assert 0.93 <= held <= (0.99 if (auroc, n_questions) == (0.99, 8) else 0.985), held
    assert sum(interval.low > auroc for interval in intervals) / SIMULATIONS <= 0.05
    assert sum(interval.high < auroc for interval in intervals) / SIMULATIONS <= 0.05


@pytest.mark.parametrize("crossed", [False, True])
def test_a_lead_is_claimed_too_high_at_most_one_time_in_forty(crossed):
    simulation, too_high, held = Simulation(20, crossed, seed=1), 0, 0
    for _ in range(SIMULATIONS):
        shared, *own = (simulation.noise() for _ in range(3))
        first, second = ((shared + noise) / math.sqrt(2) for noise in own)
        interval = auroc_difference(
            simulation.scores(0.97, first), simulation.scores(0.85, second), simulation.labels, simulation.clusters
        )
        too_high += interval.low > 0.97 - 0.85
        held += interval.low <= 0.97 - 0.85 <= interval.high
    assert too_high / SIMULATIONS <= 0.025
    assert 0.91 <= held / SIMULATIONS <= 0.985  # near 1 the other end is short: what it could be wrong about is small
