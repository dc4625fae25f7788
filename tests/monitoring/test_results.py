import json
import math

import pytest

from utils.errors import DamagedFileError, UserError
from utils.formats.results import ResultsFile, read_results
from utils.records import MonitoringRecord


def record(prompt, score=0.5):
    return MonitoringRecord(prompt, "ab", ["a", "b"], {"refusal": [score, 1.0]})


@pytest.fixture
def output(tmp_path):
    return tmp_path / "results.json"


def test_one_result_is_an_object_and_several_are_a_list(output):
    run = ResultsFile(output, {"seed": 0}, 1)
    run.add({0: record("p")})
    run.write()
    assert json.loads(output.read_text())["trait_scores"] == {"refusal": [0.5, 1.0]}
    run = ResultsFile(output, {"seed": 0, "texts": 2}, 2, overwrite=True)
    run.add({1: record("q"), 0: record("p")})
    run.write()
    assert [r["prompt"] for r in json.loads(output.read_text())] == ["p", "q"]


def test_a_killed_run_goes_on_from_what_is_on_disk(output):
    ResultsFile(output, {"seed": 0}, 3).add({0: record("p")})  # killed: write() is never reached
    run = ResultsFile(output, {"seed": 0}, 3)
    assert run.missing == [1, 2]
    run.add({2: record("r"), 1: record("q")})
    run.write()
    assert [r["prompt"] for r in read_results(output)] == ["p", "q", "r"]
    assert not list(output.parent.glob("*.jsonl"))


def test_a_torn_journal_line_is_made_again(output):
    run = ResultsFile(output, {"seed": 0}, 2)
    run.add({0: record("p"), 1: record("q")})
    journal = output.with_name("results.json.0.partial.jsonl")
    journal.write_bytes(journal.read_bytes()[:-10])
    assert ResultsFile(output, {"seed": 0}, 2).missing == [1]


def test_an_interrupted_run_leaves_a_readable_file_and_goes_on(output):
    run = ResultsFile(output, {"seed": 0}, 2)
    run.add({1: record("q")})
    run.write()
    assert [r["prompt"] for r in read_results(output)] == ["q"]
    assert ResultsFile(output, {"seed": 0}, 2).missing == [0]


def test_a_finished_run_has_nothing_to_do_again(output):
    run = ResultsFile(output, {"seed": 0}, 1)
    run.add({0: record("p")})
    run.write()
    again = ResultsFile(output, {"seed": 0}, 1)
    assert again.missing == []
    again.write()
    assert read_results(output)[0]["prompt"] == "p"
    assert {path.name for path in output.parent.iterdir()} == {"results.json", "results.json.settings"}


def test_results_of_other_settings_are_not_touched_unless_told(output):
    run = ResultsFile(output, {"seed": 0, "layer": 3}, 1)
    run.add({0: record("p")})
    run.write()
    before = output.read_bytes()
    with pytest.raises(UserError, match=r"other settings \(seed\).*--overwrite"):
        ResultsFile(output, {"seed": 1, "layer": 3}, 1)
    assert output.read_bytes() == before
    assert ResultsFile(output, {"seed": 1, "layer": 3}, 1, overwrite=True).missing == [0]


def test_an_overwriting_run_that_fails_before_its_first_result_does_not_pass_old_results_as_its_own(output):
    run = ResultsFile(output, {"seed": 0}, 1)
    run.add({0: record("old")})
    run.write()
    before = output.read_bytes()
    ResultsFile(output, {"seed": 1}, 1, overwrite=True)  # fails: add() is never reached
    assert output.read_bytes() == before
    again = ResultsFile(output, {"seed": 1}, 1)
    assert again.missing == [0]
    again.add({0: record("new")})
    again.write()
    assert [r["prompt"] for r in read_results(output)] == ["new"]
    assert ResultsFile(output, {"seed": 1}, 1).missing == []


def test_a_kill_of_a_whole_run_before_its_journal_is_gone_costs_nothing(output, monkeypatch):
    run = ResultsFile(output, {"seed": 0}, 1)
    run.add({0: record("p")})
    monkeypatch.setattr("utils.formats.results.write_json", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        run.write()
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        ResultsFile(output, {"seed": 1}, 1)
    assert ResultsFile(output, {"seed": 0}, 1).missing == []


def test_a_file_that_results_were_taken_out_of_is_made_anew(output):
    run = ResultsFile(output, {"seed": 0}, 2)
    run.add({0: record("p"), 1: record("q")})
    run.write()
    output.write_text(json.dumps(read_results(output)[1:]))
    again = ResultsFile(output, {"seed": 0}, 2)
    assert again.missing == [0, 1]
    again.add({1: record("q")})
    assert ResultsFile(output, {"seed": 0}, 2).missing == [0]


def test_a_journal_is_of_its_own_output_whatever_signs_are_in_the_name(tmp_path):
    for name in ("r", "r.0", "r[0]"):
        ResultsFile(tmp_path / name, {}, 5).add({len(name): record(name)})
    for name in ("r", "r.0", "r[0]"):
        assert ResultsFile(tmp_path / name, {}, 5).missing == [i for i in range(5) if i != len(name)]


def test_a_first_run_that_fails_before_its_first_result_binds_nobody_to_its_settings(output):
    ResultsFile(output, {"seed": 0}, 1)
    assert ResultsFile(output, {"seed": 1}, 1).missing == [0]


def test_a_file_of_unknown_origin_is_not_replaced(output):
    output.write_text("{}")
    with pytest.raises(UserError, match="not known how it was made"):
        ResultsFile(output, {}, 1)
    with pytest.raises(UserError, match="is a folder"):
        ResultsFile(output.parent, {}, 1)


def test_a_score_that_is_no_number_is_null_and_said(output, caplog):
    run = ResultsFile(output, {}, 1)
    run.add({0: record("p", math.inf)})
    run.write()
    assert json.loads(output.read_text())["trait_scores"]["refusal"] == [None, 1.0]
    assert "1 scores are not finite" in caplog.text


def test_float32_scores_are_written_in_the_digits_that_they_have(output):
    run = ResultsFile(output.with_name("b.json"), {}, 1)
    run.add({0: record("p", 2.299999952316284)})
    run.write()
    assert "[2.3, 1.0]" in output.with_name("b.json").read_text()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([3], "result 1 is int"),
        ({"prompt": "p"}, "lacks response, tokens, trait_scores"),
        ({"prompt": "p", "response": "a", "tokens": "a", "trait_scores": {}}, "wrong kind"),
        ({"prompt": "p", "response": "a", "tokens": ["a"], "trait_scores": {"t": [1, 2]}}, "'t' per token"),
        (
            {"prompt": ["p"], "response": "a", "tokens": ["a"], "trait_scores": {"t": [1]}},
            "a list, not text, under prompt",
        ),
        ({"prompt": "p", "response": "a", "tokens": [1], "trait_scores": {"t": [1]}}, "a number, not text, as token 0"),
        ({"prompt": "p", "response": "a", "tokens": ["a"], "trait_scores": {}}, "names no trait"),
        (
            {"prompt": "p", "response": "a", "tokens": ["a"], "trait_scores": {"t": [True]}},
            "a truth value, not a number",
        ),
        ({"prompt": "p", "response": "a", "tokens": ["a"], "trait_scores": {"t": [1e301]}}, "too large, not a number"),
    ],
)
def test_a_file_that_holds_no_results_is_named(output, value, said):
    output.write_text(json.dumps(value))
    with pytest.raises(DamagedFileError, match=said):
        read_results(output)
