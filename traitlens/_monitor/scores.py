"""Where the scores of one text lie while it grows: per layer, in pieces on that layer's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from traitlens._monitor.projector import TokenScores

_JOIN_EVERY = 256  # pieces of one token each cost more in objects than in numbers


class Scores:
    """Scores of the columns read so far. A column is one position of the batch, padding included."""

    def __init__(self) -> None:
        self.columns = 0
        self._pieces: dict[int, list[Tensor]] = {}  # per layer, [batch, seq, n_vectors] each
        self._tokens: list[Sequence[TokenScores]] = []  # not yet among the pieces

    def add(self, layer: int, scores: Tensor) -> None:
        """Take in the scores [batch, seq, n_vectors] of a layer's newest columns."""
        pieces = self.pieces().setdefault(layer, [])
        pieces.append(scores)
        if layer == next(iter(self._pieces)):
            self.columns += scores.shape[1]
        if len(pieces) > _JOIN_EVERY and pieces[-_JOIN_EVERY].shape[1] < _JOIN_EVERY:
            tail = pieces[-_JOIN_EVERY:]
            del pieces[-_JOIN_EVERY:]
            pieces.append(torch.cat(tail, dim=1))

    def add_token(self, on_devices: Sequence[TokenScores]) -> None:
        """Take in one token's scores at all layers, one ``TokenScores`` per device."""
        if on_devices:
            self._tokens.append(on_devices)
            self.columns += 1
            if len(self._tokens) >= _JOIN_EVERY:
                self.pieces()

    def pieces(self) -> dict[int, list[Tensor]]:
        """Per layer the pieces [batch, seq, n_vectors], all single tokens among them."""
        tokens, self._tokens = self._tokens, []
        for on_device in zip(*tokens, strict=True):
            together = torch.stack([token.scores for token in on_device], dim=2)  # [n_layers, batch, seq, n_vectors]
            layers, widths, _ = on_device[0]
            for layer, width, scores in zip(layers, widths, together.unbind(), strict=True):
                self._pieces.setdefault(layer, []).append(scores[..., :width])
        return self._pieces

    def newest(self) -> dict[int, Tensor]:
        """Per layer the scores [batch, n_vectors] of the last column."""
        return {layer: pieces[-1][:, -1] for layer, pieces in self.pieces().items()}

    def on_cpu(self) -> dict[int, Tensor]:
        """Per layer all scores [batch, columns, n_vectors] on the CPU: one transfer per device."""
        joined = {layer: torch.cat(pieces, dim=1) for layer, pieces in self.pieces().items()}
        result: dict[int, Tensor] = {}
        for device in {scores.device for scores in joined.values()}:
            layers = [layer for layer, scores in joined.items() if scores.device == device]
            together = torch.cat([joined[layer] for layer in layers], dim=2).cpu()
            widths = [joined[layer].shape[2] for layer in layers]
            result.update(zip(layers, together.split(widths, dim=2), strict=True))
        # What was joined replaces its pieces; on the CPU the result itself does, so nothing is held twice.
        self._pieces = {layer: [result[layer] if s.device.type == "cpu" else s] for layer, s in joined.items()}
        return result

    def memory_usage(self) -> int:
        """Bytes of the scores, on all devices."""
        return sum(4 * piece.nelement() for pieces in self.pieces().values() for piece in pieces)
