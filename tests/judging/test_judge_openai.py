"""The real SDK against a server over loopback that misbehaves as told: the score is right or None."""

import asyncio
import time

import pytest

from utils.errors import UserError
from utils.judge import JudgeError, OpenAiJudge

from .conftest import KEY, TEMPLATE
from .servers import CUT, Reply, completion, error, scripted

EIGHTY = [("80", {"80": 0.5, "90": 0.25, "I": 0.25})]
NUMBERS_ONLY = [("8", {"8": 0.7, "7": 0.2, "9": 0.1})]


def wants_logprobs(body):
    return bool(body.get("logprobs"))


def test_the_score_is_the_expected_value_over_log_probabilities(ask):
    [verdict], server = ask(lambda body, n: completion("80", EIGHTY))
    assert verdict.score == pytest.approx((80 * 0.5 + 90 * 0.25) / 0.75)
    assert verdict.method == "logprobs"
    assert server.requests[0]["messages"] == [{"role": "user", "content": 'Judge as {"score": 5}. Why? / Because 0.'}]


def test_judge_returns_the_bare_score(serve):
    server = serve(lambda body, n: completion("80", EIGHTY))
    judge = OpenAiJudge(model="judge-1", prompt_template=TEMPLATE, eval_type="0_100", base_url=server.url)

    async def score():
        result = await judge.judge(question="q", answer="a")
        await judge.aclose()
        return result

    assert asyncio.run(score()) == pytest.approx(83.33, abs=0.01)
    assert asyncio.run(score()) == pytest.approx(83.33, abs=0.01)  # in another event loop


def test_five_likely_tokens_are_enough(ask):
    def answer(body, n):
        if body["top_logprobs"] > 5:
            return error(400, "Invalid value for 'top_logprobs': must be at most 5", param="top_logprobs")
        return completion("70", [("70", {"70": 0.3, "60": 0.2, "75": 0.1, "65": 0.1, "80": 0.1})])

    verdicts, server = ask(answer, n=3)
    assert [v.score for v in verdicts] == [pytest.approx(68.75)] * 3
    assert [body["top_logprobs"] for body in server.requests] == [20, 5, 5, 5]


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "Unsupported parameter: 'logprobs' is not supported with this model.", param="logprobs"),
        error(403, "You are not allowed to request logprobs from this model"),
        error(422, "extra fields not permitted: top_logprobs"),
    ],
)
def test_a_model_without_log_probabilities_is_found_out_once_and_states_a_number(ask, refusal):
    verdicts, server = ask(
        lambda b, n: refusal if wants_logprobs(b) else completion('{"score": 61}'), n=20, at_once=True
    )
    assert {(v.score, v.method) for v in verdicts} == {(61.0, "number")}
    assert [wants_logprobs(body) for body in server.requests].count(True) == 1
    assert len(server.requests) == 21


@pytest.mark.parametrize("steps", [None, [], [("61", {})], [("61", {"61": 0.9})]])
def test_answers_without_a_list_of_likely_tokens_lead_to_a_stated_number(ask, steps):
    verdicts, server = ask(lambda body, n: completion("61", steps if wants_logprobs(body) else None), n=3)
    assert [(v.score, v.method) for v in verdicts] == [(61.0, "number")] * 3
    assert [wants_logprobs(body) for body in server.requests] == [True, False, False, False]


def test_what_a_model_refuses_by_name_is_left_out_from_then_on(ask):
    def answer(body, n):
        for name in ("logprobs", "temperature", "max_tokens", "response_format"):
            if name in body:
                return error(400, f"Unsupported parameter: '{name}' is not supported with this model.", param=name)
        return completion("61")

    verdicts, server = ask(answer, n=2)
    assert [v.score for v in verdicts] == [61.0, 61.0]
    assert set(server.requests[-1]) == {"messages", "model", "max_completion_tokens"}
    assert len(server.requests) == 6


def test_a_number_split_into_digits_is_never_read_as_its_first_digit(ask):
    digits = [("8", {"8": 0.9, "7": 0.1}), ("7", {"7": 0.9, "5": 0.1})]
    verdicts, server = ask(lambda body, n: completion("87", digits if wants_logprobs(body) else None), n=3)
    assert [(v.score, v.method) for v in verdicts] == [(87.0, "number")] * 3
    assert [wants_logprobs(body) for body in server.requests] == [True, False, False, False]


