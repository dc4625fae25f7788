"""What every client of a chat server shares: turns, errors told apart, the tokens used, and many requests at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from utils.chat.http_client import bounded_client, mentions_quota
from utils.chat.words import in_short, words_of
from utils.config import keys_in, without_keys

if TYPE_CHECKING:
    import anthropic
    import openai

Result = TypeVar("Result")

_ROW_CODES = (
    "context_length_exceeded",
    "content_filter",
    "content_policy_violation",
    "string_above_max_length",
    "invalid_prompt",
    "ResponsibleAIPolicyViolation",
    "data_inspection_failed",
)
_ROW_WORDS = (
    "context length",
    "context window",
    "context size",
    "maximum context",
    "too long",
    "content policy",
    "content management",
    "content filter",
    "usage policy",
    "usage policies",
    "inappropriate content",
    "safety system",
    "moderation",
)


class ChatError(Exception):
    """A request that failed, in one line without keys.

    Attributes:
        status: of the server's answer, 0 where there is none to read.
        said: the server's own words, or the library's where there are none.
        names: the parameter and the code that the server names as the cause.
        no_quota: whether the account is out of credit, which waiting does not mend.
    """

    def __init__(self, reason: str, status: int = 0, said: str = "", names: str = "", no_quota: bool = False) -> None:
        super().__init__(reason)
        self.status, self.said, self.names, self.no_quota = status, said, names, no_quota

    @property
    def is_about_the_request(self) -> bool:
        """Whether the server rejected the kind of request; not one that is too long or whose content is not allowed."""
        if self.status >= 500 or self.status in (0, 408, 409, 413, 429):
            return False
        return not self._names_the_content

    @property
    def is_about_the_row(self) -> bool:
        """Whether the server refused this text, as too long or for what it says: others may well be answered."""
        if self.status in (0, 401, 404, 408, 409, 429) or self.no_quota:
            return False
        return self.status == 413 or self._names_the_content

    @property
    def _names_the_content(self) -> bool:
        codes, text = self.names.split(), self.said.lower()
        return any(code in _ROW_CODES for code in codes) or any(words in text for words in _ROW_WORDS)


class NoConnectionError(ChatError):
    """No answer came."""


class UnreadableAnswerError(ChatError):
    """A server's answer is not what its API promises: a page, another object, half of one."""

    def __init__(self, said: str = "") -> None:
        found = f", but began with {said[:80]!r}" if said else ""
        super().__init__(f"the server's answer was not a chat completion in JSON{found}", said=said)


@dataclass(frozen=True)
class ChatServer:
    """An address, the name to show and record it by, the key or nothing, and the variable that should hold the key."""

    url: str
    where: str
    key: str = field(repr=False)
    key_name: str
    is_own: bool = False

    def without_keys(self, text: str) -> str:
        """``text`` without this server's key, and without what stands before an @ in its address."""
        return without_keys(text, self.key, *keys_in(self.url))


@dataclass(frozen=True)
class Limits:
    """How many requests are under way at a time, how often a passing failure is tried again, seconds for an answer."""

    concurrency: int = 20
    max_retries: int = 5
    timeout: float = 120.0


@dataclass(frozen=True)
class Token:
    """One generated token, with the log-probabilities of the likeliest tokens at its place."""

    text: str
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        text: None where the answer holds no message.
        ending: why it ended, in the server's word; empty where it gives none.
        tokens: only where they were asked for and the server gives them.
        thought: what the server took out of the text as the model's reasoning.
    """

    text: str | None
    ending: str
    tokens: tuple[Token, ...] = ()
    thought: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether the model ended its answer by itself."""
        return not self.is_cut and self.ending not in ("refusal", "content_filter")

    @property
    def is_cut(self) -> bool:
        """Whether the answer reached the limit of its length."""
        return self.ending in ("length", "max_tokens")


class _Sdk(Protocol):
    async def close(self) -> None:
        """Let go of the connections."""


Sdk = TypeVar("Sdk", bound=_Sdk)


@dataclass(frozen=True)
class _Session(Generic[Sdk]):
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    sdk: Sdk
    places: asyncio.Semaphore


