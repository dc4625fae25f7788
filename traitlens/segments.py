"""Which tokens belong to whom: the turns of a conversation, and thinking apart from the answer.

Works on token texts that join to the whole text, so it knows no tokenizer. Template markup is in no
segment, as far as token boundaries allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from traitlens.thinking import find_thinking


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of one speaker.

    Attributes:
        where: which list of tokens the numbers count in.
        start: first token.
        end: one past the last token.
        role: system, user or assistant.
        turn: 1 for the first user message and its answer; 0 for a system message.
        part: thinking or answer where the speaker thinks aloud, else None.
    """

    where: Literal["prompt", "response"]
    start: int
    end: int
    role: str
    turn: int
    part: Literal["thinking", "answer"] | None = None


def prompt_segments(
    tokens: Sequence[str],
    messages: Sequence[Mapping[str, str]],
    spans: Sequence[tuple[int, int] | None] | None = None,
) -> list[Segment]:
    """The segments of the messages in a prompt made from them, in order.

    Args:
        tokens: texts of the prompt's tokens; joined they are the prompt.
        messages: ``{"role", "content"}`` each. One whose content the template left out (past thinking) has no segment.
        spans: where each message stands in the joined tokens, in characters, None for one that does not. Without them
            the messages are looked for in their order, which may find a short one within the template's markup.

    >>> tokens = ["<s>", "Hi", " there", "</s>", "Hello", "</s>"]
    >>> messages = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello"}]
    >>> [(s.role, s.turn, s.start, s.end) for s in prompt_segments(tokens, messages)]
    [('user', 1, 1, 3), ('assistant', 1, 4, 5)]
    """
    text, segments, cursor, turn = "".join(tokens), [], 0, 0
    for i, message in enumerate(messages):
        turn += message["role"] == "user"
        content = message["content"].strip()  # as most templates do
        place = text.find(content, cursor) if content else -1
        found = spans[i] if spans is not None else None if place < 0 else (place, place + len(content))
        if found is None:
            continue
        cursor = found[1]
        start, end = _span(tokens, *found)
        segments.append(Segment("prompt", start, end, message["role"], 0 if message["role"] == "system" else turn))
    return segments


def response_segments(tokens: Sequence[str], turn: int = 1, prompt: str = "") -> list[Segment]:
    """The response as one segment, or as thinking and answer where it marks its thought (``traitlens.thinking``).

    Args:
        tokens: texts of the response's tokens.
        turn: number of the user message that it answers.
        prompt: the text before it; some templates open the thinking there.

    >>> [(s.part, s.start, s.end) for s in response_segments(["<think>", "Hm", "</think>", "Yes"])]
    [('thinking', 1, 2), ('answer', 3, 4)]
    """
    text = "".join(tokens)
    found = find_thinking(text, prompt)
    if found is None:
        return [Segment("response", 0, len(tokens), "assistant", turn)] if tokens else []
    spans: list[tuple[Literal["thinking", "answer"], int, int]] = [
        ("thinking", found.start, found.end),
        ("answer", found.answer, len(text)),
    ]
    segments = []
    for part, first, last in spans:
        start, end = _span(tokens, first, last) if first < last else (0, 0)
        if start < end:
            segments.append(Segment("response", start, end, "assistant", turn, part))
    return segments


def _span(tokens: Sequence[str], first: int, last: int) -> tuple[int, int]:
    """The tokens, as start and one past the end, that hold the characters ``first`` to ``last`` (exclusive)."""
    position, holding = 0, []
    for i, token in enumerate(tokens):
        if position < last and position + len(token) > first:
            holding.append(i)
        position += len(token)
    return (holding[0], holding[-1] + 1) if holding else (0, 0)