def test_a_lone_digit_of_an_unknown_tokenizer_counts_as_what_the_text_says(ask):
    [verdict], _ = ask(lambda body, n: completion("8", NUMBERS_ONLY))
    assert (verdict.score, verdict.method) == (8.0, "number")


def test_a_lone_digit_counts_in_full_once_whole_numbers_were_seen(ask):
    verdicts, _ = ask(lambda body, n: completion("80", EIGHTY) if n == 0 else completion("8", NUMBERS_ONLY), n=2)
    assert verdicts[1].score == pytest.approx(7.9)
    assert verdicts[1].method == "logprobs"


def test_little_probability_on_numbers_gives_none(ask):
    [verdict], _ = ask(lambda body, n: completion("I can't", [("I", {"I": 0.8, "10": 0.1, "90": 0.1})]))
    assert verdict.score is None
    assert "little probability" in verdict.reason


@pytest.mark.parametrize("text", ["I'd rather not.", "", "between 20 and 30", "150", "-3"])
def test_a_reply_without_a_valid_number_is_none_and_never_zero(ask, text):
    [verdict], _ = ask(lambda body, n: completion(text))
    assert verdict.score is None
    assert verdict.method == ""
    assert verdict.reason


def test_a_cut_number_is_not_read(ask):
    [verdict], _ = ask(lambda body, n: completion("Score: 8", finish="length"))
    assert verdict.score is None


def test_a_model_that_spends_its_tokens_on_reasoning_gets_more(ask):
    def answer(body, n):
        return completion("64") if body["max_tokens"] > 1000 else completion("", finish="length")

    verdicts, server = ask(answer, n=2)
    assert [v.score for v in verdicts] == [64.0, 64.0]
    assert [body["max_tokens"] > 1000 for body in server.requests] == [False, False, True, True]


def test_several_samples_are_averaged_and_invalid_ones_left_out(ask):
    def answer(body, n):
        return (
            error(400, "no logprobs", param="logprobs")
            if wants_logprobs(body)
            else completion(["60", "80", "dunno"][n - 1])
        )

    [verdict], server = ask(answer, samples=3)
    assert (verdict.score, verdict.method) == (70.0, "mean of 2 numbers")
    assert all("temperature" not in body for body in server.requests[1:])


def test_one_valid_sample_of_three_is_not_enough(ask):
    def answer(body, n):
        return (
            error(400, "no logprobs", param="logprobs") if wants_logprobs(body) else completion("60" if n == 1 else "?")
        )

    [verdict], _ = ask(answer, samples=3)
    assert verdict.score is None


def test_the_other_scales(ask):
    [nine], _ = ask(lambda b, n: completion("7", [("7", {"7": 0.5, "9": 0.5})]), "0_10")
    [yes], _ = ask(lambda b, n: completion("YES", [("YES", {"YES": 0.6, "NO": 0.2, "Maybe": 0.2})]), "binary")
    [text], server = ask(lambda b, n: completion("It is true, so YES"), "binary_text")
    [vague], _ = ask(lambda b, n: completion("Hard to say"), "binary_text")
    assert nine.score == pytest.approx(8)
    assert yes.score == pytest.approx(0.75)
    assert text.score == 1.0
    assert vague.score is None
    assert not wants_logprobs(server.requests[0])


def test_a_rate_limit_is_waited_out_as_long_as_the_server_says(ask):
    start = time.monotonic()
    limit = error(429, "slow down", headers={"Retry-After": "0.3"})
    [verdict], server = ask(lambda body, n: limit if n == 0 else completion("80", EIGHTY))
    assert verdict.score == pytest.approx(83.33, abs=0.01)
    assert len(server.requests) == 2
    assert 0.3 <= time.monotonic() - start < 3


