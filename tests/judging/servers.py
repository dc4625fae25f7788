"""Servers over loopback: one that answers as a test says, and the real llama.cpp server."""

import contextlib
import json
import math
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT = object()  # a body that ends in the middle, with the connection


@dataclass
class Reply:
    body: object = None  # text, what becomes JSON, or a function that writes the whole answer
    status: int = 200
    headers: dict = field(default_factory=dict)
    delay: float = 0.0
    together: int = 0  # is held until so many requests have been open at once, so that a busy machine sees no fewer


class ScriptedServer(ThreadingHTTPServer):
    """Answers every request with ``answer(body, number)`` and remembers what was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.requests = []
        self.headers = []
        self.lock = threading.Condition()
        self.busy = self.busiest = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number = len(server.requests)
            server.requests.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            server.lock.notify_all()
        try:
            self.reply(server.answer(body, number))
        finally:
            with server.lock:
                server.busy -= 1

    def reply(self, reply):
        with self.server.lock:
            self.server.lock.wait_for(lambda: self.server.busiest >= reply.together, timeout=20)
        time.sleep(reply.delay)
        if reply.body is CUT:
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"choi')
            self.close_connection = True
            return
        if callable(reply.body):
            with contextlib.suppress(OSError):  # the client may have seen enough
                reply.body(self.wfile)
            self.close_connection = True
            return
        data = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def scripted(answer):
    server = ScriptedServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def error(status, message, *, param=None, code=None, headers=None):
    body = {"error": {"message": message, "type": "error", "param": param, "code": code}}
    return Reply(body, status, headers or {})


def completion(text, steps=None, finish="stop", delay=0.0, together=0, **message):
    """A chat completion; ``steps`` are (token, {token: probability}) pairs, ``message`` more of the message."""
    logprobs = None
    if steps is not None:
        content = [
            {
                "token": token,
                "logprob": -0.1,
                "bytes": None,
                "top_logprobs": [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in top.items()],
            }
            for token, top in steps
        ]
        logprobs = {"content": content}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "logprobs": logprobs,
        "finish_reason": finish,
    }
    usage = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Reply(body, delay=delay, together=together)


def message(text, stop="end_turn"):
    """An answer of Anthropic's messages API."""
    return Reply(
        {
            "id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": stop, "stop_sequence": None,
            "content": [{"type": "text", "text": text}], "usage": {"input_tokens": 40, "output_tokens": 2},
        }
    )  # fmt: skip


# The weights are repacked for AMX on processors that have it, and the packaged kernels crash there: repacking is turned off.
_LLAMA = """
import runpy
from llama_cpp import llama_cpp
default = llama_cpp.llama_model_default_params
def without_repacking():
    params = default()
    params.use_extra_bufts = False
    return params
llama_cpp.llama_model_default_params = without_repacking
runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)
"""


@contextlib.contextmanager
def llama_server(gguf, log):
    """The address of llama.cpp's OpenAI-compatible server on a free port, stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = {
        "model": gguf, "host": "127.0.0.1", "port": port, "n_ctx": 512, "n_threads": 1, "logits_all": True,
        "verbose": False,
    }  # fmt: skip
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", _LLAMA, *flags], stdout=output, stderr=output)
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/v1/models", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait_until_up(url, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"the server did not come up: {log.read_text()[-1000:]}")
