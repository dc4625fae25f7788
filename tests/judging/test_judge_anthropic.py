"""Anthropic's SDK against a server over loopback."""

import asyncio

import pytest

from utils.errors import UserError
from utils.judge import AnthropicJudge, JudgeError, OpenAiJudge, make_api_judge

from .conftest import KEY, TEMPLATE
from .servers import CUT, Reply, error, message


def grade(server, eval_type="0_100", n=1, **options):
    async def run():
        url = server.url.removesuffix("/v1")
        judge = AnthropicJudge(
            "claude-test", TEMPLATE, eval_type, base_url=url, max_retries=options.pop("max_retries", 1), **options
        )
        try:
            return [await judge.grade(f"Rate {i}.") for i in range(n)], judge.tokens
        finally:
            await judge.aclose()

    return asyncio.run(run())


def test_a_stated_number_is_the_score_and_no_temperature_is_sent(serve):
    server = serve(lambda body, n: message("72"))
    [verdict], tokens = grade(server)
    assert (verdict.score, verdict.method) == (72.0, "number")
    assert "temperature" not in server.requests[0]
    assert KEY in (
        server.headers[0].get("x-api-key", "") + server.headers[0].get("authorization", "")
    )  # as the SDK's version has it
    assert (len(server.requests), tokens) == (1, 42)


@pytest.mark.parametrize(
    "reply", [message("I'd rather not."), message(""), message("Score: 8", stop="max_tokens"), message("101")]
)
def test_a_reply_without_a_number_is_none(serve, reply):
    [verdict], _ = grade(serve(lambda body, n: reply))
    assert verdict.score is None
    assert verdict.reason


def test_several_samples_are_averaged(serve):
    [verdict], _ = grade(serve(lambda body, n: message(["60", "90"][n])), samples=2)
    assert (verdict.score, verdict.method) == (75.0, "mean of 2 numbers")


def test_yes_or_no_is_read(serve):
    [verdict], _ = grade(serve(lambda body, n: message("NO")), "binary")
    assert (verdict.score, verdict.method) == (0.0, "text")


@pytest.mark.parametrize("trouble", [Reply(CUT), error(500, "crashed"), error(529, "overloaded")])
def test_passing_trouble_is_tried_again(serve, trouble):
    server = serve(lambda body, n: trouble if n == 0 else message("72"))
    [verdict], _ = grade(server)
    assert verdict.score == 72.0
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer", [Reply("<html>proxy</html>", headers={"Content-Type": "text/html"}), Reply(f'{{"id": {"9" * 5000}}}')]
)
def test_an_answer_that_is_no_message_leaves_only_that_one_unscored(serve, answer):
    verdicts, _ = grade(serve(lambda body, n: answer if n == 1 else message("72")), n=3)
    assert [v.score for v in verdicts] == [72.0, None, 72.0]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (error(401, f"invalid x-api-key {KEY}"), "Set ANTHROPIC_API_KEY"),
        (error(404, "model: claude-test"), "has no model 'claude-test'"),
        (error(400, "Your credit balance is too low to access the API"), "no quota left"),
    ],
)
def test_a_permanent_error_makes_one_request_and_names_the_remedy(serve, failure, words):
    server = serve(lambda body, n: failure)
    with pytest.raises(JudgeError, match=words) as caught:
        grade(server, n=3)
    assert len(server.requests) == 1
    assert KEY not in str(caught.value)


def test_a_server_named_in_the_environment_is_recorded_and_gets_no_key_of_anthropics(monkeypatch):
    assert AnthropicJudge("m", TEMPLATE).name == "m@api.anthropic.com"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example")
    elsewhere = AnthropicJudge("m", TEMPLATE)
    assert elsewhere.name == "m@gateway.example"
    client = elsewhere.client._make_sdk()
    assert (client.base_url.host, client.api_key) == ("gateway.example", "none")


def test_claude_models_go_to_anthropic_unless_a_server_is_named(monkeypatch):
    assert isinstance(make_api_judge("claude-haiku-4-5", None, 1, 1), AnthropicJudge)
    assert isinstance(make_api_judge("claude-haiku-4-5", "http://localhost:1/v1", 1, 1), OpenAiJudge)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY"):
        make_api_judge("claude-haiku-4-5", None, 1, 1)
