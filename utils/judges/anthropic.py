"""Grading by Anthropic's models, which give no log-probabilities: they state a number."""

from __future__ import annotations

from typing import Any

from utils.chat.completion import count_of
from utils.chat.http_client import bounded_client
from utils.chat.server import ANTHROPIC, find_server
from utils.judges.endpoint import ChatEndpoint, UnreadableAnswerError, mentions_quota
from utils.judges.reading import Verdict, answer_request, read_number, read_yes_no

_MAX_TOKENS = 1024  # room for a model that thinks first; the answer itself is a number


class AnthropicEndpoint(ChatEndpoint):
    """A model behind Anthropic's messages API. Arguments as in ``OpenAiEndpoint``; the company is Anthropic."""

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
        super().__init__(model, find_server(ANTHROPIC, base_url, api_key), concurrency=concurrency, samples=samples)
        self._max_retries = max_retries
        self._timeout = timeout

    def _make_client(self) -> Any:
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        return AsyncAnthropic(
            api_key=self._server.key or "none",
            base_url=self._server.url,
            max_retries=self._max_retries,
            timeout=self._timeout,
            http_client=bounded_client(DefaultAsyncHttpxClient, self._timeout, _is_useless_to_repeat),
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


def _is_useless_to_repeat(status: int, text: str) -> bool:
    """Whether an error will not pass: credit does not come back by itself."""
    return status == 429 and mentions_quota(text)
