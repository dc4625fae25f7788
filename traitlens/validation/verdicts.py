"""Whether a response shows a trait, at a stated rate of false alarms.

A response's statistic is held against the statistics of responses that do not show the trait. The threshold at a rate
alpha is an order statistic, the k-th largest of n with k the whole part of alpha (n + 1): where a new response is
exchangeable with those n, it lies above with probability at most alpha (split conformal prediction, Vovk et al. 2005;
Papadopoulos et al. 2002). Nothing about the scores' distribution is assumed. What is assumed is that new text is like
the text that was held against, so there are several kinds of it: everyday text, neutral answers to the traits'
questions, and answers that show the trait's opposite. A trait is expressed where the statistic is above the threshold
over every kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from traitlens.validation.evaluation import Interval, auroc_interval

# Of a kind's statistics the largest tenth is kept one by one, the rest as tenths.
_TAIL = 0.1
RATES = (0.05, 0.01)


@dataclass(frozen=True)
class LengthScale:
    """What a mean score varies by in responses of n tokens that do not show the trait: ``between + within / n``.

    The mean over a few tokens varies more than that over many. One threshold for the plain mean would flag short
    responses too often and miss long ones.

    Attributes:
        centre: their mean score.
        between: variance between long responses.
        within: what a single token's score adds to it.
    """

    centre: float
    between: float
    within: float

    def statistic(self, means: Tensor, n_tokens: Tensor) -> Tensor:
        """Mean scores [...] in standard deviations of a response of that length."""
        return (means.double() - self.centre) / (self.between + self.within / n_tokens.double()).sqrt()

    def per_unit(self, unit: float) -> LengthScale:
        """The same scale for scores counted in 1/``unit``."""
        return LengthScale(self.centre * unit, self.between * unit**2, self.within * unit**2)


def fit_length_scale(means: Tensor, n_tokens: Tensor) -> LengthScale:
    """The scale under which normal scores would be likeliest.

    Args:
        means: [n] mean scores of responses, one at least.
        n_tokens: [n] their lengths.
    """
    means, inverse = means.double(), 1 / n_tokens.double()
    best = (math.inf, LengthScale(float(means.mean()), 1.0, 0.0))
    for ratio in (0.0, *(2.0**k for k in range(-1, 9))):
        shape = 1 + ratio * inverse
        centre = float((means / shape).sum() / (1 / shape).sum())
        between = max(float(((means - centre) ** 2 / shape).mean()), 1e-30)
        surprise = float((shape * between).log().mean())
        if surprise < best[0]:
            best = (surprise, LengthScale(centre, between, ratio * between))
    return best[1]


@dataclass(frozen=True)
class Reference:
    """The statistics of n responses of one kind that do not show the trait.

    Attributes:
        n: how many.
        tail: the largest tenth of them, falling.
        deciles: the statistics that two, three ... nine tenths of them reach, falling.
    """

    n: int
    tail: tuple[float, ...]
    deciles: tuple[float, ...]

    @classmethod
    def of(cls, statistics: Tensor) -> Reference:
        """The reference that statistics [n] make; those that are NaN are left out."""
        falling = statistics[~statistics.isnan()].sort(descending=True).values.tolist()
        n = len(falling)
        deciles = tuple(falling[min(n, math.ceil(share * n / 10)) - 1] for share in range(2, 10)) if n else ()
        return cls(n, tuple(falling[: math.floor(_TAIL * (n + 1))]), deciles)

    def threshold(self, rate: float) -> float | None:
        """What at most ``rate`` of new responses of this kind exceed (``rate`` <= 0.1); None where n cannot show that.

        >>> Reference.of(torch.arange(19.0)).threshold(0.05), Reference.of(torch.arange(18.0)).threshold(0.05)
        (18.0, None)
        """
        rank = math.floor(rate * (self.n + 1))
        return self.tail[rank - 1] if 0 < rank <= len(self.tail) else None

    def p_value(self, statistic: float) -> float:
        """``(1 + #{n >= statistic}) / (n + 1)``; among the lower nine tenths rounded up to the next tenth.

        >>> Reference.of(torch.arange(99.0)).p_value(98.5), Reference.of(torch.arange(99.0)).p_value(50.5)
        (0.01, 0.5)
        """
        if not self.tail or statistic <= self.tail[-1]:
            return next((0.1 * (i + 2) for i, decile in enumerate(self.deciles) if statistic > decile), 1.0)
        return (1 + sum(value >= statistic for value in self.tail)) / (self.n + 1)


@dataclass(frozen=True)
class Verdict:
    """What a response's scores say of one trait.

    Attributes:
        response_score: the statistic, in standard deviations of text that does not show the trait.
        p_value: the largest of the p values over the kinds of text that do not show it; ``expressed`` is this against
            a rate.
        p_neutral: the p value against neutral text alone, of whatever kind: unlike ordinary text, though it may be as
            like the trait's opposite.
        expressed: whether p_value is at most 0.05; None where a kind has too few responses to say.
        expressed_1: the same at 0.01.
    """

    response_score: float
    p_value: float | None
    p_neutral: float | None
    expressed: bool | None
    expressed_1: bool | None


@dataclass(frozen=True)
class ResponseThresholds:
    """What responses are held against on one vector.

    Attributes:
        scale: of mean scores (raw less the baseline).
        kinds: references by kind of text.
        neutral: the kinds' names that are neutral text.
    """

    scale: LengthScale
    kinds: Mapping[str, Reference]
    neutral: Sequence[str]

    def highest(self, rate: float) -> float | None:
        """The highest of the kinds' thresholds; None where a kind has too few responses for one."""
        levels = [reference.threshold(rate) for reference in self.kinds.values()]
        known = [level for level in levels if level is not None]
        return max(known) if known and len(known) == len(levels) else None

    def verdict(self, scores: Tensor) -> Verdict | None:
        """The verdict on a response from its tokens' centred scores [n]; None without tokens or with NaN among them."""
        if not len(scores) or not bool(scores.isfinite().all()):
            return None
        statistic = float(self.scale.statistic(scores.double().mean(), torch.tensor(len(scores))))
        by_kind = {kind: reference.p_value(statistic) for kind, reference in self.kinds.items()}
        p_value = max(by_kind.values(), default=None)
        fewest = min((reference.n for reference in self.kinds.values()), default=0)
        said = [None if p_value is None or rate * (fewest + 1) < 1 else p_value <= rate for rate in RATES]
        return Verdict(statistic, p_value, self._p_neutral(by_kind), *said)

    def _p_neutral(self, by_kind: Mapping[str, float]) -> float | None:
        """The kinds' p values as one of all neutral text: exceedances are counted together."""
        pool = [(by_kind[kind], self.kinds[kind].n) for kind in self.neutral if kind in self.kinds]
        above = sum(p * (n + 1) - 1 for p, n in pool)
        return (1 + above) / (1 + sum(n for _, n in pool)) if pool else None


@dataclass(frozen=True)
class AgainstNeutral:
    """How well held-out positive responses are told from text that does not show the trait.

    Attributes:
        auroc: chance that a positive response's statistic is above a neutral one's, with its interval.
        recall_5: share of positive responses unlike neutral text at a rate of 5 %.
        recall_1: the same at 1 %.
        expressed_5: share of positive responses that the verdict calls expressed at 5 %, against every kind of text.
        expressed_1: the same at 1 %; each None where a kind has too few responses to say.
        n_neutral: neutral responses.
    """

    auroc: Interval
    recall_5: float | None
    recall_1: float | None
    expressed_5: float | None
    expressed_1: float | None
    n_neutral: int


def measure_against_neutral(
    thresholds: ResponseThresholds, positive: Tensor, neutral: Tensor, questions: Tensor
) -> AgainstNeutral | None:
    """Figures of held-out statistics; None where there are none of a side.

    Args:
        thresholds: what verdicts are held against, its references made from the same statistics.
        positive: [n_pos] statistics of positive responses; NaN for unknown.
        neutral: [n_neutral] of neutral ones.
        questions: [n_pos] the question of each positive response, the unit of the interval; every neutral response is
            a unit of its own.
    """
    known = ~positive.isnan()
    positive, questions, neutral = positive[known], questions[known], neutral[~neutral.isnan()]
    if not len(positive) or not len(neutral):
        return None
    pool = Reference.of(neutral)
    units = torch.cat([questions, int(questions.max()) + 1 + torch.arange(len(neutral))])
    interval = auroc_interval(torch.cat([positive, neutral]), torch.arange(len(units)) < len(positive), [units])
    levels = [pool.threshold(rate) for rate in RATES]
    recall_5, recall_1 = (_share_above(positive, level) for level in levels)
    expressed_5, expressed_1 = (_share_above(positive, thresholds.highest(rate)) for rate in RATES)
    return AgainstNeutral(interval, recall_5, recall_1, expressed_5, expressed_1, len(neutral))


def _share_above(statistics: Tensor, level: float | None) -> float | None:
    return None if level is None else float((statistics > level).double().mean())


def holm(p_values: Mapping[str, float], rate: float = 0.05) -> set[str]:
    """Which of several traits' p values hold together, with at most ``rate`` chance of one false (Holm 1979).

    Each verdict alone keeps its own rate; eight of them at 5 % make one false alarm or more in up to 34 % of responses.

    >>> sorted(holm({"refusal": 0.004, "evil": 0.03, "verbosity": 0.2}))
    ['refusal']
    """
    held: set[str] = set()
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for i, (trait, p_value) in enumerate(ordered):
        if p_value > rate / (len(ordered) - i):
            break
        held.add(trait)
    return held