@pytest.mark.parametrize("trouble", [Reply(CUT), error(500, "worker crashed"), error(503, "overloaded")])
def test_passing_trouble_is_tried_again(ask, trouble):
    [verdict], server = ask(lambda body, n: trouble if n == 0 else completion("80", EIGHTY))
    assert verdict.score == pytest.approx(83.33, abs=0.01)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "trouble",
    [Reply(CUT), error(500, "worker crashed"), Reply('{"choices": [{"mess'), Reply("<html>proxy</html>"),
     Reply(f'{{"created": {"9" * 5000}}}'), Reply({"choices": []}), Reply({"detail": "ok"}), Reply("<html>", headers={"Content-Type": "text/html"}),
     Reply({"choices": [{"message": {"content": "5"}, "logprobs": {"content": [{"token": "5", "top_logprobs": 3}]}}]})],
)  # fmt: skip
def test_trouble_with_one_answer_leaves_only_that_one_unscored(ask, trouble):
    def answer(body, n):
        return trouble if "Because 1." in body["messages"][0]["content"] else completion("80", EIGHTY)

    verdicts, _ = ask(answer, n=3, max_retries=0)
    assert [v.score is None for v in verdicts] == [False, True, False]
    assert verdicts[1].reason


def test_an_answer_that_is_too_long_for_the_model_leaves_only_that_one_unscored(ask):
    def answer(body, n):
        if n == 0:
            return error(400, "maximum context length is 10 tokens", code="context_length_exceeded", param="messages")
        return completion("80", EIGHTY)

    verdicts, server = ask(answer, n=2)
    assert [v.score is None for v in verdicts] == [True, False]
    assert "context length" in verdicts[0].reason
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (error(401, f"Incorrect API key provided: {KEY}"), ("refused the key", "OPENAI_API_KEY")),
        (error(403, "Country not supported"), ("does not allow", "Country not supported")),
        (error(404, "The model does not exist", code="model_not_found"), ("has no model", "judge-1")),
        (error(429, "You exceeded your current quota", code="insufficient_quota"), ("no quota left", "Add credit")),
        (error(400, f"bad request from {KEY}"), ("rejected the request", "bad request")),
    ],
)
def test_a_permanent_error_makes_one_request_and_ends_with_its_cause_and_remedy(serve, failure, words):
    server = serve(lambda body, n: failure)

    async def judge_all():
        judge = OpenAiJudge("judge-1", TEMPLATE, base_url=server.url)
        try:
            return await asyncio.gather(*[judge.judge(question="q", answer=str(i)) for i in range(5)])
        finally:
            await judge.aclose()

    with pytest.raises(JudgeError) as caught:
        asyncio.run(judge_all())
    assert len(server.requests) == 1
    assert "\n" not in str(caught.value)
    assert "--judge_model" in str(caught.value)
    assert KEY not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_server_that_is_not_there_is_named():
    with scripted(lambda body, n: None) as server:
        url = server.url

    async def judge_one():
        judge = OpenAiJudge("judge-1", TEMPLATE, base_url=url, max_retries=0)
        try:
            return await judge.judge(question="q", answer="a")
        finally:
            await judge.aclose()

    with pytest.raises(JudgeError, match=r"cannot reach the judge at 127\.0\.0\.1"):
        asyncio.run(judge_one())


def test_a_server_that_fails_every_time_is_given_up(ask):
    with pytest.raises(JudgeError, match="10 times in a row, last: 500: broken"):
        ask(lambda body, n: error(500, "broken"), n=40, at_once=True, max_retries=0)


def test_two_hundred_answers_wait_for_each_other_at_most_twenty_at_a_time(ask):
    start = time.monotonic()
    verdicts, server = ask(
        lambda body, n: completion("80", EIGHTY, delay=0.05, together=min(n, 1) * 20),  # the first goes alone
        n=200, at_once=True, concurrency=20, timeout=30.0,
    )  # fmt: skip
    elapsed = time.monotonic() - start
    assert sum(v.score is not None for v in verdicts) == 200
    assert server.busiest == 20
    # 11 rounds of 50 ms are waiting; the rest is this process working, and its imports, on however busy a machine.
    assert elapsed < 6


