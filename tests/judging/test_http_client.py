"""Servers that never come to an end, or answer far too much: each request fails in time, and memory stays small."""

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib

import pytest

from utils.errors import UserError
from utils.judge import AnthropicJudge, OpenAiJudge

from .conftest import TEMPLATE
from .servers import Reply, completion, message

START = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MEGABYTE = b" " * 2**20
JUDGES = {"openai": (OpenAiJudge, completion), "anthropic": (AnthropicJudge, message)}


def drips_headers(out):
    out.write(START)
    for i in range(100):
        out.write(b"X-%d: 1\r\n" % i)
        time.sleep(0.1)


def drips_its_body(out):
    out.write(START + b"Content-Length: 500\r\n\r\n{")
    for _ in range(100):
        out.write(b" ")
        time.sleep(0.1)


def endless(out):
    out.write(START + b"Connection: close\r\n\r\n")
    for _ in range(300):
        out.write(MEGABYTE)


def bomb(out):
    out.write(START + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n")
    squeeze = zlib.compressobj(wbits=31)
    for _ in range(300):
        out.write(squeeze.compress(MEGABYTE))
    out.write(squeeze.flush())


def long_error(out):
    out.write(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % (300 * 2**20))
    for _ in range(300):
        out.write(b"x" * 2**20)


def redirects_at_length(out):
    out.write(b"HTTP/1.1 307 Go\r\nLocation: /v1/elsewhere\r\nContent-Length: %d\r\n\r\n" % (300 * 2**20))
    for _ in range(300):
        out.write(MEGABYTE)


def grade(server, kind, n, **options):
    async def run():
        options.setdefault("max_retries", 0)
        judge = JUDGES[kind][0]("m", TEMPLATE, "0_10", base_url=server.url.removesuffix("/v1"), **options)
        try:
            return [await judge.grade(f"Rate {i}.") for i in range(n)]
        finally:
            await judge.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize("kind", JUDGES)
@pytest.mark.parametrize("drips", [drips_headers, drips_its_body])
def test_a_server_that_drips_its_answer_is_given_up_like_a_silent_one_and_asked_again(serve, kind, drips):
    score = JUDGES[kind][1]
    server = serve(lambda body, n: Reply(drips) if "Rate 1." in body["messages"][0]["content"] else score("7"))
    start = time.monotonic()
    verdicts = grade(server, kind, 2, timeout=1.0, max_retries=1)
    assert 2 <= time.monotonic() - start < 8
    assert sum("Rate 1." in body["messages"][0]["content"] for body in server.requests) == 2
    assert [v.score for v in verdicts] == [7.0, None]
    assert "timed out" in verdicts[1].reason


@pytest.mark.parametrize("kind", JUDGES)
@pytest.mark.parametrize("pours", [endless, bomb, long_error, redirects_at_length])
def test_an_answer_of_hundreds_of_megabytes_is_unscored_and_not_held(serve, kind, pours):
    score = JUDGES[kind][1]
    server = serve(lambda body, n: Reply(pours) if "Rate 1." in body["messages"][0]["content"] else score("7"))
    grade(server, kind, 1)  # so that the SDK is loaded
    tracemalloc.start()
    verdicts = grade(server, kind, 3, timeout=30.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [v.score for v in verdicts] == [7.0, None, 7.0]
    assert verdicts[1].reason
    assert peak < 60 * 2**20


def test_a_compressed_answer_is_read(serve):
    def squeezed(out):
        body = gzip.compress(json.dumps(message("64").body).encode())
        out.write(START + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    [verdict] = grade(serve(lambda body, n: Reply(squeezed)), "anthropic", 1)
    assert verdict.score is None  # 64 is not on this scale: it was read
    assert "64" in verdict.reason


def test_neither_text_nor_key_follows_a_redirection_to_another_host(serve):
    other = serve(lambda body, n: message("7"))
    away = other.url.replace("127.0.0.1", "localhost") + "/messages"
    server = serve(lambda body, n: Reply("", 307, {"Location": away}))
    with pytest.raises(UserError, match="307"):
        grade(server, "anthropic", 1)
    assert not other.requests


def test_a_redirection_within_the_host_is_not_followed_either(serve):
    server = serve(lambda body, n: Reply("", 307, {"Location": "/v2/messages"}) if n == 0 else message("7"))
    with pytest.raises(UserError, match="307"):
        grade(server, "anthropic", 1)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", JUDGES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://me:canary-of-a-proxy@127.0.0.1:1"),
        ("HTTPS_PROXY", "foo://me:canary-of-a-proxy@127.0.0.1:1"),
        ("HTTP_PROXY", "http://127.0.0.1:port"),
        ("HTTPS_PROXY", "http://[::1"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_in_one_line(serve, monkeypatch, kind, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"cannot use the proxy in {name} of the environment") as caught:
        grade(serve(lambda body, n: None), kind, 1)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", JUDGES)
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_named_in_one_line(serve, monkeypatch, tmp_path, kind, content):
    path = tmp_path / "certificates.pem"
    if content:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(UserError, match="cannot read the certificates of SSL_CERT_FILE") as caught:
        grade(serve(lambda body, n: None), kind, 1)
    assert "\n" not in str(caught.value)


def test_a_proxy_in_the_environment_is_used(serve, monkeypatch):
    proxy = serve(lambda body, n: message("7"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
    unreachable = type("Server", (), {"url": "http://judge.invalid/v1"})
    assert grade(unreachable, "anthropic", 1, api_key="none")[0].score == 7.0
    assert proxy.requests
