"""A judge behind Anthropic's API, which gives no log-probabilities: it states a number."""

from __future__ import annotations

from utils.chat.anthropic import AnthropicClient
from utils.chat.client import Reply
from utils.judges.api import ApiJudge
from utils.judges.server import ANTHROPIC

_MAX_TOKENS = 1024  # room for a model that thinks first; the answer itself is a number


class AnthropicJudge(ApiJudge[AnthropicClient]):
    """Scores answers with a model behind Anthropic's messages API. Arguments as in ``ApiJudge``."""

    _company = ANTHROPIC
    _client_class = AnthropicClient

    async def _ask(self, prompt: str) -> Reply:
        return await self.client.ask(prompt, _MAX_TOKENS)
