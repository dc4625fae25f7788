"""What every judge behind an API shares: one client per run, bounded concurrency, and failures told apart."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from utils.chat.server import JudgeServer
from utils.config import without_keys
from utils.errors import UserError
from utils.judges.reading import Verdict

logger = logging.getLogger(__name__)

# So many answers in a row without one that got through mean that the rest would fail too.
_GIVE_UP_AFTER = 10
_TRIAL_PROMPT = "How friendly is this, from 0 to 100: 'Fine, thank you!' Reply with a single integer."
_ROW_CODES = (
    "context_length_exceeded",
    "content_filter",
    "content_policy_violation",
    "string_above_max_length",
    "invalid_prompt",
)
_ROW_WORDS = ("context length", "context window", "maximum context", "too long", "content policy", "content management")
_QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit balance")


class JudgeError(UserError):
    """The judge cannot work at all: wrong key, unknown model, no credit, no server."""


class UnreadableAnswerError(Exception):
    """A server's answer is not what its API promises: a page, another object, half of one."""


# What reading such an answer raises: half an object, bytes that are no text, a number of 5,000 digits (all three are
# ValueError), brackets without end.
UNREADABLE = (UnreadableAnswerError, ValueError, RecursionError)


@dataclass
class Usage:
    """What a run has sent and received so far, in the server's own count of tokens."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in both directions."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class _Session:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    client: Any
    slots: asyncio.Semaphore
    first: asyncio.Lock


class ChatEndpoint(ABC):
    """A model behind an API that grades prompts.

    The first request goes alone: it finds out whether the key works and what the server can do, for all the others.
    """

    def __init__(self, model: str, server: JudgeServer, *, concurrency: int, samples: int) -> None:
        self.model = model
        self.where = server.where
        self.usage = Usage()
        self._samples = samples
        self._server = server
        self._concurrency = concurrency
        self._session: _Session | None = None
        self._works = False
        self._broken: JudgeError | None = None
        self._failures_in_a_row = 0

    @abstractmethod
    def _make_client(self) -> Any:
        """A client of the SDK."""

    @abstractmethod
    async def _grade(self, client: Any, prompt: str, eval_type: str) -> Verdict:
        """Score one prompt; may raise the SDK's errors."""

    @abstractmethod
    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        """The SDK's errors: connection and status."""

    async def grade(self, prompt: str, eval_type: str) -> Verdict:
        """Score one filled-in prompt.

        Raises:
            JudgeError: no further request can succeed; says why and what to do.
        """
        session = self._session_here()
        if not self._works:
            async with session.first:
                if not self._works:  # whoever waited here finds the way prepared
                    return await self._grade_or_explain(session, prompt, eval_type)
        async with session.slots:
            return await self._grade_or_explain(session, prompt, eval_type)

    async def aclose(self) -> None:
        """Close the client's connections."""
        if self._session is not None:
            await self._session.client.close()
            self._session = None

    def _session_here(self) -> _Session:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:  # connections cannot move between event loops
            self._session = _Session(loop, self._make_client(), asyncio.Semaphore(self._concurrency), asyncio.Lock())
        return self._session

    async def _grade_or_explain(self, session: _Session, prompt: str, eval_type: str) -> Verdict:
        if self._broken is not None:  # whoever waited behind a permanent error does not repeat it
            raise self._broken
        try:
            return await self._grade_or_not(session, prompt, eval_type)
        except JudgeError as error:
            self._broken = error
            raise

    async def _grade_or_not(self, session: _Session, prompt: str, eval_type: str) -> Verdict:
        try:
            verdict = await self._grade(session.client, prompt, eval_type)
        except UNREADABLE:
            return self._failed("the server's answer was not a chat completion in JSON")
        except self._sdk_errors() as error:
            return self._failed(self._row_problem(error))
        self._works, self._failures_in_a_row = True, 0
        return verdict

    def _failed(self, reason: str) -> Verdict:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _GIVE_UP_AFTER:
            raise JudgeError(
                f"the judge {self.model} at {self.where} failed {self._failures_in_a_row} times in a row, last: "
                f"{reason}. Scores made so far are kept: run with --judge_only later, or with another --judge_model"
            )
        return Verdict.unscored(reason)

    def _row_problem(self, error: Exception) -> str:
        """Why one answer got no score; raises JudgeError where no other would get one either."""
        status = getattr(error, "status_code", None)
        said = self._said(error)
        if status is None:
            if not self._works:
                raise JudgeError(
                    f"cannot reach the judge at {self.where} ({said}). Check that the server runs, and --judge_base_url"
                ) from error
            return f"no connection ({said})"
        remedy = "or use another --judge_model, for example local"
        if is_quota_error(error):
            raise JudgeError(
                f"the account at {self.where} has no quota left ({status}). Add credit, {remedy}"
            ) from error
        if status == 401:
            raise JudgeError(
                f"{self.where} refused the key (401). Set {self._server.key_name} in .env, {remedy}"
            ) from error
        if status == 403:
            raise JudgeError(
                f"{self.where} does not allow {self.model} (403: {said}). Check the account, {remedy}"
            ) from error
        if status == 404:
            raise JudgeError(f"{self.where} has no model {self.model!r} (404). Check the name, {remedy}") from error
        if status < 500 and status not in (408, 409, 429) and not self._works and not _is_about_one_row(error):
            raise JudgeError(
                f"{self.where} rejected the request to {self.model} ({status}: {said}). "
                f"Check --judge_model and --judge_base_url, {remedy}"
            ) from error
        return f"{status}: {said}"

    def _said(self, error: Exception) -> str:
        return error_text(error, *self._server.keys)

    def _mean(self, scores: Sequence[float], kind: str, last_reply: str) -> Verdict:
        """The mean of the valid scores of all samples of a prompt; no score unless at least half are valid."""
        if not scores or 2 * len(scores) < self._samples:
            return Verdict.unscored(f"no clear answer in {self._quoted(last_reply)}")
        return Verdict(fmean(scores), kind if self._samples == 1 else f"mean of {len(scores)} {kind}s")

    def _quoted(self, reply: str) -> str:
        return repr(without_keys(reply, *self._server.keys)[:60])


