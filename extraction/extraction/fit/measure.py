"""Fitting one method at one layer, and what the vector is worth on responses that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from extraction.fit.contrast import Contrast
from extraction.fit.ordinary import EVERYDAY, NEUTRAL
from extraction.fit.results import Measured
from traitlens.compute import has_both_classes, projection
from traitlens.methods import ExtractionMethod
from traitlens.span import ContrastSpan
from traitlens.validation.calibration import calibrate, midpoint_baseline, neutral_scale
from traitlens.validation.cross_validation import HeldOut, cross_validate
from traitlens.validation.evaluation import evaluate
from traitlens.validation.verdicts import (
    AgainstNeutral,
    Reference,
    ResponseThresholds,
    fit_length_scale,
    measure_against_neutral,
)
from utils.errors import UserError

NEGATIVE = "negative"


@dataclass(frozen=True)
class LayerStates:
    """What all methods need of a layer, read once.

    Attributes:
        layer: its number.
        span: the trait's examples, with the ordinary text that vectors are fitted against.
        pos: float32 [n_pos, hidden] activations of positive examples.
        neg: float32 [n_neg, hidden] of negative ones.
        neutral_tokens: float32 [m, hidden] states of single neutral tokens.
        unseen: float32 [k, hidden] activations of ordinary text that no fit sees; None where there is none.
    """

    layer: int
    span: ContrastSpan
    pos: Tensor
    neg: Tensor
    neutral_tokens: Tensor
    unseen: Tensor | None


def read_layer(contrast: Contrast, layer: int) -> LayerStates:
    """The states of a layer.

    Raises:
        UserError: the examples cannot be told apart at all.
    """
    pos, neg = contrast.layer(layer)
    span = span_at(contrast, layer)
    return LayerStates(layer, span, pos, neg, contrast.file.neutral_tokens(layer), contrast.ordinary.unseen_at(layer))


def clusters(contrast: Contrast) -> list[Tensor]:
    """What responses share: their question, and their instruction pair where that is held out too."""
    folds = contrast.folds
    return [folds.question, folds.instruction] if folds.crossed else [folds.question]


def span_at(contrast: Contrast, layer: int) -> ContrastSpan:
    """The trait's examples at a layer, with the ordinary text that vectors are fitted against.

    Raises:
        UserError: they cannot be told apart at all.
    """
    ordinary = contrast.ordinary
    try:
        return ContrastSpan(*contrast.layer(layer), ordinary.fitted_at(layer), ordinary.within_at(layer, contrast.file))
    except ValueError as error:
        raise UserError(f"{contrast.trait} at layer {layer}: {error}") from error


def measure(contrast: Contrast, states: LayerStates, method: ExtractionMethod) -> tuple[Measured, HeldOut]:
    """The vector that a method finds, with its held-out figures, and the held-out scores that a choice needs.

    Raises:
        ValueError: the method failed.
    """
    span = states.span
    result = method.extract_from(span)
    held = cross_validate(span, method, contrast.all_folds)
    vector, labels, scores = result["vector"], contrast.labels, held.scores[~span.neutral]
    norm, baseline = float(vector.norm()), midpoint_baseline(states.pos, states.neg, vector)
    ordinary = held.scores[span.neutral]
    if states.unseen is not None:
        ordinary = torch.cat([ordinary, (projection(states.unseen, vector).double() - baseline) / norm])
    metrics = calibration = thresholds = against_neutral = None
    if has_both_classes(labels[~scores.isnan()]):
        metrics = evaluate(scores, labels, clusters(contrast))
        calibration = calibrate(scores, labels, contrast.folds.question_group).per_unit(norm)
        thresholds, against_neutral = held_against(contrast, scores, ordinary, norm)
    measured = Measured(
        method=method.name,
        layer=states.layer,
        vector=vector,
        extras={key: value for key, value in result.items() if key != "vector"},
        baseline=baseline,
        neutral=neutral_scale(states.neutral_tokens, vector),
        held_out=scores,
        ordinary=ordinary,
        metrics=metrics,
        calibration=calibration,
        thresholds=thresholds,
        against_neutral=against_neutral,
    )
    return measured, held


def held_against(
    contrast: Contrast, scores: Tensor, ordinary: Tensor, unit: float = 1.0
) -> tuple[ResponseThresholds | None, AgainstNeutral | None]:
    """What responses are held against on a vector, and how well positive ones are told from it; None without any.

    The length scale is of all neutral text together; the kinds of text differ in their references.

    Args:
        contrast: the trait's examples.
        scores: [n] of the positive and the negative ones, by fits that had not seen them.
        ordinary: [m] of ordinary text, fitted against first; likewise.
        unit: of both, in raw scores.
    """
    known = ~ordinary.isnan()
    if not bool(known.any()):
        return None, None
    lengths, own_lengths = contrast.ordinary.n_tokens, contrast.n_response_tokens
    scale = fit_length_scale(ordinary[known], lengths[known])
    statistics = scale.statistic(ordinary, lengths)
    own = scale.statistic(scores, own_lengths)
    kinds = contrast.ordinary.kinds
    of_kind = {
        kind: statistics[torch.tensor([k == kind for k in kinds])] for kind in (EVERYDAY, NEUTRAL) if kind in kinds
    }
    references = {kind: Reference.of(values) for kind, values in of_kind.items()}
    references[NEGATIVE] = Reference.of(own[~contrast.labels])
    thresholds = ResponseThresholds(scale.per_unit(unit), references, tuple(of_kind))
    positive = contrast.labels
    figures = measure_against_neutral(thresholds, own[positive], statistics, contrast.folds.question[positive])
    return thresholds, figures
