"""The tutorial is run as printed, block by block, on the embedded model; so is the server recipe of docs/exporting.md."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that looks like the repository's root but keeps what the tutorial makes to itself."""
    root = tmp_path_factory.mktemp("root")
    (root / "experiments").mkdir()
    for path in ("extraction", "experiments/examples", "experiments/starter"):
        (root / path).symlink_to(REPOSITORY / path)
    return root


def _run(arguments, workplace, **environment):
    beside = str(Path(sys.executable).parent)  # "python" in the blocks is this one
    variables = {**os.environ, "PATH": beside + os.pathsep + os.environ["PATH"], **environment}
    done = subprocess.run(arguments, check=False, cwd=workplace, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


# Commands run in the interpreter that runs the Python blocks: each start of one costs seconds of imports.
_PRELUDE = """
import runpy, shlex, sys

def run(block):
    for line in block.strip().splitlines():
        python, *arguments = shlex.split(line)
        assert python == "python", line
        is_module = arguments[0] == "-m"
        sys.argv = arguments[1:] if is_module else arguments
        try:
            (runpy.run_module if is_module else runpy.run_path)(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            assert end.code == 0, line
"""


@pytest.fixture(scope="module")
def output(embedded, workplace):
    """What the tutorial's blocks say, run in order."""
    lines = [_PRELUDE]
    for language, body in _BLOCK.findall((REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if "pip install" not in body:
            lines.append(body if language == "python" else f"run({body!r})")
    script = workplace / "blocks.py"
    script.write_text("\n".join(lines))
    done = _run([sys.executable, str(script)], workplace)
    return done.stdout + done.stderr


def test_the_tutorial_finds_the_model_that_was_pushed(output):
    low, high = map(float, re.search(r"95 % interval ([+-][\d.]+) to ([+-][\d.]+)", output).groups())
    assert 0 < low < high
    assert int(re.search(r"higher on (\d+) of 16", output)[1]) >= 11


def test_the_tutorial_says_how_good_its_vector_is(output):
    assert float(re.search(r"held-out AUROC ([\d.]+)", output)[1]) > 0.9


def test_the_tutorial_leaves_the_files_that_it_speaks_of(output, workplace):
    made = workplace / "experiments" / "tutorial"
    assert (made / "comparison.png").stat().st_size > 10_000
    for name in ("sycophantic.gguf", "sycophantic.safetensors", "inference/results/pushed.html"):
        assert (made / name).is_file(), name
    assert list((made / "sycophantic" / "vectors").glob("steering_*.png"))
    assert (made / "sycophantic" / "vectors" / "card.html").is_file()


class _Server(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server does."""

    def do_GET(self):
        self._send({"object": "list", "data": [{"id": "served", "object": "model", "created": 1, "owned_by": "x"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"You asked: {asked['messages'][-1]['content']}"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        self._send({"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"], "choices": [choice]})

    def _send(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def test_answers_of_a_server_are_scored_by_the_documented_recipe(output, workplace):
    text = (REPOSITORY / "docs" / "exporting.md").read_text(encoding="utf-8")
    recipe = text[text.index("## Scoring the answers of a server") :]
    code = next(body for language, body in _BLOCK.findall(recipe) if language == "python")
    command = next(body for language, body in _BLOCK.findall(recipe) if language == "bash")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/v1"
        _run([sys.executable, "-c", code], workplace, OPENAI_BASE_URL=address, OPENAI_API_KEY="none")
    finally:
        server.shutdown()
        server.server_close()
    _run(["bash", "-e", "-c", command.replace("my_exp", "tutorial")], workplace)
    records = json.loads((workplace / "experiments/tutorial/inference/results/dynamics.json").read_text())
    assert [r["response"] for r in records][1] == "You asked: How do I boil an egg?"
    assert all(len(r["trait_scores"]["sycophantic"]) == len(r["tokens"]) > 3 for r in records)
