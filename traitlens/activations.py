"""Capturing activations: whole sequences kept by name, or means over chosen tokens taken inside the hook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from traitlens.hooks import HookInputs, HookManager, LayerHook, PassEnded
from traitlens.layers import hidden_of


class ActivationCapture:
    """A named store of what hooked modules put out.

    Works under ``generate`` too, where a hook sees the prompt first and then one token at a time: ``get`` joins the
    pieces along the sequence. The last sampled token is never fed back by ``generate``, so its state is not there.

    Args:
        device: where to keep the pieces; None leaves them on the device of the module that made them.

    >>> layer = torch.nn.Linear(4, 4)
    >>> capture = ActivationCapture()
    >>> with HookManager(layer) as hooks:
    ...     hooks.add_forward_hook("", capture.make_hook("out"))
    ...     _ = layer(torch.zeros(2, 5, 4)), layer(torch.zeros(2, 1, 4))
    >>> tuple(capture.get("out").shape), capture.keys(), capture.memory_usage()
    ((2, 6, 4), ['out'], 192)
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = device
        self._pieces: dict[str, list[Tensor]] = {}

    def make_hook(self, name: str) -> Callable[[nn.Module, HookInputs, object], None]:
        """A forward hook that stores the module's output, or a layer hook that stores the layer, under ``name``."""

        def hook(module: nn.Module, inputs: HookInputs, output: object) -> None:  # noqa: ARG001 - torch's signature
            hidden = hidden_of(output).detach()
            self._pieces.setdefault(name, []).append(hidden if self._device is None else hidden.to(self._device))

        return hook

    def get(self, name: str) -> Tensor:
        """What was stored under ``name`` since the last ``clear``: [batch, seq, hidden], in the model's dtype.

        Raises:
            KeyError: nothing is stored under ``name``.
            ValueError: the pieces come from batches that do not fit together.
        """
        if name not in self._pieces:
            raise KeyError(f"nothing captured under {name!r}; captured: {', '.join(self._pieces) or 'nothing'}")
        pieces = self._pieces[name]
        if len({(p.shape[0], p.shape[-1]) for p in pieces}) > 1:
            shapes = ", ".join(str(list(p.shape)) for p in pieces)
            raise ValueError(f"{name!r} holds pieces of different batches ({shapes}): call clear() between batches")
        if len(pieces) > 1:  # joined once, not at every call
            self._pieces[name] = [torch.cat(pieces, dim=1)]
        return self._pieces[name][0]

    def keys(self) -> list[str]:
        """Names with something stored, in the order of their first piece."""
        return list(self._pieces)

    def clear(self) -> None:
        """Forget everything stored; hooks made before keep working."""
        self._pieces.clear()

    def memory_usage(self) -> int:
        """Bytes held by the stored tensors."""
        return sum(p.element_size() * p.nelement() for pieces in self._pieces.values() for p in pieces)


Reduce = Callable[[Tensor], Tensor]


def read_layers(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    layers: Sequence[int],
    reduce: Reduce,
) -> Tensor:
    """What ``reduce`` makes of the residual stream at each of ``layers``, in one forward pass.

    Reducing happens inside the hook, so no full sequence of states outlives its block. The pass ends at the deepest
    layer asked for: no later block and no LM head is computed.

    Args:
        model: any decoder-only model that takes ``input_ids`` and ``attention_mask``.
        input_ids: [batch, seq], padded on the right.
        attention_mask: [batch, seq], 1 for real tokens.
        layers: layer numbers (see ``traitlens.layers``).
        reduce: from hidden [batch, seq, hidden] in the model's dtype, on the layer's device, to [rows, hidden].

    Returns:
        float32 [rows, n_layers, hidden] on the CPU, in the order of ``layers``.
    """
    reduced: dict[int, Tensor] = {}
    deepest = max(layers)

    def reducing_hook(layer: int) -> LayerHook:
        def hook(module: nn.Module, inputs: HookInputs, hidden: Tensor) -> None:  # noqa: ARG001 - torch's signature
            reduced[layer] = reduce(hidden).float()
            if layer == deepest:
                raise PassEnded

        return hook

    with HookManager(model) as hooks, torch.inference_mode():
        for layer in set(layers):
            hooks.add_layer_hook(layer, reducing_hook(layer))
        with contextlib.suppress(PassEnded):  # the normal end
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    # One stack per device, then one transfer each: a model on several GPUs has layers on all of them.
    first = reduced[layers[0]].device
    return torch.stack([reduced[layer].to(first, non_blocking=True) for layer in layers], dim=1).cpu()


def mean_over_tokens(token_mask: Tensor) -> Reduce:
    """A reduction for ``read_layers``: each row's mean over the tokens where ``token_mask`` [batch, seq] is true.

    One batched product, accumulated in float32.

    Raises:
        ValueError: a row with no token to average.
    """
    counts = token_mask.sum(dim=1)
    if bool((counts == 0).any()):
        raise ValueError(f"row {int((counts == 0).nonzero()[0])} has no token to average: an empty response?")
    first = int(token_mask.any(dim=0).nonzero()[0])  # the prompts' columns need no product
    weights = (token_mask[:, first:].float() / counts[:, None]).unsqueeze(1)  # [batch, 1, seq]

    def reduce(hidden: Tensor) -> Tensor:
        return torch.bmm(weights.to(hidden.device, non_blocking=True), hidden[:, first:].float()).squeeze(1)

    return reduce


def mean_activations(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, token_mask: Tensor, layers: Sequence[int]
) -> Tensor:
    """Mean residual stream over chosen tokens, at chosen layers, in one forward pass.

    Args:
        model: any decoder-only model that takes ``input_ids`` and ``attention_mask``.
        input_ids: [batch, seq], padded on the right.
        attention_mask: [batch, seq], 1 for real tokens.
        token_mask: [batch, seq], true for the tokens that enter the mean; at least one per row.
        layers: layer numbers (see ``traitlens.layers``).

    Returns:
        float32 [batch, n_layers, hidden] on the CPU.

    Raises:
        ValueError: a row with no token to average, or shapes that differ.
    """
    if token_mask.shape != input_ids.shape:
        raise ValueError(f"token_mask is {list(token_mask.shape)} but input_ids is {list(input_ids.shape)}")
    return read_layers(model, input_ids, attention_mask, layers, mean_over_tokens(token_mask))
