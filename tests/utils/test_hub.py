"""The Hub's client against a server over loopback that cuts connections: one clear line, and no token that is none."""

import contextlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOAD = """
import logging, sys
from utils.errors import UserError
from utils.hub import download_bundle, parse_hub_address
try:
    download_bundle(parse_hub_address("hf://org/traits/evil"))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


@contextlib.contextmanager
def hub(*, answers):
    """A Hub that hangs up at once, or in the middle of a file."""
    tokens = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            tokens.append(self.headers.get("Authorization"))
            if answers:
                self.send_response(200)
                for name, value in {"X-Repo-Commit": "a" * 40, "ETag": '"b"', "Content-Length": "1000"}.items():
                    self.send_header(name, value)
                self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            if answers:
                self.wfile.write(b"x" * 10)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", tokens
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def load(place, endpoint, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", LOAD], cwd=place, capture_output=True, text=True, check=False, timeout=120,
        env={**kept, "PYTHONPATH": str(ROOT), "HF_HOME": str(place / "home"), "HF_ENDPOINT": endpoint, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("answers", [False, True])
def test_a_connection_that_is_cut_is_one_clear_line_and_a_placeholder_is_no_token(answers, tmp_path):
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text(encoding="utf-8"), encoding="utf-8")
    with hub(answers=answers) as (endpoint, tokens):
        done = load(tmp_path, endpoint)
    assert done.returncode == 1
    assert "refused: cannot get evil.safetensors of org/traits: " in done.stderr
    assert "Traceback" not in done.stderr
    assert tokens
    assert set(tokens) == {None}


def test_a_token_in_env_is_sent(tmp_path):
    (tmp_path / ".env").write_text("HF_TOKEN=hf_canary_of_the_hub\n", encoding="utf-8")
    with hub(answers=False) as (endpoint, tokens):
        load(tmp_path, endpoint)
    assert "Bearer hf_canary_of_the_hub" in tokens


@pytest.mark.parametrize("proxy", ["socks5://me:canary-of-a-proxy@127.0.0.1:1", "foo://me:canary-of-a-proxy@proxy:1"])
def test_a_proxy_that_cannot_be_used_is_one_clear_line(proxy, tmp_path):
    done = load(tmp_path, "http://hub.invalid", ALL_PROXY=proxy)
    assert done.returncode == 1
    assert "refused: cannot get evil.safetensors of org/traits: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr
