"""Code in the docs runs: the toolkit's on a small random model, the judge's against a server on this machine."""

import ast
import asyncio
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import transformers

from . import pages

MAIN, TOOLKIT = pages.ROOT / "docs" / "main.md", pages.ROOT / "traitlens" / "README.md"
ALL = [block for page in pages.PAGES for block in pages.blocks(page, "python")]
HIDDEN, N = 32, 12


def compiled(block):
    return compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def run(block, names):
    result = eval(compiled(block), names)
    if asyncio.iscoroutine(result):
        asyncio.run(result)


@pytest.fixture(scope="module")
def model():
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=26, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.update(max_new_tokens=20, do_sample=True, pad_token_id=0)
    return model


@pytest.fixture
def names(model, tmp_path, monkeypatch):
    """What the snippets take as given."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for trait in ("my_trait", "refusal"):
        folder = tmp_path / "experiments" / "my_exp" / trait / "vectors"
        folder.mkdir(parents=True)
        torch.save(torch.randn(HIDDEN), folder / "probe_layer16.pt")
    ids = torch.randint(3, 64, (1, 10))
    shift = torch.zeros(HIDDEN)
    shift[3] = 3
    return {
        "model": model,
        "inputs": {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_mask": torch.arange(10)[None] >= 4,
        "pos_activations": torch.randn(N, HIDDEN) + shift,
        "neg_activations": torch.randn(N, HIDDEN),
        "questions": [f"question {i % 6}" for i in range(2 * N)],
        "vector": torch.randn(HIDDEN),
        "v8": torch.randn(HIDDEN),
        "v16": torch.randn(HIDDEN),
        "eval_prompt": "Rate {question} and {answer}.",
        "q": "How are you?",
        "a": "Fine.",
    }


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_python_block_compiles(block):
    compiled(block)


@pytest.mark.parametrize("page", [MAIN, TOOLKIT], ids=["main", "toolkit"])
def test_the_toolkits_blocks_run_one_after_another(page, names, capsys):
    toolkit = [block for block in pages.blocks(page, "python") if "utils.judge" not in block.text]
    assert len(toolkit) >= 4
    for block in toolkit:
        run(block, names)
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert torch.isfinite(names["vector"]).all()
    assert names["vector"].shape == (HIDDEN,)


def test_the_monitored_scores_of_the_guide_are_aligned(names, capsys):
    monitoring = [b for b in pages.blocks(MAIN, "python") if "ActivationCapture" in b.text or "TraitMonitor" in b.text]
    for block in monitoring[:2]:
        run(block, names)
    assert names["acts"].shape == (1, 10 + 20 - 1, HIDDEN)
    assert names["trait_scores"]["refusal"].shape == (1, 10 + 20 - 1)
    assert capsys.readouterr().out.strip() == "torch.Size([20]) 20"


def test_a_captured_layer_is_the_hidden_state_of_that_number(names, model):
    block = next(b for b in pages.blocks(MAIN, "python") if "activations = capture.get" in b.text)
    run(block, names)
    with torch.no_grad():
        states = model(**names["inputs"], output_hidden_states=True).hidden_states[16]
    assert torch.allclose(names["activations"][:, :10], states, atol=1e-4)


def test_hooks_also_take_a_modules_own_path(names):
    """The path as people know it from other tools: ``model.layers.16`` is layer 17."""
    text = next(b for b in pages.blocks(MAIN, "python") if "activations = capture.get" in b.text).text
    exec(text.replace("layer_path(model, 16)", '"model.layers.16"'), names)
    assert names["activations"].shape == (1, 29, HIDDEN)


class _Grader(BaseHTTPRequestHandler):
    """Answers every chat completion with 87 and no log-probabilities."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "87"}}
        body = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def test_the_judge_block_gives_a_score(names, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Grader)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-docs")
    try:
        run(next(b for b in pages.blocks(MAIN, "python") if "utils.judge" in b.text), names)
    finally:
        server.shutdown()
    assert names["score"] == 87


def test_the_readmes_snippet_scores_every_new_token(embedded, monkeypatch, capsys):  # loads the same model itself
    monkeypatch.chdir(pages.ROOT)
    if not (pages.ROOT / "experiments" / "smollm2_135m" / "refusal" / "vectors" / "summary.csv").is_file():
        pytest.skip("experiments/smollm2_135m has no vectors: run stages 2 and 3 on the starter corpus")
    names = {}
    for block in pages.blocks(pages.ROOT / "README.md", "python"):
        run(block, names)
    new = names["output"].shape[1] - len(names["prompt"])
    ended = int(names["output"][0, -1]) in embedded.end_ids
    assert len(names["monitor"].scores()["refusal"]) == new - ended > 0
    assert "tensor(" in capsys.readouterr().out


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_every_json_block_parses(page):
    for block in pages.blocks(page, "json"):
        json.loads(block.text)


def test_the_dynamics_of_the_format_example_are_those_of_its_scores():
    from traitlens import analyze_dynamics

    example = next(json.loads(b.text) for b in pages.blocks(MAIN, "json") if '"dynamics"' in b.text)
    (scores,), (printed,) = example["trait_scores"].values(), example["dynamics"].values()
    found = analyze_dynamics(scores, permutations=0)
    assert "".join(example["tokens"]) == example["response"]
    assert len(scores) == len(example["tokens"])
    for key, value in printed.items():
        assert getattr(found, key) == pytest.approx(value, abs=1e-6), key


def test_the_copy_commands_of_the_docs_work_in_a_fresh_checkout(tmp_path):
    """``cp`` from the template needs its folder, which the block makes first."""
    lines = [
        line
        for block in pages.blocks(MAIN, "bash")
        for line in block.text.split("\n")
        if "trait_definition_template" in line
    ]
    assert lines
    for block in pages.blocks(MAIN, "bash"):
        if "trait_definition_template.json" in block.text:
            assert block.text.index("mkdir -p experiments/my_exp/my_trait") < block.text.index("cp extraction")
    source, target = lines[0].split()[1:]
    (tmp_path / target).parent.mkdir(parents=True)
    shutil.copy(pages.ROOT / source, tmp_path / target)
