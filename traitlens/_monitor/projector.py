"""Projects the states of many layers on many vectors at little cost to the model's own pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class TokenScores(NamedTuple):
    """Scores of one token at several layers of one device.

    Attributes:
        layers: layer numbers.
        widths: how many vectors each layer has.
        scores: [n_layers, batch, n_vectors], of the largest width.
    """

    layers: tuple[int, ...]
    widths: tuple[int, ...]
    scores: Tensor


class Projector:
    """Products of states with the unit vectors of their layer, in float32 on the states' device.

    While generating, one token's product is far smaller than the cost of asking for it, so a step's products wait until
    its pass is over and are made together. That needs states that later blocks leave as they are. The first step is
    watched: in a model whose blocks write into their input, every product is made at once.

    Args:
        directions: per layer the unit vectors [n_vectors, hidden].
    """

    def __init__(self, directions: Mapping[int, Tensor]) -> None:
        self._directions = dict(directions)
        self._waiting: list[tuple[int, Tensor]] = []
        self._copies: list[Tensor] = []
        self._is_watched = False
        self._together: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        self.may_wait = True

    @property
    def layers(self) -> list[int]:
        """The layers that have vectors, in order."""
        return sorted(self._directions)

    def project(self, layer: int, states: Tensor) -> Tensor:
        """Scores [batch, seq, n_vectors] of ``states`` [batch, seq, hidden].

        Raises:
            ValueError: the hidden sizes differ.
        """
        directions = self._directions[layer]
        if directions.device != states.device:
            directions = self._directions[layer] = directions.to(states.device)
        if states.shape[-1] != directions.shape[1]:
            sizes = f"{directions.shape[1]} but states at layer {layer} have {states.shape[-1]}"
            raise ValueError(f"vectors have hidden size {sizes}")
        return torch.nn.functional.linear(states.detach().float(), directions)

    def postpone(self, layer: int, states: Tensor) -> None:
        """Keep one token's states [batch, 1, hidden] until ``project_postponed``."""
        self._waiting.append((layer, states))
        if not self._is_watched:
            self._copies.append(states.clone())

    def clear(self) -> None:
        """Forget what waits, of a pass that did not end."""
        self._waiting.clear()
        self._copies.clear()

    def project_postponed(self) -> list[TokenScores]:
        """The scores of everything that waits, one ``TokenScores`` per device."""
        waiting, copies = self._waiting, self._copies
        self._waiting, self._copies = [], []
        if copies:
            self._is_watched = True
            self.may_wait = all(torch.equal(states, copy) for (_, states), copy in zip(waiting, copies, strict=True))
            waiting = [(layer, copy) for (layer, _), copy in zip(waiting, copies, strict=True)]
        on_devices = []
        for device in dict.fromkeys(states.device for _, states in waiting):
            layers = tuple(layer for layer, states in waiting if states.device == device)
            states = torch.cat([states for _, states in waiting if states.device == device], dim=1).detach()
            scores = torch.bmm(states.transpose(0, 1).float(), self._weights(device, layers))
            widths = tuple(len(self._directions[layer]) for layer in layers)
            on_devices.append(TokenScores(layers, widths, scores))
        return on_devices

    def _weights(self, device: torch.device, layers: tuple[int, ...]) -> Tensor:
        """The layers' directions as columns, [n_layers, hidden, n_vectors], with zeros where a layer has fewer."""
        if (device, layers) not in self._together:
            columns = [self._directions[layer].to(device).T for layer in layers]
            widest = max(c.shape[1] for c in columns)
            padded = [torch.nn.functional.pad(c, (0, widest - c.shape[1])) for c in columns]
            self._together[device, layers] = torch.stack(padded)
        return self._together[device, layers]
