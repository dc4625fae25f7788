"""How well scores tell two classes apart, and how sure that figure is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import expit, logit, stdtrit  # type: ignore[import-untyped]
from torch import Tensor

from traitlens.methods import standardised_separation

# The ends of a 95 % interval.
TAILS = torch.tensor([0.025, 0.975], dtype=torch.float64)
_TAIL = 0.025


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval.

    Attributes:
        clusters: what the interval rests on: how many questions, or instruction pairs where those are fewer.
    """

    value: float
    low: float
    high: float
    clusters: int | None = None

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Metrics:
    """Held-out figures of one vector.

    Attributes:
        auroc: chance that a positive example scores above a negative one, ties counting half, with its interval.
        accuracy: at the score 0, the midpoint of the class means in training; the mean of both classes' accuracies, a
            score of 0 counting half.
        cohens_d: difference of the class means over the pooled standard deviation.
        recall_at_1_fpr: share of positive examples above the k-th highest negative one, k the whole part of
            (n_neg + 1) / 100: a negative example yet to come is above that at most one time in a hundred. None below 99
            negative examples, which cannot show it.
        n_pos: positive examples with a held-out score.
        n_neg: negative ones.
    """

    auroc: Interval
    accuracy: float
    cohens_d: float
    recall_at_1_fpr: float | None
    n_pos: int
    n_neg: int


def evaluate(scores: Tensor, labels: Tensor, clusters: list[Tensor]) -> Metrics:
    """Held-out figures of centred scores.

    Args:
        scores: [n], 0 at the decision boundary; NaN where an example could not be held out, left out here.
        labels: bool [n].
        clusters: what examples share, each int [n]: their question, their instruction pair; see ``auroc_interval``.

    Raises:
        ValueError: a class has no scores, a score is infinite, or sizes differ.
    """
    check_scores(scores, labels, *clusters)
    if bool(scores.isinf().any()):
        raise ValueError("scores hold infinity")
    interval = auroc_interval(scores, labels, clusters)
    known = ~scores.isnan()
    scores, labels = scores[known].double(), labels[known]
    pos, neg = scores[labels], scores[~labels]
    return Metrics(
        auroc=interval,
        accuracy=float((_share_above(pos) + _share_above(-neg)) / 2),
        cohens_d=float(standardised_separation(scores, labels).clamp(-1e6, 1e6)),
        recall_at_1_fpr=_recall(pos, neg),
        n_pos=len(pos),
        n_neg=len(neg),
    )


def _share_above(scores: Tensor) -> Tensor:
    return (scores > 0).double().mean() + (scores == 0).double().mean() / 2


def _recall(pos: Tensor, neg: Tensor) -> float | None:
    rank = (len(neg) + 1) // 100
    return float((pos > neg.sort(descending=True).values[rank - 1]).double().mean()) if rank else None


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
    return _auroc_and_shares(scores[known], labels[known])[0]


def auroc_interval(scores: Tensor, labels: Tensor, clusters: list[Tensor]) -> Interval:
    """AUROC with a 95 % interval for other questions (and instruction pairs) of the same kind.

    Responses to one question rise and fall together, so an interval rests on questions, not on responses. Its variance
    is that of the clusters' summed placements (Obuchowski 1997, Biometrics 53:567), on the logit scale, with quantiles
    of Student's t. Degrees of freedom are clusters - 1, and fewer where a few clusters make up the variance, as happens
    near 1: twice the squared variance over the variance's own, estimated from the fourth moment of the sums. Two
    crossed clusterings add their variances less that of their intersection (Cameron, Gelbach and Miller 2011, J Bus
    Econ Stat 29:238), at least the larger one, with Satterthwaite's degrees of freedom.

    Where clusters do not differ at all, as at exactly 1 or 0, the data have no variance to tell. The interval then
    reaches to what one time in forty leaves no trace: a share of clusters, 1 - 0.025 ** (1 / clusters), that a coin
    reads.

    Of 1,000 simulations a cell at AUROC .75, .97 and .99, with 2 or 5 responses a side to each question and a fifth of
    the variance in questions (or a quarter, and another in pairs), 94-97 % of the intervals held the truth with 32
    questions and 95-99 % with 8, the excess where perfect samples are common; with 5 crossed pairs 94-98 % with 20 or
    32 questions and 97-99.5 % with 8 (``tests/validation/test_coverage.py`` repeats a part). Five pairs that differ as
    much as single responses do are too few: down to 90 %.

    The interval covers the examples, not another training of the vector.

    Args:
        scores: [n]; rows with NaN are left out.
        labels: bool [n].
        clusters: one or two int [n].

    Raises:
        ValueError: a class has no scores, or there is no clustering or more than two.

    >>> scores, labels = torch.tensor([0.9, 0.2, 0.8, 0.4, 0.3, 0.5]), torch.tensor([True, False] * 3)
    >>> print(auroc_interval(scores, labels, [torch.tensor([0, 0, 1, 1, 2, 2])]))  # three questions tell nothing
    0.78 (0.00-1.00)
    """
    check_scores(scores, labels, *clusters)
    known = ~scores.isnan()
    value, shares = _auroc_and_shares(scores[known], labels[known])
    error, quantile, n_clusters = _error(shares, [cluster[known] for cluster in clusters])
    if error == 0:
        reach = _unseen(n_clusters)
        return Interval(value, max(0.0, value - reach), min(1.0, value + reach), n_clusters)
    reach = quantile * error / (value * (1 - value))
    low, high = (float(expit(logit(value) + side * reach)) for side in (-1, 1))
    return Interval(value, low, high, n_clusters)


