"""The report: the same page with data inside, and the policy that guards both."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from extraction.monitoring.report import sealed, write_report
from extraction.report import main

from utils.errors import UserError

from . import samples
from .conftest import VIEWER, Open

ROOT = VIEWER.parent


def test_the_policy_in_the_viewer_matches_its_blocks() -> None:
    page = VIEWER.read_text(encoding="utf-8")
    assert page == sealed(page), "visualization.html was edited: run python -m extraction.report --seal"
    assert "unsafe" not in page.split("<style>")[0]


def test_the_committed_results_open_in_the_page_that_their_readme_makes(viewer: Open, tmp_path: Path) -> None:
    results = VIEWER.parent / "experiments/smollm2_135m/inference/results/examples.json"
    page = viewer(url=write_report([results], tmp_path / "examples.html").as_uri())
    page.wait_for_selector(".item")
    prompts = [record["prompt"] for record in json.loads(results.read_text(encoding="utf-8"))]
    assert page.evaluate("State.records.map((r) => r.prompt)") == prompts


def test_a_report_opens_on_its_results_and_keeps_hostile_tokens_as_text(viewer: Open, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps([samples.awkward(), *samples.other_run()]), encoding="utf-8")
    path = write_report([tmp_path / "run.json"], tmp_path / "report.html")
    page = viewer(url=path.as_uri())
    page.wait_for_selector(".item")
    assert page.evaluate("State.records.map((r) => [r.file, r.index])") == [
        ["run.json", 0],
        ["run.json", 1],
        ["run.json", 2],
    ]
    assert page.evaluate("State.records[0].tokens") == samples.awkward()["tokens"]
    assert page.title() != "owned"


def test_a_report_takes_files_and_folders_together(tmp_path: Path, files: dict[str, Path]) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/a.json").write_text(files["other"].read_text())
    (tmp_path / "results.json").write_text(json.dumps([samples.awkward()]), encoding="utf-8")
    places = [tmp_path / "results.json", str(files["bare"]), tmp_path / "runs"]
    path = write_report(places, tmp_path / "deep/report.html")
    data = json.loads(path.read_text(encoding="utf-8").split('type="application/json">')[1].split("</script>")[0])
    assert [(f["file"], len(f["data"])) for f in data if isinstance(f["data"], list)] == [
        ("results.json", 1),
        ("runs/a.json", 2),
    ]
    assert [f["file"] for f in data] == ["results.json", "bare.json", "runs/a.json"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds no results"),
        ('{"a": 1}', "lacks prompt"),
        ('{"prompt": "p", "response": "a", "tokens": ["a"], "trait_scores": {"t": [1, 2]}}', "'t' per token"),
        (None, "not found"),
    ],
)
def test_a_file_that_holds_no_results_is_refused_by_name(tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=rf"x\.json.*{part}"):
        write_report([tmp_path / "x.json"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_infinite_score_or_nothing_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nan.json").write_text(json.dumps(samples.awkward() | {"baselines": {"refusal": float("nan")}}))
    with pytest.raises(UserError, match=r"nan\.json: not valid JSON \(NaN is not a number"):
        write_report([tmp_path / "nan.json"], tmp_path / "r.html")
    with pytest.raises(UserError, match="no results"):
        write_report([], tmp_path / "r.html")


def test_a_folder_without_results_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=r"runs/\*\.json not found"):
        write_report([tmp_path / "runs"], tmp_path / "report.html")


@pytest.mark.parametrize(("page", "said"), [("<p>no slot</p>", "no place for data"), (None, "not found")])
def test_a_viewer_that_is_not_there_or_not_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str | None, said: str
) -> None:
    monkeypatch.setattr("extraction.monitoring.report.VIEWER", tmp_path / "visualization.html")
    if page is not None:
        (tmp_path / "visualization.html").write_text(page)
    (tmp_path / "results.json").write_text(json.dumps(samples.awkward()), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{said}.*Restore visualization\.html"):
        write_report([tmp_path / "results.json"], tmp_path / "report.html")


def test_an_edited_viewer_is_sealed_again_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "visualization.html"
    copy.write_text(
        VIEWER.read_text(encoding="utf-8").replace("</style>", "p { color: red }</style>"), encoding="utf-8"
    )
    monkeypatch.setattr("extraction.monitoring.report.VIEWER", copy)
    with pytest.raises(SystemExit) as ended:
        main(["--seal"])
    page = copy.read_text(encoding="utf-8")
    assert ended.value.code == 0
    assert page == sealed(page)
    assert page.count("color: red") == 1


def test_the_command_takes_paths_before_and_after_its_flag(tmp_path: Path, files: dict[str, Path]) -> None:
    command = [
        sys.executable,
        "-m",
        "extraction.report",
        str(files["bare"]),
        "-o",
        str(tmp_path / "out.html"),
        str(files["other"]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out.html") in done.stderr
    assert "gemma-2-2b-it" in (tmp_path / "out.html").read_text(encoding="utf-8")
    wrong = subprocess.run([*command[:3], "missing.json"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1
    assert "missing.json" in wrong.stderr
