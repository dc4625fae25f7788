import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from extraction.monitoring import texts as monitoring

import utils.models.compatibility
from tests.monitoring.conftest import ROOT, example
from utils.formats.results import read_results


@pytest.fixture
def in_memory(embedded, monkeypatch):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: embedded)
    return embedded


@pytest.fixture
def small_in_memory(small, monkeypatch):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: small)


def test_the_step_by_step_monitor_saves_what_the_run_script_finds(experiments, in_memory, monkeypatch):
    script = example("monitor")
    for name, value in {"EXPERIMENT": experiments / "smollm2_test", "TRAITS": ("evil", "refusal"), "LAYER": 16, "MAX_NEW_TOKENS": 9,
                        "load_model": lambda _: in_memory}.items():  # fmt: skip
        monkeypatch.setattr(script, name, value)
    script.main()
    results_dir = experiments / "smollm2_test" / "inference" / "results"
    (result,) = read_results(results_dir / "monitor.json")
    assert result["response"].startswith("The capital of France is Paris")
    example("run_dynamics").run_dynamics(
        "smollm2_test",
        prompts=script.PROMPT,
        layer=16,
        max_new_tokens=9,
        report=False,
        experiments_dir=str(experiments),
    )
    (other,) = read_results(results_dir / "dynamics.json")
    n = len(result["tokens"])
    assert other["tokens"][:n] == result["tokens"]
    assert torch.allclose(
        torch.tensor(other["trait_scores"]["evil"][:n]), torch.tensor(result["trait_scores"]["evil"]), rtol=1e-5
    )


def test_the_step_by_step_monitor_runs_as_shipped_and_says_which_command_makes_its_vectors(tmp_path):
    command = [sys.executable, ROOT / "experiments" / "examples" / "monitor.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: \S+probe_layer19\.pt not found\. .*Run: python extraction/3_\S+ .*\n", done.stderr)
    for trait in ("refusal", "uncertainty"):
        vectors = f"experiments/smollm2_135m/{trait}/vectors"
        shutil.copytree(ROOT / vectors, tmp_path / vectors)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Paris[^\n]*\nrefusal: no \(p = \S+\), uncertainty: no \(p = \S+\)\n", done.stdout)
    (result,) = read_results(tmp_path / "experiments/smollm2_135m/inference/results/monitor.json")
    assert set(result["baselines"]) == set(result["verdicts"]) == {"refusal", "uncertainty"}


def test_a_conversation_keeps_its_history_and_scores_every_turn(small_experiments, small_in_memory, capsys, tmp_path):
    example("monitor_conversation").monitor_conversation(
        "smollm2_test", messages='["Hi", "What is the capital of France?"]', system="Be brief.", max_new_tokens=8,
        output=str(tmp_path / "talk.json"), experiments_dir=str(small_experiments),
    )  # fmt: skip
    first, second = read_results(tmp_path / "talk.json")
    assert [(s["role"], s["turn"]) for s in second["segments"]] == [
        ("system", 0), ("user", 1), ("assistant", 1), ("user", 2), ("assistant", 2),
    ]  # fmt: skip
    earlier = second["segments"][2]
    assert "".join(second["prompt_tokens"][earlier["start"] : earlier["end"]]).strip() == first["response"].strip()
    assert len(second["prompt_trait_scores"]["evil"]) == len(second["prompt_tokens"])
    shown = capsys.readouterr().out
    assert second["response"] in shown
    assert shown.count("2 assistant") == 1


def test_what_a_model_answers_does_not_command_the_terminal(
    small_experiments, small_in_memory, monkeypatch, capsys, tmp_path
):
    said = monitoring.monitor_texts
    monkeypatch.setattr(
        monitoring,
        "monitor_texts",
        lambda *given, **options: [replace(r, response="\x1b[2J \u202e שלום") for r in said(*given, **options)],
    )
    example("monitor_conversation").monitor_conversation(
        "smollm2_test", messages="Hi", max_new_tokens=2, output=str(tmp_path / "talk.json"),
        experiments_dir=str(small_experiments),
    )  # fmt: skip
    assert capsys.readouterr().out.startswith("\ufffd[2J \ufffd שלום\n")
    assert read_results(tmp_path / "talk.json")[0]["response"] == "\x1b[2J \u202e שלום"  # as it was, in the file


def test_a_typed_conversation_ends_with_an_empty_line(monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nBye\n\nnever\n"))
    assert list(example("monitor_conversation").user_messages(None)) == ["Hello", "Bye"]
