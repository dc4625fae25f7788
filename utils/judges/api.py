"""Judges behind an API: answers of a model become scores, and failures are told apart."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import ClassVar, Generic, TypeVar

from utils.chat.client import ChatClient, ChatError, Limits, NoConnectionError, Reply
from utils.config import load_credentials
from utils.errors import UserError
from utils.judges.reading import (
    EVAL_TYPES,
    EvalType,
    Judgement,
    answer_request,
    fill_template,
    read_number,
    read_yes_no,
)
from utils.judges.server import Company, find_server

Client = TypeVar("Client", bound=ChatClient)

# So many answers in a row without one that got through mean that the rest would fail too.
_GIVE_UP_AFTER = 10
_TRIAL_PROMPT = "How friendly is this, from 0 to 100: 'Fine, thank you!' Reply with a single integer."


class JudgeError(UserError):
    """The judge cannot work at all: wrong key, unknown model, no credit, no server."""


class ApiJudge(ABC, Generic[Client]):
    """Scores answers with a model behind an API.

    Scale by ``eval_type``: "0_100" 0 to 100, "0_10" 0 to 9, "binary" the probability of YES, "binary_text" 1 or 0 as
    the reply says YES or NO. The first three are expected values over log-probabilities where the model has them.

    Args:
        model: the server's name of the model.
        prompt_template: text with ``{question}`` and ``{answer}``; other braces are left as they are.
        eval_type: the scale.
        base_url: the server, by default the company's own, or the one that its variable names (OPENAI_BASE_URL).
        api_key: by default JUDGE_API_KEY for another server, the company's for its own and for this machine.
        concurrency: requests under way at a time.
        samples: answers to average where there are no log-probabilities.
        max_retries: how often a failure that may pass is tried again.
        timeout: seconds until a request counts as failed, its whole answer included.

    Raises:
        UserError: no key, an unknown ``eval_type``, or a template that would hide the question or the answer.
    """

    paid = True
    _company: ClassVar[Company]
    _client_class: type[Client]

    def __init__(
        self,
        model: str,
        prompt_template: str,
        eval_type: EvalType = "0_100",
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = Limits.concurrency,
        samples: int = 1,
        max_retries: int = Limits.max_retries,
        timeout: float = Limits.timeout,
    ) -> None:
        if eval_type not in EVAL_TYPES:
            raise UserError(f"eval_type must be {', '.join(EVAL_TYPES)}, got {eval_type!r}")
        for placeholder in ("{question}", "{answer}"):
            if placeholder not in prompt_template:
                raise UserError(f"the judge's prompt template lacks {placeholder}, so the judge would never see it")
        load_credentials()
        server = find_server(self._company, base_url, api_key)
        self.model = model
        self.name = f"{model}@{server.where}"
        self.prompt_template, self.eval_type, self.samples = prompt_template, eval_type, samples
        self.client = self._client_class(model, server, Limits(concurrency, max_retries, timeout))
        self._failures_in_a_row = 0

    @abstractmethod
    async def _ask(self, prompt: str) -> Reply:
        """The model's answer in words to ``prompt``, which says what form it should have."""

    @property
    def tokens(self) -> int:
        """Tokens sent and received so far, as the server counts them."""
        return self.client.tokens

    async def judge(self, *, question: str, answer: str) -> float | None:
        """The score of ``answer``; None where the judge gave no valid one. Raises as ``grade`` does."""
        return (await self.grade(fill_template(self.prompt_template, question, answer))).score

    def judgements(self, prompts: Sequence[str]) -> Iterator[tuple[int, Judgement]]:
        """The index and judgement of every filled-in prompt, in the order in which they are ready; raises likewise."""
        return self.client.as_ready([self.grade(prompt) for prompt in prompts])

    def check(self) -> None:
        """Score one trivial answer; where that shows that the judge cannot work, close it and raise JudgeError."""
        try:
            list(self.judgements([_TRIAL_PROMPT]))
        except JudgeError:
            self.close()
            raise

    async def grade(self, prompt: str) -> Judgement:
        """The score of one filled-in prompt with how it was made, or why there is none.

        Raises:
            JudgeError: no request can succeed: wrong key, unknown model, no credit.
        """
        try:
            async with self.client.turn():
                judgement = await self._grade(prompt)
        except ChatError as error:
            return self._failed(error)
        self._failures_in_a_row = 0
        return judgement

    async def aclose(self) -> None:
        """Close the connections, for asynchronous code."""
        await self.client.aclose()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    async def _grade(self, prompt: str) -> Judgement:
        """The mean of the scores that are stated in words; none unless at least half of the samples state one."""
        words = self.eval_type in ("binary", "binary_text")
        scores, said = [], ""
        for _ in range(self.samples):
            reply = await self._ask(prompt + answer_request(self.eval_type))
            said = reply.text or ""
            if words:
                score = read_yes_no(said) if reply.is_finished else None
            else:
                score = read_number(said, self.eval_type, finished=reply.is_finished)
            scores += [] if score is None else [score]
        if not scores or 2 * len(scores) < self.samples:
            return Judgement.unscored(f"no clear answer in {self._quoted(said)}")
        kind = "text" if words else "number"
        return Judgement(fmean(scores), kind if self.samples == 1 else f"mean of {len(scores)} {kind}s")

    def _quoted(self, said: str) -> str:
        return repr(self.client.server.without_keys(said)[:60])

    def _failed(self, error: ChatError) -> Judgement:
        self._failures_in_a_row += 1
        try:
            self._raise_if_all_would_fail(error)
        except JudgeError as final:
            self.client.stop(final)
            raise
        return Judgement.unscored(str(error))

    def _raise_if_all_would_fail(self, error: ChatError) -> None:
        where, model, status, said = self.client.server.where, self.model, error.status, error.said
        remedy = "or use another --judge_model, for example local"
        if error.no_quota:
            raise JudgeError(f"the account at {where} has no quota left ({status}). Add credit, {remedy}")
        if status == 401:
            raise JudgeError(f"{where} refused the key (401). Set {self.client.server.key_name} in .env, {remedy}")
        if status == 403 and error.is_about_the_request:
            raise JudgeError(f"{where} does not allow {model} (403: {said}). Check the account, {remedy}")
        if status == 404:
            raise JudgeError(f"{where} has no model {model!r} (404). Check the name, {remedy}")
        if not self.client.works and isinstance(error, NoConnectionError):
            raise JudgeError(
                f"cannot reach the judge at {where} ({said}). Check that the server runs, and --judge_base_url"
            )
        if not self.client.works and error.is_about_the_request:
            raise JudgeError(
                f"{where} rejected the request to {model} ({status}: {said}). "
                f"Check --judge_model and --judge_base_url, {remedy}"
            )
        if self._failures_in_a_row >= _GIVE_UP_AFTER:
            raise JudgeError(
                f"the judge {model} at {where} failed {self._failures_in_a_row} times in a row, last: {error}. "
                "Scores made so far are kept: run with --judge_only later, or with another --judge_model"
            )
