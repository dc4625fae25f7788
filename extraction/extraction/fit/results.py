"""What stage 3 measured of a trait's vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from traitlens.validation.calibration import Calibration, NeutralScale
from traitlens.validation.controls import Chance
from traitlens.validation.cross_validation import Choice
from traitlens.validation.evaluation import Interval, Metrics
from traitlens.validation.verdicts import AgainstNeutral, ResponseThresholds


@dataclass(frozen=True)
class Measured:
    """One vector, fitted to all examples, with its held-out figures.

    Attributes:
        vector: float32 [hidden].
        extras: what the method says of its fit.
        baseline: projection of the midpoint between the class means.
        neutral: scale of neutral tokens, None without them.
        held_out: float64 [n] comparable scores of fits that had not seen the example.
        ordinary: float64 [m] such scores of ordinary text.
        metrics: None where no example could be held out.
        calibration: of ``score - baseline``; None as metrics.
        thresholds: what a response's verdict is held against; None where there is nothing.
        against_neutral: how well it tells positive responses from neutral text; None as metrics, or without such text.
    """

    method: str
    layer: int
    vector: Tensor
    extras: Mapping[str, object]
    baseline: float
    neutral: NeutralScale | None
    held_out: Tensor
    ordinary: Tensor
    metrics: Metrics | None
    calibration: Calibration | None
    thresholds: ResponseThresholds | None
    against_neutral: AgainstNeutral | None


@dataclass(frozen=True)
class Control:
    """A control's held-out AUROC and how much better the chosen vector is."""

    name: str
    auroc: float
    advantage: Interval


@dataclass(frozen=True)
class Sweep:
    """Everything measured for one trait.

    Attributes:
        vectors: every method at every layer asked for.
        choice: the vector to use.
        nested: AUROC of choosing this way, on examples that took no part in the choice; None without held-out scores.
        controls: length, bag of words, layer 0.
        shuffled: AUROC of the chosen method at the chosen layer with shuffled labels.
        random: AUROC of random directions at the chosen layer.
    """

    vectors: list[Measured]
    choice: Choice
    nested: Interval | None
    controls: list[Control]
    shuffled: Chance | None
    random: Chance | None

    @property
    def best(self) -> Measured:
        """The chosen vector."""
        return next(v for v in self.vectors if (v.method, v.layer) == (self.choice.method, self.choice.layer))
