"""What vectors of a model rely on, tried on the model itself: hooks, padding, prompts and the ends of turns."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor

from extraction.capture.examples import Example
from extraction.capture.reading import read_batch
from traitlens import ActivationCapture, HookManager, n_layers
from utils.models.generation import left_padded
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, encode_response, format_prompt, system_role

_QUESTION = "How does a kettle know that the water boils?"
_INSTRUCTION = "Answer like a lighthouse keeper."
_RESPONSES = (
    "Steam reaches a small metal strip, which bends and opens the switch.",
    "It listens.",
    "Most kettles hold a bimetallic disc; as steam heats it, it snaps over, cuts the current, and the light goes out.",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: whether it holds, and what was seen."""

    name: str
    holds: bool
    seen: str


def check_loaded(loaded: LoadedModel) -> list[Finding]:
    """All findings on a loaded model."""
    return [
        _hooks_are_hidden_states(loaded),
        _batch_equals_single(loaded),
        _left_padding_generates_as_single(loaded),
        _one_bos(loaded),
        _instruction_is_shown(loaded),
        _seam_is_a_token_boundary(loaded),
        _end_of_turn_is_known(loaded),
    ]


def _prompt(loaded: LoadedModel) -> list[int]:
    return encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, _QUESTION))


def _examples(loaded: LoadedModel) -> list[Example]:
    prompt = _prompt(loaded)
    responses = [encode_response(loaded.tokenizer, response) for response in _RESPONSES]
    return [Example("pos", i, prompt + response, len(prompt)) for i, response in enumerate(responses)]


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def _rounding(loaded: LoadedModel) -> float:
    """Largest relative difference that rounding explains: other batches and paddings take other kernels."""
    return 2e-4 if loaded.model.dtype == torch.float32 else 0.1


def _hooks_are_hidden_states(loaded: LoadedModel) -> Finding:
    ids = torch.tensor([_examples(loaded)[0].ids], device=loaded.device)
    total = n_layers(loaded.model)
    capture = ActivationCapture(device="cpu")
    with HookManager(loaded.model) as hooks, torch.inference_mode():
        for layer in range(total):
            hooks.add_layer_hook(layer, capture.make_hook(str(layer)))
        states = loaded.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    # transformers' last state is after the final norm; the one before it in the list is the last that can be compared.
    worst = max(_difference(capture.get(str(i)).float(), states[i].cpu().float()) for i in range(total - 1))
    holds = len(states) == total and worst < 1e-6
    return Finding("hook equals hidden_states[L]", holds, f"{total} layers, largest relative difference {worst:.1e}")


def _batch_equals_single(loaded: LoadedModel) -> Finding:
    examples, layers = _examples(loaded), range(n_layers(loaded.model))
    together = read_batch(examples, loaded, layers).means
    alone = torch.cat([read_batch([example], loaded, layers).means for example in examples])
    worst = max(_difference(together[:, layer], alone[:, layer]) for layer in layers)
    holds = worst < _rounding(loaded)
    return Finding("padded batch equals single rows", holds, f"largest relative difference {worst:.1e}")


def _left_padding_generates_as_single(loaded: LoadedModel) -> Finding:
    rows = [example.ids for example in _examples(loaded)]
    ids, mask = (t.to(loaded.device) for t in left_padded(rows, loaded.tokenizer.pad_token_id))
    takes_positions = "position_ids" in inspect.signature(loaded.model.forward).parameters
    positions = {"position_ids": (mask.cumsum(dim=1) - 1).clamp_min(0)} if takes_positions else {}
    with torch.inference_mode():
        batch = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False, **positions).logits[:, -1]
        single = [loaded.model(input_ids=torch.tensor([row], device=loaded.device)).logits[:, -1] for row in rows]
    worst = _difference(batch.float(), torch.cat(single).float())
    holds = worst < _rounding(loaded)
    return Finding("left padding keeps next-token logits", holds, f"relative difference {worst:.1e}")


def _one_bos(loaded: LoadedModel) -> Finding:
    bos, ids = loaded.tokenizer.bos_token_id, _prompt(loaded)
    if bos is None:
        return Finding("one BOS", True, "the model has none")
    leading = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    # Where the tokenizer itself puts no BOS before a text, the model was trained without one.
    expected = int(loaded.tokenizer("a")["input_ids"][0] == bos or ids[0] == bos)
    return Finding("one BOS", leading == expected, f"{leading} at the start, expected {expected}")


def _instruction_is_shown(loaded: LoadedModel) -> Finding:
    text = format_prompt(loaded.tokenizer, _QUESTION, _INSTRUCTION)
    holds = _INSTRUCTION in text and _QUESTION in text
    return Finding("instruction and question are shown", holds, f"system role: {system_role(loaded.tokenizer)}")


def _seam_is_a_token_boundary(loaded: LoadedModel) -> Finding:
    """Joined ids must decode to prompt + response, which a tokenizer that adds or strips spaces would break."""
    decode = loaded.tokenizer.decode
    before = len(decode(_prompt(loaded)))
    shown = [decode(example.ids)[before:].strip() for example in _examples(loaded)]
    joined = sum(text == response for text, response in zip(shown, _RESPONSES, strict=True))
    holds = joined == len(_RESPONSES)
    return Finding("prompt and response join at the seam", holds, f"{joined} of {len(_RESPONSES)} responses")


def _end_of_turn_is_known(loaded: LoadedModel) -> Finding:
    ends = sorted(loaded.end_ids)
    names = loaded.tokenizer.convert_ids_to_tokens(ends)
    return Finding("end of turn is known", bool(ends), ", ".join(names) or "none")
