"""Responses as the model reads them: their tokens, which of them are kept, and batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from utils.formats.activation_files import spread_evenly
from utils.records import Polarity


@dataclass(frozen=True)
class Example:
    """One response as the model reads it: where its mean goes, its tokens, and where the response begins.

    Attributes:
        row: row in the polarity's tensor.
        kept_tokens: positions within the response whose states are kept on their own (neutral responses).
        first_kept: row of the first of them in the neutral tokens' tensor.
    """

    polarity: Polarity
    row: int
    ids: list[int]
    response_start: int
    kept_tokens: tuple[int, ...] = ()
    first_kept: int = 0


def choose_neutral_tokens(examples: list[Example], wanted: int) -> tuple[list[Example], int]:
    """The examples with the tokens to keep of the neutral ones, spread evenly over all of their response tokens."""
    places = [
        (i, position)
        for i, e in enumerate(examples)
        if e.polarity == "neutral"
        for position in range(len(e.ids) - e.response_start)
    ]
    chosen = [places[k] for k in spread_evenly(len(places), wanted)]
    positions: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for rank, (i, position) in enumerate(chosen):
        positions.setdefault(i, []).append(position)
        first.setdefault(i, rank)
    with_tokens = [
        Example(e.polarity, e.row, e.ids, e.response_start, tuple(positions[i]), first[i]) if i in positions else e
        for i, e in enumerate(examples)
    ]
    return with_tokens, len(chosen)


def token_budget_batches(lengths: Sequence[int], batch_tokens: int, batch_size: int) -> list[list[int]]:
    """Indices in batches of at most ``batch_size`` rows and ``batch_tokens`` padded tokens, longest first.

    Sorted by length, so that little of a batch is padding. A row longer than the budget is a batch of its own.

    >>> token_budget_batches([3, 9, 4, 2], batch_tokens=9, batch_size=2)
    [[1], [2, 0], [3]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        batch = batches[-1] if batches else None
        if batch and len(batch) < batch_size and lengths[batch[0]] * (len(batch) + 1) <= batch_tokens:
            batch.append(index)
        else:
            batches.append([index])
    return batches