def test_keys_go_only_to_whom_they_belong(serve, monkeypatch):
    server = serve(lambda body, n: completion("80", EIGHTY))

    async def sent_to(url, **options):
        judge = OpenAiJudge("m", TEMPLATE, base_url=url, **options)
        await judge.judge(question="q", answer="a")
        await judge.aclose()
        return server.headers[-1]["authorization"]

    assert asyncio.run(sent_to(server.url)) == f"Bearer {KEY}"
    monkeypatch.setenv("JUDGE_API_KEY", "other-canary")
    assert asyncio.run(sent_to(server.url)) == "Bearer other-canary"
    monkeypatch.delenv("JUDGE_API_KEY")
    elsewhere = OpenAiJudge("m", TEMPLATE, base_url="https://judge.example/v1")
    assert elsewhere.client._make_sdk().api_key == "none"


def test_a_server_named_in_the_environment_is_said_recorded_and_gets_no_companys_key(serve, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://judge.example/v1")
    elsewhere = OpenAiJudge("m", TEMPLATE)
    assert elsewhere.name == "m@judge.example"
    assert elsewhere.client._make_sdk().api_key == "none"
    assert "OPENAI_BASE_URL sends the judge's requests to judge.example" in caplog.text
    server = serve(lambda body, n: completion("80", EIGHTY))
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("JUDGE_API_KEY", "other-canary")

    async def where():
        judge = OpenAiJudge("m", TEMPLATE)
        await judge.judge(question="q", answer="a")
        await judge.aclose()
        return judge.name

    assert asyncio.run(where()) == f"m@{server.url.split('/')[2]}"
    assert server.headers[-1]["authorization"] == "Bearer other-canary"
    for own in ("https://api.openai.com/v1/", " "):
        monkeypatch.setenv("OPENAI_BASE_URL", own)
        client = OpenAiJudge("m", TEMPLATE).client._make_sdk()
        assert (client.base_url.host, client.api_key) == ("api.openai.com", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "judge.example")
    with pytest.raises(UserError, match=r"^OPENAI_BASE_URL must look like"):
        OpenAiJudge("m", TEMPLATE)


@pytest.mark.parametrize(
    "repeated", ["secret@canary:9", "secret%40canary%3A9", "me-canary", "bWUtY2FuYXJ5OnNlY3JldEBjYW5hcnk6OQ=="]
)
def test_a_key_in_the_servers_address_is_not_shown_when_the_server_repeats_it(serve, repeated):
    server = serve(lambda body, n: error(400, f"bad credentials {repeated}"))
    url = server.url.replace("://", "://me-canary:secret%40canary%3A9@")

    async def judge_one():
        judge = OpenAiJudge("judge-1", TEMPLATE, base_url=url)
        try:
            return await judge.judge(question="q", answer="a")
        finally:
            await judge.aclose()

    with pytest.raises(JudgeError, match=r"bad credentials \[key\]"):
        asyncio.run(judge_one())
    assert server.headers[0]["authorization"] == "Basic bWUtY2FuYXJ5OnNlY3JldEBjYW5hcnk6OQ=="


def test_mistakes_in_the_judge_itself_are_named(monkeypatch):
    with pytest.raises(UserError, match=r"lacks \{answer\}"):
        OpenAiJudge("m", "only {question}")
    with pytest.raises(UserError, match="eval_type"):
        OpenAiJudge("m", TEMPLATE, "0_1000")
    with pytest.raises(UserError, match="judge_base_url"):
        OpenAiJudge("m", TEMPLATE, base_url="localhost:8000")
    for url in ("http://localhost:1/v1?auth=canary", "localhost:1/v1?auth=canary", "http://localhost:1/v1#canary"):
        with pytest.raises(UserError, match=r"^--judge_base_url must end with its path") as caught:
            OpenAiJudge("m", TEMPLATE, base_url=url)
        assert "canary" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", "your_openai_key")
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        OpenAiJudge("m", TEMPLATE)


FIRST_WORDS = [("Okay", {"Okay": 0.9, "So": 0.1}), (",", {",": 0.99, " ": 0.01})]
# How a thinking judge looks from outside: the first tokens, the cut thought, and the whole reply.
THINKERS = {
    "tags in the text": (
        [("<think>", {"<think>": 0.99, "Okay": 0.01})], {"content": "<think>\nOkay, 90"}, {"content": "<think>\n90?\n</think>\n\n42"},
    ),
    "opened by the template": (FIRST_WORDS, {"content": "Okay, 90"}, {"content": "Okay, 90?\n</think>\n\n42"}),
    "taken out by the server": (
        FIRST_WORDS, {"content": None, "reasoning_content": "Okay, 90"}, {"content": "42", "reasoning": "90?"},
    ),
    "parts": (
        FIRST_WORDS,
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Okay, 90"}]}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "90?"}]}, {"type": "text", "text": "42"}]},
    ),
    "a list within the thought": (
        [("1", {"1": 0.9, "2": 0.1}), (".", {".": 1.0})], {"content": "1. The answer hedges"}, {"content": "1. 90?</think>42"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THINKERS)
def test_a_judge_that_thinks_is_given_room_and_only_its_answer_counts(ask, name):
    steps, cut, whole = THINKERS[name]

    def answer(body, n):
        if wants_logprobs(body):
            return completion(cut["content"], steps, "length", **{k: v for k, v in cut.items() if k != "content"})
        message = whole if body["max_tokens"] > 1000 else cut
        more = {k: v for k, v in message.items() if k != "content"}
        return completion(message["content"], finish="stop" if message is whole else "length", **more)

    verdicts, server = ask(answer, n=4)
    assert [(v.score, v.method) for v in verdicts] == [(42.0, "number")] * 4
    assert [wants_logprobs(body) for body in server.requests].count(True) == 1


def test_a_thought_that_never_ends_gives_no_score(ask):
    def answer(body, n):
        return completion("</think>42") if n < 2 else completion("It is 90. Score: 90 or", finish="length")

    verdicts, _ = ask(answer, n=2)
    assert [v.score for v in verdicts] == [42.0, None]


def test_a_judge_that_goes_on_after_its_number_is_still_read_by_its_probabilities(ask):
    [verdict], server = ask(lambda body, n: completion("80, because it", EIGHTY, finish="length"))
    assert verdict.method == "logprobs"
    assert len(server.requests) == 1


def test_one_text_that_a_provider_flags_does_not_end_the_judging(ask):
    def answer(body, n):
        flagged = error(403, "Your input was flagged by moderation")
        return flagged if "Because 1." in body["messages"][0]["content"] else completion("42")

    verdicts, _ = ask(answer, n=3)
    assert [v.score for v in verdicts] == [42.0, None, 42.0]
    assert "flagged" in verdicts[1].reason


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"choices": None, "error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "Too Many"}}},
         "429: Provider returned error (Too Many)"),
        ({"error": "the engine is dead"}, "502: the engine is dead"),
        ("<html><head><title>Sign in</title></head></html>", "began with 'Sign in'"),
    ],
)  # fmt: skip
def test_an_error_inside_an_answer_is_told_in_the_servers_words(ask, body, said):
    verdicts, _ = ask(lambda b, n: completion("42") if n < 2 else Reply(body), n=2, max_retries=0)
    assert verdicts[0].score == 42.0
    assert said in verdicts[1].reason


def test_an_error_inside_an_answer_is_tried_again_as_any_other(ask):
    busy = Reply({"choices": None, "error": {"message": "busy", "code": 503}})
    [verdict], server = ask(lambda b, n: busy if n == 0 else completion("42"))
    assert verdict.score == 42.0
    assert len(server.requests) == 3  # again, then in words, for this server gives no log-probabilities


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "Not so"}, "Not so"),
        ({"detail": [{"loc": ["body", "messages"], "msg": "too many"}]}, "body.messages: too many"),
        ([{"error": {"message": "in a list"}}], "in a list"),
        ({"error": {"message": "outer", "innererror": {"message": "inner"}}}, "outer (inner)"),
        ("<!DOCTYPE html><html><body><h1>Bad gateway</h1></body></html>", "Bad gateway"),
        ("just words", "just words"),
    ],
)
def test_what_a_server_said_is_told_whatever_its_form(ask, body, said):
    verdicts, _ = ask(lambda b, n: completion("42") if n < 2 else Reply(body, 400), n=2, max_retries=0)
    assert verdicts[1].reason == f"400: {said}"
