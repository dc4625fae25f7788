"""Tokens in a terminal, tinted by a score."""

from __future__ import annotations

import os
import re
from typing import Any, TextIO

from utils.prompts import token_texts

# Blue under zero, orange over it, darker further out: told apart with every kind of colour blindness. Text is black.
_BELOW, _ABOVE = (195, 117, 75), (223, 216, 208)
# What commands a terminal or turns the direction of its text; words of any language are not among it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CONTEXT = 12  # tokens that are decoded again, for the spaces between words and characters of several tokens


def without_controls(text: str) -> str:
    """A text of a model, a file or a server, in which what would command the terminal is replaced.

    >>> without_controls("red " + chr(27) + "[31m alert")
    'red �[31m alert'
    """
    return _CONTROL.sub("\ufffd", text)


class TintedTokens:
    """Writes tokens to a stream as they come, each on a colour for its score.

    Args:
        stream: where to; plain text where it is not a terminal or NO_COLOR is set.
        tokenizer: of the model.
        scale: the score of the strongest colour.
    """

    def __init__(self, stream: TextIO, tokenizer: Any, scale: float) -> None:
        self._stream = stream
        self._tokenizer = tokenizer
        self._scale = scale
        self._in_colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._ids: list[int] = []
        self._waiting = 0  # tokens at the end that have not completed a character

    def heading(self, text: str) -> None:
        """Write what was asked on lines of its own."""
        self._stream.write(f"> {without_controls(text)}\n")

    def add(self, token_id: int, score: float) -> None:
        """Show the next token; one that does not complete a character is shown with the one that does."""
        self._ids.append(token_id)
        self._waiting += 1
        texts = token_texts(self._tokenizer, self._ids[-_CONTEXT:])
        text = "".join(texts[-self._waiting :])
        if text.endswith("\ufffd") and self._waiting < 8:
            return
        self._waiting = 0
        self._write(text, score)

    def end(self) -> None:
        """End the text with a new line."""
        if self._waiting:
            texts = token_texts(self._tokenizer, self._ids[-_CONTEXT:])
            self._write("".join(texts[-self._waiting :]), 0.0)
        self._ids, self._waiting = [], 0
        self._stream.write("\n")
        self._stream.flush()

    def _write(self, text: str, score: float) -> None:
        text = without_controls(text)
        colour = tint(score / self._scale) if self._in_colour else None
        # A colour must end before a line does, or some terminals fill the rest of the line with it.
        lines = [line and f"\x1b[48;5;{colour};38;5;16m{line}\x1b[0m" for line in text.split("\n")]
        self._stream.write(text if colour is None else "\n".join(lines))
        self._stream.flush()


def tint(strength: float) -> int | None:
    """Number of the terminal's 256 colours for a score as a share of the strongest: None near zero.

    >>> tint(0.1), tint(0.3), tint(2.0), tint(-0.5)
    (None, 223, 208, 117)
    """
    step = min(int(abs(strength) * 4), 3)
    return None if step == 0 else (_ABOVE if strength > 0 else _BELOW)[step - 1]
