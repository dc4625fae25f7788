"""How well scores tell two classes apart, and how sure that figure is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from traitlens.methods import standardised_separation

# Resamples x examples whose weights are in memory together.
_WEIGHTS_AT_ONCE = 10_000_000
# The ends of a 95 % interval.
TAILS = torch.tensor([0.025, 0.975], dtype=torch.float64)


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Metrics:
    """Held-out figures of one vector.

    Attributes:
        auroc: chance that a positive example scores above a negative one, ties counting half, with a bootstrap
            interval.
        accuracy: at the score 0, the midpoint of the class means in training; the mean of both classes' accuracies, a
            score of 0 counting half.
        cohens_d: difference of the class means over the pooled standard deviation.
        recall_at_1_fpr: share of positive examples above all but 1 % of the negative ones (above all, with under 100).
        n_pos: positive examples with a held-out score.
        n_neg: negative ones.
    """

    auroc: Interval
    accuracy: float
    cohens_d: float
    recall_at_1_fpr: float
    n_pos: int
    n_neg: int


def evaluate(
    scores: Tensor, labels: Tensor, clusters: list[Tensor], *, n_bootstrap: int = 1000, seed: int = 0
) -> Metrics:
    """Held-out figures of centred scores.

    Args:
        scores: [n], 0 at the decision boundary; NaN where an example could not be held out, left out here.
        labels: bool [n].
        clusters: what examples share, each int [n]: their question, their instruction pair; see ``auroc_interval``.
        n_bootstrap: resamples behind the interval.
        seed: for the resampling.

    Raises:
        ValueError: a class has no scores, a score is infinite, or sizes differ.
    """
    check_scores(scores, labels, *clusters)
    if bool(scores.isinf().any()):
        raise ValueError("scores hold infinity")
    interval = auroc_interval(scores, labels, clusters, n_bootstrap=n_bootstrap, seed=seed)
    known = ~scores.isnan()
    scores, labels = scores[known].double(), labels[known]
    pos, neg = scores[labels], scores[~labels]
    allowed = len(neg) // 100
    return Metrics(
        auroc=interval,
        accuracy=float((_share_above(pos) + _share_above(-neg)) / 2),
        cohens_d=float(standardised_separation(scores, labels).clamp(-1e6, 1e6)),
        recall_at_1_fpr=float((pos > neg.sort(descending=True).values[allowed]).double().mean()),
        n_pos=len(pos),
        n_neg=len(neg),
    )


def _share_above(scores: Tensor) -> Tensor:
    return (scores > 0).double().mean() + (scores == 0).double().mean() / 2


def check_scores(scores: Tensor, labels: Tensor, *others: Tensor) -> None:
    """Raise ValueError unless there is one score [n], one bool label and one value of each of ``others`` per example.

    Labels of 0 and 1 would be taken for row numbers.
    """
    shapes = [list(tensor.shape) for tensor in (scores, labels, *others)]
    if scores.ndim != 1 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"scores, labels and groups have shapes {', '.join(map(str, shapes))}: wanted [n] each")
    if labels.dtype != torch.bool:
        raise ValueError(f"labels are {labels.dtype}: wanted torch.bool, true for positive examples")


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the receiver operating characteristic; ties count half, rows with NaN are left out.

    Raises:
        ValueError: a class has no scores.

    >>> auroc(torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([False, False, True, True]))
    0.875
    """
    check_scores(scores, labels)
    known = ~scores.isnan()
    weights = torch.ones(int(known.sum()), 1, dtype=torch.float64)
    return float(_weighted_auroc(scores[known], labels[known])(weights))