def error_text(error: Exception, *keys: str) -> str:
    """The server's own words in an SDK error, on one short line, without the credentials that they may repeat."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error")
        body = inner.get("message") if isinstance(inner, dict) else body.get("message")
    text = " ".join(str(body if isinstance(body, str) and body else error).split())
    text = without_keys(text, *keys)  # before it is cut, which may leave half a key
    return text if len(text) <= 200 else text[:199] + "…"


def is_quota_error(error: Exception) -> bool:
    """Whether an SDK error says that the account is out of credit, which waiting does not mend."""
    return mentions_quota(f"{getattr(error, 'code', '')} {getattr(error, 'body', '')}")


def mentions_quota(text: str) -> bool:
    """Whether a server's words say that the account is out of credit."""
    return any(code in text.lower() for code in _QUOTA_CODES)


def _is_about_one_row(error: Exception) -> bool:
    code, text = str(getattr(error, "code", "")), error_text(error).lower()
    return code in _ROW_CODES or getattr(error, "status_code", 0) == 413 or any(words in text for words in _ROW_WORDS)


class ApiJudge:
    """A chat endpoint as a judge of many prompts, for code that is not asynchronous; it owns an event loop."""

    paid = True

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.new_event_loop()
        self.name = f"{endpoint.model}@{endpoint.where}"

    @property
    def usage(self) -> Usage:
        """Tokens sent and received so far."""
        return self._endpoint.usage

    def check(self) -> None:
        """Score one trivial answer; raises JudgeError where the judge cannot work."""
        self._loop.run_until_complete(self._endpoint.grade(_TRIAL_PROMPT, "0_100"))

    def verdicts(self, prompts: Sequence[str], eval_type: str = "0_100") -> Iterator[tuple[int, Verdict]]:
        """The index and verdict of every prompt, in the order in which they are ready."""
        tasks = {self._loop.create_task(self._endpoint.grade(p, eval_type)): i for i, p in enumerate(prompts)}
        # Not asyncio.wait, which looks at all that are under way each time one is ready: quadratic in the prompts.
        ready: asyncio.Queue[asyncio.Task[Verdict]] = asyncio.Queue()
        for task in tasks:
            task.add_done_callback(ready.put_nowait)
        missing = len(tasks)
        try:
            while missing:
                done = [self._loop.run_until_complete(ready.get())]
                while not ready.empty():
                    done.append(ready.get_nowait())
                missing -= len(done)
                # Finished scores are handed out before an error among them ends the run.
                for task in sorted(done, key=lambda t: t.exception() is not None):
                    yield tasks[task], task.result()
        finally:
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(_settled(tasks))

    def close(self) -> None:
        """Close the connections and the event loop."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._endpoint.aclose())
            self._loop.close()


async def _settled(tasks: Iterable[asyncio.Task[Verdict]]) -> None:
    """Wait until all tasks have ended, in whatever way."""
    await asyncio.gather(*tasks, return_exceptions=True)
