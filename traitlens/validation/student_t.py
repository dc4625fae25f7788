"""Student's t: how far a mean of few values may lie from the truth."""

from __future__ import annotations

import functools
import math


@functools.cache
def t_quantile(probability: float, df: int) -> float:
    """The value that Student's t with ``df`` degrees of freedom stays below with this probability.

    The distribution function of whole degrees of freedom is a finite sum of powers of the cosine of
    atan(t / sqrt(df)) (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4); it is inverted by bisection.

    Args:
        probability: between 0 and 1, both excluded.
        df: at least 1.

    Raises:
        ValueError: an argument outside its range.

    >>> round(t_quantile(0.975, 9), 3)
    2.262
    """
    if not 0 < probability < 1 or df < 1:
        raise ValueError(f"wanted 0 < probability < 1 and df >= 1, got {probability} and {df}")
    inside = abs(2 * probability - 1)  # P(-t < T < t)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, df) < inside else (low, middle)
    return math.copysign(math.sqrt(df) * math.tan(low), probability - 0.5)


def _inside(angle: float, df: int) -> float:
    """P(-t < T < t) for t = sqrt(df) tan(angle)."""
    cosine, odd = math.cos(angle), df % 2
    term, total = (cosine, cosine if df > 1 else 0.0) if odd else (1.0, 1.0)
    for power in range(2 + odd, df - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
