"""What the model reads: chat templates of all kinds, one BOS, where each message stands, and token texts that join."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
Span = tuple[int, int]

# Of the private use area, so that neither a template nor a message has them.
_OPEN, _CLOSE = "\ue00e", "\ue00f"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

# A base model has no turns; this is what it gets, with the instruction as a paragraph before it.
_PLAIN_QUESTION = "Question: {question}\nAnswer:"


@dataclass(frozen=True)
class _Template:
    """What a tokenizer's chat template does with a system message."""

    exists: bool
    takes_system: bool
    adds_default_system: bool


def format_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, instruction: str = "", *, thinks: bool | None = False
) -> str:
    """The text that asks ``question`` under ``instruction``, up to where the answer begins.

    The instruction goes into the system role, or before the question where the template has no such role (Gemma). A
    system prompt that the template would add on its own (SmolLM2, Qwen 2.5) is left empty. A model without a template
    reads ``Question: ...`` and ``Answer:`` lines. ``thinks`` is as in ``format_conversation``: by default a plain
    answer follows.
    """
    messages = [{"role": "user", "content": question}]
    if instruction:
        messages.insert(0, {"role": "system", "content": instruction})
    return format_conversation(tokenizer, messages, thinks=thinks)


def format_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, thinks: bool | None = None
) -> str:
    """The text of a conversation whose next turn is the assistant's; ``format_prompt`` says how system messages go.

    Args:
        tokenizer: of the model that reads it.
        messages: the conversation.
        thinks: whether the model is to think before it answers, where its template can tell it; None leaves that to the
            template. False also ends a thought that the template opens (DeepSeek-R1), and opens the channel of answers
            (GPT-OSS), so that what follows is read as the answer.

    Raises:
        UserError: the model's template refuses such a conversation, or leaves out what is said in it.
    """
    template = _template_of(tokenizer)
    messages = [dict(m) for m in messages]
    if not template.exists:
        return _plain(messages)
    if messages[0]["role"] == "system" and not template.takes_system:
        messages = without_system_role(messages)
    elif messages[0]["role"] != "system" and template.adds_default_system:
        messages.insert(0, {"role": "system", "content": ""})
    from traitlens.thinking import before_answer  # imports torch

    text = _render(tokenizer, messages, thinks)
    return text + before_answer(text) if thinks is False else text


def without_system_role(messages: Sequence[Message]) -> list[Message]:
    """A conversation that begins with a system message, whose words come before the first turn's instead."""
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *map(dict, rest)]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a prompt made by this module, with exactly one BOS where the model has one."""
    # A chat template writes the BOS itself; a plain prompt leaves it to the tokenizer.
    return list(tokenizer(text, add_special_tokens=not _template_of(tokenizer).exists)["input_ids"])


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a response on its own, to be joined to its prompt's: no BOS, no end of turn."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def message_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], prompt: str, *, thinks: bool | None = None
) -> list[Span | None]:
    """Where the words of each message are in a prompt, in characters: start and one past the end.

    A short message ("2", "yes") may also be found within the template's markup. So the conversation is laid out once
    more, with marks in place of its messages; what stands between the marks must stand between the messages too.

    Args:
        tokenizer: of the model that reads the prompt.
        messages: the conversation.
        prompt: what ``format_conversation`` makes of it; other text may stand before that, as a BOS does.
        thinks: as there.

    Returns:
        A span for each message; None where the template left it out, or changed it so that it cannot be followed.
    """
    nowhere: list[Span | None] = [None] * len(messages)
    marked = [{**message, "content": f"{_OPEN}{i}{_CLOSE}"} for i, message in enumerate(messages)]
    try:
        text = format_conversation(tokenizer, messages, thinks=thinks)
        pieces = _MARK.split(format_conversation(tokenizer, marked, thinks=thinks))
    except UserError:
        return nowhere
    markup, numbers = pieces[::2], [int(number) for number in pieces[1::2]]
    if not (prompt.endswith(text) and text.startswith(markup[0])):
        return nowhere
    before = len(prompt) - len(text)
    spans, start = nowhere, len(markup[0])
    for number, following in zip(numbers, markup[1:], strict=True):
        fitting = (f for f in _forms(messages[number]["content"]) if text.startswith(f + following, start))
        form = next(fitting, None)
        if form is None:
            break
        words = form.strip()
        first = before + start + form.find(words)
        if words and spans[number] is None:
            spans[number] = (first, first + len(words))
        start += len(form) + len(following)
    return spans


def _forms(content: str) -> list[str]:
    """What a template may make of a message: all of it, trimmed, or without the thought it begins with."""
    from traitlens.thinking import answer_of

    return list(dict.fromkeys([content, content.strip(), content.rstrip(), content.lstrip(), answer_of(content)]))


def system_role(tokenizer: PreTrainedTokenizerBase) -> str:
    """What becomes of an instruction: "template", "user turn" (the template has no such role) or "plain format"."""
    template = _template_of(tokenizer)
    if not template.exists:
        return "plain format"
    return "template" if template.takes_system else "user turn"


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of the chat template (of the plain format for a model without one)."""
    template = tokenizer.chat_template if _template_of(tokenizer).exists else _PLAIN_QUESTION
    return hashlib.sha256(str(template).encode()).hexdigest()[:16]


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """One text per token; joined they are the decoded text.

    A character whose bytes are split over several tokens is shown whole at the token that completes it, the tokens
    before have an empty text. Bytes that never become a character are the replacement character at the last token.
    """
    texts: list[str] = []
    context = shown = 0  # text of ids[context:shown] is known; decoding needs some context for leading spaces
    for end in range(1, len(ids) + 1):
        known = _decode(tokenizer, ids[context:shown])
        text = _decode(tokenizer, ids[context:end])
        if text.endswith("\ufffd") and end < len(ids) and end - shown < 8:  # no character has more than a few tokens
            texts.append("")
            continue
        texts.append(text[len(known) :])
        context, shown = shown, end
    return texts


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _template_of(tokenizer: PreTrainedTokenizerBase) -> _Template:
    return _tried(tokenizer, str(getattr(tokenizer, "chat_template", None) or ""))


