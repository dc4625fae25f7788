"""Grading by Anthropic's models, which give no log-probabilities: they state a number."""

from __future__ import annotations

from typing import Any

from utils.config import get_credential
from utils.errors import UserError
from utils.judge_completion import count_of
from utils.judge_endpoint import ChatEndpoint, UnreadableAnswerError, mentions_quota
from utils.judge_reading import Verdict, answer_request, read_number, read_yes_no

_MAX_TOKENS = 1024  # room for a model that thinks first; the answer itself is a number


class AnthropicEndpoint(ChatEndpoint):
    """A model behind Anthropic's messages API. Arguments as in ``OpenAiEndpoint``; the key is ANTHROPIC_API_KEY."""

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
        key = api_key or get_credential("ANTHROPIC_API_KEY")
        if not key:
            raise UserError("no ANTHROPIC_API_KEY: set it in .env, or choose another --judge_model, for example local")
        super().__init__(
            model,
            where="api.anthropic.com",
            key_name="ANTHROPIC_API_KEY",
            api_key=key,
            concurrency=concurrency,
            samples=samples,
        )
        self._base_url = base_url
        self._max_retries = max_retries
        self._timeout = timeout

    def _make_client(self) -> Any:
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        return AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=self._timeout,
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [_forbid_useless_retries]}),
        )

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        from anthropic import APIError

        return (APIError,)

    async def _grade(self, client: Any, prompt: str, eval_type: str) -> Verdict:
        words = eval_type in ("binary", "binary_text")
        scores, reply = [], ""
        for _ in range(self._samples):
            reply, finished = await self._ask(client, prompt + answer_request(eval_type))
            read = read_yes_no(reply) if words else read_number(reply, eval_type, finished=finished)
            if read is not None and (finished or not words):
                scores.append(read)
        return self._mean(scores, "text" if words else "number", reply)

    async def _ask(self, client: Any, prompt: str) -> tuple[str, bool]:
        self.usage.requests += 1
        # No temperature: newer models and version 2 of the SDK do not take one.
        message = await client.messages.create(
            model=self.model, max_tokens=_MAX_TOKENS, messages=[{"role": "user", "content": prompt}]
        )
        usage = getattr(message, "usage", None)
        self.usage.input_tokens += count_of(usage, "input_tokens")
        self.usage.output_tokens += count_of(usage, "output_tokens")
        blocks = getattr(message, "content", None)
        if not isinstance(blocks, list):  # a proxy may answer 200 with a page
            raise UnreadableAnswerError
        texts = (getattr(block, "text", None) for block in blocks if getattr(block, "type", None) == "text")
        reply = "".join(text for text in texts if isinstance(text, str))
        return reply, getattr(message, "stop_reason", None) not in (
            "max_tokens",
            "refusal",
        )


async def _forbid_useless_retries(response: Any) -> None:
    """Keep the SDK from waiting for credit that will not come back by itself."""
    if response.status_code == 429 and mentions_quota((await response.aread()).decode("utf-8", "replace")):
        response.headers["x-should-retry"] = "false"
