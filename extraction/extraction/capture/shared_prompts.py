"""Many responses to few prompts: a prompt goes through the model once, and all its responses go on from there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from traitlens.activations import Reduce, read_layers


def can_share_prompts(model: nn.Module, longest: int) -> bool:
    """Whether texts of up to ``longest`` tokens read the same after a cached prompt as in one piece.

    Not for recurrent models, whose state is no list of keys and values, for models without ``position_ids`` or with
    layers that take other layers' keys, and for texts that reach beyond a sliding window, where a cache forgets.
    """
    config: Any = model.config
    config = config.get_text_config()
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return (
        not getattr(model, "_is_stateful", False)
        and not getattr(config, "num_kv_shared_layers", 0)
        and {"position_ids", "past_key_values"} <= set(inspect.signature(model.forward).parameters)
        and all(not window or longest < window for window in windows)
    )


class SharedPrompts:
    """Keys and values of a batch of prompts, up to the deepest layer that is asked for.

    Args:
        model: a model that ``can_share_prompts``.
        input_ids: prompts [n_prompts, seq], padded on the left.
        attention_mask: [n_prompts, seq], 1 for real tokens.
        layers: layer numbers that will be read; at least one above 0.

    Raises:
        ValueError: the model keeps its keys and values elsewhere than in the cache that it is given.
    """

    def __init__(self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor, layers: Sequence[int]) -> None:
        from transformers import DynamicCache

        self._model, self._mask, self._layers = model, attention_mask, layers
        cache = DynamicCache(config=model.config)
        positions = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
        inputs = {"position_ids": positions, "past_key_values": cache, "use_cache": True}
        read_layers(model, input_ids, attention_mask, [max(layers)], lambda hidden: hidden[:, -1], **inputs)
        self._states = [(layer.keys, layer.values) for layer in cache.layers[: max(layers)] if layer.is_initialized]
        if len(self._states) != max(layers):
            raise ValueError(f"the cache holds {len(self._states)} layers where {max(layers)} were read")

    def read(self, prompts: Tensor, input_ids: Tensor, attention_mask: Tensor, reduce: Reduce) -> Tensor:
        """What ``reduce`` makes of the responses' residual stream: float32 [rows, n_layers, hidden] on the CPU.

        Args:
            prompts: which prompt each response follows, [batch].
            input_ids: responses [batch, seq], padded on the right.
            attention_mask: [batch, seq], 1 for real tokens.
            reduce: from hidden [batch, seq, hidden] of the responses' tokens to [rows, hidden].
        """
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        for layer, (keys, values) in enumerate(self._states):
            rows = prompts.to(keys.device)
            cache.update(keys[rows], values[rows], layer)
        before = self._mask[prompts.to(self._mask.device)]
        positions = before.sum(dim=1, keepdim=True) + torch.arange(input_ids.shape[1], device=before.device)
        mask = torch.cat([before, attention_mask], dim=1)
        inputs = {"position_ids": positions, "past_key_values": cache, "use_cache": True}
        return read_layers(self._model, input_ids, mask, self._layers, reduce, **inputs)
