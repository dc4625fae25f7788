"""Stage 1 through a server over loopback: what it asks, what it writes, and what it keeps when the server fails."""

import logging
import time

import pytest
from extraction.generate.settings import Settings
from extraction.generate.stage import run

from tests.judging.servers import Reply, completion, error, scripted
from utils.errors import UserError
from utils.formats.response_files import read_responses


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
    with scripted(_echo) as server:
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