def auroc_difference(scores: Tensor, others: Tensor, labels: Tensor, clusters: list[Tensor]) -> Interval:
    """How much better ``scores`` separate the classes than ``others`` do, with a 95 % interval.

    As ``auroc_interval``, from the differences of the placements and without a logit. Where no cluster tells the two
    apart, the interval is that of a share of clusters that left no trace. Its lower end, which a lead is judged by,
    lay above the truth in at most 2.5 % of 1,000 simulations; near 1 the upper end is short (6 % below the truth, with
    8 questions 11 %).

    Args:
        scores: [n].
        others: [n], scores of the same examples; an example that lacks either is left out.
        labels: bool [n].
        clusters: as in ``auroc_interval``.

    Raises:
        ValueError: a class has no scores, or there is no clustering or more than two.
    """
    check_scores(scores, labels, others, *clusters)
    known = ~(scores.isnan() | others.isnan())
    (first, shares), (second, other_shares) = (_auroc_and_shares(s[known], labels[known]) for s in (scores, others))
    value = first - second
    error, quantile, n_clusters = _error(shares - other_shares, [cluster[known] for cluster in clusters])
    reach = quantile * error if error else _unseen(n_clusters)
    return Interval(value, max(-1.0, value - reach), min(1.0, value + reach), n_clusters)


def _unseen(n_clusters: int) -> float:
    """What clusters that a coin reads take from an AUROC, as many as leave no trace one time in forty."""
    return float(1 - _TAIL ** (1 / n_clusters)) / 2


def _auroc_and_shares(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """The AUROC and what each example adds to its deviation: float64 [n], 0 in sum within either class.

    An example's placement is the share of the other class on its right side; its mean over a class is the AUROC.

    Raises:
        ValueError: a class has no scores.
    """
    pos, neg = scores[labels].double(), scores[~labels].double()
    if len(pos) == 0 or len(neg) == 0:
        raise ValueError(f"AUROC needs both classes, got {len(pos)} positive and {len(neg)} negative scores")
    above, below = _passed(pos, neg), len(pos) - _passed(neg, pos)
    value = float(above.sum()) / (len(pos) * len(neg))
    shares = torch.empty(len(scores), dtype=torch.float64)
    shares[labels] = (above / len(neg) - value) / len(pos)
    shares[~labels] = (below / len(pos) - value) / len(neg)
    return value, shares


def _passed(scores: Tensor, others: Tensor) -> Tensor:
    """How many of ``others`` [m] each score [n] is above, ties counting half: float64 [n]."""
    ordered = others.sort().values
    return (torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)).double() / 2


def _error(shares: Tensor, clusters: list[Tensor]) -> tuple[float, float, int]:
    """Standard error of a sum of shares, its quantile of Student's t, and the clusters that it rests on."""
    if len(clusters) not in (1, 2):
        raise ValueError(f"wanted one clustering or two crossed ones, got {len(clusters)}")
    indexes = [torch.unique(cluster, return_inverse=True)[1] for cluster in clusters]
    sizes = [int(index.max()) + 1 for index in indexes]
    parts = [_variance(shares, index) for index in indexes]
    variance = max(part[0] for part in parts)
    if len(parts) == 2:
        both = torch.unique(indexes[0] * sizes[1] + indexes[1], return_inverse=True)[1]
        variance = max(variance, parts[0][0] + parts[1][0] - _variance(shares, both)[0])
    if variance < 1e-24:  # rounding
        return 0.0, math.inf, min(sizes)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return math.sqrt(variance), float(stdtrit(freedom, 1 - _TAIL)), min(sizes)


def _variance(shares: Tensor, index: Tensor) -> tuple[float, float]:
    """Variance of a sum of shares whose clusters are drawn, and its degrees of freedom."""
    n = int(index.max()) + 1
    squares = torch.zeros(n, dtype=torch.float64).index_add(0, index, shares).square()
    total = float(squares.sum())
    if n == 1 or total == 0:
        return 0.0, 1.0
    excess = n * float(squares.square().sum()) / total**2 - 1
    return n / (n - 1) * total, 2 * n / max(excess, 2 * n / (n - 1))
