"""What a vector must beat: scores that need no vector, or none that was learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from traitlens.compute import has_both_classes
from traitlens.methods import ExtractionMethod
from traitlens.span import ContrastSpan
from traitlens.validation.cross_validation import cross_validate
from traitlens.validation.evaluation import auroc
from traitlens.validation.folds import Folds


def feature_control(feature: Tensor, labels: Tensor, folds: Folds) -> Tensor:
    """Held-out scores [n] of a single number per example, such as a response's length; its sign is learned in training.

    Args:
        feature: [n].
        labels: bool [n].
        folds: what to hold out together.
    """
    return _held_out(feature.double()[:, None], labels, folds)[:, 0]


@dataclass(frozen=True)
class Chance:
    """AUROCs that come about without a trait.

    Attributes:
        mean: the average; near 0.5 unless something leaks.
        high: what one in twenty exceeds.
    """

    mean: float
    high: float


def random_directions(span: ContrastSpan, folds: Folds, *, n_directions: int = 200, seed: int = 0) -> Chance | None:
    """Held-out AUROC of directions drawn at random in activation space, each turned by its training examples.

    High figures say that the classes differ in almost every direction: by position, length or norm, not by a trait.
    None where nothing could be held out.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(span.mean_difference.shape[0], n_directions, generator=generator, dtype=torch.float64)
    contrast = ~span.neutral
    labels = span.labels[contrast]
    scores = _held_out((span.coordinates @ span.to_weights(directions))[contrast], labels, folds.part(contrast))
    return _chance([scores[:, i] for i in range(n_directions)], [labels] * n_directions)


def shuffled_labels(
    span: ContrastSpan, method: ExtractionMethod, folds: Folds, *, n_shuffles: int = 20, seed: int = 0
) -> Chance | None:
    """Held-out AUROC of the same method when labels are shuffled among the responses to each question.

    Neutral examples stay what they are. Anything but 0.5 means that the evaluation itself leaks. None where nothing
    could be held out.
    """
    generator = torch.Generator().manual_seed(seed)
    scores, labels = [], []
    for _ in range(n_shuffles):
        shuffled = span.labels.clone()
        for question in folds.question.unique():
            rows = ((folds.question == question) & ~span.neutral).nonzero()[:, 0]
            shuffled[rows] = shuffled[rows[torch.randperm(len(rows), generator=generator)]]
        relabelled = span.select(torch.ones_like(shuffled), shuffled)
        scores.append(cross_validate(relabelled, method, folds, nested=False).scores[~span.neutral])
        labels.append(shuffled[~span.neutral])
    return _chance(scores, labels)


def _held_out(features: Tensor, labels: Tensor, folds: Folds) -> Tensor:
    """Held-out scores of every column: float64 [n, k], centred and turned by training examples, in their deviations.

    ``comparable`` would divide by the distance of the class means, which nothing keeps away from zero here.
    """
    scores = torch.full_like(features, torch.nan, dtype=torch.float64)
    for cell in folds.cells:
        train = folds.train(folds.exclusion(cell))
        if has_both_classes(labels[train]):
            pos, neg = features[train & labels].mean(dim=0), features[train & ~labels].mean(dim=0)
            spread = features[train].std(dim=0).clamp_min(1e-30)
            test = folds.test(cell)
            scores[test] = ((features - (pos + neg) / 2) / spread * (pos - neg).sign())[test]
    return scores


def _chance(scores: list[Tensor], labels: list[Tensor]) -> Chance | None:
    """Mean and 95th percentile of the AUROCs; None where no example could be held out."""
    known = ~scores[0].isnan()
    if not has_both_classes(labels[0][known]):
        return None
    aurocs = torch.tensor([auroc(s, y) for s, y in zip(scores, labels, strict=True)], dtype=torch.float64)
    return Chance(float(aurocs.mean()), float(torch.quantile(aurocs, 0.95)))
