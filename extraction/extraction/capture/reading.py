"""Reading a batch of responses in one pass: each one's mean over its own tokens, and single tokens that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from extraction.capture.examples import Example
from traitlens.activations import mean_over_tokens, read_layers
from utils.models.load import LoadedModel


class States(NamedTuple):
    """What is kept of a batch, in float32 on the CPU: means [batch, n_layers, hidden], tokens [m, n_layers, hidden]."""

    means: Tensor
    tokens: Tensor


def read_batch(batch: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> States:
    """Means and kept tokens of a batch's responses, each read after its prompt and padded on the right."""
    rows = [torch.tensor(e.ids) for e in batch]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=loaded.tokenizer.pad_token_id)
    attention_mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    starts = torch.tensor([e.response_start for e in batch])
    token_mask = attention_mask.bool() & (torch.arange(input_ids.shape[1]) >= starts[:, None])
    kept_rows = [i for i, e in enumerate(batch) for _ in e.kept_tokens]
    kept_columns = [e.response_start + position for e in batch for position in e.kept_tokens]
    mean = mean_over_tokens(token_mask.to(loaded.device))

    def reduce(hidden: Tensor) -> Tensor:
        if not kept_rows:
            return mean(hidden)
        return torch.cat([mean(hidden), hidden[kept_rows, kept_columns].float()])

    ids, mask = input_ids.to(loaded.device), attention_mask.to(loaded.device)
    states = read_layers(loaded.model, ids, mask, layers, reduce)
    return States(states[: len(batch)], states[len(batch) :])
