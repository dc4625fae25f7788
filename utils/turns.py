"""Where each message of a conversation stands in its prompt, followed through the template instead of looked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.prompts import Message, format_conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]

# Of the private use area, so that neither a template nor a message has them.
_OPEN, _CLOSE = "\ue00e", "\ue00f"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


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
