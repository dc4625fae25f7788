import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from extraction.monitoring import texts as monitoring

import utils.models.compatibility
from tests.monitoring.conftest import ROOT, example
from utils.errors import UserError
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
    for name, value in {"EXPERIMENT": experiments / "smollm2_test", "TRAITS": ("evil", "refusal"), "MAX_NEW_TOKENS": 9,
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


def test_the_step_by_step_monitor_says_in_one_line_which_command_makes_its_vectors():
    script = ROOT / "experiments" / "examples" / "monitor.py"
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: \S+probe_layer16\.pt not found\. .*Run: python extraction/3_\S+ .*\n", done.stderr)


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


def test_validation_of_the_commitment_point_cuts_around_both_kinds_of_points(
    small_experiments, small_in_memory, tmp_path, monkeypatch
):
    script, output = example("validate_commitment"), tmp_path / "commitment.json"
    monkeypatch.setattr(script, "OFFSETS", (-1, 2))
    script.validate_commitment(
        "smollm2_test", "evil", prompts='["Tell me a story", "Why?", "How are you?", "Who was Bach?"]', samples=2, max_new_tokens=16,
        output=str(output), experiments_dir=str(small_experiments),
    )  # fmt: skip
    found = json.loads(output.read_text())
    assert {cut["kind"] for cut in found["cuts"]} == {"commitment", "control"}
    assert any(cut["spread"] > 0 for cut in found["cuts"])
    assert found["summary"]["commitment_answers"] == len(
        {c["prompt"] for c in found["cuts"] if c["kind"] == "commitment"}
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"smoothing": 2}, "odd"),
        ({"smoothing": -1}, "--smoothing"),
        ({"max_new_tokens": 0}, "--max_new_tokens"),
        ({"output": "."}, "is a folder: --output names a file"),
    ],
)
def test_validation_refuses_flags_that_cannot_work_before_the_model_is_loaded(
    small_experiments, monkeypatch, flags, said
):
    monkeypatch.setattr(utils.models.compatibility, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(UserError, match=said):
        example("validate_commitment").validate_commitment(
            "smollm2_test", "evil", prompts="Hi", experiments_dir=str(small_experiments), **flags
        )


def test_the_summary_tells_a_point_that_settles_the_score_from_one_that_does_not():
    script = example("validate_commitment")

    def cuts(drop_at_commitment):
        return [
            script.Cut(prompt, kind, 9, offset, 2.0 - (drop if offset > 0 else 0.0) + 0.01 * (prompt % 3), None)
            for prompt in range(12)
            for kind, drop in (("commitment", drop_at_commitment), ("control", 0.2 + 0.1 * (prompt % 2 - 0.5)))
            for offset in script.OFFSETS
        ]

    settled, unsettled = script.summarise(cuts(1.0), 0), script.summarise(cuts(0.2), 0)
    assert settled["extra_drop_at_commitment"] == pytest.approx(0.8, abs=0.01)
    assert settled["p_value"] < 0.01
    assert unsettled["p_value"] > 0.2
