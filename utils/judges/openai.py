"""A judge behind OpenAI's API or any server that speaks it: expected scores where it gives log-probabilities."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Sequence
from dataclasses import replace

from traitlens.thinking import begins_to_think, find_thinking
from utils.chat.client import Reply
from utils.chat.openai import NoLogProbabilitiesError, OpenAiClient
from utils.judges.api import ApiJudge
from utils.judges.reading import (
    Judgement,
    expected_score,
    first_answer_token,
    highest_score,
    read_number,
    splits_numbers,
)
from utils.judges.server import OPENAI

logger = logging.getLogger(__name__)

_FEW_TOKENS = 12  # a number with a few words around it; also shows whether the tokenizer splits numbers
_SOME_TOKENS = 64
_MANY_TOKENS = 4096  # models that reason before they answer count their reasoning
_LIST = re.compile(r"\s*[0-9]+[.):]\s+[^\s0-9]")  # "1. The answer ..." begins a list
_REASONING_MODEL = re.compile(r"(?:.*/)?(o[1-9]|gpt-([5-9]|[1-9]\d))")


class OpenAiJudge(ApiJudge[OpenAiClient]):
    """Scores answers with a model behind OpenAI's API or any server that speaks it. Arguments as in ``ApiJudge``."""

    _company = OPENAI
    _client_class = OpenAiClient
    # Found out with the first answers.
    _splits_numbers: bool | None = None
    _reasons: bool | None = None
    _is_long = False

    async def _grade(self, prompt: str) -> Judgement:
        """The expected score over log-probabilities where the server gives them, else the score stated in words."""
        digits_apart = self.eval_type == "0_100" and self._splits_numbers
        if self.eval_type != "binary_text" and self.client.gives_logprobs and not digits_apart:
            messages, wished = [{"role": "user", "content": prompt}], self._wishes(logprobs=True)
            with contextlib.suppress(NoLogProbabilitiesError):
                reply = await self.client.ask(messages, wished=wished, limit=_FEW_TOKENS, logprobs=True)
                judgement = None if self._may_be_thinking(reply) else self._by_logprobs(reply)
                if judgement is not None:
                    return judgement
        return await super()._grade(prompt)

    def _may_be_thinking(self, reply: Reply) -> bool:
        """Whether the first tokens may be a thought, whose probabilities say nothing of the score.

        Where a template opens the thought, nothing in the answer tells it: then one that did not end, and does not
        begin as an answer does, is asked for in words.
        """
        said = reply.text or ""
        if not reply.tokens:
            return False
        if reply.thought or begins_to_think(said):
            self._learn_reasons()
        if self._reasons or reply.is_finished:
            return bool(self._reasons)
        likeliest = reply.tokens[first_answer_token(reply.tokens) or 0].likeliest
        no_answer = not said.strip() or expected_score(likeliest, self.eval_type) is None
        return self._reasons is None and (no_answer or _LIST.match(said) is not None)

    def _learn_reasons(self) -> None:
        self._reasons = self._is_long = True
        self.client.learn_no_logprobs("it thinks before it answers")

    def _by_logprobs(self, reply: Reply) -> Judgement | None:
        """The expected score; None where this server's log-probabilities cannot give it."""
        tokens, said = reply.tokens, reply.text or ""
        start = first_answer_token(tokens)
        if not tokens or len(tokens[start or 0].likeliest) < 2:
            self.client.learn_no_logprobs("its answers carry no list of likely tokens")
            return None
        if start is None:
            return Judgement.unscored("empty answer")
        likeliest = tokens[start].likeliest
        if self.eval_type == "0_100":
            found = splits_numbers(tokens)
            if found or self._splits_numbers is None:
                self._splits_numbers = found
            if self._splits_numbers:
                logger.info("%s writes numbers digit by digit: reading the number it states", self.model)
                return None
            if self._splits_numbers is None and _only_digits(likeliest):
                # "8" may be 8 or the beginning of 87; only the text tells.
                score = read_number(said, self.eval_type, finished=reply.is_finished)
                return _judgement(score, "number", f"no clear number in {self._quoted(said)}")
        why_not = f"little probability on valid answers; it began with {self._quoted(said)}"
        return _judgement(expected_score(likeliest, self.eval_type), "logprobs", why_not)

    async def _ask(self, prompt: str) -> Reply:
        """The answer in words, asked for again with room for reasoning where it was cut within less."""
        messages, wished = [{"role": "user", "content": prompt}], self._wishes(logprobs=False)
        reply = await self.client.ask(messages, wished=wished, limit=_MANY_TOKENS if self._is_long else _SOME_TOKENS)
        if reply.is_cut and not self._is_long:
            self._is_long = True
            reply = await self.client.ask(messages, wished=wished, limit=_MANY_TOKENS)
        said = reply.text or ""
        if reply.thought or find_thinking(said) is not None:
            self._learn_reasons()
        elif self._reasons is None and reply.is_finished:
            self._reasons = False
        is_cut_thought = self._reasons and not reply.is_finished and not reply.thought and find_thinking(said) is None
        return replace(reply, text="") if is_cut_thought else reply  # the template opened it, and it never ended

    def _wishes(self, *, logprobs: bool) -> dict[str, object]:
        """Options that make a good answer likelier, where the server takes them."""
        wishes: dict[str, object] = {"temperature": 0} if logprobs or self.samples == 1 else {}
        if not logprobs and self.eval_type in ("0_100", "0_10"):
            wishes["response_format"] = _score_schema(highest_score(self.eval_type))
        if _REASONING_MODEL.match(self.model):
            wishes["reasoning_effort"] = "low"
        return wishes


def _judgement(score: float | None, method: str, reason: str) -> Judgement:
    return Judgement.unscored(reason) if score is None else Judgement(score, method)


def _score_schema(high: int) -> dict[str, object]:
    """The response format that asks for ``{"score": N}`` from 0 to ``high`` and nothing else."""
    score = {"type": "integer", "minimum": 0, "maximum": high}
    schema = {"type": "object", "properties": {"score": score}, "required": ["score"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "score", "strict": True, "schema": schema}}


def _only_digits(likeliest: Sequence[tuple[str, float]]) -> bool:
    numbers = [token.strip() for token, _ in likeliest if re.fullmatch(r"\s*[0-9]+\s*", token)]
    return all(len(number) == 1 for number in numbers)
