"""The span of a contrast: standardised activations in as few coordinates as there are examples.

With n examples in hidden >> n dimensions, whatever an L2-regularised or norm-constrained linear method learns lies in
the span of its (standardised, centred) examples. Rotating into that span loses nothing and makes every fit an order of
magnitude cheaper; one decomposition serves all methods and all cross-validation folds.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from traitlens.compute import check_classes, has_both_classes

# Directions with less than this share of the largest singular value are rounding, not data.
_RELATIVE_RANK_TOLERANCE = 1e-6
# How much the movement within responses weighs against the spread between examples. With 2, windows of 8 tokens of the
# starter responses are read best without a loss for whole responses.
_WITHIN_WEIGHT = 2.0


class ContrastSpan:
    """Two classes of activations, standardised and rotated into their own span.

    The negative side may have a second part: ``neutral``, text that shows neither the trait nor its opposite. Both
    parts then weigh the same, so a direction must tell positive examples from either.

    Args:
        pos: [n_pos, hidden] activations of examples that show the trait.
        neg: [n_neg, hidden] of examples that show its opposite.
        neutral: [n_neutral, hidden] of examples that show neither.
        within: [m, hidden] how states move within responses: means of windows of tokens, less the mean of their
            response. Directions of much such movement are made small, which is what training on windows would do
            (training with noise is Tikhonov regularisation by the noise's covariance: Bishop 1995, Neural
            Computation 7:108).

    Attributes:
        coordinates: float64 [n, rank], pos rows first, then neg, then neutral; Euclidean geometry equals that of
            the standardised activations (damped along ``within``), the columns are their principal axes, widest first.
        labels: bool [n], true for positive examples.
        neutral: bool [n], true for neutral ones.

    Raises:
        ValueError: a class is empty or not finite, sizes differ, or all examples are the same.
    """

    def __init__(self, pos: Tensor, neg: Tensor, neutral: Tensor | None = None, within: Tensor | None = None) -> None:
        check_classes(pos, neg)
        parts = [pos, neg]
        if neutral is not None and len(neutral):
            check_classes(neg, neutral)
            parts.append(neutral)
        data = torch.cat(parts).detach().to("cpu", torch.float64)
        row = torch.arange(len(data))
        self.labels, self.neutral = row < len(pos), row >= len(pos) + len(neg)
        self._scale = data.std(dim=0, correction=0)
        varying = self._scale > 1e-9 * data.abs().amax(dim=0).clamp_min(1e-30)
        if not bool(varying.any()):
            raise ValueError(f"all {len(data)} examples have the same activation: there is nothing to separate")
        # A constant feature carries no information: zero after centring, and given zero weight on the way back.
        self._inverse_scale = torch.where(varying, 1 / self._scale, 0.0)
        standardised = (data - data.mean(dim=0)) * self._inverse_scale
        movement = None if within is None or not len(within) else within.detach().to("cpu", torch.float64)
        damped = standardised if movement is None else _damped(standardised, movement * self._inverse_scale)
        self.coordinates, self._to_features, self._from_features = _rotate(standardised, damped)
        self.mean_difference = torch.where(varying, _class_difference(data, self.weights, self.labels), 0.0)

    def select(self, rows: Tensor, labels: Tensor | None = None) -> ContrastSpan:
        """The same span with the examples ``rows`` alone, as the training part of a fold.

        Only what labels do not touch is shared with the rows left out: each feature's scale and the principal axes.

        Args:
            rows: bool [n].
            labels: bool [n] in place of this span's, as a control with shuffled labels needs; false for neutral ones.

        Raises:
            ValueError: no example of a class is left.
        """
        _ = self._raw_metric  # made here once, for all parts
        part = copy.copy(self)
        part.coordinates = self.coordinates[rows]
        part.labels = (self.labels if labels is None else labels)[rows]
        part.neutral = self.neutral[rows]
        if not has_both_classes(part.labels):
            raise ValueError(f"the {int(rows.sum())} examples selected are all of one class")
        part.mean_difference = self._scale * (self._from_features.T @ part.difference)
        return part

    @property
    def weights(self) -> Tensor:
        """What each example weighs: float64 [n]; either class weighs 1, both parts of the negative side the same."""
        return example_weights(self.labels, self.neutral)

    @property
    def difference(self) -> Tensor:
        """Difference of the class means in ``coordinates``: float64 [rank]."""
        return _class_difference(self.coordinates, self.weights, self.labels)

    def to_direction(self, weights: Tensor) -> Tensor:
        """Direction [hidden] in activation space whose projection orders examples as ``coordinates @ weights`` does."""
        return (self._to_features @ weights.to(torch.float64)) * self._inverse_scale

    def to_weights(self, directions: Tensor) -> Tensor:
        """Weights [rank, ...] that order the examples as projections on ``directions`` [hidden, ...] do."""
        scale = self._scale * (self._inverse_scale > 0)
        columns = directions.to(torch.float64).reshape(len(scale), -1)
        return (self._from_features @ (scale[:, None] * columns)).reshape(-1, *directions.shape[1:])

    def mean_difference_weights(self) -> Tensor:
        """Weights [rank] of the mean difference of the raw, unstandardised activations."""
        return self._raw_metric @ self.difference

    @functools.cached_property
    def _raw_metric(self) -> Tensor:
        """Inner products [rank, rank] that raw activations have in the coordinates."""
        return self._from_features @ (self._scale.square()[:, None] * self._from_features.T)


def example_weights(labels: Tensor, neutral: Tensor) -> Tensor:
    """float64 [n]: positive examples together 1, the negative side together 1, half of it neutral where there are any.

    >>> example_weights(torch.tensor([True, False, False, False]), torch.tensor([False, False, True, True])).tolist()
    [1.0, 0.5, 0.25, 0.25]
    """
    negative = ~labels & ~neutral
    halved = 0.5 if bool(negative.any()) and bool(neutral.any()) else 1.0
    weights = torch.zeros(len(labels), dtype=torch.float64)
    for part, weight in ((labels, 1.0), (negative, halved), (neutral, halved)):
        weights[part] = weight / max(int(part.sum()), 1)
    return weights


def _class_difference(rows: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    return (torch.where(labels, weights, -weights)[:, None] * rows).sum(dim=0)


def _damped(data: Tensor, movement: Tensor) -> Tensor:
    """``data @ inverse(I + covariance of the movement)``, in its usual size: [n, hidden], by the smaller of two solves.

    The movement is scaled to a mean variance of ``_WITHIN_WEIGHT`` per standardised feature.
    """
    m, hidden = movement.shape
    size = movement.square().mean()
    if not bool(size > 0):
        return data
    movement = movement * (_WITHIN_WEIGHT / size / m).sqrt()
    if m < hidden:  # Woodbury's identity
        inner = torch.eye(m, dtype=torch.float64) + movement @ movement.T
        moved: Tensor = torch.linalg.solve(inner, movement @ data.T)
        return data - moved.T @ movement
    damped: Tensor = torch.linalg.solve(torch.eye(hidden, dtype=torch.float64) + movement.T @ movement, data.T)
    return damped.T


def _rotate(data: Tensor, damped: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates [n, rank], widest axis first, and the maps between their weights and features'.

    Args:
        data: [n, hidden] standardised examples.
        damped: [n, hidden] the same times the inverse metric; ``data`` itself for the Euclidean one.

    Returns:
        coordinates [n, rank]; the map from their weights to features [hidden, rank]; the map back [rank, hidden].
    """
    n, hidden = data.shape
    if n > hidden and damped is data:
        values, vectors = torch.linalg.eigh(data.T @ data)
        vectors = vectors[:, _kept(values, n)].flip(1)
        return data @ vectors, vectors, vectors.T
    gram = damped @ data.T
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    keep = _kept(values, max(n, hidden))
    singular, vectors = values[keep].flip(0).sqrt(), vectors[:, keep].flip(1)
    return vectors * singular, damped.T @ vectors / singular, (vectors / singular).T @ data


def _kept(values: Tensor, size: int) -> Tensor:
    # Eigenvalues of a Gram matrix are only good to its rounding, n times the machine's epsilon.
    return values > values[-1] * max(_RELATIVE_RANK_TOLERANCE**2 * size, 1e-13)
