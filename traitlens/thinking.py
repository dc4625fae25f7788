"""How models write down that they think before they answer: the one list of forms, and where the answer begins.

Works on text alone. Whoever reads what a model wrote (segments, judges, stage 1, prompts) reads it by this list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ThinkingForm:
    """One way of marking a thought.

    Attributes:
        opening: what the thought begins with, as a regular expression.
        closing: what ends it, with all markup up to the answer, as a regular expression.
        ended: the text that ends a thought so that an answer may follow.
        before_any: the end of a prompt whose answer needs ``ended`` before it although nothing opened a thought, as a
            regular expression; "" for none.
    """

    opening: str
    closing: str
    ended: str
    before_any: str = ""


def _tags(opening: str, closing: str, ended: str = "") -> ThinkingForm:
    return ThinkingForm(re.escape(opening), re.escape(closing), ended or f"{closing}\n\n")


# Most open models; fine-tunes; EXAONE Deep; Seed-OSS; Magistral; Kimi; Apertus; Command A; Gemma 4; GPT-OSS (Harmony).
FORMS: tuple[ThinkingForm, ...] = (
    _tags("<think>", "</think>"),
    _tags("<thinking>", "</thinking>"),
    _tags("<thought>", "</thought>"),
    _tags("<seed:think>", "</seed:think>", "</seed:think>"),
    _tags("[THINK]", "[/THINK]", "[/THINK]"),
    _tags("◁think▷", "◁/think▷", "◁/think▷"),
    _tags("<|inner_prefix|>", "<|inner_suffix|>", "<|inner_suffix|>"),
    ThinkingForm(
        re.escape("<|START_THINKING|>"),
        r"<\|END_THINKING\|>(?:\s*<\|START_(?:RESPONSE|TEXT)\|>)?",
        "<|END_THINKING|><|START_RESPONSE|>",
    ),
    ThinkingForm(r"<\|channel>\s*thought\b[ \t]*\n?", re.escape("<channel|>"), "<channel|>"),
    ThinkingForm(
        r"<\|channel\|>\s*(?:analysis|commentary)[^<]*<\|message\|>",
        r"(?:<\|end\|>\s*)?(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*final[^<]*<\|message\|>",
        "<|channel|>final<|message|>",
        before_any=r"<\|start\|>\s*assistant",
    ),
)
_END_MARKS = re.compile(r"(?:<\|(?:return|end|END_RESPONSE|END_TEXT)\|>\s*)+\Z")


@dataclass(frozen=True)
class Thinking:
    """Where a text thinks and where it answers, in characters.

    Attributes:
        start: where the thought begins, after its opening.
        end: where it ends, before its closing; the text's length where it was never closed.
        answer: where the answer begins; the text's length where there is none.
    """

    start: int
    end: int
    answer: int


def find_thinking(text: str, prompt: str = "") -> Thinking | None:
    """Where a response thinks and answers; None where it shows no thought.

    Args:
        text: the response.
        prompt: the text before it; some templates open the thought there. Without it, a closing that nothing opened
            tells the same.

    >>> find_thinking("<think>Hm</think>Yes")
    Thinking(start=7, end=9, answer=17)
    >>> find_thinking("Hm</think>Yes"), find_thinking("A <think> tag.")
    (Thinking(start=0, end=2, answer=10), None)
    """
    for form in FORMS:
        opened = re.match(rf"\s*(?:{form.opening})", text, re.IGNORECASE)
        if opened:
            start = opened.end()
        elif _opens(form, prompt) or (
            re.search(form.closing, text, re.IGNORECASE) and not re.search(form.opening, text, re.IGNORECASE)
        ):
            start = 0
        else:
            continue
        closed = re.compile(form.closing, re.IGNORECASE).search(text, start)
        if closed is None:
            return Thinking(start, len(text), len(text))
        return Thinking(start, closed.start(), closed.end())
    return None


def answer_of(text: str, prompt: str = "") -> str:
    """A response without its thought and the markup around the answer; "" where it only thought.

    >>> answer_of("<think>90? No.</think>12"), answer_of("Is it 90?</think>12"), answer_of("<think>90?")
    ('12', '12', '')
    """
    found = find_thinking(text, prompt)
    while found is not None and found.answer > 0:  # a model may think again before it answers
        text = text[found.answer :]
        found = find_thinking(text) if text else None
    return _END_MARKS.sub("", text).strip()


def begins_to_think(text: str) -> bool:
    """Whether a text begins with a thought, or with the first tokens of one's opening, cut where it was.

    >>> begins_to_think("<think>Hm"), begins_to_think("<|channel|>"), begins_to_think("<b>12")
    (True, True, False)
    """
    begun = text.lstrip()
    if any(re.match(form.opening, begun, re.IGNORECASE) for form in FORMS):
        return True
    plain = ("<think>", "<thinking>", "<seed:think>", "[THINK]", "<|channel|>analysis<|message|>", "<|channel>thought")
    return len(begun) > 2 and any(opening.startswith(begun) for opening in plain)


def before_answer(prompt: str) -> str:
    r"""What must follow a prompt for a plain answer to be read as one: it ends the thought that the prompt has opened.

    >>> before_answer("<|im_start|>assistant\n<think>\n"), before_answer("<|start|>assistant")
    ('\n</think>\n\n', '<|channel|>final<|message|>')
    >>> before_answer("<|im_start|>assistant\n")
    ''
    """
    for form in FORMS:
        if _opens(form, prompt):
            return ("\n" if prompt.endswith("\n") else "") + form.ended
        if form.before_any and re.search(rf"{form.before_any}\s*\Z", prompt):
            return form.ended
    return ""


def _opens(form: ThinkingForm, prompt: str) -> bool:
    return re.search(rf"(?:{form.opening})\s*\Z", prompt, re.IGNORECASE) is not None
