"""From what a judge said to a score: pure functions that return None rather than guess."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from traitlens.thinking import answer_of as without_thinking
from utils.chat.client import Token
from utils.formats.files import parse_json

EvalType = Literal["0_100", "0_10", "binary", "binary_text"]
EVAL_TYPES: tuple[str, ...] = get_args(EvalType)

# With less of the probability on valid answers the model is doing something else: refusing, explaining, counting.
MIN_MASS = 0.25

_PLACEHOLDER = re.compile(r"\{(question|answer)\}")
_NUMBER = r"(?<![\w.,+-])([0-9]+(?:\.[0-9]+)?)(?![\w,]|\.[0-9])"
_LEAD = r"(?:the\s+|my\s+|final\s+|overall\s+)*(?:score|rating|grade|answer)\b\s*(?:is|of|would\s+be|[:=-])?\s*:?"
_DECORATION = re.compile(r"[*_`\"'#\[\](){}]")


@dataclass(frozen=True)
class Judgement:
    """What a judge made of one answer: a score and how it was made, or no score and why."""

    score: float | None
    method: str = ""
    reason: str = ""

    @classmethod
    def unscored(cls, reason: str) -> Judgement:
        """No score, for ``reason``."""
        return cls(None, "", reason)


def fill_template(template: str, question: str, answer: str) -> str:
    """``template`` with its ``{question}`` and ``{answer}`` replaced; all other braces, also in the answer, are text.

    >>> fill_template('{question} -> {answer}, as {"score": 5}', "Why {answer}?", "So.")
    'Why {answer}? -> So., as {"score": 5}'
    """
    values = {"question": question, "answer": answer}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def answer_values(eval_type: str) -> Mapping[str, float]:
    """Every valid answer string of a scale with its value: 0-100, 0-9, or NO 0 and YES 1."""
    if eval_type == "0_100":
        return {str(i): float(i) for i in range(101)}
    if eval_type == "0_10":
        return {str(i): float(i) for i in range(10)}
    return {"YES": 1.0, "NO": 0.0}


def highest_score(eval_type: str) -> int:
    """The end of a scale of numbers: 9 on the scale whose answers are one digit, otherwise 100."""
    return 9 if eval_type == "0_10" else 100


def answer_request(eval_type: str) -> str:
    """What to add to a prompt whose answer will be read as text; binary_text prompts say it themselves."""
    if eval_type == "binary_text":
        return ""
    wanted = "YES or NO" if eval_type == "binary" else f"one integer from 0 to {highest_score(eval_type)}"
    return f"\n\nReply with {wanted} and nothing else."


def expected_score(top: Sequence[tuple[str, float]], eval_type: str) -> float | None:
    """The expected value over the valid answers among ``top`` (token, log-probability), renormalised.

    None where they hold less than ``MIN_MASS`` of the probability. It takes each answer for one token, so a 0-100 scale
    needs a tokenizer that does not split numbers; ``splits_numbers`` tells.

    >>> expected_score([("80", math.log(0.5)), (" 90", math.log(0.4)), ("I", math.log(0.1))], "0_100")
    84.44...
    >>> expected_score([("I", math.log(0.8)), ("7", math.log(0.2))], "0_100") is None
    True
    """
    values = answer_values(eval_type)
    # Rounding makes some servers report a log-probability just above 0; NaN fails the comparison.
    found = [(values.get(token.strip().upper()), math.exp(min(p, 0.0))) for token, p in top if -1e9 < p < 0.01]
    mass = sum(p for value, p in found if value is not None)
    if mass < MIN_MASS:
        return None
    return sum(value * p for value, p in found if value is not None) / mass


def first_answer_token(tokens: Sequence[Token]) -> int | None:
    """Where the answer begins: the first generated token that is more than white space."""
    return next((i for i, token in enumerate(tokens) if token.text.strip()), None)


def splits_numbers(tokens: Sequence[Token]) -> bool | None:
    """Whether the tokenizer writes numbers up to 100 in several tokens; None where these do not show it."""
    texts = [token.text for token in tokens]
    for first, second in itertools.pairwise(texts):
        joined = first.strip() + second
        if _is_digits(first.strip()) and _is_digits(second) and int(joined) <= 100:
            return True
    texts += [text for token in tokens for text, _ in token.likeliest]
    return False if any(_is_digits(t.strip()) and len(t.strip()) > 1 for t in texts) else None


def _is_digits(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def read_number(text: str, eval_type: str, *, finished: bool = True) -> float | None:
    """The score that a reply states in words, None where it states none, several, or one off the scale.

    Accepted are a bare number, a JSON object with ``score``, and "score: 87" in a longer reply, each with or
    without "/100". A number that may have been cut (``finished`` is false) is not read.

    >>> read_number("**87/100**", "0_100"), read_number("I count 3 hedges.", "0_100"), read_number("150", "0_100")
    (87.0, None, None)
    """
    high = highest_score(eval_type)
    text = without_thinking(text)
    if not finished and re.search(r"[0-9.]\s*$", text):
        return None
    value = _json_score(text)
    if value is None:
        plain = _DECORATION.sub("", text).strip()
        plain = re.sub(r"(?<=[0-9])\s*(?:/|out of)\s*100\b|(?<=[0-9])\s*%", "", plain) if high == 100 else plain
        value = _stated_number(plain)
    return value if value is not None and 0 <= value <= high else None


def _json_score(text: str) -> float | None:
    match = re.search(r"\{[^{}]*\}", text)
    try:
        value = parse_json(match[0]) if match else None
    except ValueError:
        return None
    score = value.get("score") if isinstance(value, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None
    return float(score) if abs(score) < 1e6 else None  # an integer may be too large for a float


def _stated_number(text: str) -> float | None:
    """The number of a reply that is one, or that every "score: N" in it agrees on."""
    bare = re.fullmatch(rf"(?:{_LEAD}\s*)?{_NUMBER}\s*[.!]?", text, re.IGNORECASE)
    if bare:
        return float(bare[1])
    stated = {float(n) for n in re.findall(rf"\b{_LEAD}\s*{_NUMBER}", text, re.IGNORECASE)}
    return stated.pop() if len(stated) == 1 else None


def read_yes_no(text: str) -> float | None:
    """1 for a reply that says YES, 0 for NO, None for neither or both.

    ``<answer>YES</answer>`` counts alone where there is one; otherwise the first and the last word, and YES or NO in
    capitals anywhere, which must not contradict each other.

    >>> read_yes_no("No, it does not."), read_yes_no("Yes and no"), read_yes_no("The verdict, then: YES, clearly.")
    (0.0, None, 1.0)
    """
    text = without_thinking(text)
    tagged = re.findall(r"<answer>\s*(yes|no)\s*</answer>", text, re.IGNORECASE)
    words = re.findall(r"[^\W_]+", text)
    capitals = {word for word in words if word in ("YES", "NO")}
    ends = {word.upper() for word in words[:1] + words[-1:]} | capitals
    said = ({word.upper() for word in tagged} or ends) & {"YES", "NO"}
    return {"YES": 1.0, "NO": 0.0}[said.pop()] if len(said) == 1 else None
