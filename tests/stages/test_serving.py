"""Stage 1 through a server over loopback: what it asks, what it writes, and what it keeps when the server fails."""

import dataclasses
import logging
import time

import pytest
from extraction.generate.settings import Settings
from extraction.generate.stage import run

from tests.judging.servers import Reply, completion, error, scripted
from utils.errors import UserError
from utils.formats.response_files import read_responses, write_responses_metadata
from utils.models import EMBEDDED_MODEL


@pytest.fixture
def generate(lab, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def through(server, gen_concurrency=3):
        settings = Settings(
            experiment=lab.name, trait="alpha", gen_model="served", gen_base_url=server.url,
            gen_concurrency=gen_concurrency, judge_model="none",
            max_new_tokens=12, temperature=0.7, seed=3, device="cpu",
            experiments_dir=str(lab.experiments_dir),
        )  # fmt: skip
        run(settings)
        return {side: read_responses(lab.trait("alpha"), side) for side in ("pos", "neg", "neutral")}

    return through


def _echo(body, number):
    return completion(" " + " / ".join(m["content"] for m in body["messages"]) + "\n")


def test_every_answer_stands_with_its_question_and_instruction_and_is_asked_with_the_settings(generate):
    with scripted(lambda body, number: dataclasses.replace(_echo(body, number), delay=0.05)) as server:  # they overlap
        rows = generate(server)
    assert {side: len(found) for side, found in rows.items()} == {"pos": 8, "neg": 8, "neutral": 4}
    for found in rows.values():
        for row in found:
            assert row.response == " / ".join(filter(None, (row.instruction, row.question)))
            assert row.finish_reason == "stop"
    assert rows["neg"][0].instruction == "Answer."
    assert {r["max_tokens"] for r in server.requests} == {12}
    assert {r["temperature"] for r in server.requests} == {0.7}
    assert {r["model"] for r in server.requests} == {"served"}
    assert len({r["seed"] for r in server.requests}) == 20  # one of its own for each response
    assert 1 < server.busiest <= 3


def test_the_same_settings_ask_with_the_same_seeds_whatever_the_order(generate, lab):
    asked = []
    for concurrency in (1, 4):
        for path in lab.trait("alpha").root.glob("responses/*"):
            path.unlink()
        with scripted(_echo) as server:
            generate(server, gen_concurrency=concurrency)
        asked.append({str(r["messages"]): r["seed"] for r in server.requests})
    assert asked[0] == asked[1]


def test_a_server_whose_template_has_no_system_role_gets_the_instruction_before_the_question(generate):
    def answer(body, number):
        if body["messages"][0]["role"] == "system":
            return error(400, "System role not supported")
        return _echo(body, number)

    with scripted(answer) as server:
        rows = generate(server)
    assert rows["pos"][0].response == "Refuse.\n\nWhy?"
    assert rows["pos"][0].prompt == "Refuse.\n\nWhy?"
    assert rows["neutral"][0].response == "Why?"


def test_an_answer_cut_by_the_server_is_counted(generate, caplog):
    caplog.set_level(logging.INFO)
    with scripted(lambda body, n: completion("So", finish="length" if n == 0 else "eos")) as server:
        rows = generate(server, gen_concurrency=1)
    reasons = [row.finish_reason for found in rows.values() for row in found]
    assert sorted(reasons) == [""] * 19 + ["length"]  # a reason of the server's own is no known one
    assert "1 of 20 responses were cut at --max_new_tokens 12" in caplog.text


def _drips(out):
    out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    for _ in range(100):
        out.write(b" ")
        time.sleep(0.1)


def _pours(out):
    out.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(300):
        out.write(b" " * 2**20)


def test_an_answer_that_drips_in_is_asked_for_again(generate, monkeypatch):
    monkeypatch.setattr("extraction.generate.served_model._SECONDS", 1.0)
    with scripted(lambda body, n: Reply(_drips) if n == 0 else _echo(body, n)) as server:
        rows = generate(server, gen_concurrency=1)
    assert len(server.requests) == 21
    assert all(row.response for found in rows.values() for row in found)


def test_a_proxy_that_cannot_be_used_is_named(generate, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "foo://proxy:1")
    with scripted(_echo) as server, pytest.raises(UserError, match="cannot use the proxy in HTTPS_PROXY"):
        generate(server)


def test_a_key_in_the_servers_address_is_not_shown_when_the_server_repeats_it(generate):
    with scripted(lambda body, n: error(400, "bad password secret-canary")) as server:
        keyed = type("Server", (), {"url": server.url.replace("://", "://me:secret-canary@")})
        with pytest.raises(UserError, match=r"bad password \[key\]"):
            generate(keyed)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (Reply(_pours), "not a chat completion"),
        (error(401, "no such key"), "401: no such key"),
        (error(400, "temperature is not allowed"), "400: temperature is not allowed"),
        (Reply("<html>"), "not a chat completion"),
        (Reply({"choices": []}), "not a chat completion"),
        (Reply(f'{{"created": {"9" * 5000}}}'), "not a chat completion"),
    ],
)
def test_a_server_that_fails_is_named_and_what_was_finished_is_kept(generate, failure, said):
    with scripted(lambda body, n: _echo(body, n) if n < 5 else failure) as server:
        with pytest.raises(UserError, match=f"--gen_model served: .*{said}.*kept; run again"):
            generate(server, gen_concurrency=1)
        first = len(server.requests)
        server.answer = _echo
        rows = generate(server, gen_concurrency=1)
    assert len(server.requests) - first == 15
    assert all(row.response for found in rows.values() for row in found)
    assert sum(len(found) for found in rows.values()) == 20


