"""Reading batches of responses: whole texts, or the prompts of many batches once and only the responses in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from extraction.capture.examples import Example, token_budget_batches
from extraction.capture.shared_prompts import SharedPrompts, can_share_prompts
from traitlens.activations import Reduce, mean_over_tokens, read_layers
from utils.models.generation import left_padded
from utils.models.load import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

# Reading in two passes costs some time of its own; below this part of all tokens it is not worth that.
_WORTH_SHARING = 0.1

Prompt = tuple[int, ...]


class States(NamedTuple):
    """What is kept of a batch, in float32 on the CPU: means [batch, n_layers, hidden], tokens [m, n_layers, hidden]."""

    means: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Batch:
    """Responses that go through the model together, and the prompts that are read once for them and other batches.

    Attributes:
        examples: the responses.
        prompts: distinct prompts, among them all of this batch's; empty where texts are read whole.
    """

    examples: tuple[Example, ...]
    prompts: tuple[Prompt, ...] = ()


def plan_batches(examples: Sequence[Example], batch_tokens: int, batch_size: int, share: bool) -> list[Batch]:
    """Batches of similar length, of at most ``batch_size`` rows and ``batch_tokens`` padded tokens.

    With ``share`` prompts are gathered up to ``batch_tokens`` of them, and the batches of their responses follow each
    other, so that one set of prompts is in memory at a time.
    """
    if not share:
        plan = token_budget_batches([len(e.ids) for e in examples], batch_tokens, batch_size)
        return [Batch(tuple(examples[i] for i in batch)) for batch in plan]
    followers: dict[Prompt, list[Example]] = {}
    for example in examples:
        followers.setdefault(_prompt_of(example), []).append(example)
    prompts = list(followers)
    batches = []
    for together in token_budget_batches([len(p) for p in prompts], batch_tokens, len(prompts)):
        chosen = tuple(prompts[i] for i in together)
        rows = [example for prompt in chosen for example in followers[prompt]]
        lengths = [len(chosen[0]) + len(e.ids) - e.response_start for e in rows]  # the cache is padded to the longest
        plan = token_budget_batches(lengths, batch_tokens, batch_size)
        batches += [Batch(tuple(rows[i] for i in batch), chosen) for batch in plan]
    return batches


def sharing_pays(examples: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> bool:
    """Whether reading prompts once saves enough, and gives on this model what whole texts give.

    The latter is measured on a few responses: no list of architectures knows every model.
    """
    distinct = {_prompt_of(e) for e in examples}
    saved = sum(e.response_start for e in examples) - sum(map(len, distinct))
    longest = max(len(e.ids) for e in examples)
    if saved < _WORTH_SHARING * sum(len(e.ids) for e in examples) or not max(layers):
        return False
    return can_share_prompts(loaded.model, longest) and sharing_error(examples, loaded, layers) < rounding(loaded)


def sharing_error(examples: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> float:
    """Largest relative difference, over layers, between means after shared prompts and means of whole texts.

    Read on one response each of the longest and the shortest prompt; infinite where sharing fails.
    """
    by_prompt = sorted(examples, key=lambda e: e.response_start)
    few = (by_prompt[-1], by_prompt[0])
    try:
        shared = Reader(loaded, layers).read(Batch(few, tuple({_prompt_of(e): None for e in few}))).means
    except ValueError:
        return float("inf")
    whole = read_batch(few, loaded, layers).means
    return float(((shared - whole).norm(dim=2) / whole.norm(dim=2).clamp_min(1e-12)).max())


def rounding(loaded: LoadedModel) -> float:
    """Largest relative difference that rounding explains: other batches and paddings take other kernels."""
    import torch

    return 2e-4 if loaded.model.dtype == torch.float32 else 0.1


class Reader:
    """Reads batches in the order of their plan, with the prompts of one set in memory.

    Args:
        loaded: the model.
        layers: layer numbers.
    """

    def __init__(self, loaded: LoadedModel, layers: Sequence[int]) -> None:
        self._loaded, self._layers = loaded, layers
        self._prompts: tuple[Prompt, ...] = ()
        self._shared: SharedPrompts | None = None

    def read(self, batch: Batch) -> States:
        """Means and kept tokens of a batch's responses."""
        if not batch.prompts:
            self._prompts, self._shared = (), None  # free the memory: this may be what is left of a larger batch
            return read_batch(batch.examples, self._loaded, self._layers)
        if self._shared is None or self._prompts != batch.prompts:
            self._shared = None
            ids, mask = left_padded(batch.prompts, self._loaded.tokenizer.pad_token_id)
            device = self._loaded.device
            self._shared = SharedPrompts(self._loaded.model, ids.to(device), mask.to(device), self._layers)
            self._prompts = batch.prompts
        return self._read_responses(batch.examples, self._shared)

    def _read_responses(self, examples: Sequence[Example], shared: SharedPrompts) -> States:
        import torch

        places = {prompt: i for i, prompt in enumerate(self._prompts)}
        rows = torch.tensor([places[_prompt_of(e)] for e in examples])
        responses = [Example(e.polarity, e.row, e.ids[e.response_start :], 0, e.kept_tokens) for e in examples]
        ids, mask, reduce = _inputs(responses, self._loaded)
        states = shared.read(rows, ids, mask, reduce)
        return States(states[: len(examples)], states[len(examples) :])


def read_batch(batch: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> States:
    """Means and kept tokens of whole texts, in one pass."""
    ids, mask, reduce = _inputs(batch, loaded)
    states = read_layers(loaded.model, ids, mask, layers, reduce)
    return States(states[: len(batch)], states[len(batch) :])


def _inputs(batch: Sequence[Example], loaded: LoadedModel) -> tuple[Tensor, Tensor, Reduce]:
    """Right-padded ids and mask [batch, seq] on the model's device, and what to keep: means, then chosen tokens."""
    import torch

    length = max(len(e.ids) for e in batch)
    input_ids = torch.full((len(batch), length), loaded.tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    token_mask = torch.zeros(input_ids.shape, dtype=torch.bool)
    kept_rows, kept_columns = [], []
    for i, example in enumerate(batch):
        end = len(example.ids)
        input_ids[i, :end] = torch.tensor(example.ids)
        attention_mask[i, :end] = 1
        token_mask[i, example.response_start : end] = True
        kept_rows += [i] * len(example.kept_tokens)
        kept_columns += [example.response_start + position for position in example.kept_tokens]
    mean = mean_over_tokens(token_mask.to(loaded.device))

    def reduce(hidden: Tensor) -> Tensor:
        if not kept_rows:
            return mean(hidden)
        return torch.cat([mean(hidden), hidden[kept_rows, kept_columns].float()])

    return input_ids.to(loaded.device), attention_mask.to(loaded.device), reduce


def _prompt_of(example: Example) -> Prompt:
    return tuple(example.ids[: example.response_start])
