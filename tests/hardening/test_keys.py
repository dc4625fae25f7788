"""Stage 1 as a command of its own, with keys in the environment and in the servers' addresses: no file or line shows one."""

import base64
import json
import os
from pathlib import Path

import pytest

from tests.hardening.nursery import run_command
from tests.judging.servers import Reply, completion, error, scripted

ROOT = Path(__file__).parents[2]
CANARY = "sk-canary-4f9d1c7b2e8a6053"
IN_ADDRESS = base64.b64encode(f"me:{CANARY}".encode()).decode()
DEFINITION = {
    "instruction": [{"pos": "Agree.", "neg": "Object."}],
    "questions": ["Is it late?", "Is it far?"],
    "eval_prompt": "Question: {question} Answer: {answer} How friendly, from 0 to 100?",
}
SOON = {"Retry-After": "0.01"}
# What the judge answers to all but the first two requests, by which the command checks it, and how the command ends.
FAULTS = {
    "refuses": (lambda: error(401, f"Incorrect API key provided: {CANARY}"), 1),
    "is not found": (lambda: error(404, f"no model for Bearer {CANARY}"), 1),
    "breaks": (lambda: Reply(f"<html>{CANARY}</html>", 500, SOON), 0),
    "says the key": (lambda: completion(f"I will not rate it. {CANARY}"), 0),
    "says no JSON": (lambda: Reply(f"<html>{CANARY}</html>"), 0),
    "scores": (lambda: completion("70"), 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_file_and_no_line_of_a_whole_run_shows_a_key(fault, tmp_path):
    answer, status = FAULTS[fault]
    folder = tmp_path / "experiments" / "lab" / "calm"
    folder.mkdir(parents=True)
    (folder / "trait_definition.json").write_text(json.dumps(DEFINITION), encoding="utf-8")
    secret = tmp_path / ".env"
    secret.write_text(f"OPENAI_API_KEY={CANARY}\nANTHROPIC_API_KEY={CANARY}\nHF_TOKEN={CANARY}\n", encoding="utf-8")
    with (
        scripted(lambda body, number: completion("Perhaps so.")) as generator,
        scripted(lambda b, n: answer() if n > 1 else completion("70")) as judge,
    ):
        command = [
            str(ROOT / "extraction" / "1_generate_responses.py"), "--experiment", "lab", "--trait", "calm",
            "--gen_model", "served", "--gen_base_url", generator.url.replace("://", f"://me:{CANARY}@"),
            "--judge_model", "served", "--judge_base_url", judge.url,
        ]  # fmt: skip
        removed = {name: None for name in os.environ if name.lower().endswith(("_proxy", "_key", "_token"))}
        done = run_command(*command, folder=tmp_path, **removed)
        sent = [headers["authorization"] for asked in (generator, judge) for headers in asked.headers]
    secret.unlink()
    assert generator.requests, done.stderr
    assert judge.requests, done.stderr
    assert set(sent) == {f"Bearer {CANARY}", f"Basic {IN_ADDRESS}"}, "the keys must have been in use"
    assert done.returncode == status, done.stderr
    written = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.suffix == ".csv" for path in written)
    for place, text in {"stdout": done.stdout, "stderr": done.stderr, **written}.items():
        assert CANARY[:12] not in text, place
        assert IN_ADDRESS not in text, place
        assert "Traceback" not in text
