"""Judges: how strongly an answer shows a trait, by an API model or by a local one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from utils.config import get_credential
from utils.errors import UserError
from utils.judges.anthropic import AnthropicJudge
from utils.judges.api import JudgeError
from utils.judges.openai import OpenAiJudge
from utils.judges.reading import Judgement, fill_template

if TYPE_CHECKING:
    from utils.judges.local import LocalJudge

__all__ = [
    "AnthropicJudge",
    "Judge",
    "JudgeError",
    "Judgement",
    "OpenAiJudge",
    "choose_judge",
    "fill_template",
    "make_api_judge",
]

# gpt-5-mini, which the documentation shows, has an announced end; this is its successor.
DEFAULT_OPENAI_MODEL = "gpt-5.4-mini"
DEFAULT_ANTHROPIC_MODEL = "claude-haiku-4-5"
# Commands fill in each trait's own prompt, and give the judge whole prompts.
_NO_TEMPLATE = "{question}{answer}"

Judge: TypeAlias = "OpenAiJudge | AnthropicJudge | LocalJudge"


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


def make_api_judge(model: str, base_url: str | None, concurrency: int, samples: int) -> OpenAiJudge | AnthropicJudge:
    """A judge of whole prompts: ``claude-*`` at Anthropic, any other at OpenAI or at ``base_url``."""
    kind = AnthropicJudge if model.startswith("claude-") and base_url is None else OpenAiJudge
    return kind(model, _NO_TEMPLATE, base_url=base_url, concurrency=concurrency, samples=samples)
