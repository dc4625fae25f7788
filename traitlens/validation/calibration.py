"""Zero and scale of a vector's scores: baseline, thresholds on neutral tokens, probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from traitlens.compute import has_both_classes, projection
from traitlens.validation.evaluation import check_scores


def midpoint_baseline(pos: Tensor, neg: Tensor, vector: Tensor) -> float:
    """Projection of the midpoint between the class means; scores above it express the trait.

    Args:
        pos: [n, hidden] activations of positive examples.
        neg: [n, hidden] of negative ones.
        vector: [hidden].

    >>> midpoint_baseline(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([2.0, 0.0]))
    2.0
    """
    return float((projection(pos.detach(), vector).mean() + projection(neg.detach(), vector).mean()) / 2)


@dataclass(frozen=True)
class NeutralScale:
    """Where neutral text lies on a vector: raw projections of single tokens.

    Attributes:
        mean: of the scores.
        std: their standard deviation.
        fpr_1: score that 1 % of neutral tokens exceed.
        fpr_5: score that 5 % exceed.
        n_tokens: how many tokens this rests on.
    """

    mean: float
    std: float
    fpr_1: float
    fpr_5: float
    n_tokens: int


def neutral_scale(tokens: Tensor, vector: Tensor) -> NeutralScale | None:
    """The scale of single-token states [m, hidden] on a vector; None below 100 tokens, which cannot show 1 %."""
    if len(tokens) < 100:
        return None
    scores = projection(tokens.detach(), vector).double()
    fpr_1, fpr_5 = torch.quantile(scores, torch.tensor([0.99, 0.95], dtype=torch.float64)).tolist()
    return NeutralScale(float(scores.mean()), float(scores.std()), fpr_1, fpr_5, len(tokens))


@dataclass(frozen=True)
class Calibration:
    """Probability that a response shows the trait: ``sigmoid(slope * score + intercept)`` (Platt, 1999).

    Attributes:
        slope: per unit of the scores it was fitted to.
        intercept: log-odds at the score 0.
        brier: mean squared error of the probabilities, each from a fit without the example's fold (of the fit itself
            where no fold can be left out); 0.25 is a coin's.
    """

    slope: float
    intercept: float
    brier: float

    def probability(self, scores: Tensor) -> Tensor:
        """Probability in 0..1 for centred scores [...]."""
        return torch.sigmoid(self.slope * scores.double() + self.intercept)

    def per_unit(self, unit: float) -> Calibration:
        """The same calibration for scores counted in 1/``unit`` (a vector's norm turns held-out into raw scores)."""
        return Calibration(self.slope / unit, self.intercept, self.brier)


def calibrate(scores: Tensor, labels: Tensor, groups: Tensor) -> Calibration:
    """Platt scaling of held-out scores.

    Args:
        scores: [n], NaN for unknown.
        labels: bool [n].
        groups: int [n]; the Brier score of a group comes from a fit to the other groups.

    Raises:
        ValueError: a class has no scores, a score is infinite, or sizes differ.
    """
    check_scores(scores, labels, groups)
    if bool(scores.isinf().any()):
        raise ValueError("scores hold infinity")
    known = ~scores.isnan()
    scores, labels, groups = scores[known].double(), labels[known], groups[known]
    if not has_both_classes(labels):
        raise ValueError(f"calibration needs both classes, got {int(labels.sum())} positive of {len(labels)} scores")
    errors = []
    for group in groups.unique():
        test = groups == group
        rest = labels[~test]
        if has_both_classes(rest):
            slope, intercept = _platt(scores[~test], rest)
            errors.append((torch.sigmoid(slope * scores[test] + intercept) - labels[test].double()) ** 2)
    slope, intercept = _platt(scores, labels)
    if not errors:
        errors = [(torch.sigmoid(slope * scores + intercept) - labels.double()) ** 2]
    return Calibration(slope, intercept, float(torch.cat(errors).mean()))


def _platt(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Slope and intercept by Newton's method, with Platt's smoothed targets, which keep separable scores finite."""
    n_pos, n_neg = int(labels.sum()), int((~labels).sum())
    targets = torch.where(labels, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2)).double()
    spread = float(scores.std().clamp_min(1e-12)) if len(scores) > 1 else 1.0
    features = torch.stack([scores / spread, torch.ones_like(scores)], dim=1)
    weights = torch.zeros(2, dtype=torch.float64)
    loss = _log_loss(features, weights, targets)
    for _ in range(100):
        probabilities = torch.sigmoid(features @ weights)
        gradient = features.T @ (probabilities - targets)
        hessian = (features.T * (probabilities * (1 - probabilities))) @ features + 1e-9 * torch.eye(
            2, dtype=torch.float64
        )
        step = torch.linalg.solve(hessian, gradient)
        while (new := _log_loss(features, weights - step, targets)) > loss and float(step.norm()) > 1e-12:
            step = step / 2
        weights = weights - step
        if float(loss - new) < 1e-12:
            break
        loss = new
    return float(weights[0]) / spread, float(weights[1])


def _log_loss(features: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(features @ weights, targets, reduction="sum")
