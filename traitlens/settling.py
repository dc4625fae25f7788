"""Whether a trajectory settles at a point, or only looks as if it did."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr  # type: ignore[import-untyped]

_Scores = NDArray[np.float64]

_FEWEST_BEFORE = 2  # a spread
_FEWEST_AFTER = 8  # seven steps: 128 ways to give them signs


def settling_p_value(scores: _Scores, point: int, *, flips: int = 999, seed: int = 0) -> float | None:
    """Chance that noise looks as settled at ``point``; None with under 2 tokens before it or 8 from it on.

    To settle is to reach another level and to stay there. So it is the larger of two p-values, each against a noise
    that imitates one half of this:

    * *another level*: Welch's t test of the tokens before the point against those from it on, so that either may be as
      loud as it likes. Its errors allow for the first-order autocorrelation of the later tokens, taken free of its bias
      (Kendall 1954, Biometrika 41:403) and as that of both parts.
    * *stays*: share of trajectories with the same steps from the point on, each up or down at random, that spread as
      little about their mean.

    Noise that falls, bursts or begins with an outlier reaches no level; a random walk does not stay. At the commitment
    points of 1,000 trajectories of a kind, of 20, 40, 80 and 200 tokens, at most 4.7 % were called settled at 5 %
    (independent normal and Student's t, three kinds of falling noise, GARCH and other bursts, outliers at the first
    token, a random walk, autocorrelations of .4, .7 and .9). Of levels reached within 4 tokens or exponentially, and
    held, 14-63 % are; of those reached over a quarter of the tokens 6-35 %, since the commitment point is mostly one
    before it. A walk whose steps die away is not told from a walk (1-2 %). ``tests/toolkit/test_settling.py`` repeats
    a part.

    Args:
        scores: [n], not smoothed: neighbours must not share what they are tested for.
        point: token.
        flips: how many trajectories with steps of random sign.
        seed: of the signs.

    >>> steps = np.random.default_rng(0).normal(size=30)
    >>> settling_p_value(steps + 5 * (np.arange(30) >= 8), 8) < 0.05 < settling_p_value(steps, 8)
    True
    """
    before, after = scores[:point], scores[point:]
    if len(before) < _FEWEST_BEFORE or len(after) < _FEWEST_AFTER or np.ptp(scores) == 0:
        return None
    largest = np.abs(scores - scores.mean()).max()
    return max(_level_p_value(before / largest, after / largest), _staying_p_value(after / largest, flips, seed))


def _level_p_value(before: _Scores, after: _Scores) -> float:
    correlation = _autocorrelation(after)
    errors, freedoms = zip(*(_squared_error(part, correlation) for part in (before, after)), strict=True)
    error = sum(errors)
    if not 0 < error < np.inf:
        return 1.0
    freedom = error**2 / sum(e**2 / d for e, d in zip(errors, freedoms, strict=True))
    return float(2 * stdtr(freedom, -abs(after.mean() - before.mean()) / np.sqrt(error)))


def _autocorrelation(part: _Scores) -> float:
    """Of neighbours, within 0..1; the estimate from n tokens is too low by about (1 + 4 r) / n."""
    deviations = part - part.mean()
    total = float(deviations @ deviations)
    raw = float(deviations[1:] @ deviations[:-1]) / total if total else 0.0
    return min(max(raw + (1 + 4 * raw) / len(part), 0.0), 1.0)


def _squared_error(part: _Scores, correlation: float) -> tuple[float, int]:
    """Variance of the mean of m autocorrelated tokens, and its degrees of freedom.

    Correlation makes the mean vary ``f`` times as much as that of independent tokens, and hides from their spread what
    all of them share: a spread s² stands for a variance of s² (m - 1) / (m - f).
    """
    m = len(part)
    lags = np.arange(1, m)
    f = 1 + 2 * float(((1 - lags / m) * correlation**lags).sum())
    if m - f < 1e-9:
        return np.inf, m - 1
    return float(part.var(ddof=1)) * (m - 1) / (m - f) * f / m, m - 1


def _staying_p_value(after: _Scores, flips: int, seed: int) -> float:
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(flips, len(after) - 1))
    steps = np.concatenate([np.ones((1, len(after) - 1)), signs]) * np.diff(after)
    spread = np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1).var(axis=1)
    as_little = np.count_nonzero(spread[1:] <= spread[0] * (1 + 1e-9))
    return float((1 + as_little) / (1 + flips))
