"""Verify on your own model what the pipeline relies on: python -m extraction.check_model --model NAME."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extraction.cli import run_command

if TYPE_CHECKING:
    from torch import Tensor

    from extraction.capture.examples import Example
    from utils.models.load import LoadedModel

logger = logging.getLogger("traitlens")

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


def check_model(
    model: str,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Check hooks, padding, BOS, system role and the prompt/response seam on a model; a line each.

    Ends with status 1 where one does not hold: then vectors of this model would not mean what they say.

    Args:
        model: Hub id, local folder, or the embedded model's name.
        device: cpu, cuda, cuda:1, mps, or auto to spread the model over all GPUs.
        dtype: float32, float16 or bfloat16; by default the checkpoint's own.
        revision: Hub branch, tag or commit of the model.
        trust_remote_code: run code that comes with the model.
    """
    from utils.errors import UserError
    from utils.models.load import load_model

    loaded = load_model(model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    findings = check_loaded(loaded)
    for finding in findings:
        logger.info("%s %-34s %s", "ok  " if finding.holds else "FAIL", finding.name, finding.seen)
    failed = [finding.name for finding in findings if not finding.holds]
    if failed:
        raise UserError(f"{model}: {len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


def check_loaded(loaded: LoadedModel) -> list[Finding]:
    """All findings on a loaded model."""
    checks: list[Callable[[LoadedModel], Finding]] = [
        _hooks_are_hidden_states,
        _batch_equals_single,
        _left_padding_generates_as_single,
        _one_bos,
        _instruction_is_shown,
        _seam_is_a_token_boundary,
        _end_of_turn_is_known,
    ]
    return [check(loaded) for check in checks]


def _token_rows(loaded: LoadedModel) -> list[list[int]]:
    return [example.ids for example in _examples(loaded, [_QUESTION])]


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def _hooks_are_hidden_states(loaded: LoadedModel) -> Finding:
    import torch

    from traitlens import ActivationCapture, HookManager, n_layers

    ids = torch.tensor([_token_rows(loaded)[0]], device=loaded.device)
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
    import torch

    from extraction.capture.reading import read_batch, rounding
    from traitlens import n_layers

    examples = _examples(loaded, [_QUESTION])
    layers = range(n_layers(loaded.model))
    together = read_batch(examples, loaded, layers).means
    alone = torch.cat([read_batch([example], loaded, layers).means for example in examples])
    worst = max(_difference(together[:, layer], alone[:, layer]) for layer in layers)
    holds = worst < rounding(loaded)
    return Finding("padded batch equals single rows", holds, f"largest relative difference {worst:.1e}")


def _examples(loaded: LoadedModel, questions: Sequence[str]) -> list[Example]:
    from extraction.capture.examples import Example
    from utils.prompts import encode_prompt, encode_response, format_prompt

    prompts = [encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, question)) for question in questions]
    return [
        Example("pos", i, prompt + encode_response(loaded.tokenizer, response), len(prompt))
        for prompt in prompts
        for i, response in enumerate(_RESPONSES)
    ]


def _left_padding_generates_as_single(loaded: LoadedModel) -> Finding:
    import torch

    from extraction.capture.reading import rounding
    from utils.models.generation import left_padded

    rows = _token_rows(loaded)
    ids, mask = left_padded(rows, loaded.tokenizer.pad_token_id)
    ids, mask = ids.to(loaded.device), mask.to(loaded.device)
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    with torch.inference_mode():
        arguments = {"position_ids": positions} if _takes_positions(loaded) else {}
        batch = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False, **arguments).logits[:, -1].float()
        single = torch.cat(
            [loaded.model(input_ids=torch.tensor([row], device=loaded.device)).logits[:, -1].float() for row in rows]
        )
    worst = _difference(batch, single)
    holds = worst < rounding(loaded)
    return Finding("left padding keeps next-token logits", holds, f"relative difference {worst:.1e}")


def _takes_positions(loaded: LoadedModel) -> bool:
    import inspect

    return "position_ids" in inspect.signature(loaded.model.forward).parameters


def _one_bos(loaded: LoadedModel) -> Finding:
    from utils.prompts import encode_prompt, format_prompt

    bos = loaded.tokenizer.bos_token_id
    ids = encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, _QUESTION))
    if bos is None:
        return Finding("one BOS", True, "the model has none")
    leading = next((i for i, token in enumerate(ids) if token != bos), len(ids))
    # Where the tokenizer itself puts no BOS before a text, the model was trained without one.
    expected = int(loaded.tokenizer("a")["input_ids"][0] == bos or ids[0] == bos)
    return Finding("one BOS", leading == expected, f"{leading} at the start, expected {expected}")


def _instruction_is_shown(loaded: LoadedModel) -> Finding:
    from utils.prompts import format_prompt, system_role

    text = format_prompt(loaded.tokenizer, _QUESTION, _INSTRUCTION)
    holds = _INSTRUCTION in text and _QUESTION in text
    return Finding("instruction and question are shown", holds, f"system role: {system_role(loaded.tokenizer)}")


def _seam_is_a_token_boundary(loaded: LoadedModel) -> Finding:
    """Joined ids must decode to prompt + response, which a tokenizer that adds or strips spaces would break."""
    from utils.prompts import encode_prompt, encode_response, format_prompt

    prompt = encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, _QUESTION))
    decode = loaded.tokenizer.decode
    broken = [
        response
        for response in _RESPONSES
        if decode(prompt + encode_response(loaded.tokenizer, response))[len(decode(prompt)) :].strip() != response
    ]
    joined = len(_RESPONSES) - len(broken)
    return Finding("prompt and response join at the seam", not broken, f"{joined} of {len(_RESPONSES)} responses")


def _end_of_turn_is_known(loaded: LoadedModel) -> Finding:
    ends = sorted(loaded.end_ids)
    names = loaded.tokenizer.convert_ids_to_tokens(ends)
    return Finding("end of turn is known", bool(ends), ", ".join(names) or "none")


if __name__ == "__main__":
    run_command(check_model)
