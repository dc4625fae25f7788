"""Zero and scale of a vector's scores: baseline, thresholds on neutral tokens, probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from traitlens.compute import has_both_classes, projection
from traitlens.validation.evaluation import check_scores


def midpoint_baseline(pos: Tensor, neg: Tensor, vector: Tensor) -> float:
    """Projection of the midpoint between the class means; above it a state is nearer the positive examples.

    Ordinary text lies on either side of it: it is no verdict (``traitlens.validation.verdicts``).

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


# Of the slope per standard deviation of the scores: as of a normal prior with a standard deviation of 3.2.
_RIDGE = 0.1


@dataclass(frozen=True)
class Calibration:
    """Probability that a response shows the trait: ``sigmoid(slope * score + intercept)`` (Platt, 1999).

    Attributes:
        slope: per unit of the scores it was fitted to.
        intercept: log-odds at the score 0.
        brier: mean squared error of the probabilities, each from a fit without the example's fold (of the fit itself
            where no fold can be left out); 0.25 is a coin's.
        brier_skill: how much of the error of the base rate they save, ``1 - brier / (p (1 - p))`` with p the share of
            positive examples: 1 is perfect, 0 no better than p said of every response, below 0 worse.
    """

    slope: float
    intercept: float
    brier: float
    brier_skill: float

    def probability(self, scores: Tensor) -> Tensor:
        """Probability in 0..1 for centred scores [...]."""
        return torch.sigmoid(self.slope * scores.double() + self.intercept)

    def per_unit(self, unit: float) -> Calibration:
        """The same calibration for scores counted in 1/``unit`` (a vector's norm turns held-out into raw scores)."""
        return replace(self, slope=self.slope / unit)


def calibrate(scores: Tensor, labels: Tensor, groups: Tensor) -> Calibration:
    """Logistic calibration of held-out scores (Platt 1999), kept finite by a weak ridge on the slope.

    Platt's own remedy, targets of (n + 1) / (n + 2), holds all probabilities within what n examples can say of one. Of
    normal scores with 10, 30 and 100 examples a side, at distances of 3 to 6 standard deviations, the ridge leaves new
    examples a log loss of .36 to .99 of what those targets do, at smaller distances the same within 2 %.

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
            errors.append(_squared_errors(_fit(scores[~test], rest), scores[test], labels[test]))
    fit = _fit(scores, labels)
    brier = float(torch.cat(errors or [_squared_errors(fit, scores, labels)]).mean())
    rate = float(labels.double().mean())
    return Calibration(*fit, brier, 1 - brier / (rate * (1 - rate)))


def _squared_errors(fit: tuple[float, float], scores: Tensor, labels: Tensor) -> Tensor:
    return (torch.sigmoid(fit[0] * scores + fit[1]) - labels.double()) ** 2


def _fit(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Slope and intercept by Newton's method; the ridge is on the slope per standard deviation of the scores."""
    targets = labels.double()
    middle, spread = scores.mean(), scores.std()
    if not bool(spread > 1e-12 * scores.abs().max()):  # equal scores: their deviations would be rounding
        middle, spread = scores.new_zeros(()), scores.new_full((), torch.inf)
    features = torch.stack([(scores - middle) / spread, torch.ones_like(scores)], dim=1)
    penalty = torch.diag(torch.tensor([_RIDGE, 0.0], dtype=torch.float64))
    weights = torch.zeros(2, dtype=torch.float64)
    loss = _log_loss(features, weights, targets)
    for _ in range(100):
        probabilities = torch.sigmoid(features @ weights)
        gradient = features.T @ (probabilities - targets) + penalty @ weights
        hessian = (features.T * (probabilities * (1 - probabilities))) @ features + penalty
        hessian += 1e-9 * torch.eye(2, dtype=torch.float64)  # where all probabilities are 0 or 1
        step = torch.linalg.solve(hessian, gradient)
        while (new := _log_loss(features, weights - step, targets)) > loss and float(step.norm()) > 1e-12:
            step = step / 2
        weights = weights - step
        if float(loss - new) < 1e-12:
            break
        loss = new
    slope = float(weights[0] / spread)
    return slope, float(weights[1]) - slope * float(middle)


def _log_loss(features: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ weights, targets, reduction="sum")
    return loss + _RIDGE / 2 * weights[0] ** 2