def auroc_interval(
    scores: Tensor, labels: Tensor, clusters: list[Tensor], *, n_bootstrap: int = 1000, seed: int = 0
) -> Interval:
    """AUROC with a 95 % percentile interval from a bootstrap over whole clusters.

    Responses to one question rise and fall together, so questions are resampled, not responses. With two kinds of
    cluster (questions and instruction pairs) both are resampled and an example weighs the product (the pigeonhole
    bootstrap, Owen 2007, arXiv:0708.0302), which errs on the wide side. Where no pair is misordered every resample
    says 1; the lower end is then the highest share of clear clusters that could still have given only clear ones one
    time in forty. The interval covers the examples, not another training of the vector.

    Args:
        scores: [n]; rows with NaN are left out.
        labels: bool [n].
        clusters: one or two int [n].
        n_bootstrap: resamples.
        seed: for the resampling.

    Raises:
        ValueError: a class has no scores.
    """
    check_scores(scores, labels, *clusters)
    known = ~scores.isnan()
    scores, labels, clusters = scores[known], labels[known], [c[known] for c in clusters]
    value = auroc(scores, labels)
    samples = _bootstrap(scores, labels, clusters, n_bootstrap, seed)
    low, high = torch.nanquantile(samples, TAILS).tolist()
    if value in (0.0, 1.0):
        unseen = 1 - 0.025 ** (1 / len(clusters[0].unique()))
        low, high = (1 - unseen, 1.0) if value == 1 else (0.0, unseen)
    return Interval(value, low, high)


def auroc_difference(
    scores: Tensor, others: Tensor, labels: Tensor, clusters: list[Tensor], *, n_bootstrap: int = 1000, seed: int = 0
) -> Interval:
    """How much better ``scores`` separate the classes than ``others`` do, with a 95 % interval over the same resamples.

    Args:
        scores: [n].
        others: [n], scores of the same examples.
        labels: bool [n].
        clusters: as in ``auroc_interval``.
        n_bootstrap: resamples.
        seed: for the resampling.

    Raises:
        ValueError: a class has no scores.
    """
    check_scores(scores, labels, others, *clusters)
    known = ~(scores.isnan() | others.isnan())
    both = [s[known] for s in (scores, others)]
    labels, clusters = labels[known], [c[known] for c in clusters]
    first, second = (_bootstrap(s, labels, clusters, n_bootstrap, seed) for s in both)
    low, high = torch.nanquantile(first - second, TAILS).tolist()
    return Interval(auroc(both[0], labels) - auroc(both[1], labels), low, high)


def _bootstrap(scores: Tensor, labels: Tensor, clusters: list[Tensor], n_bootstrap: int, seed: int) -> Tensor:
    """AUROC of every resample [n_bootstrap], NaN for one that drew a single class; equal seeds draw equal resamples."""
    auroc_of = _weighted_auroc(scores, labels)
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for resamples in torch.arange(n_bootstrap).split(max(1, _WEIGHTS_AT_ONCE // len(scores))):
        weights = torch.ones(len(scores), len(resamples), dtype=torch.float64)
        for cluster in clusters:
            weights *= _resampled_counts(cluster, len(resamples), generator)
        samples.append(auroc_of(weights))
    return torch.cat(samples)


def _weighted_auroc(scores: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from weights of the examples [n, b] to AUROCs [b], NaN without weight; the scores are sorted once.

    Raises:
        ValueError: a class has no scores.
    """
    pos, neg = scores[labels].double(), scores[~labels].double()
    if len(pos) == 0 or len(neg) == 0:
        raise ValueError(f"AUROC needs both classes, got {len(pos)} positive and {len(neg)} negative scores")
    ordered, order = neg.sort()
    lower, not_higher = torch.searchsorted(ordered, pos), torch.searchsorted(ordered, pos, right=True)

    def auroc_of(weights: Tensor) -> Tensor:
        pos_weights, neg_weights = weights[labels], weights[~labels]
        passed = torch.nn.functional.pad(neg_weights[order].cumsum(dim=0), (0, 0, 1, 0))
        won = (passed[lower] + passed[not_higher]) / 2
        return (pos_weights * won).sum(dim=0) / (pos_weights.sum(dim=0) * neg_weights.sum(dim=0))

    return auroc_of


def _resampled_counts(cluster: Tensor, n_bootstrap: int, generator: torch.Generator) -> Tensor:
    """How often each example's cluster was drawn: float64 [n, n_bootstrap]."""
    _, index = torch.unique(cluster, return_inverse=True)
    n_clusters = int(index.max()) + 1
    draws = torch.randint(n_clusters, (n_bootstrap, n_clusters), generator=generator)
    counts = torch.zeros(n_bootstrap, n_clusters, dtype=torch.float64)
    counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    return counts.T.contiguous()[index]
