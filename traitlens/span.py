"""The span of a contrast: standardised activations in as few coordinates as there are examples.

With n examples in hidden >> n dimensions, whatever an L2-regularised or norm-constrained linear method learns lies in the
span of its (standardised, centred) examples. Rotating into that span loses nothing and makes every fit an order of
magnitude cheaper; one decomposition serves all methods.
"""

from __future__ import annotations

import torch
from torch import Tensor

from traitlens.compute import check_classes

# Directions with less than this share of the largest singular value are rounding, not data.
_RELATIVE_RANK_TOLERANCE = 1e-6


class ContrastSpan:
    """Two classes of activations, standardised and rotated into their own span.

    Args:
        pos: [n_pos, hidden] activations of examples that show the trait.
        neg: [n_neg, hidden] activations of examples that do not.

    Attributes:
        coordinates: float64 [n, rank], pos rows first; Euclidean geometry equals that of the standardised activations.
        labels: bool [n].
        mean_difference: float32 [hidden], in activation space.
        singular_values: float64 [rank], descending; coordinates are ordered alike.

    Raises:
        ValueError: a class is empty or not finite, sizes differ, or all examples are the same.
    """

    def __init__(self, pos: Tensor, neg: Tensor) -> None:
        check_classes(pos, neg)
        data = torch.cat([pos, neg]).detach().to("cpu", torch.float64)
        self.labels = torch.arange(len(data)) < len(pos)
        # In float64: a massive dimension (1e5) beside features of size 0.01 leaves float32 nothing to difference.
        self.mean_difference = (data[self.labels].mean(dim=0) - data[~self.labels].mean(dim=0)).float()
        self._scale = data.std(dim=0, correction=0)
        varying = self._scale > 1e-9 * data.abs().amax(dim=0).clamp_min(1e-30)
        if not bool(varying.any()):
            raise ValueError(f"all {len(data)} examples have the same activation: there is nothing to separate")
        # A constant feature carries no information: zero after centring, and given zero weight on the way back.
        self._inverse_scale = torch.where(varying, 1 / self._scale, 0.0)
        standardised = (data - data.mean(dim=0)) * self._inverse_scale
        self.coordinates, self._basis, self.singular_values = _rotate(standardised)

    def to_direction(self, weights: Tensor) -> Tensor:
        """Direction in activation space [hidden] whose projection orders examples as ``coordinates @ weights`` does."""
        return ((self._basis @ weights.to(torch.float64)) * self._inverse_scale).float()


def _rotate(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates [n, rank], orthonormal basis [hidden, rank] and singular values, by the smaller of the two Grams."""
    n, hidden = data.shape
    values, vectors = torch.linalg.eigh(data @ data.T if n <= hidden else data.T @ data)
    keep = values > values[-1] * _RELATIVE_RANK_TOLERANCE**2 * max(n, hidden)
    singular, vectors = values[keep].flip(0).sqrt(), vectors[:, keep].flip(1)
    if n <= hidden:
        return vectors * singular, data.T @ vectors / singular, singular
    return data @ vectors, vectors, singular
