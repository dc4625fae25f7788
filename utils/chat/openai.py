"""Requests to OpenAI's API or any server that speaks it, whatever that server can do."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from utils.chat.client import (
    ChatClient,
    ChatError,
    ChatServer,
    Limits,
    Reply,
    Token,
    UnreadableAnswerError,
    at,
    parse_answer,
)
from utils.chat.words import in_short, words_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

logger = logging.getLogger(__name__)

_REFUSALS = (400, 403, 422, 500, 501)
_LOGPROBS = re.compile(r"\blog_?prob|log[- ]probabilit|\btop_logprobs", re.IGNORECASE)
# Where servers put what they take out of a text as reasoning: DeepSeek and vLLM; OpenRouter and newer vLLM.
_THOUGHTS = ("reasoning_content", "reasoning")
_FORMAT = r"response_format|json_schema|structured"


class NoLogProbabilitiesError(ChatError):
    """The server gives no log-probabilities of this model."""

    def __init__(self) -> None:
        super().__init__("no log-probabilities")


class OpenAiClient(ChatClient["AsyncOpenAI"]):
    """A model behind the chat completions API. What the server refuses by name is not sent to it again."""

    def __init__(self, model: str, server: ChatServer, limits: Limits) -> None:
        super().__init__(model, server, limits)
        self.gives_logprobs = True
        self.refused: set[str] = set()
        self._top_logprobs = 20
        # Older and smaller servers know only the older name, and ignore the other one silently.
        self._limit_name = "max_completion_tokens" if server.is_own else "max_tokens"

    def _sdk_classes(self) -> tuple[type[AsyncOpenAI], type]:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        return AsyncOpenAI, DefaultAsyncHttpxClient

    async def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        needed: Mapping[str, object] = {},
        wished: Mapping[str, object] = {},
        limit: int | None = None,
        logprobs: bool = False,
    ) -> Reply:
        """The answer to ``messages``.

        Args:
            messages: each with ``role`` and ``content``.
            needed: options without which the answer would be another one.
            wished: options that are left out where the server refuses them.
            limit: longest answer in tokens, under the name that the server takes; also a wish.
            logprobs: also ask for the likeliest tokens at each place.

        Raises:
            NoLogProbabilitiesError: ``logprobs`` are not to be had.
            ChatError: the request failed, after those tries that may help.
        """
        from openai import APIError

        create = self._session_here().sdk.chat.completions.with_raw_response.create
        while True:
            if logprobs and not self.gives_logprobs:
                raise NoLogProbabilitiesError
            sent = {**needed, **self._allowed(wished, limit, logprobs)}
            try:
                response = await create(model=self.model, messages=messages, **sent)  # type: ignore[call-overload]
            except APIError as error:
                explained = self._explained(error)
                if not self._learn(explained, sent, needed):
                    raise explained from error
            else:
                answer = parse_answer(response.http_response.content, self.server)
                if at(answer, "choices", 0) is None:  # a server may answer 200 with anything
                    raise UnreadableAnswerError(in_short(self.server.without_keys(words_of(answer))))
                self._count(answer, "prompt_tokens", "completion_tokens")
                return _reply(answer, logprobs)

    def learn_no_logprobs(self, why: str) -> None:
        """Note that this server gives no log-probabilities that can be used."""
        if self.gives_logprobs:
            logger.info("%s gives no log-probabilities (%s): reading the number it states", self.model, why)
        self.gives_logprobs = False

    def _allowed(self, wished: Mapping[str, object], limit: int | None, logprobs: bool) -> dict[str, object]:
        sent = {key: value for key, value in wished.items() if key not in self.refused}
        if logprobs:
            sent |= {"logprobs": True, "top_logprobs": self._top_logprobs}
        if limit is not None and self._limit_name not in self.refused:
            sent[self._limit_name] = limit
        return sent

    def _learn(self, error: ChatError, sent: Mapping[str, object], needed: Mapping[str, object]) -> bool:
        """Note what the error says the server does not take; whether the request can now be made in another way."""
        if error.status not in _REFUSALS:
            return False
        said = f"{error.names} {error.said}"
        if "top_logprobs" in sent and _LOGPROBS.search(said):
            self._learn_top_logprobs(said, sent["top_logprobs"], str(error))
            return True
        for name in sent:
            pattern = _FORMAT if name == "response_format" else rf"\b{name}\b"
            if name not in needed and re.search(pattern, said):
                self.refused.add(name)
                logger.info("%s takes no %s: asking without it", self.model, name)
                if name == self._limit_name:
                    self._limit_name = "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"
                return True
        return False

    def _learn_top_logprobs(self, said: str, asked: object, why: str) -> None:
        fewer = [int(n) for n in re.findall(r"(?<![\w.-])\d{1,2}\b", said) if 2 <= int(n) < int(str(asked))]
        if fewer and "top_logprobs" in said:
            self._top_logprobs = max(fewer)
        else:
            self.learn_no_logprobs(why)


def _reply(answer: object, logprobs: bool) -> Reply:
    message = at(answer, "choices", 0, "message")
    ending = at(answer, "choices", 0, "finish_reason")
    content = at(message, "content")
    said = _text_in(content, "text") or _text_in(at(message, "refusal"), "refusal")
    thoughts = [_text_in(at(message, name), "text") for name in _THOUGHTS]
    if isinstance(content, list):  # Mistral sends parts
        thoughts.append(_text_in(content, "thinking"))
    return Reply(
        None if message is None else said,
        ending if isinstance(ending, str) else "",
        tuple(_tokens(answer)) if logprobs else (),
        next(filter(None, thoughts), ""),
    )


def _text_in(content: object, kind: str) -> str:
    """The text of a message's content, whether it is one or a list of parts, of which those of a ``kind`` count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [at(part, kind) for part in parts if at(part, "type") in (kind, f"output_{kind}")]
    return "".join(_text_in(text, "text") for text in texts)


def _tokens(answer: object) -> list[Token]:
    """The generated tokens with the likeliest at each place; empty where the server gives none.

    Raises:
        UnreadableAnswerError: there is something else in their place.
    """
    tokens = at(answer, "choices", 0, "logprobs", "content") or []
    if not isinstance(tokens, list):
        raise UnreadableAnswerError
    return [_token(token) for token in tokens]


def _token(token: object) -> Token:
    text, likeliest = at(token, "token"), at(token, "top_logprobs") or []
    if not isinstance(text, str) or not isinstance(likeliest, list):
        raise UnreadableAnswerError
    pairs = []
    for one in likeliest:
        other, logprob = at(one, "token"), at(one, "logprob")
        if not isinstance(other, str) or not isinstance(logprob, int | float):
            raise UnreadableAnswerError
        pairs.append((other, logprob))
    return Token(text, tuple(pairs))
