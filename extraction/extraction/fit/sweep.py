"""Fitting and measuring every method at every layer of one trait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from extraction.fit.contrast import Contrast
from extraction.fit.results import Control, Measured, Sweep
from extraction.fit.text_controls import bag_of_words_scores
from traitlens.compute import has_both_classes
from traitlens.layers import middle_layer
from traitlens.methods import ExtractionMethod
from traitlens.span import ContrastSpan
from traitlens.validation.calibration import calibrate, midpoint_baseline, neutral_scale
from traitlens.validation.controls import Chance, feature_control, random_directions, shuffled_labels
from traitlens.validation.cross_validation import Choice, HeldOut, choose, cross_validate
from traitlens.validation.evaluation import auroc, auroc_difference, auroc_interval, evaluate
from utils.errors import UserError


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
        seed: for shuffling and random directions.
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
                measured, held = _measure(contrast, span, method, layer)
                vectors.append(measured)
                held_out[method.name, layer] = held
            advance()
        middle = middle_layer(contrast.file.info.n_layers)
        choice = choose(held_out, contrast.labels, contrast.folds, middle)
        method = next(m for m in methods if m.name == choice.method)
        known = ~choice.nested_scores.isnan()
        if not has_both_classes(contrast.labels[known]):
            return Sweep(vectors, choice, None, [], None, None)
        return Sweep(
            vectors,
            choice,
            auroc_interval(choice.nested_scores, contrast.labels, clusters(contrast)),
            _controls(contrast, method, choice),
            *_chance_levels(contrast, method, choice, seed),
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
    try:
        yield
    # numpy's LinAlgError is a ValueError, torch's is not
    except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise UserError(f"{contrast.trait}: {method.name} failed at layer {layer}: {error}") from error


def _measure(contrast: Contrast, span: ContrastSpan, method: ExtractionMethod, layer: int) -> tuple[Measured, HeldOut]:
    with _naming(contrast, method, layer):
        result = method.extract_from(span)
        held = cross_validate(span, method, contrast.folds)
    vector = result["vector"]
    metrics = calibration = None
    known = ~held.scores.isnan()
    if has_both_classes(contrast.labels[known]):
        metrics = evaluate(held.scores, contrast.labels, clusters(contrast))
        calibration = calibrate(held.scores, contrast.labels, contrast.folds.question_group).per_unit(
            float(vector.norm())
        )
    measured = Measured(
        method=method.name,
        layer=layer,
        vector=vector,
        extras={key: value for key, value in result.items() if key != "vector"},
        baseline=midpoint_baseline(*contrast.layer(layer), vector),
        neutral=neutral_scale(contrast.file.neutral_tokens(layer), vector),
        held_out=held.scores,
        metrics=metrics,
        calibration=calibration,
    )
    return measured, held


def _controls(contrast: Contrast, method: ExtractionMethod, choice: Choice) -> list[Control]:
    labels, folds = contrast.labels, contrast.folds
    scores = {
        "length": feature_control(contrast.n_response_tokens.log1p(), labels, folds),
        "bag of words": bag_of_words_scores([r.response for r in contrast.responses], labels, folds),
    }
    if choice.layer != 0 and 0 in contrast.file.info.layers:
        with _naming(contrast, method, 0):
            scores["layer 0"] = cross_validate(_span(contrast, 0), method, folds, nested=False).scores
    controls = []
    for name, values in scores.items():
        if has_both_classes(labels[~(values.isnan() | choice.nested_scores.isnan())]):
            advantage = auroc_difference(choice.nested_scores, values, labels, clusters(contrast))
            controls.append(Control(name, auroc(values, labels), advantage))
    return controls


def _chance_levels(
    contrast: Contrast, method: ExtractionMethod, choice: Choice, seed: int
) -> tuple[Chance | None, Chance | None]:
    """Shuffled labels and random directions at the chosen layer."""
    span = _span(contrast, choice.layer)
    with _naming(contrast, method, choice.layer):
        shuffled = shuffled_labels(span, method, contrast.folds, seed=seed)
    return shuffled, random_directions(span, contrast.folds, seed=seed)
