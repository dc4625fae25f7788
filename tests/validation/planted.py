"""Activations whose optimal linear classifier is known."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor


@dataclass(frozen=True)
class Planted:
    """Two classes around a planted direction, as mean activations of responses to questions.

    ``optimal`` is the direction of the best possible linear classifier, which knows the noise.
    """

    pos: Tensor
    neg: Tensor
    questions: list[int]
    optimal: Tensor


def planted(n=200, hidden=48, auroc=0.97, n_questions=20, seed=0, massive=True):
    """Anisotropic noise (a power law), a random direction between the class means, and one massive dimension."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spread = 3 * torch.arange(1, hidden + 1, dtype=torch.float64) ** -0.5 + 0.3
    axes = torch.linalg.qr(normal(hidden, hidden))[0]
    covariance = axes @ torch.diag(spread**2) @ axes.T
    if massive:
        covariance[7, 7] += 100.0**2
    direction = normal(hidden)
    precision = torch.linalg.inv(covariance)
    separation = math.sqrt(2) * NormalDist().inv_cdf(auroc)  # d' of the optimal classifier
    shift = direction * separation / (direction @ precision @ direction).sqrt()
    root = torch.linalg.cholesky(covariance)
    centre = torch.zeros(hidden, dtype=torch.float64)
    centre[7] = 400.0 if massive else 0.0
    pos = centre + shift / 2 + normal(n, hidden) @ root.T
    neg = centre - shift / 2 + normal(n, hidden) @ root.T
    questions = [i % n_questions for i in range(n)] * 2
    return Planted(pos.float(), neg.float(), questions, precision @ shift)
