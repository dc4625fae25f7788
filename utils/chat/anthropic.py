"""Requests to Anthropic's messages API, which gives no log-probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.chat.client import ChatClient, Reply, UnreadableAnswerError, at, parse_answer
from utils.chat.words import in_short, words_of

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic


class AnthropicClient(ChatClient["AsyncAnthropic"]):
    """A model behind Anthropic's messages API."""

    def _sdk_classes(self) -> tuple[type[AsyncAnthropic], type]:
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        return AsyncAnthropic, DefaultAsyncHttpxClient

    async def ask(self, prompt: str, limit: int) -> Reply:
        """The answer to ``prompt`` in at most ``limit`` tokens.

        Raises:
            ChatError: the request failed.
        """
        from anthropic import APIError

        create = self._session_here().sdk.messages.with_raw_response.create
        try:
            # No temperature: newer models and version 2 of the library do not take one.
            response = await create(model=self.model, max_tokens=limit, messages=[{"role": "user", "content": prompt}])
        except APIError as error:
            raise self._explained(error) from error
        answer = parse_answer(response.http_response.content, self.server)
        self._count(answer, "input_tokens", "output_tokens")
        blocks = at(answer, "content")
        if not isinstance(blocks, list):  # a proxy may answer 200 with a page
            raise UnreadableAnswerError(in_short(self.server.without_keys(words_of(answer))))
        texts = [at(block, "text") for block in blocks if at(block, "type") == "text"]
        ending = at(answer, "stop_reason")
        return Reply("".join(t for t in texts if isinstance(t, str)), ending if isinstance(ending, str) else "")
