"""Held-out scores of every method, and a choice among vectors whose figure is not optimistic."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from traitlens.compute import has_both_classes
from traitlens.methods import ExtractionMethod
from traitlens.span import ContrastSpan
from traitlens.validation.evaluation import auroc
from traitlens.validation.folds import Cell, Exclusion, Folds

# AUROCs that differ by no more than this are equally good; of such vectors the one nearest the middle layer is taken.
TIE = 0.01


@dataclass(frozen=True)
class HeldOut:
    """Scores of one method at one layer, each from a fit that had not seen the example's question or instruction.

    Scores of different fits are comparable: 0 is the midpoint of the class means in that fit's training examples, 1 the
    distance between them.

    Attributes:
        scores: float64 [n]; NaN where the rest of the examples lacks a class.
        inner: for every cell, float64 [n] scores of the examples that share nothing with it, from fits that had seen
            neither them nor the cell; what a choice made without the cell may look at. Empty unless asked for.
    """

    scores: Tensor
    inner: Mapping[Cell, Tensor]


def cross_validate(span: ContrastSpan, method: ExtractionMethod, folds: Folds, *, nested: bool = True) -> HeldOut:
    """Held-out scores of a method at one layer.

    Fits are shared: the one that leaves out two cells serves the inner loop of both.

    Args:
        span: all examples of the layer.
        method: what to fit.
        folds: what to hold out together, in the order of the span's examples.
        nested: also make the inner scores that ``choose`` needs.
    """

    @functools.cache
    def scores_without(exclusion: Exclusion) -> Tensor:
        """Comparable scores [n] of all examples by a fit to the others; NaN where those lack a class."""
        train = folds.train(exclusion)
        if not has_both_classes(span.labels[train & ~span.neutral]):
            return torch.full((len(train),), torch.nan, dtype=torch.float64)
        weights, _ = method.fit(span.select(train))
        return comparable(span.coordinates @ weights, span.labels, train, span.neutral)

    scores = torch.full((len(span.labels),), torch.nan, dtype=torch.float64)
    inner: dict[Cell, Tensor] = {}
    for cell in folds.cells:
        scores = torch.where(folds.test(cell), scores_without(folds.exclusion(cell)), scores)
        if nested:
            inner[cell] = torch.full_like(scores, torch.nan)
            for other in folds.inner_cells(cell):
                without = scores_without(folds.exclusion(cell, other))
                inner[cell] = torch.where(folds.test(other), without, inner[cell])
    return HeldOut(scores, inner)


def comparable(scores: Tensor, labels: Tensor, train: Tensor, neutral: Tensor | None = None) -> Tensor:
    """Scores moved and scaled (and turned, where needed) so that the class means in training lie at -1/2 and 1/2.

    With neutral examples 0 is still the midpoint of the positive and the negative ones; 1 is the distance of the
    positive ones from the negative side, of which the neutral ones are half.

    Args:
        scores: [n, ...] of all examples.
        labels: bool [n].
        train: bool [n], the examples that may be looked at.
        neutral: bool [n], none by default.
    """
    neutral = torch.zeros_like(labels) if neutral is None else neutral
    negative = train & ~labels & ~neutral
    pos = scores[train & labels].mean(dim=0)
    opposite = scores[negative if bool(negative.any()) else train & ~labels].mean(dim=0)
    beside = scores[train & neutral].mean(dim=0) if bool((train & neutral).any()) else opposite
    centred, distance = scores - (pos + opposite) / 2, pos - (opposite + beside) / 2
    # Class means that differ by rounding alone leave no sign to learn: all examples tie.
    learned = distance.abs() > 1e-12 * centred.abs().amax(dim=0)
    return torch.where(learned, centred / torch.where(learned, distance, 1.0), 0.0)


@dataclass(frozen=True)
class Choice:
    """The vector to use, and how well choosing this way reads examples that took no part in the choice.

    Attributes:
        method: name of the chosen method.
        layer: number of the chosen layer.
        nested_scores: float64 [n], each example read by the vector that was chosen without it.
        by_cell: what was chosen without each cell; many different ones mean an unstable choice.
    """

    method: str
    layer: int
    nested_scores: Tensor
    by_cell: Mapping[Cell, tuple[str, int]]


def choose(
    held_out: Mapping[tuple[str, int], HeldOut],
    labels: Tensor,
    folds: Folds,
    middle: int,
    neutral: Tensor | None = None,
) -> Choice:
    """The best (method, layer) by held-out AUROC, ties going to the layer nearest ``middle``.

    With neutral examples that is the mean of two: of positive against negative, and against neutral examples.

    The figure of the best of many is optimistic. So the choice is repeated without each cell, on inner scores that know
    nothing of the cell, and what it takes then reads the cell: ``nested_scores``. Layer 0 is a control, taken only
    where there is no other.

    Args:
        held_out: scores by (method, layer), made with ``nested=True``.
        labels: bool [n].
        folds: those that the scores were made with.
        middle: layer to prefer among equals.
        neutral: bool [n], none by default.
    """
    neutral = torch.zeros_like(labels) if neutral is None else neutral
    candidates = [key for key in held_out if key[1] != 0] or list(held_out)
    nested = torch.full((len(labels),), torch.nan, dtype=torch.float64)
    by_cell: dict[Cell, tuple[str, int]] = {}
    for cell in folds.cells:
        inner = {key: held_out[key].inner[cell] for key in candidates}
        picked = _pick(inner, labels, neutral, middle) if len(candidates) > 1 else candidates[0]
        if picked is not None:
            by_cell[cell] = picked
            nested = torch.where(folds.test(cell), held_out[picked].scores, nested)
    best = _pick({key: held_out[key].scores for key in candidates}, labels, neutral, middle)
    method, layer = best if best is not None else min(candidates, key=lambda key: abs(key[1] - middle))
    return Choice(method, layer, nested, by_cell)


def _pick(
    scores: Mapping[tuple[str, int], Tensor], labels: Tensor, neutral: Tensor, middle: int
) -> tuple[str, int] | None:
    """The key with the best AUROC, None where no key has scores of both classes."""
    known = ~next(iter(scores.values())).isnan()
    against = [part for part in (~neutral, labels | neutral) if has_both_classes(labels[known & part])]
    if not against:
        return None
    aurocs = {
        key: sum(auroc(values[part], labels[part]) for part in against) / len(against) for key, values in scores.items()
    }
    best = max(aurocs.values())
    equals = [key for key, value in aurocs.items() if value >= best - TIE]
    return min(equals, key=lambda key: (abs(key[1] - middle), -aurocs[key]))