@functools.lru_cache(maxsize=16)
def _tried(tokenizer: PreTrainedTokenizerBase, template: str) -> _Template:
    """What ``template`` does, which is the tokenizer's; another may be set there later."""
    if not template:
        return _Template(exists=False, takes_system=False, adds_default_system=False)
    user = {"role": "user", "content": "question"}
    mark = "instruction-mark"
    if mark not in _try_render(tokenizer, [{"role": "system", "content": mark}, user]):  # refused, or silently dropped
        return _Template(exists=True, takes_system=False, adds_default_system=False)
    empty = _try_render(tokenizer, [{"role": "system", "content": ""}, user])
    adds = bool(empty) and len(_try_render(tokenizer, [user])) > len(empty)
    return _Template(exists=True, takes_system=True, adds_default_system=adds)


def _try_render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The text of a conversation, "" where the template refuses it."""
    try:
        return _render(tokenizer, messages, None)
    except UserError:
        return ""


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], thinks: bool | None) -> str:
    from jinja2.exceptions import TemplateError

    # Qwen 3, SmolLM3, GLM and others; Granite and DeepSeek V3.1. A template ignores what it does not know.
    switches = {} if thinks is None else {"enable_thinking": thinks, "thinking": thinks}
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **switches
        )
    except (TemplateError, TypeError) as error:  # of the template's own raise_exception; of text where it wants parts
        raise UserError(f"the model's chat template refuses this conversation: {error}") from error
    if not text:
        raise UserError("the model's chat template writes nothing for this conversation")
    for message in messages:
        if message["role"] != "assistant" and not _shows(text, message["content"]):  # past thoughts are left out
            raise UserError(
                f"the model's chat template leaves out the {message['role']}'s {message['content'][:40]!r}: those of "
                "image-text models want parts instead of text. Give the tokenizer a template that takes text"
            )
    return text


def _shows(text: str, content: str) -> bool:
    """Whether a rendered conversation holds a message, as it is or as JSON, whatever was done to white space."""
    plain = "".join(text.split())
    return any("".join(form.split()) in plain for form in (content, json.dumps(content, ensure_ascii=False)[1:-1]))


def _plain(messages: Sequence[Message]) -> str:
    parts = []
    for message in messages:
        if message["role"] == "user":
            parts.append(_PLAIN_QUESTION.format(question=message["content"]))
        elif message["role"] == "assistant":
            parts[-1] += " " + message["content"]
        else:
            parts.append(message["content"])
    return "\n\n".join(parts)
