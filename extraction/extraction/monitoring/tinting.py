"""Tokens in a terminal as they come, tinted by a trait's score."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from utils.prompts import token_texts
from utils.records import TraitVector
from utils.terminal import without_controls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Blue under zero, orange over it, darker further out: told apart with every kind of colour blindness. Text is black.
_BELOW, _ABOVE = (195, 117, 75), (223, 216, 208)
_CONTEXT = 12  # tokens that are decoded again, for the spaces between words and characters of several tokens
_LONGEST_CHARACTER = 8  # tokens


class TintedTokens:
    """Writes tokens to a stream as they come, each on a colour for its score.

    Args:
        stream: where to; plain text where it is not a terminal or NO_COLOR is set.
        tokenizer: of the model.
        vector: whose scores colour the tokens: the strongest colour is for the score that 1 % of neutral tokens reach,
            or for the positive class's mean.
    """

    def __init__(self, stream: TextIO, tokenizer: PreTrainedTokenizerBase, vector: TraitVector) -> None:
        self._stream = stream
        self._tokenizer = tokenizer
        self._trait = vector.trait
        self._baseline = vector.baseline or 0.0
        limit = vector.thresholds.get("fpr_1")
        self._scale = float(vector.vector.norm()) / 2 if limit is None else abs(limit - self._baseline)
        self._in_colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self._ids: list[int] = []
        self._waiting = 0  # tokens at the end that have not completed a character

    def begin(self, prompt: str) -> None:
        """Write what was asked on lines of its own."""
        self._write(f"> {prompt}\n", 0.0)

    def on_token(self, row: int, token_id: int, scores: Mapping[str, float | list[float]]) -> None:  # noqa: ARG002
        """Show the next token; one that does not complete a character is shown with the one that does."""
        self._ids.append(token_id)
        self._waiting += 1
        text = self._waiting_text()
        if not text.endswith("\ufffd") or self._waiting == _LONGEST_CHARACTER:
            score = scores[self._trait]
            self._write(text, (score[0] if isinstance(score, list) else score) - self._baseline)
            self._waiting = 0

    def end(self) -> None:
        """Show what waits, and end the text with a new line."""
        self._write((self._waiting_text() if self._waiting else "") + "\n", 0.0)
        self._ids, self._waiting = [], 0

    def _waiting_text(self) -> str:
        return "".join(token_texts(self._tokenizer, self._ids[-_CONTEXT:])[-self._waiting :])

    def _write(self, text: str, score: float) -> None:
        text = without_controls(text)
        colour = tint(score / (self._scale or 1.0)) if self._in_colour else None
        if colour is not None:
            # A colour must end before a line does, or some terminals fill the rest of the line with it.
            lines = [line and f"\x1b[48;5;{colour};38;5;16m{line}\x1b[0m" for line in text.split("\n")]
            text = "\n".join(lines)
        self._stream.write(text)
        self._stream.flush()


def tint(strength: float) -> int | None:
    """Number of the terminal's 256 colours for a score as a share of the strongest: None near zero.

    >>> tint(0.1), tint(0.3), tint(2.0), tint(-0.5)
    (None, 223, 208, 117)
    """
    step = min(int(abs(strength) * 4), 3)
    return None if step == 0 else (_ABOVE if strength > 0 else _BELOW)[step - 1]
