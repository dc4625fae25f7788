"""Grading through OpenAI's API or any server that speaks it, whatever that server can do."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.chat.completion import count_of, first_choice, is_finished, score_schema, steps_of, text_of, was_reasoning
from utils.chat.http_client import bounded_client
from utils.chat.server import OPENAI, find_server
from utils.judges.endpoint import ChatEndpoint, UnreadableAnswerError, error_text, mentions_quota
from utils.judges.reading import (
    Verdict,
    answer_request,
    expected_score,
    first_answer_step,
    highest_score,
    read_number,
    read_yes_no,
    splits_numbers,
)

logger = logging.getLogger(__name__)

_TOP_LOGPROBS = 20
_FEW_TOKENS = 12  # a number with a few words around it; also shows whether the tokenizer splits numbers
_SOME_TOKENS = 64
_MANY_TOKENS = 4096  # models that reason before they answer count their reasoning
_REASONING_MODEL = re.compile(r"(?:.*/)?(o[1-9]|gpt-([5-9]|[1-9]\d))")


@dataclass
class _Abilities:
    """What is known of a model at a server."""

    logprobs: bool = True
    top_logprobs: int = _TOP_LOGPROBS
    splits_numbers: bool | None = None
    token_limit: str = "max_completion_tokens"
    reasons: bool = False
    refused: set[str] = field(default_factory=set)


class OpenAiEndpoint(ChatEndpoint):
    """A model behind the chat completions API.

    It tries log-probabilities first. What the server refuses by name, or leaves out of its answers, is not asked for
    again.

    Args:
        model: the server's name of the model.
        base_url: the server, by default OPENAI_BASE_URL's or OpenAI's.
        api_key: by default JUDGE_API_KEY for another server, OPENAI_API_KEY for OpenAI's and for this machine.
        concurrency: requests under way at a time.
        samples: answers to average where there are no log-probabilities.
        max_retries: how often a failure that may pass is tried again.
        timeout: seconds until a request counts as failed, its whole answer included.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 20,
        samples: int = 1,
        max_retries: int = 5,
        timeout: float = 120.0,
    ) -> None:
        server = find_server(OPENAI, base_url, api_key)
        super().__init__(model, server, concurrency=concurrency, samples=samples)
        self._max_retries = max_retries
        self._timeout = timeout
        # Older and smaller servers know only the older name, and ignore the other one silently.
        self._abilities = _Abilities(token_limit="max_completion_tokens" if server.is_own else "max_tokens")

    def _make_client(self) -> Any:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        return AsyncOpenAI(
            api_key=self._server.key or "none",
            base_url=self._server.url,
            max_retries=self._max_retries,
            timeout=self._timeout,
            http_client=bounded_client(DefaultAsyncHttpxClient, self._timeout, _is_useless_to_repeat),
        )

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        from openai import APIError

        return (APIError,)

    async def _grade(self, client: Any, prompt: str, eval_type: str) -> Verdict:
        if eval_type == "binary_text":
            text, finished = await self._ask(client, prompt)
            score = read_yes_no(text) if finished else None
            return _verdict(score, "text", f"neither a clear YES nor a clear NO in {self._quoted(text)}")
        if self._uses_logprobs(eval_type):
            verdict = await self._grade_by_logprobs(client, prompt, eval_type)
            if verdict is not None:
                return verdict
        return await self._grade_by_text(client, prompt, eval_type)

    def _uses_logprobs(self, eval_type: str) -> bool:
        return self._abilities.logprobs and not (eval_type == "0_100" and self._abilities.splits_numbers)

    async def _grade_by_logprobs(self, client: Any, prompt: str, eval_type: str) -> Verdict | None:
        """The expected score; None where this server's log-probabilities cannot give it."""
        completion = await self._create(client, prompt, temperature=0, logprobs=True, limit=_FEW_TOKENS)
        if completion is None:
            return None
        steps, text, finished = steps_of(completion), text_of(completion), is_finished(completion)
        start = first_answer_step(steps)
        if not steps or len(steps[start or 0].top) < 2:
            self._learn_no_logprobs("its answers carry no list of likely tokens")
            return None
        if start is None:
            return Verdict.unscored("empty answer")
        if eval_type == "0_100":
            found = splits_numbers(steps)
            if found or self._abilities.splits_numbers is None:
                self._abilities.splits_numbers = found
            if self._abilities.splits_numbers:
                logger.info("%s writes numbers digit by digit: reading the number it states", self.model)
                return None
            if found is None and self._abilities.splits_numbers is None and _only_digits(steps[start].top):
                # "8" may be 8 or the beginning of 87; only the text tells.
                score = read_number(text, eval_type, finished=finished)
                return _verdict(score, "number", f"no clear number in {self._quoted(text)}")
        score = expected_score(steps[start].top, eval_type)
        return _verdict(score, "logprobs", f"little probability on valid answers; it began with {self._quoted(text)}")

    async def _grade_by_text(self, client: Any, prompt: str, eval_type: str) -> Verdict:
        """The mean of the answers that are stated in words."""
        words = eval_type == "binary"
        high = None if words else highest_score(eval_type)
        scores, reply = [], ""
        for _ in range(self._samples):
            reply, finished = await self._ask(client, prompt + answer_request(eval_type), high=high)
            read = read_yes_no(reply) if words else read_number(reply, eval_type, finished=finished)
            if read is not None:
                scores.append(read)
        return self._mean(scores, "text" if words else "number", reply)

    async def _ask(self, client: Any, prompt: str, *, high: int | None = None) -> tuple[str, bool]:
        """The reply, as JSON with a score up to ``high`` where that is given, and whether it was finished."""
        options: dict[str, Any] = {"temperature": 0} if self._samples == 1 else {}
        if high is not None:
            options["response_format"] = score_schema(high)
        limit = _MANY_TOKENS if self._abilities.reasons else _SOME_TOKENS
        completion = await self._create(client, prompt, limit=limit, **options)
        if not is_finished(completion) and not self._abilities.reasons and was_reasoning(completion):
            self._abilities.reasons = True
            completion = await self._create(client, prompt, limit=_MANY_TOKENS, **options)
        return text_of(completion), is_finished(completion)

    async def _create(self, client: Any, prompt: str, *, limit: int, **options: Any) -> Any:
        """A completion; what the server refuses by name is left out from then on. None without log-probabilities."""
        from openai import APIStatusError

        while True:
            sent = self._allowed({**options, "limit": limit})
            try:
                self.usage.requests += 1
                messages = [{"role": "user", "content": prompt}]
                completion = await client.chat.completions.create(model=self.model, messages=messages, **sent)
            except APIStatusError as error:
                if not self._learn(error, sent):
                    raise
                if "logprobs" in options and not self._abilities.logprobs:
                    return None
            else:
                if first_choice(completion) is None:
                    raise UnreadableAnswerError
                self._count(completion)
                return completion

    def _allowed(self, options: dict[str, Any]) -> dict[str, Any]:
        abilities = self._abilities
        sent = {key: value for key, value in options.items() if key not in abilities.refused and key != "limit"}
        if sent.pop("logprobs", False) and abilities.logprobs:
            sent |= {"logprobs": True, "top_logprobs": abilities.top_logprobs}
        if abilities.token_limit not in abilities.refused:
            sent[abilities.token_limit] = options["limit"]
        if _REASONING_MODEL.match(self.model) and "reasoning_effort" not in abilities.refused:
            sent["reasoning_effort"] = "low"
        return sent

    def _learn(self, error: Any, sent: dict[str, Any]) -> bool:
        """Note what the error says the server does not take; whether the request can now be made in another way."""
        if error.status_code not in (400, 403, 422, 500, 501):
            return False
        said = f"{error.param or ''} {error.code or ''} {error_text(error)}"
        abilities = self._abilities
        if "top_logprobs" in sent and re.search(r"\blog_?prob|log[- ]probabilit|\btop_logprobs", said, re.IGNORECASE):
            allowed = [int(n) for n in re.findall(r"(?<![\w.-])\d{1,2}\b", said) if 2 <= int(n) < sent["top_logprobs"]]
            if allowed and "top_logprobs" in said:
                abilities.top_logprobs = max(allowed)
            else:
                self._learn_no_logprobs(f"{error.status_code}: {self._said(error)}")
            return True
        for name in ("temperature", "response_format", "reasoning_effort"):
            pattern = r"response_format|json_schema|structured" if name == "response_format" else rf"\b{name}\b"
            if name in sent and re.search(pattern, said):
                abilities.refused.add(name)
                return True
        limit = next((name for name in ("max_tokens", "max_completion_tokens") if name in sent), None)
        if limit and re.search(rf"\b{limit}\b", said):
            abilities.refused.add(limit)
            abilities.token_limit = "max_tokens" if limit == "max_completion_tokens" else "max_completion_tokens"
            return True
        return False

    def _learn_no_logprobs(self, why: str) -> None:
        if self._abilities.logprobs:
            logger.info("%s gives no log-probabilities (%s): reading the number it states", self.model, why)
        self._abilities.logprobs = False

    def _count(self, completion: Any) -> None:
        usage = getattr(completion, "usage", None)
        self.usage.input_tokens += count_of(usage, "prompt_tokens")
        self.usage.output_tokens += count_of(usage, "completion_tokens")


def _is_useless_to_repeat(status: int, text: str) -> bool:
    """Whether an error will not pass; the SDK takes every 429 and 500 for one that does."""
    if status != 429 and status < 500:
        return False
    return mentions_quota(text) or "response_format" in text or "json_schema" in text


def _verdict(score: float | None, method: str, reason: str) -> Verdict:
    return Verdict(score, method) if score is not None else Verdict.unscored(reason)


def _only_digits(top: Sequence[tuple[str, float]]) -> bool:
    numbers = [token.strip() for token, _ in top if re.fullmatch(r"\s*[0-9]+\s*", token)]
    return all(len(number) == 1 for number in numbers)
