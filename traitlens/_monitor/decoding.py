"""What there is to know of ``generate``: what a call asks for, what cannot be monitored, and the step it never makes.

``generate`` of transformers is known by its arguments alone, so nothing is imported from there.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

_NOT_A_PROMPT = (
    "attention_mask",
    "position_ids",
    "token_type_ids",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
)
_CACHES = ("past_key_values", "cache_params", "state", "mems", "past_buckets_states")

_ASSISTED = "assisted decoding reads several candidate tokens per step and takes some back"
_FOREIGN = "the decoding loop is not generate's own, so nothing is known of what it feeds the model"
_PACKED = "continuous batching packs several texts into one row"
# Setting, the values besides None that change nothing, and why any other cannot be monitored.
_REFUSED: tuple[tuple[str, tuple[object, ...], str], ...] = (
    (
        "num_beams",
        (0, 1),
        "beam search reorders its rows at every step, so a row's scores would come from several texts",
    ),
    ("assistant_model", (), _ASSISTED),
    ("assistant_early_exit", (0,), _ASSISTED),
    ("use_mtp", (False,), _ASSISTED),
    ("prompt_lookup_num_tokens", (0,), _ASSISTED),
    ("custom_generate", (), _FOREIGN),
    ("dola_layers", (), _FOREIGN),
    ("guidance_scale", (1,), "classifier-free guidance runs the model on a second prompt at every step"),
    ("token_healing", (False,), "token healing rewrites the end of the prompt"),
    ("synced_gpus", (False,), "synchronised processes go on feeding tokens after a text has ended"),
)

Arguments: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class GenerateCall:
    """One call of ``generate``, its arguments by name.

    Attributes:
        arguments: what the caller gave, keyword arguments merged in.
        defaults: the model's own generation config, None where it has none.
        cached: how many tokens the caller's cache held before the call.
        is_encoder_decoder: whether the model reads the prompt with another stack than it writes with.
        more_end_ids: tokens that end a row besides those of the settings.
    """

    arguments: Arguments
    defaults: object
    cached: int
    is_encoder_decoder: bool
    more_end_ids: Collection[int]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        generate: Callable[..., object],
        args: Sequence[object],
        kwargs: Arguments,
        more_end_ids: Collection[int],
    ) -> GenerateCall:
        """The call that ``generate(*args, **kwargs)`` makes."""
        signature = inspect.signature(generate)
        named = dict(signature.bind_partial(*args, **kwargs).arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                named.update(named.pop(name, {}))
            elif parameter.kind is parameter.VAR_POSITIONAL and named.get(name):
                named.setdefault("inputs", named[name][0])
        is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        defaults = getattr(model, "generation_config", None)
        return cls(named, defaults, past_length(named), is_encoder_decoder, more_end_ids)

    def setting(self, name: str) -> object:
        """A generation setting: the keyword argument, else the passed config's, else the model's; None where unset."""
        given = self.arguments.get(name)
        for config in (self.arguments.get("generation_config"), self.defaults):
            given = getattr(config, name, None) if given is None else given
        return given

    def refusal(self) -> str | None:
        """Why the call cannot be monitored, None where it can."""
        for name, harmless, reason in _REFUSED:
            value = self.setting(name)
            if value is not None and value not in harmless:
                shown = value if isinstance(value, int | float | str) else type(value).__name__
                return f"{name}={shown}: {reason}"
        if self.is_encoder_decoder:
            return "the blocks of an encoder-decoder model see the prompt and the response apart"
        if self.setting("cache_implementation") == "paged":
            return f"cache_implementation=paged: {_PACKED}"
        if self.setting("penalty_alpha") and not self.setting("do_sample"):
            return "penalty_alpha: contrastive search reads several candidates per step and keeps one"
        return None

    @property
    def prompt_ids(self) -> Tensor | None:
        """Token ids of the prompt [batch, seq]; None where it was given as embeddings or not at all."""
        named = [self.arguments.get("inputs"), self.arguments.get("input_ids")]
        others = [
            value for name, value in self.arguments.items() if name not in _NOT_A_PROMPT
        ]  # another generate's names
        ids = (v for v in [*named, *others] if isinstance(v, Tensor) and v.ndim == 2 and not v.is_floating_point())
        return next((value for value in ids if value.shape[1] > 0), None)

    @property
    def prompt_embeddings(self) -> Tensor | None:
        """Embeddings of the prompt [batch, seq, hidden], None where it was given as ids."""
        value = self.arguments.get("inputs_embeds")
        return value if isinstance(value, Tensor) else None

    @property
    def columns_in_result(self) -> int:
        """How many tokens of the prompt stand before the new ones in what ``generate`` returns."""
        if self.prompt_ids is not None:
            return self.prompt_ids.shape[1]
        return 0 if self.prompt_embeddings is not None else 1  # nothing given: generate begins with BOS

    @property
    def columns_fed(self) -> int:
        """How many tokens of the prompt the model reads: all but those that the caller's cache holds already."""
        prompt = self.prompt_embeddings if self.prompt_embeddings is not None else self.prompt_ids
        columns = 1 if prompt is None else prompt.shape[1]
        mask = self.attention_mask
        holds_all = mask is None or mask.shape[1] == columns  # else only the new ids were given
        return columns - self.cached if holds_all else columns

    @property
    def attention_mask(self) -> Tensor | None:
        """The mask given [batch, seq], None where there is none of that form."""
        mask = self.arguments.get("attention_mask")
        return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    @property
    def keeps_cache(self) -> bool:
        """Whether the caller will see the cache, so that it must not hold a token more than ``generate`` put there."""
        return bool(self.setting("return_dict_in_generate")) or bool(caches_of(self.arguments))

    @functools.cached_property
    def end_ids(self) -> set[object]:
        """Ids of the tokens that end a row."""
        value = self.setting("eos_token_id")
        values = value.tolist() if isinstance(value, Tensor) else value
        return {*(values if isinstance(values, list | tuple | set) else (values,)), *self.more_end_ids} - {None}

    def lengths(self, new: Tensor) -> Tensor:
        """How many of the new tokens [batch, n_new] are each row's text: those before its end token or padding."""
        pad_id, end_ids, lengths = self.setting("pad_token_id"), self.end_ids, []
        for tokens in new.tolist():
            end = next((i for i, token in enumerate(tokens) if token in end_ids), None)
            if end is None:  # a row that a criterion of the caller's has stopped is padded without an end token
                end = len(tokens)
                while pad_id is not None and end and tokens[end - 1] == pad_id:
                    end -= 1
            lengths.append(end)
        return torch.tensor(lengths)

    def prompt_mask(self, batch: int, last: Arguments) -> Tensor:
        """Which of the prompt's fed columns are real, [batch, columns_fed]; ``last`` are the last pass's arguments."""
        mask, made = self.attention_mask, last.get("attention_mask")
        if mask is None and isinstance(made, Tensor) and made.ndim == 2:  # generate found padding in the prompt
            mask = made[:, : self.cached + self.columns_fed]
        if mask is None:
            mask = torch.ones(1, self.columns_fed, dtype=torch.long)
        return mask[:, -self.columns_fed :].repeat_interleave(batch // len(mask), dim=0)  # num_return_sequences


def caches_of(arguments: Arguments) -> dict[str, object]:
    """The cache that a forward pass was given, empty or not, under its argument's name; nothing where there is none."""
    return {name: arguments[name] for name in _CACHES if arguments.get(name) is not None}


def past_length(arguments: Arguments) -> int:
    """How many tokens the cache given to a forward pass holds; 0 where there is none or it does not say."""
    cache = next(iter(caches_of(arguments).values()), None)
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0][0].shape[-2]) if isinstance(cache, tuple | list) and cache else 0


