"""Judges' servers, and keys that must never be seen."""

import asyncio
import contextlib
import logging

import pytest

from utils.judge import OpenAiJudge, fill_template

from . import servers

KEY = "sk-canary-6f1d0b7a95"
TEMPLATE = 'Judge as {"score": 5}. {question} / {answer}'


@pytest.fixture(autouse=True)
def keys(monkeypatch, tmp_path, caplog):
    """Canaries for keys; no .env and no proxy of the machine is used, and no log may show a canary."""
    for name in (
        "OPENAI_BASE_URL",
        "ANTHROPIC_BASE_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "JUDGE_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setattr("utils.judges.api.load_credentials", lambda: None)
    caplog.set_level(logging.INFO)
    yield KEY
    assert KEY not in caplog.text


@pytest.fixture
def serve():
    """Start a server that answers with a function of (request body, request number)."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(servers.scripted(answer))


@pytest.fixture
def ask(serve):
    """Verdicts of an OpenAiJudge on ``n`` answers, with the server that gave them."""

    def run(answer, eval_type="0_100", n=1, at_once=False, **options):
        server = serve(answer)
        options = {"max_retries": 1, "timeout": 5.0, **options}

        async def judge_all():
            judge = OpenAiJudge("judge-1", TEMPLATE, eval_type, base_url=server.url, **options)
            asked = [judge.grade(fill_template(TEMPLATE, "Why?", f"Because {i}.")) for i in range(n)]
            verdicts = list(await asyncio.gather(*asked)) if at_once else [await verdict for verdict in asked]
            await judge.aclose()
            return verdicts

        return asyncio.run(judge_all()), server

    return run
