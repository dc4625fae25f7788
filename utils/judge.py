"""Judges: how strongly an answer shows a trait, by an API model or by a local one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from utils.config import get_credential, load_credentials
from utils.errors import UserError
from utils.judges.endpoint import ApiJudge, ChatEndpoint, JudgeError, Usage
from utils.judges.reading import EVAL_TYPES, EvalType, Verdict, fill_template

if TYPE_CHECKING:
    from utils.models.load import LoadedModel

__all__ = [
    "ApiJudge",
    "Judge",
    "JudgeError",
    "OpenAiJudge",
    "Usage",
    "Verdict",
    "choose_judge",
    "fill_template",
    "make_endpoint",
    "make_local_judge",
]

# gpt-5-mini, which the documentation shows, has an announced end; this is its successor.
DEFAULT_OPENAI_MODEL = "gpt-5.4-mini"
DEFAULT_ANTHROPIC_MODEL = "claude-haiku-4-5"


class Judge(Protocol):
    """Anything that scores prompts which already hold the question and the answer."""

    @property
    def name(self) -> str:
        """What the scores are recorded under."""

    @property
    def paid(self) -> bool:
        """Whether its tokens may cost money."""

    @property
    def usage(self) -> Usage:
        """Tokens sent and received so far."""

    def check(self) -> None:
        """Raise UserError where the judge cannot work."""

    def verdicts(self, prompts: Sequence[str], eval_type: str = "0_100") -> Iterator[tuple[int, Verdict]]:
        """The index and verdict of every prompt, in the order in which they are ready."""

    def close(self) -> None:
        """Let go of connections."""


class OpenAiJudge:
    """Scores answers with a model behind OpenAI's API or any server that speaks it.

    Scale by ``eval_type``: "0_100" 0 to 100, "0_10" 0 to 9, "binary" the probability of YES, "binary_text" 1 or 0 as
    the reply says YES or NO. The first three are expected values over log-probabilities where the model has them.

    Args:
        model: the server's name of the model.
        prompt_template: text with ``{question}`` and ``{answer}``; other braces are left as they are.
        eval_type: the scale.
        base_url, api_key, concurrency, samples, max_retries, timeout: as in ``OpenAiEndpoint``.
        endpoint: a connection to share between judges with different templates, in place of model and server.

    Raises:
        UserError: no key, an unknown ``eval_type``, or a template that would hide the question or the answer.
    """

    def __init__(
        self,
        model: str,
        prompt_template: str,
        eval_type: EvalType = "0_100",
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 20,
        samples: int = 1,
        max_retries: int = 5,
        timeout: float = 120.0,
        endpoint: ChatEndpoint | None = None,
    ) -> None:
        from utils.judges.openai import OpenAiEndpoint

        if eval_type not in EVAL_TYPES:
            raise UserError(f"eval_type must be {', '.join(EVAL_TYPES)}, got {eval_type!r}")
        for placeholder in ("{question}", "{answer}"):
            if placeholder not in prompt_template:
                raise UserError(f"the judge's prompt template lacks {placeholder}, so the judge would never see it")
        if endpoint is None:
            load_credentials()
            endpoint = OpenAiEndpoint(
                model,
                base_url=base_url,
                api_key=api_key,
                concurrency=concurrency,
                samples=samples,
                max_retries=max_retries,
                timeout=timeout,
            )
        self.model = model
        self.prompt_template = prompt_template
        self.eval_type = eval_type
        self._endpoint = endpoint

    async def judge(self, *, question: str, answer: str) -> float | None:
        """The score of ``answer``; None where the judge gave no valid one."""
        return (await self.verdict(question=question, answer=answer)).score

    async def verdict(self, *, question: str, answer: str) -> Verdict:
        """The score of ``answer`` with how it was made, or why there is none.

        Raises:
            JudgeError: no request can succeed: wrong key, unknown model, no credit.
        """
        prompt = fill_template(self.prompt_template, question, answer)
        return await self._endpoint.grade(prompt, self.eval_type)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._endpoint.aclose()


def choose_judge(judge_model: str | None, base_url: str | None = None) -> str:
    """The judge that a setting stands for: ``judge_model`` itself, or the first for which a key or a model is at hand.

    Raises:
        UserError: a server is named but not the model on it.
    """
    if judge_model:
        return judge_model
    if base_url:
        raise UserError("--judge_base_url needs --judge_model: the name that the server has for its model")
    if get_credential("OPENAI_API_KEY"):
        return DEFAULT_OPENAI_MODEL
    return DEFAULT_ANTHROPIC_MODEL if get_credential("ANTHROPIC_API_KEY") else "local"


def make_endpoint(model: str, base_url: str | None, concurrency: int, samples: int) -> ChatEndpoint:
    """A connection to an API model: ``claude-*`` at Anthropic, any other at OpenAI or at ``base_url``."""
    from utils.judges.anthropic import AnthropicEndpoint
    from utils.judges.openai import OpenAiEndpoint

    if model.startswith("claude-") and base_url is None:
        return AnthropicEndpoint(model, concurrency=concurrency, samples=samples)
    return OpenAiEndpoint(model, base_url=base_url, concurrency=concurrency, samples=samples)


def make_local_judge(loaded: LoadedModel) -> Judge:
    """A judge that reads the probabilities of a loaded model."""
    from utils.judges.local import LocalJudge

    return LocalJudge(loaded.model, loaded.tokenizer, loaded.name)
