"""Fitting and measuring every method at every layer of one trait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extraction.fit.contrast import Contrast
from extraction.fit.text_controls import bag_of_words_scores
from traitlens.layers import middle_layer
from traitlens.methods import ExtractionMethod
from traitlens.span import ContrastSpan
from traitlens.validation.calibration import Calibration, NeutralScale, calibrate, midpoint_baseline, neutral_scale
from traitlens.validation.controls import Chance, feature_control, random_directions, shuffled_labels
from traitlens.validation.cross_validation import Choice, HeldOut, choose, cross_validate
from traitlens.validation.evaluation import Interval, Metrics, auroc, auroc_difference, auroc_interval, evaluate
from utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """One vector, fitted to all examples, with its held-out figures.

    Attributes:
        vector: float32 [hidden].
        extras: what the method says of its fit.
        baseline: projection of the midpoint between the class means.
        neutral: scale of neutral tokens, None without them.
        held_out: float64 [n] comparable scores of fits that had not seen the example.
        metrics: None where no example could be held out.
        calibration: of ``score - baseline``; None as metrics.
    """

    method: str
    layer: int
    vector: Tensor
    extras: dict[str, Any]
    baseline: float
    neutral: NeutralScale | None
    held_out: Tensor
    metrics: Metrics | None
    calibration: Calibration | None


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

    @property
    def strongest_control(self) -> Control | None:
        """The control with the highest AUROC; None where none was measured."""
        return max(self.controls, key=lambda c: c.auroc, default=None)


def sweep(
    contrast: Contrast,
    methods: Sequence[ExtractionMethod],
    layers: Sequence[int],
    seed: int,
    advance: Callable[[], object],
) -> Sweep:
    """Fit and measure every method at every layer, choose one, and measure the controls beside it.

    Args:
        contrast: the examples.
        methods: what to fit.
        layers: layer numbers.
        seed: for resampling, shuffling and random directions.
        advance: called after each layer.

    Raises:
        UserError: a method failed; names it and the layer.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    vectors: list[Measured] = []
    held_out: dict[tuple[str, int], HeldOut] = {}
    # The matrices are a few hundred wide: more threads than one spend their time waiting for each other.
    with threadpool_limits(1):
        for layer in layers:
            span = _span(contrast, layer)
            for method in methods:
                measured, held = _measure(contrast, span, method, layer, seed)
                vectors.append(measured)
                held_out[method.name, layer] = held
            advance()
        middle = middle_layer(contrast.file.info.n_layers)
        choice = choose(held_out, contrast.labels, contrast.folds, middle)
        known = ~choice.nested_scores.isnan()
        if not _has_both(contrast.labels[known]):
            return Sweep(vectors, choice, None, [], None, None)
        return Sweep(
            vectors,
            choice,
            auroc_interval(
                choice.nested_scores[known], contrast.labels[known], [c[known] for c in clusters(contrast)], seed=seed
            ),
            _controls(contrast, methods, choice, seed),
            *_chance_levels(contrast, methods, choice, seed),
        )


def clusters(contrast: Contrast) -> list[Tensor]:
    """What responses share: their question, and their instruction pair where that is held out too."""
    folds = contrast.folds
    return [folds.question, folds.instruction] if folds.crossed else [folds.question]


def _span(contrast: Contrast, layer: int) -> ContrastSpan:
    try:
        return ContrastSpan(*contrast.layer(layer))
    except ValueError as error:
        raise UserError(f"{contrast.trait} at layer {layer}: {error}") from error


@contextmanager
def _naming(contrast: Contrast, method: ExtractionMethod, layer: int) -> Iterator[None]:
    """Turn a failure of the mathematics into a message that names the method."""
    import torch

    try:
        yield
    # numpy's LinAlgError is a ValueError, torch's is not
    except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise UserError(f"{contrast.trait}: {method.name} failed at layer {layer}: {error}") from error


def _measure(
    contrast: Contrast, span: ContrastSpan, method: ExtractionMethod, layer: int, seed: int
) -> tuple[Measured, HeldOut]:
    with _naming(contrast, method, layer):
        result: dict[str, Any] = dict(method.extract_from(span))
        held = cross_validate(span, method, contrast.folds)
    vector: Tensor = result.pop("vector")
    metrics = calibration = None
    known = ~held.scores.isnan()
    if _has_both(contrast.labels[known]):
        metrics = evaluate(held.scores, contrast.labels, clusters(contrast), seed=seed)
        calibration = calibrate(held.scores, contrast.labels, contrast.folds.question_group).per_unit(
            float(vector.norm())
        )
    measured = Measured(
        method=method.name,
        layer=layer,
        vector=vector,
        extras=result,
        baseline=midpoint_baseline(*contrast.layer(layer), vector),
        neutral=neutral_scale(contrast.file.neutral_tokens(layer), vector),
        held_out=held.scores,
        metrics=metrics,
        calibration=calibration,
    )
    return measured, held


def _has_both(labels: Tensor) -> bool:
    return bool(labels.any()) and not bool(labels.all())


def _controls(contrast: Contrast, methods: Sequence[ExtractionMethod], choice: Choice, seed: int) -> list[Control]:
    labels, folds = contrast.labels, contrast.folds
    scores = {
        "length": feature_control(contrast.n_response_tokens.log1p(), labels, folds),
        "bag of words": bag_of_words_scores([r.response for r in contrast.responses], labels, folds),
    }
    if choice.layer != 0 and 0 in contrast.file.info.layers:
        method = next(m for m in methods if m.name == choice.method)
        with _naming(contrast, method, 0):
            scores["layer 0"] = cross_validate(_span(contrast, 0), method, folds, nested=False).scores
    controls = []
    for name, values in scores.items():
        if _has_both(labels[~(values.isnan() | choice.nested_scores.isnan())]):
            advantage = auroc_difference(choice.nested_scores, values, labels, clusters(contrast), seed=seed)
            controls.append(Control(name, auroc(values, labels), advantage))
    return controls


def _chance_levels(
    contrast: Contrast, methods: Sequence[ExtractionMethod], choice: Choice, seed: int
) -> tuple[Chance | None, Chance | None]:
    """Shuffled labels and random directions at the chosen layer."""
    span = _span(contrast, choice.layer)
    method = next(m for m in methods if m.name == choice.method)
    with _naming(contrast, method, choice.layer):
        shuffled = shuffled_labels(span, method, contrast.folds, seed=seed)
    return shuffled, random_directions(span, contrast.folds, seed=seed)


def verdict(trait: str, result: Sweep) -> str:
    """One line: the chosen vector, its figure, the best control."""
    best = f"{trait}: {result.best.method} at layer {result.best.layer}"
    if result.nested is None:
        return f"{best}, not measured: {_why_unmeasured(result)}"
    strongest = result.strongest_control
    beside = f"; best control: {strongest.name} {strongest.auroc:.2f}" if strongest else ""
    return f"{best}, held-out AUROC {result.nested}{beside}"


def _why_unmeasured(result: Sweep) -> str:
    if result.best.metrics is None:
        return "nothing could be held out"
    return (
        "with two questions or two instruction pairs none are left to choose by "
        f"(the {result.best.metrics.auroc.value:.2f} of this vector is the best of {len(result.vectors)}, optimistic)"
    )


def warnings_about(result: Sweep) -> list[str]:
    """Plain reasons not to trust the chosen vector, [] where there are none."""
    found = []
    if result.nested is None:
        found.append(f"{_why_unmeasured(result)}, so nothing says how good the vector is")
    elif result.nested.low <= 0.5:
        found.append(f"the vector reads held-out responses no better than chance ({result.nested})")
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
