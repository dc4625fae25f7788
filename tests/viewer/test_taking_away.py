"""Exports and links: SVG, PNG, CSV, and an address that restores the view."""

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.image
import pytest

from . import samples
from .conftest import VIEWER, Open

CHARTS = {
    "response": ["lines", "bars"],
    "heatmap": ["heat-traits", "heat-layers"],
    "compare": ["compare-a", "compare-b"],
}


def saved(page: Any, selector: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.locator(selector).first.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


@pytest.mark.parametrize("view", CHARTS)
def test_every_chart_can_be_saved_as_svg_and_png(viewer: Open, view: str) -> None:
    page = viewer("many")
    page.click(f"#tab-{view}")
    for chart in CHARTS[view]:
        name, svg = saved(page, f'[data-chart="{chart}"] [data-export="svg"]')
        root = ElementTree.fromstring(svg)
        assert name == f"many-1-{chart}.svg"
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert b'class="strip' not in svg
        assert b"var(--" not in svg
        name, png = saved(page, f'[data-chart="{chart}"] [data-export="png"]')
        image = matplotlib.image.imread(io.BytesIO(png), format="png")
        assert name.endswith(".png")
        assert image.shape[1] == pytest.approx(2 * float(root.get("width")), abs=2)
        assert image[..., :3].std() > 0.02, "the picture is blank"


def test_csv_of_one_response_and_of_all_holds_the_raw_scores(viewer: Open) -> None:
    page = viewer("many", "awkward")
    records = [*samples.results(), samples.awkward()]
    _, text = saved(page, "#csv-one")
    rows = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
    assert [json.loads(r["token_json"]) for r in rows] == records[0]["tokens"]
    assert [float(r["evil"]) for r in rows] == records[0]["trait_scores"]["evil"]
    page.click("#open-menu")
    _, text = saved(page, "#csv-all")
    rows = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
    assert len(rows) == sum(len(r["tokens"]) for r in records)
    hostile = [r for r in rows if r["file"] == "awkward.json"]
    assert [json.loads(r["token_json"]) for r in hostile] == records[-1]["tokens"]
    assert hostile[3]["refusal"] == ""
    assert hostile[0]["evil"] == ""
    assert hostile[4]["__proto__"] == "2"


def test_no_cell_of_the_csv_can_be_taken_for_a_formula(viewer: Open, tmp_path: Path) -> None:
    record = samples.awkward() | {"trait_scores": {"=cmd()": [1.0] * len(samples.awkward()["tokens"])}}
    (tmp_path / "=bad.json").write_text(json.dumps(record))
    page = viewer()
    page.set_input_files("#pick-files", str(tmp_path / "=bad.json"))
    page.wait_for_selector(".item")
    _, text = saved(page, "#csv-one")
    for row in csv.reader(io.StringIO(text.decode(), newline="")):
        assert not any(cell.startswith(("=", "@", "+", "\t")) for cell in row)


def test_a_chart_and_a_link_can_be_taken_away_whatever_its_names_hold(viewer: Open, tmp_path: Path) -> None:
    names = ["👩" * 80, "nul \u0000", "\uffff"]  # half a character is refused with its file
    tokens = ["a", "👩", "\u0001"]
    content = {
        "prompt": "?",
        "response": "".join(tokens),
        "tokens": tokens,
        "trait_scores": {n: [1, 2, 3] for n in names},
    }
    (tmp_path / "odd.json").write_text(json.dumps(content))
    page = viewer()
    page.set_input_files("#pick-files", str(tmp_path / "odd.json"))
    for chart in ("lines", "bars"):
        assert saved(page, f'[data-chart="{chart}"] [data-export="png"]')[1].startswith(b"\x89PNG")
        ElementTree.fromstring(saved(page, f'[data-chart="{chart}"] [data-export="svg"]')[1])
    page.evaluate("(names) => names.forEach(Views.toggleTrait)", names)
    page.wait_for_function("() => Pure.decodeLink(location.hash).hidden?.length === 3")
    assert page.evaluate("Pure.decodeLink(location.hash).hidden[0]") == names[0]


def test_the_address_restores_file_result_token_traits_and_view(viewer: Open, files: dict[str, Path]) -> None:
    page = viewer("bare", "many")
    page.evaluate(
        "change({ open: 3, token: 7, trait: 'evil', hidden: new Set(['verbosity']), view: 'heatmap', smoothing: 2, unit: 'threshold' })"
    )
    page.wait_for_function("() => location.hash.includes('token=7') && location.hash.includes('heatmap')")
    address = page.url
    other = viewer(url=address)
    assert "open that file" in other.locator("#toast").text_content()
    other.set_input_files("#pick-files", [str(files["many"]), str(files["bare"])])
    other.wait_for_selector(".item")
    state = "[Derived.current().prompt, State.token, State.trait, [...State.hidden], State.view, State.smoothing, State.unit]"
    assert other.evaluate(state) == page.evaluate(state)
    assert other.evaluate("State.token") == 7


def test_an_edited_address_is_followed_and_an_impossible_one_is_harmless(viewer: Open) -> None:
    page = viewer("many")
    page.evaluate("location.hash = '#file=many.json&result=2&token=999&trait=nonsense&view=__proto__&hidden=%E0%A4%A'")
    page.wait_for_function("() => State.open === 1")
    assert page.evaluate("[State.token, State.trait, State.view]") == [6, "refusal", "response"]


def test_a_link_keeps_the_order_of_the_list(viewer: Open, files: dict[str, Path]) -> None:
    page = viewer("many")
    page.evaluate("change({ sort: 'max:evil', descending: false })")
    page.wait_for_function("() => location.hash.includes('sort')")
    other = viewer(url=page.url)
    other.set_input_files("#pick-files", str(files["many"]))
    other.wait_for_selector(".item")
    assert other.evaluate("Derived.visible()") == page.evaluate("Derived.visible()")


def test_a_link_to_a_comparison_brings_both_results(viewer: Open, files: dict[str, Path]) -> None:
    page = viewer("many", "other")
    page.evaluate("change({ view: 'compare', open: 0, other: 8, compare: 'overlay' })")
    page.wait_for_function("() => location.hash.includes('bFile')")
    other = viewer(url=page.url)
    other.set_input_files("#pick-files", [str(files["other"]), str(files["many"])])
    other.wait_for_selector("#compare-chart svg")
    assert other.evaluate("[Derived.current().file, Derived.other().file]") == ["many.json", "other.json"]


def test_copying_the_link_puts_it_on_the_clipboard_or_in_the_address_bar(viewer: Open) -> None:
    page = viewer("many", permissions=["clipboard-read", "clipboard-write"])
    page.click("#copy-link")
    page.wait_for_selector("#toast:not([hidden])")
    assert "ink" in page.locator("#toast").text_content()
    assert page.url.startswith(VIEWER.as_uri())
