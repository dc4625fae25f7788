"""Where the scores of one text lie while it grows: in pieces, on the devices that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from traitlens._monitor.projector import Block, Layout

_JOIN_EVERY = 256  # pieces of one token each cost more in objects than in numbers


class Scores:
    """Scores of the columns read so far. A column is one position of the batch, padding included."""

    def __init__(self) -> None:
        self.columns = 0
        self._pieces: dict[Layout, list[Tensor]] = {}  # of each device, [batch, seq, n_vectors]

    def add(self, blocks: Sequence[Block]) -> None:
        """Take in the scores of a pass's columns, a block per device."""
        for layout, scores in blocks:
            pieces = self._pieces.setdefault(layout, [])
            pieces.append(scores)
            if len(pieces) > _JOIN_EVERY and pieces[-_JOIN_EVERY].shape[1] < _JOIN_EVERY:
                pieces[-_JOIN_EVERY:] = [torch.cat(pieces[-_JOIN_EVERY:], dim=1)]
        self.columns += blocks[0].scores.shape[1] if blocks else 0

    def newest(self) -> dict[int, Tensor]:
        """Per layer the scores [batch, n_vectors] of the last column."""
        last = {layout: pieces[-1][:, -1] for layout, pieces in self._pieces.items()}
        return _by_layer(last)

    def on_cpu(self) -> dict[int, Tensor]:
        """Per layer all scores [batch, columns, n_vectors] on the CPU: one transfer per device."""
        for pieces in self._pieces.values():  # what was joined replaces its pieces, so nothing is held twice
            pieces[:] = [torch.cat(pieces, dim=1)]
        return _by_layer({layout: pieces[0].cpu() for layout, pieces in self._pieces.items()})

    def memory_usage(self) -> int:
        """Bytes of the scores, on all devices."""
        return sum(4 * piece.nelement() for pieces in self._pieces.values() for piece in pieces)


def _by_layer(of_devices: Mapping[Layout, Tensor]) -> dict[int, Tensor]:
    """Per layer its part [..., n_vectors] of the scores that lie side by side."""
    parts: dict[int, Tensor] = {}
    for layout, scores in of_devices.items():
        layers, widths = zip(*layout, strict=True)
        parts.update(zip(layers, scores.split(widths, dim=-1), strict=True))
    return parts
