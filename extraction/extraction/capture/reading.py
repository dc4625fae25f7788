"""Reading a batch of responses in one pass: each one's mean over its own tokens, and single tokens that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from extraction.capture.examples import Example
from traitlens.activations import mean_over_tokens, read_layers
from utils.models.load import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor


class States(NamedTuple):
    """What is kept of a batch, in float32 on the CPU: means [batch, n_layers, hidden], tokens [m, n_layers, hidden]."""

    means: Tensor
    tokens: Tensor


def read_batch(batch: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> States:
    """Means and kept tokens of a batch's responses, each read after its prompt and padded on the right."""
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

    ids, mask = input_ids.to(loaded.device), attention_mask.to(loaded.device)
    states = read_layers(loaded.model, ids, mask, layers, reduce)
    return States(states[: len(batch)], states[len(batch) :])
