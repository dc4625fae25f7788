"""Files come in by picker, folder, drop, paste, address and report; a bad one never stops the others."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import samples
from .conftest import VIEWER, Open


def prompts(page: Any) -> list[str]:
    return page.locator(".item-prompt").all_text_contents()


def test_an_empty_page_explains_itself_and_its_example_works(viewer: Open) -> None:
    page = viewer()
    assert page.get_by_role("heading", level=1).text_content() == "See a trait rise and fall, token by token."
    page.get_by_role("button", name="Show an example").click()
    assert len(prompts(page)) == 2
    assert "invented" in page.locator("#head").text_content()


def test_picked_files_are_all_listed_in_order(viewer: Open) -> None:
    page = viewer("many", "bare")
    assert prompts(page) == [*samples.ANSWERS, "Bare?"]


def test_a_picked_folder_is_read_to_its_depths(viewer: Open, tmp_path: Path, files: dict[str, Path]) -> None:
    (tmp_path / "runs/deep").mkdir(parents=True)
    shutil.copy(files["bare"], tmp_path / "runs/one.json")
    shutil.copy(files["other"], tmp_path / "runs/deep/two.json")
    (tmp_path / "runs/notes.txt").write_text("not a result")
    page = viewer()
    page.set_input_files("#pick-folder", str(tmp_path / "runs"))
    page.wait_for_selector(".item")
    assert sorted(set(page.evaluate("State.records.map((r) => r.file)"))) == ["runs/deep/two.json", "runs/one.json"]
    assert "1 other" in page.locator("#toast").text_content()


def test_files_and_folders_can_be_dropped(viewer: Open, tmp_path: Path, files: dict[str, Path]) -> None:
    (tmp_path / "runs/deep").mkdir(parents=True)
    shutil.copy(files["other"], tmp_path / "runs/deep/two.json")
    page = viewer()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(files["bare"]), str(tmp_path / "runs")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    assert page.locator("#drop").is_visible()
    session.send("Input.dispatchDragEvent", {"type": "drop", "x": 300, "y": 300, "data": data})
    page.wait_for_selector(".item")
    assert sorted(set(page.evaluate("State.records.map((r) => r.file)"))) == ["bare.json", "runs/deep/two.json"]
    assert page.locator("#drop").is_hidden()


def test_json_can_be_pasted_into_the_page_or_the_dialog(viewer: Open) -> None:
    page = viewer()
    page.evaluate(
        "(t) => { const d = new DataTransfer(); d.setData('text/plain', t); document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: d, bubbles: true})); }",
        json.dumps(samples.result("Pasted?", "Yes.", full=False)),
    )
    page.keyboard.press("p")
    page.fill("#paste-text", json.dumps(samples.result("Typed?", "Yes.", full=False)))
    page.click("#paste-go")
    assert prompts(page) == ["Pasted?", "Typed?"]


def test_bad_files_are_named_with_key_and_problem_and_the_others_load(
    viewer: Open, tmp_path: Path, files: dict[str, Path]
) -> None:
    short = samples.result("Short?", "One two.", full=False)
    short["trait_scores"]["evil"].pop()
    bad = {
        "broken.json": "{oops",
        "nan.json": '{"trait_scores": {"x": [NaN]}}',
        "short.json": json.dumps([short, samples.result("Kept?", "Yes.", full=False)]),
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    page = viewer()
    page.set_input_files("#pick-files", [*(str(tmp_path / name) for name in bad), str(files["bare"])])
    page.wait_for_selector(".item")
    messages = page.locator("#messages li").all_text_contents()
    assert messages[0].startswith("broken.json: not valid JSON")
    assert "nan.json: not valid JSON: it holds NaN" in messages[1]
    assert (
        messages[2]
        == f"short.json, result 1: trait_scores.evil has {len(short['tokens']) - 1} values but there are {len(short['tokens'])} tokens"
    )
    assert "3 results could not be read" in page.locator("#messages").text_content()
    assert prompts(page) == ["Kept?", "Bare?"]
    page.get_by_role("button", name="Dismiss").click()
    assert page.locator("#messages").is_hidden()


def test_a_file_opened_twice_is_listed_once_and_a_namesake_gets_a_number(
    viewer: Open, tmp_path: Path, files: dict[str, Path]
) -> None:
    page = viewer("bare")
    page.set_input_files("#pick-files", str(files["bare"]))
    page.wait_for_selector("#messages:not([hidden])")
    assert page.locator("#messages li").all_text_contents() == ["bare.json: already open"]
    (tmp_path / "bare.json").write_text(json.dumps(samples.result("Another?", "Yes.", full=False)))
    page.set_input_files("#pick-files", str(tmp_path / "bare.json"))
    page.wait_for_function("() => State.records.length === 2")
    assert page.evaluate("State.records.map((r) => r.file)") == ["bare.json", "bare.json (2)"]


def test_a_file_scored_again_is_opened_beside_the_one_before(
    viewer: Open, tmp_path: Path, files: dict[str, Path]
) -> None:
    page = viewer("bare")
    content = json.loads(files["bare"].read_text())
    content["trait_scores"]["refusal"] = [9.0] * len(content["tokens"])
    (tmp_path / "bare.json").write_text(json.dumps(content))
    page.set_input_files("#pick-files", str(tmp_path / "bare.json"))
    page.wait_for_function("() => State.records.length === 2")
    assert page.evaluate("State.records.map((r) => r.file)") == ["bare.json", "bare.json (2)"]
    assert page.evaluate("State.records[1].scores.get('refusal')[0]") == 9
    page.set_input_files("#pick-files", str(tmp_path / "bare.json"))
    page.wait_for_selector("#messages:not([hidden])")
    assert page.locator("#messages li").all_text_contents() == ["bare.json: already open"]


def test_all_results_can_be_closed(viewer: Open) -> None:
    page = viewer("many")
    page.click("#open-menu")
    page.click("#close-all")
    assert page.locator("#welcome").is_visible()
    assert page.locator("#app").is_hidden()


def test_an_empty_response_is_listed_and_breaks_nothing(viewer: Open, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text(
        json.dumps({"prompt": "Silent?", "response": "", "tokens": [], "trait_scores": {"evil": []}})
    )
    page = viewer()
    page.set_input_files("#pick-files", str(tmp_path / "empty.json"))
    page.wait_for_selector(".item")
    for view in ("heatmap", "compare", "spans", "overview", "response"):
        page.click(f"#tab-{view}")
    page.keyboard.press("ArrowRight")
    assert "no tokens" in page.locator("#strip-sub").text_content()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keeps the test output readable."""


@pytest.fixture
def address(tmp_path: Path, files: dict[str, Path]) -> Iterator[str]:
    shutil.copy(VIEWER, tmp_path / "visualization.html")
    shutil.copy(files["bare"], tmp_path / "bare.json")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/visualization.html"
    server.shutdown()
    server.server_close()


def test_over_http_the_address_names_files_of_the_same_server(viewer: Open, address: str) -> None:
    page = viewer(
        url=f"{address}?src=bare.json&src=https://example.org/x.json#file=bare.json&result=1&token=2&trait=evil"
    )
    page.wait_for_selector(".item")
    assert page.locator("#messages li").all_text_contents() == [
        "https://example.org/x.json: ?src= only reads files from the page's own server"
    ]
    assert page.evaluate("[State.token, State.trait]") == [2, "evil"]


def test_from_disk_the_address_explains_why_it_cannot_load(viewer: Open) -> None:
    page = viewer(url=f"{VIEWER.as_uri()}?src=bare.json")
    assert "needs the page to be served over http" in page.locator("#messages").text_content()
