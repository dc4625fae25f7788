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


class ContrastSpan:
    """Two classes of activations, standardised and rotated into their own span.

    Args:
        pos: [n_pos, hidden] activations of examples that show the trait.
        neg: [n_neg, hidden] activations of examples that do not.

    Attributes:
        coordinates: float64 [n, rank], pos rows first; Euclidean geometry equals that of the standardised activations,
            and the columns are their principal axes, widest first.
        labels: bool [n].
        mean_difference: float64 [hidden], of the class means in activation space.

    Raises:
        ValueError: a class is empty or not finite, sizes differ, or all examples are the same.
    """

    def __init__(self, pos: Tensor, neg: Tensor) -> None:
        check_classes(pos, neg)
        data = torch.cat([pos, neg]).detach().to("cpu", torch.float64)
        self.labels = torch.arange(len(data)) < len(pos)
        self.mean_difference = data[self.labels].mean(dim=0) - data[~self.labels].mean(dim=0)
        self._scale = data.std(dim=0, correction=0)
        varying = self._scale > 1e-9 * data.abs().amax(dim=0).clamp_min(1e-30)
        if not bool(varying.any()):
            raise ValueError(f"all {len(data)} examples have the same activation: there is nothing to separate")
        # A constant feature carries no information: zero after centring, and given zero weight on the way back.
        self._inverse_scale = torch.where(varying, 1 / self._scale, 0.0)
        standardised = (data - data.mean(dim=0)) * self._inverse_scale
        self.coordinates, self._basis = _rotate(standardised)

    def select(self, rows: Tensor, labels: Tensor | None = None) -> ContrastSpan:
        """The same span with the examples ``rows`` alone, as the training part of a fold.

        Only what labels do not touch is shared with the rows left out: each feature's scale and the principal axes.

        Args:
            rows: bool [n].
            labels: bool [n] in place of this span's, as a control with shuffled labels needs.

        Raises:
            ValueError: no example of a class is left.
        """
        _ = self._raw_metric  # made here once, for all parts
        part = copy.copy(self)
        part.coordinates = self.coordinates[rows]
        part.labels = (self.labels if labels is None else labels)[rows]
        if not has_both_classes(part.labels):
            raise ValueError(f"the {int(rows.sum())} examples selected are all of one class")
        part.mean_difference = self._scale * (self._basis @ part.difference)
        return part

    @property
    def difference(self) -> Tensor:
        """Difference of the class means in ``coordinates``: float64 [rank]."""
        return self.coordinates[self.labels].mean(dim=0) - self.coordinates[~self.labels].mean(dim=0)

    def to_direction(self, weights: Tensor) -> Tensor:
        """Direction [hidden] in activation space whose projection orders examples as ``coordinates @ weights`` does."""
        return (self._basis @ weights.to(torch.float64)) * self._inverse_scale

    def to_weights(self, directions: Tensor) -> Tensor:
        """Weights [rank, ...] that order the examples as projections on ``directions`` [hidden, ...] do."""
        scale = self._scale * (self._inverse_scale > 0)
        columns = directions.to(torch.float64).reshape(len(scale), -1)
        return (self._basis.T @ (scale[:, None] * columns)).reshape(-1, *directions.shape[1:])

    def mean_difference_weights(self) -> Tensor:
        """Weights [rank] of the mean difference of the raw, unstandardised activations."""
        return self._raw_metric @ self.difference

    @functools.cached_property
    def _raw_metric(self) -> Tensor:
        """Inner products [rank, rank] that raw activations have in the coordinates."""
        return self._basis.T @ (self._scale.square()[:, None] * self._basis)


def _rotate(data: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates [n, rank] and orthonormal basis [hidden, rank], widest axis first, by the smaller Gram matrix."""
    n, hidden = data.shape
    values, vectors = torch.linalg.eigh(data @ data.T if n <= hidden else data.T @ data)
    # Eigenvalues of a Gram matrix are only good to its rounding, n times the machine's epsilon.
    keep = values > values[-1] * max(_RELATIVE_RANK_TOLERANCE**2 * max(n, hidden), 1e-13)
    singular, vectors = values[keep].flip(0).sqrt(), vectors[:, keep].flip(1)
    if n <= hidden:
        return vectors * singular, data.T @ vectors / singular
    return data @ vectors, vectors
