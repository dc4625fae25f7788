"""What one monitored run leaves: scores per layer, and which columns are the prompt's and the response's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from traitlens._monitor.decoding import GenerateCall
from traitlens._monitor.projector import Step

_JOIN_EVERY = 256  # pieces of one token each cost more in objects than in numbers


@dataclass
class Run:
    """The scores of one ``generate`` call, one reading, or one text fed through plain forward passes.

    A column is one position of the batch that the model read, padding included.

    Attributes:
        call: the ``generate`` call under way, None when it has ended and for other runs.
        end_ids: tokens that end a row.
        stop_after: the layer after which a reading needs nothing more, None to run through.
        pieces: per layer, scores [batch, seq, n_vectors] on that layer's device.
        arguments: keyword arguments of the last forward pass.
        fed: token ids of the last forward pass [batch, seq], None where it was given embeddings.
        skip: how many leading columns of the pass under way are known already.
        before: how many columns were known before it.
        is_open: whether a forward pass of the monitored model is under way.
        ended: rows that have met an end token.
        columns: how many columns have been read.
    """

    call: GenerateCall | None = None
    end_ids: set[int] = field(default_factory=set)
    stop_after: int | None = None
    pieces: dict[int, list[Tensor]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fed: Tensor | None = None
    skip: int = 0
    before: int = 0
    is_open: bool = False
    ended: set[int] = field(default_factory=set)
    columns: int = 0
    _steps: list[list[Step]] = field(default_factory=list)
    _marks: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # ids, is_prompt, is_response
    _joined: dict[int, Tensor] | None = None

    def add_steps(self, steps: list[Step]) -> None:
        """Take in one token's scores at all layers, one ``Step`` per device."""
        if steps:
            self._steps.append(steps)
            self.columns += 1
            self._joined = None
            if len(self._steps) >= _JOIN_EVERY:
                self.settled()

    def settled(self) -> dict[int, list[Tensor]]:
        """The pieces, with all steps among them."""
        steps, self._steps = self._steps, []
        for on_device in zip(*steps, strict=True):
            together = torch.stack([step.scores for step in on_device], dim=2)  # [n_layers, batch, seq, n_vectors]
            layers, widths, _ = on_device[0]
            for layer, width, scores in zip(layers, widths, together.unbind(), strict=True):
                self.pieces.setdefault(layer, []).append(scores[..., :width])
        return self.pieces

    def add(self, layer: int, scores: Tensor) -> None:
        """Take in the scores [batch, seq, n_vectors] of a layer's newest columns."""
        pieces = self.settled().setdefault(layer, [])
        pieces.append(scores)
        if layer == next(iter(self.pieces)):
            self.columns += scores.shape[1]
            self._joined = None
        if len(pieces) > _JOIN_EVERY and pieces[-_JOIN_EVERY].shape[1] < _JOIN_EVERY:
            tail = pieces[-_JOIN_EVERY:]
            del pieces[-_JOIN_EVERY:]
            pieces.append(torch.cat(tail, dim=1))

    def joined(self) -> dict[int, Tensor]:
        """All scores on the CPU, per layer [batch, columns, n_vectors]: one transfer per device."""
        if self._joined is None:
            on_device = {layer: torch.cat(pieces, dim=1) for layer, pieces in self.settled().items()}
            self._joined = {}
            for device in {scores.device for scores in on_device.values()}:
                layers = [layer for layer, scores in on_device.items() if scores.device == device]
                together = torch.cat([on_device[layer] for layer in layers], dim=2).cpu()
                widths = [on_device[layer].shape[2] for layer in layers]
                self._joined.update(zip(layers, together.split(widths, dim=2), strict=True))
            for layer, scores in on_device.items():  # on the CPU the joined scores serve as the pieces too
                self.pieces[layer] = [self._joined[layer] if scores.device.type == "cpu" else scores]
        return self._joined

    def memory_usage(self) -> int:
        """Bytes of the scores, on all devices."""
        return sum(4 * piece.nelement() for pieces in self.settled().values() for piece in pieces)

    def mark(self, ids: Tensor, is_prompt: Tensor, is_response: Tensor) -> None:
        """Say what the newest columns are: token ids and two masks, [batch, seq] each."""
        self._marks.append((ids, is_prompt, is_response))

    def mark_plain_pass(self) -> None:
        """Mark the columns of a plain forward pass: all real tokens count as the text."""
        first = next(iter(self.settled().values()))[-1]
        batch, length = first.shape[0], self.columns - self.before
        mask = self.arguments.get("attention_mask")
        is_real = torch.ones(batch, length, dtype=torch.bool)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= length:
            is_real = mask[:, -length:].bool()
        ids = self.fed if self.fed is not None else torch.zeros(batch, length, dtype=torch.long)
        self.mark(ids, torch.zeros_like(is_real), is_real)

    @property
    def is_complete(self) -> bool:
        """Whether it ended well, so that every column is marked."""
        return bool(self._marks) and self.call is None

    def marks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, the prompt's mask and the response's mask of all columns, [batch, columns] each, on the CPU."""
        if len(self._marks) > 1 or self._marks[0][0].device.type != "cpu":
            columns = zip(*self._marks, strict=True)
            ids, is_prompt, is_response = (torch.cat([part.cpu() for part in parts], dim=1) for parts in columns)
            self._marks = [(ids, is_prompt, is_response)]
        return self._marks[0]