def next_step(last: Arguments, tokens: Tensor, copy_cache: bool) -> dict[str, object] | None:
    """Arguments of the forward pass that would read ``tokens`` [batch, 1] after the pass with arguments ``last``.

    None where it cannot go on from the cache: there is none, or it has a fixed size and no room.
    """
    caches = caches_of(last)
    mask = last.get("attention_mask")
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        return None
    if not caches or any(getattr(c, "is_compileable", False) for c in caches.values()):
        return None
    # Flags go on as they are; other tensors (images, embeddings) belong to the prompt.
    arguments: dict[str, object] = {name: value for name, value in last.items() if isinstance(value, bool | int | str)}
    arguments.update(copy.deepcopy(caches) if copy_cache else caches, input_ids=tokens)
    for name in ("position_ids", "cache_position"):
        if isinstance(positions := last.get(name), Tensor):
            arguments[name] = positions[..., -1:] + 1
    if isinstance(types := last.get("token_type_ids"), Tensor):
        arguments["token_type_ids"] = types[..., -1:]
    if mask is not None:
        arguments["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return arguments


def whole_sequence(model: nn.Module, ids: Tensor, mask: Tensor) -> dict[str, object]:
    """Arguments of one forward pass without a cache over ``ids`` [batch, seq], as far as the model takes them."""
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    offered = {"attention_mask": mask, "position_ids": positions, "use_cache": False, "logits_to_keep": 1}
    taken = inspect.signature(model.forward).parameters
    return {"input_ids": ids, **{name: value for name, value in offered.items() if name in taken}}


def refusing(original: Callable[..., object]) -> Callable[..., object]:
    """A stand-in for continuous batching that says why it cannot be monitored."""

    @functools.wraps(original)
    def refuse(*args: object, **kwargs: object) -> object:  # noqa: ARG001 - whatever the original takes
        raise ValueError(f"cannot monitor {original.__name__}: {_PACKED}")

    return refuse
