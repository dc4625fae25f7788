"""What stage 3 measured of a trait's vectors, and what that comes to in words."""

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


def headline(trait: str, result: Sweep) -> str:
    """One line: the chosen vector, its figure, the best control."""
    best = f"{trait}: {result.best.method} at layer {result.best.layer}"
    if result.nested is None:
        return f"{best}, not measured: {_why_unmeasured(result)}"
    against = result.best.against_neutral
    ordinary = "" if against is None else f", against neutral text {against.auroc}"
    strongest = max(result.controls, key=lambda control: control.auroc, default=None)
    beside = f"; best control: {strongest.name} {strongest.auroc:.2f}" if strongest else ""
    return f"{best}, held-out AUROC {result.nested}{ordinary}{beside}"


def _why_unmeasured(result: Sweep) -> str:
    if result.best.metrics is None:
        return "nothing could be held out"
    return (
        "with two questions or two instruction pairs none are left to choose by "
        f"(the {result.best.metrics.auroc.value:.2f} of this vector is the best of {len(result.vectors)}, optimistic)"
    )


def doubts_about(result: Sweep) -> list[str]:
    """Plain reasons not to trust the chosen vector, [] where there are none."""
    found = []
    if result.nested is None:
        found.append(f"{_why_unmeasured(result)}, so nothing says how good the vector is")
    elif result.nested.low <= 0.5:
        found.append(f"the vector reads held-out responses no better than chance ({result.nested})")
    if result.best.thresholds is not None and "everyday" not in result.best.thresholds.kinds:
        found.append(
            "no everyday text was captured, so verdicts keep their rate on answers to the traits' questions alone"
        )
    for control in result.controls:
        if control.advantage.value <= 0:
            found.append(f"{control.name} alone separates these responses as well ({control.auroc:.2f})")
        elif control.advantage.low <= 0:
            found.append(f"the lead over {control.name} alone ({control.auroc:.2f}) could be chance")
    if result.random is not None and result.nested is not None and result.random.high >= result.nested.value:
        found.append(f"one in twenty random directions reads as well ({result.random.high:.2f})")
    if result.shuffled is not None and abs(result.shuffled.mean - 0.5) > 0.1:
        found.append(
            f"shuffled labels read {result.shuffled.mean:.2f} where 0.5 is right: examples are not independent"
        )
    if result.best.extras.get("converged") is False:
        found.append(f"{result.best.method} did not converge")
    return found
