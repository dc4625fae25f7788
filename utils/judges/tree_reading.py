"""Forward passes that read a tree of scores after each of many prompts."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from utils.judges.score_tree import ScoreTree

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_TOKENS_PER_PASS = 2048


@dataclass
class _Read:
    """What the model has read: each key in its cache has a position and is real or padding, [batch, keys]."""

    cache: DynamicCache
    positions: Tensor
    real: Tensor


class SharedBeginning:
    """What many prompts begin with, read once; of each of them, the rest and a tree of scores are read after it.

    Padding stands between the shared beginning and the rest. Attention masks are made here from positions, for sliding
    windows too, because the model's own would count the padding.
    """

    def __init__(self, model: PreTrainedModel, beginning: Sequence[int]) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        self._length = len(beginning)
        self._beginning = self._read_beginning(beginning)

    @torch.inference_mode()
    def read(self, rests: Sequence[Sequence[int]], tree: ScoreTree) -> Iterator[Tensor]:
        """Log-probabilities of the next token at every node after the beginning and each rest.

        Args:
            rests: token ids after the shared beginning, at least one each.
            tree: the scores.

        Yields:
            Float32 [n_nodes, vocabulary] for each of ``rests``.
        """
        read = self._repeated(len(rests))
        width = max(map(len, rests))
        ids = torch.tensor([[0] * (width - len(rest)) + list(rest) for rest in rests], device=self._device)
        lengths = torch.tensor([len(rest) for rest in rests], device=self._device)
        offsets = torch.arange(width, device=self._device)[None] - (width - lengths)[:, None]
        causal = torch.ones(width, width, dtype=torch.bool, device=self._device).tril()
        root = self._extend(read, ids, self._length + offsets, offsets >= 0, causal, last_only=True)[:, -1:]
        depths = torch.tensor([len(node) for node in tree.nodes[1:]], device=self._device)
        nodes = torch.tensor([node[-1] for node in tree.nodes[1:]], device=self._device).expand(len(rests), -1)
        positions = self._length + lengths[:, None] - 1 + depths[None]
        sees = tree.visibility().to(self._device)
        below = self._extend(read, nodes, positions, torch.ones_like(nodes, dtype=torch.bool), sees, last_only=False)
        for first, others in zip(root, below, strict=True):
            yield torch.cat([first, others]).float().log_softmax(-1)

    @torch.inference_mode()
    def _read_beginning(self, beginning: Sequence[int]) -> _Read:
        empty = torch.zeros(1, 0, dtype=torch.long, device=self._device)
        # Without a configuration it keeps all keys, also of layers with a sliding window, which the masks then honour.
        read = _Read(DynamicCache(), empty, empty.bool())
        if beginning:
            ids = torch.tensor([list(beginning)], device=self._device)
            causal = torch.ones(len(beginning), len(beginning), dtype=torch.bool, device=self._device).tril()
            positions = torch.arange(len(beginning), device=self._device)[None]
            self._extend(read, ids, positions, torch.ones_like(ids, dtype=torch.bool), causal, last_only=True)
        return read

    def _repeated(self, n: int) -> _Read:
        cache = copy.deepcopy(self._beginning.cache)
        if self._length:
            cache.batch_repeat_interleave(n)
        return _Read(cache, self._beginning.positions.expand(n, -1), self._beginning.real.expand(n, -1))

    def _extend(
        self, read: _Read, ids: Tensor, positions: Tensor, real: Tensor, sees: Tensor, *, last_only: bool
    ) -> Tensor:
        """Logits for ``ids`` [batch, new]; new token i sees j as ``sees`` [new, new] says, and all that was read."""
        batch, new = ids.shape
        old = read.real[:, None, :].expand(batch, new, -1)
        visible = torch.cat([old, sees[None] & real[:, None, :]], dim=-1)
        read.positions = torch.cat([read.positions, positions], dim=-1)
        read.real = torch.cat([read.real, real], dim=-1)
        distance = positions[:, :, None] - read.positions[:, None, :]
        takes_keep = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        keep = {"logits_to_keep": 1} if last_only and takes_keep else {}
        output = self._model(
            input_ids=ids,
            position_ids=positions.clamp(min=0),
            attention_mask=self._masks(visible, distance),
            past_key_values=read.cache,
            use_cache=True,
            **keep,
        )
        logits: Tensor = output.logits
        return logits

    def _masks(self, visible: Tensor, distance: Tensor) -> Tensor | dict[str, Tensor]:
        """The masks that the model's layers want: one, or one for each kind of layer."""
        config = self._model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
        near = visible & (distance < window) if window and "sliding_attention" in kinds else visible
        masks = {"full_attention": self._additive(visible), "sliding_attention": self._additive(near)}
        return masks if len(kinds) > 1 else masks[kinds.pop()]

    def _additive(self, visible: Tensor) -> Tensor:
        dtype = self._model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


@torch.inference_mode()
def read_one_by_one(model: PreTrainedModel, prompt: Sequence[int], tree: ScoreTree) -> Tensor:
    """As ``SharedBeginning.read`` for one prompt; each score read on its own after the whole prompt, slowly."""
    device = model.get_input_embeddings().weight.device
    found: dict[tuple[int, ...], Tensor] = {}
    longest = max(map(len, tree.nodes))
    rows = max(1, _TOKENS_PER_PASS // (len(prompt) + longest))
    for start in range(0, len(tree.leaves), rows):
        leaves = tree.leaves[start : start + rows]
        width = max(map(len, leaves))
        # Padding on the right changes nothing to its left in a causal model.
        ids = torch.tensor([[*prompt, *leaf, *[0] * (width - len(leaf))] for leaf in leaves], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 :]
        for leaf, row in zip(leaves, logits, strict=True):
            for depth in range(len(leaf) + 1):
                found.setdefault(leaf[:depth], row[depth].float().log_softmax(-1))
    return torch.stack([found[node] for node in tree.nodes])