def _unless(is_refused, refusal):
    return lambda body, number: refusal if is_refused(body) else _echo(body, number)


FILTERED = error(400, "The response was filtered by the content management policy.", code="content_filter")


def test_a_text_that_the_server_refuses_is_an_empty_row_with_the_reason(generate, caplog):
    with scripted(_unless(lambda body: body["messages"][-1]["content"] == "Why?", FILTERED)) as server:
        rows = generate(server)
    refused = [row for found in rows.values() for row in found if row.question == "Why?"]
    assert {(row.response, row.was_refused) for row in refused} == {("", True)}
    assert "content management policy" in refused[0].finish_reason
    assert all(row.response for found in rows.values() for row in found if row.question != "Why?")
    assert "5 of 20 responses were refused: 400: The response was filtered" in caplog.text


def test_a_server_that_refuses_every_text_is_a_broken_run(generate):
    with scripted(lambda body, n: FILTERED) as server, pytest.raises(UserError, match="content management policy"):
        generate(server, gen_concurrency=1)
    assert len(server.requests) == 10


def test_an_answer_that_the_provider_took_away_is_a_refused_row(generate):
    with scripted(lambda body, n: completion(None, finish="content_filter") if n == 0 else _echo(body, n)) as server:
        rows = generate(server, gen_concurrency=1)
    assert [row.finish_reason for found in rows.values() for row in found if row.was_refused] == [
        "refused: content_filter"
    ]


def test_a_refusal_in_a_field_of_its_own_is_the_response(generate):
    with scripted(lambda body, n: completion(None, refusal="I cannot help with that.")) as server:
        rows = generate(server)
    assert rows["pos"][0].response == "I cannot help with that."


def test_what_a_server_thinks_is_no_part_of_the_response_and_empty_ones_are_counted(generate, caplog):
    caplog.set_level(logging.INFO)

    def answer(body, n):
        question = body["messages"][-1]["content"]
        if question == "Why?":
            return completion(None, finish="length", reasoning_content="I still think")
        return completion("They ask a thing.\n</think>\n\nHere it is." if question == "Who are you?" else "Plain.")

    with scripted(answer) as server:
        rows = generate(server)
    assert {(row.question, row.response, row.finish_reason) for row in rows["neutral"]} >= {
        ("Why?", "", "length"), ("Who are you?", "Here it is.", "stop"), ("How is rain made?", "Plain.", "stop"),
    }  # fmt: skip
    assert "5 of 20 responses are empty; 5 were cut while the model thought" in caplog.text
    assert "thoughts before answers are not kept (10 so far)" in caplog.text


def test_options_that_a_server_refuses_are_left_out_or_named_otherwise(generate, lab, caplog):
    caplog.set_level(logging.INFO)

    def answer(body, n):
        if "max_tokens" in body:
            return error(400, "Use 'max_completion_tokens' instead of 'max_tokens'.", param="max_tokens")
        if "seed" in body:
            return Reply({"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted"}]}, 422)
        return _echo(body, n)

    with scripted(answer) as server:
        generate(server)
    assert len(server.requests) == 22
    assert server.requests[-1]["max_completion_tokens"] == 12
    assert "takes no seed: asking without it" in caplog.text


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        error(500, "Jinja Exception: Only user and assistant roles are supported!"),
        Reply({"error": "Server error: Conversation roles must alternate", "error_type": "generation"}, 424),
        Reply("", 400),
    ],
)
def test_a_template_without_a_system_role_is_known_by_trying_whatever_the_server_says(generate, refusal):
    with scripted(_unless(lambda body: body["messages"][0]["role"] == "system", refusal)) as server:
        rows = generate(server)
    assert rows["pos"][0].prompt == "Refuse.\n\nWhy?"
    assert len(server.requests) == 21  # learnt from the first


def test_a_server_that_has_taken_a_system_message_is_not_asked_without_one(generate):
    def answer(body, n):
        return error(400, "no more") if n == 3 else _echo(body, n)

    with scripted(answer) as server, pytest.raises(UserError, match="400: no more"):
        generate(server, gen_concurrency=1)
    assert len(server.requests) == 4


@pytest.mark.parametrize(("recorded", "loaded"), [({"model": "org/answered"}, "org/answered"), ({}, EMBEDDED_MODEL)])
def test_judging_locally_takes_the_model_that_made_the_responses(generate, lab, monkeypatch, recorded, loaded):
    with scripted(_echo) as server:
        generate(server)
    folder = lab.trait("alpha")
    write_responses_metadata(folder, {"generation": recorded})

    def asked_for(settings, generation, load):
        raise UserError(f"would load {generation.__self__.known['model']}")

    monkeypatch.setattr("extraction.generate.stage.resolve_judge", asked_for)
    again = Settings(lab.name, "alpha", judge_only=True, device="cpu", experiments_dir=str(lab.experiments_dir))
    with pytest.raises(UserError, match=f"would load {loaded}"):
        run(again)
