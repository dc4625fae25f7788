"""Batched generation that gives the same answers for the same seed, and stops paying for rows that have ended."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from utils.models.load import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Cache

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: from the model's own distribution at ``temperature``, cut to ``top_p``; 0 is greedy.

    The checkpoint's other generation defaults (top-k, repetition penalty) are not applied: they would change which
    behaviour is sampled from model to model.
    """

    max_new_tokens: int = 200
    temperature: float = 1.0
    top_p: float = 1.0

    def generate_arguments(self) -> dict[str, float]:
        """The arguments of ``generate`` that say the same; greedy ones are those that it takes without a warning."""
        draws = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens, "repetition_penalty": 1.0, "num_beams": 1, "do_sample": draws,
            "temperature": self.temperature if draws else 1.0, "top_p": self.top_p if draws else 1.0,
            "top_k": 0 if draws else 50,
        }  # fmt: skip


@dataclass(frozen=True)
class Generated:
    """One answer: its token ids without the end-of-turn token, and why it ended."""

    ids: list[int]
    finish_reason: Literal["stop", "length"]


def derived_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else, such as (seed, trait, batch number)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def left_padded(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """``input_ids`` and ``attention_mask`` [batch, seq] with padding on the left, as generating needs it."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    # Turned around, as its own padding on the left is younger than the oldest torch that is supported.
    turned = [torch.tensor(sequence, dtype=torch.long).flip(0) for sequence in sequences]
    input_ids = pad_sequence(turned, batch_first=True, padding_value=pad_id)
    attention_mask = pad_sequence([torch.ones_like(row) for row in turned], batch_first=True)
    return input_ids.flip(1), attention_mask.flip(1)


def generate_batch(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int
) -> list[Generated]:
    """One answer per prompt (token ids), in order. The same prompts, sampling and seed give the same answers.

    Whenever half of the rows have ended, they leave the batch and the others go on with their part of the KV cache,
    or are read again where the model's cache cannot be taken apart.
    """
    import torch

    rows: list[list[int]] = [[] for _ in prompts]
    input_ids, attention_mask = left_padded(prompts, loaded.tokenizer.pad_token_id)
    input_ids, attention_mask = input_ids.to(loaded.device), attention_mask.to(loaded.device)
    running = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    cache, generated = None, 0
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        while running and generated < sampling.max_new_tokens:
            before = input_ids.shape[1]
            rest = replace(sampling, max_new_tokens=sampling.max_new_tokens - generated)
            sequences, cache = _run(loaded, input_ids, attention_mask, cache, rest)
            generated += sequences.shape[1] - before
            ended = _ended(sequences[:, before:], loaded.end_ids)
            for row, index in enumerate(running):
                rows[index] += sequences[row, before:].tolist()
            keep = (~ended).nonzero().flatten()
            running = [running[row] for row in keep.tolist()]
            if running and generated < sampling.max_new_tokens:
                input_ids = sequences[keep]
                added = attention_mask.new_ones(len(keep), sequences.shape[1] - attention_mask.shape[1])
                attention_mask = torch.cat([attention_mask[keep], added], dim=1)
                cache = _rows_of_cache(cache, keep)
    return [_cut(ids, loaded.end_ids) for ids in rows]


def _run(
    loaded: LoadedModel, input_ids: Tensor, attention_mask: Tensor, cache: Cache | None, sampling: Sampling
) -> tuple[Tensor, Cache | None]:
    """Generate on until all rows have ended, or until enough have for the others to go on without them."""
    import torch
    from transformers import StoppingCriteriaList

    before = input_ids.shape[1]

    def enough_ended(ids: Tensor, scores: Tensor, **_: object) -> Tensor:  # noqa: ARG001 - transformers' signature
        """True for all rows once half of them have ended; small batches are not worth the change."""
        ended = _ended(ids[:, before:], loaded.end_ids)
        return torch.full_like(ended, len(ended) >= 8 and int(ended.sum()) * 2 >= len(ended))

    output = loaded.model.generate(
        input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, return_dict_in_generate=True,
        stopping_criteria=StoppingCriteriaList([enough_ended]), eos_token_id=sorted(loaded.end_ids),
        pad_token_id=loaded.tokenizer.pad_token_id, **sampling.generate_arguments(),
    )  # fmt: skip
    return output.sequences, output.past_key_values


def _rows_of_cache(cache: Cache | None, keep: Tensor) -> Cache | None:
    """The cache of the rows that go on; None if some layer's state cannot be cut by rows, as in recurrent models."""
    layers = getattr(cache, "layers", None)
    if cache is None or not layers or not all(hasattr(layer, "batch_select_indices") for layer in layers):
        return None
    cache.batch_select_indices(keep.cpu())  # layers may lie on several devices; indices on the CPU suit all of them
    return cache


def _ended(new_ids: Tensor, end_ids: frozenset[int]) -> Tensor:
    import torch

    return torch.isin(new_ids, torch.tensor(sorted(end_ids), device=new_ids.device)).any(dim=1)


def _cut(ids: list[int], end_ids: frozenset[int]) -> Generated:
    end = next((i for i, token in enumerate(ids) if token in end_ids), None)
    return Generated(ids, "length") if end is None else Generated(ids[:end], "stop")


def halving_on_out_of_memory(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """``work(items)``, in halves where it ran out of memory, down to single items."""
    import gc

    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)) or len(items) == 1:
            raise
        message = str(error).split("\n")[0]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(items) // 2
    logger.warning("out of memory with a batch of %d, going on with %d: %s", len(items), half, message)
    return [*halving_on_out_of_memory(work, items[:half]), *halving_on_out_of_memory(work, items[half:])]
