"""Whether a vector does more than a random direction does: a rank test, with a rule for the dose.

Each direction is tried at the largest dose that leaves its own text whole, and its strength is a function of what it
did there alone. So a vector that is like a random direction takes each rank among them equally often, whatever noise,
questions and doses are, and p = (1 + #{as strong}) / (k + 1) keeps its level (Phipson and Smyth 2010,
Statistical Applications in Genetics and Molecular Biology 9, 39). The other conditions only make "causal" rarer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from extraction.steering.results import Push, Series, Verdict
from traitlens import dose_response

LEVEL = 0.05
FEWEST_CONTROLS = 19  # with fewer p cannot reach the level

Witness = Literal["readout", "judged"]


@dataclass(frozen=True)
class Readings:
    """What one witness saw of a direction at its deciding dose: per question [n_prompts], NaN where unknown."""

    dose: float
    below: np.ndarray
    without: np.ndarray
    above: np.ndarray

    @property
    def strength(self) -> float:
        """The smaller of what adding and subtracting do per norm: a push one way only has none. -inf if unknown."""
        steps = np.stack([self.above - self.without, self.without - self.below]) / self.dose
        if np.isnan(steps).all(axis=1).any():
            return -np.inf
        return float(np.nanmean(steps, axis=1).min())

    def push(self) -> Push:
        """The slopes with their intervals; raises ValueError where no question is known at both ends of a step."""
        readouts = torch.from_numpy(np.stack([self.below, self.without, self.above], axis=1))
        return Push(
            self.dose,
            both=dose_response([-self.dose, self.dose], readouts[:, [0, 2]]),
            added=dose_response([0, self.dose], readouts[:, 1:]),
            subtracted=dose_response([-self.dose, 0], readouts[:, :2]),
        )


def weigh(vector: Readings | None, controls: Sequence[Readings | None]) -> Verdict:
    """The verdict on a vector beside random directions; None is a direction whose every dose broke the text."""
    try:
        push = None if vector is None else vector.push()
    except ValueError:
        push = None
    if vector is None or push is None:
        return Verdict(None, "no dose left text to read in both directions", None, len(controls), 0, None)
    as_strong = sum(control is not None and control.strength >= vector.strength for control in controls)
    p_value = (1 + as_strong) / (1 + len(controls)) if controls else None
    causal, reason = _judgement(push, len(controls), p_value)
    return Verdict(causal, reason, p_value, len(controls), as_strong, push)


def verdict_on(series: Sequence[Series], witness: Witness) -> Verdict:
    """The verdict by what the reader or the judge saw; the first series is the vector's, the others are random."""
    vector, *controls = [_readings(one, witness) for one in series]
    return weigh(vector, controls)


def _judgement(vector: Push, n_controls: int, p_value: float | None) -> tuple[bool | None, str]:
    low, high = vector.both.low, vector.both.high
    if low is None or high is None:
        return None, "one question gives no interval"
    against: list[tuple[bool, bool | None, str]] = [
        (high < 0, False, "the trait falls where the vector is added: its sign does not mean what it says"),
        (low <= 0, False, "the interval of the slope holds 0"),
        (vector.added.slope <= 0, False, "only subtracting it moves the trait"),
        (vector.subtracted.slope <= 0, False, "only adding it moves the trait"),
        (n_controls < FEWEST_CONTROLS, None, f"fewer than {FEWEST_CONTROLS} random directions cannot show it"),
        (p_value is not None and p_value > LEVEL, False, "random directions do as much"),
    ]
    for holds, causal, reason in against:
        if holds:
            return causal, reason
    return True, "adding it raises the trait, subtracting it lowers it, and random directions do less"


def _readings(series: Series, witness: Witness) -> Readings | None:
    dose = series.deciding_dose
    if dose is None:
        return None
    below, without, above = (
        np.array([getattr(answer, witness) for answer in series.answers[at]], dtype=float) for at in (-dose, 0.0, dose)
    )
    return Readings(dose, below, without, above)
