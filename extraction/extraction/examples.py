"""Responses as the model reads them: tokens, batches under a token budget, and one forward pass over a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traitlens.activations import mean_over_tokens, read_layers
from utils.activation_files import spread_evenly
from utils.models import LoadedModel
from utils.records import Polarity

if TYPE_CHECKING:
    from torch import Tensor


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


def read_batch(batch: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean activations [batch, n_layers, hidden] and states at kept tokens [m, n_layers, hidden], float32, one pass."""
    import torch

    length = max(len(e.ids) for e in batch)
    input_ids = torch.full((len(batch), length), loaded.tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    token_mask = torch.zeros(input_ids.shape, dtype=torch.bool)
    kept_rows, kept_columns = [], []
    for i, example in enumerate(batch):
        end = len(example.ids)
        input_ids[i, :end] = torch.tensor(example.ids)
        attention_mask[i, :end] = 1
        token_mask[i, example.response_start : end] = True
        kept_rows += [i] * len(example.kept_tokens)
        kept_columns += [example.response_start + position for position in example.kept_tokens]
    mean = mean_over_tokens(token_mask.to(loaded.device))

    def reduce(hidden: Tensor) -> Tensor:
        if not kept_rows:
            return mean(hidden)
        return torch.cat([mean(hidden), hidden[kept_rows, kept_columns].float()])

    states = read_layers(loaded.model, input_ids.to(loaded.device), attention_mask.to(loaded.device), layers, reduce)
    return states[: len(batch)], states[len(batch) :]
