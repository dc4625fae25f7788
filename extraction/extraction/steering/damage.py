"""Whether steered answers are still text: they may surprise the model, repeat themselves, or stay empty.

Perplexity alone misses loops, which are fluent to a language model: each round makes the next one likelier (Holtzman et
al. 2019, arXiv:1904.09751).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from extraction.steering.results import Answer

_COSTLY = 2.0  # times the unsteered perplexity: from there on the answers are another kind of text
_REPEATING = 0.2  # more than unsteered: written answers repeat hardly any 4-grams, a loop from the middle on half


def repeated_share(ids: Sequence[int], n: int = 4) -> float | None:
    """Share of an answer's n-grams of tokens that it has held before; None where it is shorter than ``n``.

    That is seq-rep-n of Welleck et al. 2019, arXiv:1908.04319.

    >>> repeated_share([1, 2, 3, 4, 1, 2, 3, 4])
    0.2
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return (len(grams) - len(set(grams))) / len(grams) if grams else None


def perplexity(answers: Sequence[Answer]) -> float | None:
    """Perplexity of all tokens of the answers under the unsteered model; None without tokens."""
    mean = _weighted([(a.surprise, a.n_tokens) for a in answers])
    return None if mean is None else math.exp(mean)


def repetition(answers: Sequence[Answer]) -> float | None:
    """Share of all 4-grams of the answers that repeat one of the same answer; None without any."""
    return _weighted([(a.repeated, a.n_tokens - 3) for a in answers])


def damage(answers: Sequence[Answer], unsteered: Sequence[Answer]) -> str | None:
    """What is wrong with steered answers, in words, held against those without steering; None if nothing is."""
    if 2 * sum(a.n_tokens == 0 for a in answers) > len(answers):
        return "more than half of the answers are empty"
    found, usual = perplexity(answers), perplexity(unsteered)
    if found is not None and usual is not None and found > _COSTLY * usual:
        return f"perplexity is over {_COSTLY:g} times the unsteered"
    found, usual = repetition(answers), repetition(unsteered) or 0.0
    if found is not None and found > usual + _REPEATING:
        return f"{found:.0%} of the 4-grams are repetitions, {usual:.0%} unsteered"
    return None


def _weighted(pairs: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None
