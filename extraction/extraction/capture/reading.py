"""Reading a batch of responses in one pass: each one's mean over its own tokens, and single tokens that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from extraction.capture.examples import WINDOW, Example
from traitlens.activations import mean_over_tokens, read_layers
from utils.models.load import LoadedModel


class States(NamedTuple):
    """What is kept of a batch, in float32 on the CPU.

    Attributes:
        means: [batch, n_layers, hidden] of responses.
        tokens: [m, n_layers, hidden] of single tokens.
        within: [w, n_layers, hidden], means of windows less the mean of their response.
    """

    means: Tensor
    tokens: Tensor
    within: Tensor


def read_batch(batch: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> States:
    """Means and kept tokens of a batch's responses, each read after its prompt and padded on the right."""
    rows = [torch.tensor(e.ids) for e in batch]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=loaded.tokenizer.pad_token_id)
    attention_mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    starts = torch.tensor([e.response_start for e in batch])
    token_mask = attention_mask.bool() & (torch.arange(input_ids.shape[1]) >= starts[:, None])
    kept_rows = [i for i, e in enumerate(batch) for _ in e.kept_tokens]
    kept_columns = [e.response_start + position for e in batch for position in e.kept_tokens]
    window_rows = torch.tensor([i for i, e in enumerate(batch) for _ in e.windows], dtype=torch.int64)
    starts_of_windows = torch.tensor([e.response_start + start for e in batch for start in e.windows])
    window_columns = starts_of_windows[:, None].long() + torch.arange(WINDOW)
    mean = mean_over_tokens(token_mask.to(loaded.device))

    def reduce(hidden: Tensor) -> Tensor:
        means = mean(hidden)
        parts = [means]
        if kept_rows:
            parts.append(hidden[kept_rows, kept_columns].float())
        if len(window_rows):
            windows = hidden[window_rows[:, None], window_columns].float().mean(dim=1)
            parts.append(windows - means[window_rows.to(means.device)])
        return torch.cat(parts)

    ids, mask = input_ids.to(loaded.device), attention_mask.to(loaded.device)
    states = read_layers(loaded.model, ids, mask, layers, reduce)
    return States(*states.split([len(batch), len(kept_rows), len(window_rows)]))
