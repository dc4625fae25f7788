"""The tutorial is run as printed, block by block, on the embedded model; so is the server recipe of docs/exporting.md."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
_TUTORIAL, _EXPORTING = REPOSITORY / "docs" / "tutorial.md", REPOSITORY / "docs" / "exporting.md"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


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


@pytest.fixture(scope="module")
def server():
    """Address of a server in the place of vLLM."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that looks like the repository's root but keeps what the tutorial makes to itself."""
    root = tmp_path_factory.mktemp("root")
    (root / "experiments").mkdir()
    for path in ("extraction", "experiments/examples"):
        (root / path).symlink_to(REPOSITORY / path)
    shutil.copytree(REPOSITORY / "experiments" / "starter", root / "experiments" / "starter")
    return root


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


def _blocks(text):
    """Blocks of a text as lines of one script, but for the installation."""
    return [
        body if language == "python" else f"run({body!r})"
        for language, body in _BLOCK.findall(text)
        if "pip install" not in body
    ]


@pytest.fixture(scope="module")
def output(embedded, workplace, server):
    """What the tutorial's blocks say, run in order, and after them the recipe for a server's answers."""
    exporting = _EXPORTING.read_text(encoding="utf-8")
    recipe = exporting[exporting.index("## Scoring the answers of a server") : exporting.index("## The causal check")]
    blocks = [*_blocks(_TUTORIAL.read_text(encoding="utf-8")), *_blocks(recipe.replace("my_exp", "tutorial"))]
    assert len(blocks) > 9
    script = workplace / "blocks.py"
    script.write_text("\n".join([_PRELUDE, *blocks]))
    variables = {**os.environ, "OPENAI_BASE_URL": server, "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        [sys.executable, str(script)], check=False, cwd=workplace, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_tutorial_finds_the_model_that_was_pushed(output):
    low, high = map(float, re.search(r"95 % interval ([+-][\d.]+) to ([+-][\d.]+)", output).groups())
    assert 0 < low < high
    assert int(re.search(r"higher on (\d+) of 16", output)[1]) >= 11


# How far a figure may be from the printed one: processors round bfloat16 otherwise, and answers then part ways.
_TOLERANCES = {
    "AUROC": 0.07,
    "plain": 0.5,
    "pushed:": 0.5,
    "difference": 0.5,
    "scores higher": 4,
}
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def _form(line):
    """A line without its figures, and without the name of the best of controls that are nearly equal."""
    return re.sub("best control: (bag of words|layer #|length)", "best control: X", _NUMBER.sub("#", line))


def _quoted():
    """What the tutorial says that its blocks print, line by line."""
    for quote in re.findall(r"^> .*(?:\n> .*)*", _TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE):
        yield from " ".join(line.removeprefix("> ") for line in quote.split("\n")).split("<br> ")


@pytest.mark.parametrize("line", list(_quoted()))
def test_the_tutorial_prints_what_it_says_that_it_prints(output, line):
    printed = next((said for said in output.splitlines() if _form(said) == _form(line)), None)
    assert printed, f"no block printed a line like {line!r}"
    tolerance = next(tolerance for words, tolerance in _TOLERANCES.items() if words in line)
    # Layers nearly as good as each other can change places.
    figures = [[float(n) for n in _NUMBER.findall(re.sub(r"layer \d+", "", text))] for text in (printed, line)]
    assert figures[0] == pytest.approx(figures[1], abs=tolerance)


def test_the_tutorial_quotes_every_result():
    assert len(list(_quoted())) == 6


def test_the_tutorial_leaves_the_files_that_it_speaks_of(output, workplace):
    made = workplace / "experiments" / "tutorial"
    assert (made / "comparison.png").stat().st_size > 10_000
    for name in ("sycophantic.gguf", "sycophantic.safetensors", "inference/results/pushed.html"):
        assert (made / name).is_file(), name
    assert list((made / "sycophantic" / "vectors").glob("steering_*.png"))
    assert (made / "sycophantic" / "vectors" / "card.html").is_file()


def test_the_pushed_model_of_the_tutorial_is_the_plain_one_steered(output, embedded, workplace):
    from traitlens import HookManager, add_steering_hook
    from utils.models import load_model
    from utils.vectors import load_vector

    experiments = workplace / "experiments"
    push = load_vector("tutorial", "sycophantic", layer=15, method="mean_diff", experiments_dir=experiments).vector
    pushed = load_model(str(experiments / "tutorial" / "pushed_model"), device="cpu", dtype="float32").model
    plain = load_model(embedded.name, device="cpu", dtype="float32").model
    ids = torch.tensor([[1, 17, 42, 99, 7]])
    with torch.inference_mode(), HookManager(plain) as hooks:
        before = plain(ids).logits
        add_steering_hook(hooks, push, layer=15, coefficient=5)
        steered, saved = plain(ids).logits, pushed(ids).logits
    difference = float((saved - steered).abs().max())
    assert difference < 0.02 * float((saved - before).abs().max())  # the bias was rounded to the folder's bfloat16


def test_answers_of_a_server_are_scored_by_the_documented_recipe(output, workplace):
    records = json.loads((workplace / "experiments/tutorial/inference/results/dynamics.json").read_text())
    assert [r["response"] for r in records][1] == "You asked: How do I boil an egg?"
    assert all(len(r["trait_scores"]["sycophantic"]) == len(r["tokens"]) > 3 for r in records)
