"""Projects the states of many layers on many vectors at little cost to the model's own pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Layout: TypeAlias = tuple[tuple[int, int], ...]


class Block(NamedTuple):
    """Scores of some columns at all layers of one device.

    Attributes:
        layout: layer numbers, and how many vectors each layer has.
        scores: [batch, seq, n_vectors of all these layers], side by side in this order.
    """

    layout: Layout
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
        self._scored: list[tuple[int, Tensor]] = []
        self._waiting: list[tuple[int, Tensor]] = []
        self._copies: list[Tensor] = []
        self._is_watched = False
        self._together: dict[tuple[torch.device, tuple[int, ...]], tuple[Tensor, Tensor | slice]] = {}
        self.may_wait = True

    @property
    def layers(self) -> list[int]:
        """The layers that have vectors, in order."""
        return sorted(self._directions)

    def project(self, layer: int, states: Tensor) -> None:
        """Score ``states`` [batch, seq, hidden] at once.

        Raises:
            ValueError: the hidden sizes differ.
        """
        directions = self._directions[layer]
        if directions.device != states.device:
            directions = self._directions[layer] = directions.to(states.device)
        if states.shape[-1] != directions.shape[1]:
            sizes = f"{directions.shape[1]} but states at layer {layer} have {states.shape[-1]}"
            raise ValueError(f"vectors have hidden size {sizes}")
        self._scored.append((layer, torch.nn.functional.linear(states.detach().float(), directions)))

    def postpone(self, layer: int, states: Tensor) -> None:
        """Score one token's states [batch, 1, hidden] when the pass has ended."""
        self._waiting.append((layer, states))
        if not self._is_watched:
            self._copies.append(states.clone())

    def begin_pass(self) -> None:
        """Forget what there is of a pass that did not end."""
        self._scored.clear()
        self._waiting.clear()
        self._copies.clear()

    def end_pass(self) -> list[Block]:
        """The scores of the pass, a block per device."""
        blocks = []
        for layers, scores in _by_device(self._scored):
            blocks.append(Block(self._layout(layers), torch.cat(scores, dim=2)))
        for layers, states in _by_device(self._watched()):
            weights, is_vector = self._weights(states[0].device, layers)
            padded = torch.bmm(torch.cat(states, dim=1).detach().transpose(0, 1).float(), weights)
            blocks.append(Block(self._layout(layers), padded.transpose(0, 1).flatten(1)[:, None, is_vector]))
        self.begin_pass()
        return blocks

    def _watched(self) -> list[tuple[int, Tensor]]:
        """What waits; of the first step as it was when it came, as a later block may have changed it."""
        if not self._copies:
            return self._waiting
        self._is_watched = True
        pairs = list(zip(self._waiting, self._copies, strict=True))
        self.may_wait = all(torch.equal(states, copy) for (_, states), copy in pairs)
        return [(layer, copy) for (layer, _), copy in pairs]

    def _layout(self, layers: tuple[int, ...]) -> Layout:
        return tuple((layer, len(self._directions[layer])) for layer in layers)

    def _weights(self, device: torch.device, layers: tuple[int, ...]) -> tuple[Tensor, Tensor | slice]:
        """The layers' directions as columns [n_layers, hidden, widest], and which of all columns are directions."""
        if (device, layers) not in self._together:
            columns = [self._directions[layer].to(device).T for layer in layers]
            widths = torch.tensor([c.shape[1] for c in columns], device=device)
            widest = int(widths.max())
            padded = torch.stack([torch.nn.functional.pad(c, (0, widest - c.shape[1])) for c in columns])
            is_vector = (torch.arange(widest, device=device) < widths[:, None]).flatten().nonzero()[:, 0]
            all_are = len(is_vector) == widest * len(layers)
            self._together[device, layers] = (padded, slice(None) if all_are else is_vector)
        return self._together[device, layers]


def _by_device(of_layers: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[tuple[int, ...], tuple[Tensor, ...]]]:
    """Layers and tensors of each device."""
    groups: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for layer, tensor in of_layers:
        groups.setdefault(tensor.device, []).append((layer, tensor))
    for group in groups.values():
        layers, tensors = zip(*group, strict=True)
        yield layers, tensors