class ChatClient(ABC, Generic[Sdk]):
    """A model behind a chat server.

    The first turn goes alone: it finds out whether the key works and what the server can do, for all the others.
    """

    def __init__(self, model: str, server: ChatServer, limits: Limits) -> None:
        self.model = model
        self.server = server
        self.tokens = 0  # sent and received so far, as the server counts them
        self.works = False
        self._limits = limits
        self._session: _Session[Sdk] | None = None
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._stopped: Exception | None = None

    @abstractmethod
    def _sdk_classes(self) -> tuple[Callable[..., Sdk], type]:
        """The client of the server's library, and what that sends requests with."""

    def _make_sdk(self) -> Sdk:
        sdk, http_client = self._sdk_classes()
        return sdk(
            api_key=self.server.key or "none",
            base_url=self.server.url,
            max_retries=self._limits.max_retries,
            timeout=self._limits.timeout,
            http_client=bounded_client(http_client),
        )

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one of the places for requests is free, and hold it.

        Raises:
            Exception: that with which ``stop`` was called.
        """
        session = self._session_here()
        async with session.places:
            if self._stopped is not None:
                raise self._stopped
            yield
            if not self.works:
                self.works = True
                for _ in range(self._limits.concurrency - 1):
                    session.places.release()

    def stop(self, error: Exception) -> None:
        """Give ``error`` to all who wait for a turn: no request can succeed any more."""
        self._stopped = error

    def as_ready(self, work: Sequence[Coroutine[object, object, Result]]) -> Generator[tuple[int, Result], None, None]:
        """Do all of ``work`` at once, for code that is not asynchronous.

        Yields:
            Each one's place in ``work`` and its result, as they come; those that are there before any error.
        """
        loop = self._own_loop = self._own_loop or asyncio.new_event_loop()
        tasks = {loop.create_task(one): place for place, one in enumerate(work)}
        # Not asyncio.wait, which looks at all that are under way each time one is ready: quadratic in the tasks.
        ready: asyncio.Queue[asyncio.Task[Result]] = asyncio.Queue()
        for task in tasks:
            task.add_done_callback(ready.put_nowait)
        missing = len(tasks)
        try:
            while missing:
                done = [loop.run_until_complete(ready.get())]
                while not ready.empty():
                    done.append(ready.get_nowait())
                missing -= len(done)
                for task in sorted(done, key=lambda t: t.exception() is not None):
                    yield tasks[task], task.result()
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.sdk.close()
            self._session = None

    def close(self) -> None:
        """Close the connections and the event loop of ``as_ready``."""
        if self._own_loop is not None:
            self._own_loop.run_until_complete(self.aclose())
            self._own_loop.close()
            self._own_loop = None

    def _session_here(self) -> _Session[Sdk]:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:  # connections cannot move between event loops
            places = asyncio.Semaphore(self._limits.concurrency if self.works else 1)
            self._session = _Session(loop, self._make_sdk(), places)
        return self._session

    def _explained(self, error: openai.APIError | anthropic.APIError) -> ChatError:
        status, code = getattr(error, "status_code", 0), getattr(error, "code", None) or ""
        said = error_text(error, self.server)
        if not status:
            return NoConnectionError(f"no connection ({said})", said=said)
        names = f"{getattr(error, 'param', None) or ''} {code} {at(error.body, 'innererror', 'code') or ''}"
        return ChatError(f"{status}: {said}", status, said, names, mentions_quota(f"{code} {error.body}"))

    def _count(self, answer: object, *names: str) -> None:
        """Add up the tokens that an answer states under ``names``."""
        counts = [at(answer, "usage", name) for name in names]
        self.tokens += sum(count for count in counts if isinstance(count, int))


def error_text(error: openai.APIError | anthropic.APIError, server: ChatServer) -> str:
    """The server's own words in an error, on one short line, without the keys that they may repeat."""
    text = server.without_keys(words_of(error.body) or str(error))  # before it is cut, which may leave half a key
    return in_short(text)


def parse_answer(data: bytes, server: ChatServer) -> object:
    """The value of an answer in JSON. Its texts may hold half characters and its numbers may be infinite.

    Raises:
        UnreadableAnswerError: it is something else; says what it began with.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # a page; a number of 5,000 digits; brackets without end
        said = words_of(data[:20_000].decode("utf-8", "replace"))
        raise UnreadableAnswerError(in_short(server.without_keys(said))) from error


def at(value: object, *path: str | int) -> object:
    """What a JSON value holds at ``path``; None where there is no such place.

    >>> at({"choices": [{"text": "yes"}]}, "choices", 0, "text")
    'yes'
    >>> at({"choices": "no list"}, "choices", 0, "text") is None
    True
    """
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    return value
