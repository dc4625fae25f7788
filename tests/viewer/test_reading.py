"""Reading one response: strip, slider, bars, lines, statistics, heatmaps, marks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from . import samples
from .conftest import Open


def numbers(page: Any, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def test_the_strip_is_the_response_token_by_token(viewer: Open) -> None:
    page = viewer("many")
    assert numbers(page, "#strip > .t") == samples.results()[0]["tokens"]


def test_tokens_are_tinted_by_sign_with_an_underline_as_second_sign(viewer: Open) -> None:
    page = viewer("many")
    page.evaluate("change({ trait: 'sycophantic' })")
    values = page.evaluate("[...Derived.values(Derived.current(), 'sycophantic')]")
    limit = page.evaluate("Derived.limit(Derived.current(), 'sycophantic')")
    classes = page.evaluate("[...document.querySelectorAll('#strip > .t')].map((t) => t.className)")
    for value, name in zip(values, classes, strict=True):
        assert (" p" in name) == (value / limit > 0.12)
        assert (" m" in name) == (value / limit < -0.12)
    colours = page.evaluate(
        "[...document.querySelectorAll('#strip > .t')].map((t) => getComputedStyle(t).backgroundColor.match(/\\d+/g).map(Number))"
    )
    for value, (red, _, blue) in zip(values, colours, strict=True):
        if abs(value) / limit > 0.1:
            assert (red > blue) == (value > 0)


def test_hover_shows_every_trait_and_a_click_chooses_the_token(viewer: Open) -> None:
    page = viewer("many")
    token = page.locator("#strip > .t").nth(3)
    token.hover()
    assert page.locator("#tip").is_visible()
    assert numbers(page, "#tip dt") == list(samples.TRAITS)
    token.click()
    assert page.input_value("#slider") == "3"
    assert "cur" in token.get_attribute("class")
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_the_slider_moves_bars_cursor_strip_and_readout_together(viewer: Open) -> None:
    page = viewer("many")
    record = samples.results()[0]
    before = page.locator("#lines .cursor").get_attribute("x1")
    page.locator("#slider").evaluate("(el) => { el.value = 9; el.dispatchEvent(new Event('input', {bubbles: true})); }")
    expected = [record["trait_scores"][t][9] - record["baselines"][t] for t in samples.TRAITS]
    shown = [
        float(t.replace("−", "-"))
        for t in page.evaluate(
            "[...document.querySelectorAll('#bars g[data-trait]')].map((g) => [...g.querySelectorAll('text')].at(-1).textContent)"
        )
    ]
    assert shown == pytest.approx(expected, abs=0.006)
    assert page.locator("#lines .cursor").get_attribute("x1") != before
    assert page.locator("#strip > .t.cur").text_content() == record["tokens"][9]
    assert page.locator("#read-at").text_content() == f"9 / {len(record['tokens']) - 1}"
    assert "token 9 of" in page.locator("#slider").get_attribute("aria-valuetext")


def test_bars_point_right_above_zero_and_left_below(viewer: Open) -> None:
    page = viewer("many")
    page.evaluate("change({ token: 9 })")
    bars = page.evaluate(
        "[...document.querySelectorAll('#bars g[data-trait]')].map((g) => { const r = [...g.querySelectorAll('rect')].at(-1); return [g.dataset.trait, Number(r.getAttribute('x')), r.getAttribute('fill')]; })"
    )
    zero = float(page.evaluate("[...document.querySelectorAll('#bars svg > line')].at(-1).getAttribute('x1')"))
    record = samples.results()[0]
    for trait, x, _ in bars:
        value = record["trait_scores"][trait][9] - record["baselines"][trait]
        assert (x >= zero - 0.01) == (value >= 0)
    assert len({fill for *_, fill in bars}) == 2


def test_statistics_give_extremes_that_open_their_token(viewer: Open) -> None:
    page = viewer("many")
    record = samples.results()[0]
    centred = [v - record["baselines"]["evil"] for v in record["trait_scores"]["evil"]]
    row = page.locator("#stats tbody tr", has=page.locator("th", has_text=re.compile("^evil$")))
    cells = row.locator("td").all_text_contents()
    assert float(cells[1].replace("−", "-")) == pytest.approx(sum(centred) / len(centred), abs=0.006)
    row.locator("button").nth(1).click()
    assert page.evaluate("State.token") == centred.index(max(centred))
    row.locator("button").nth(0).click()
    assert page.evaluate("State.token") == centred.index(min(centred))


def test_commitment_peak_onset_and_thresholds_are_marked(viewer: Open) -> None:
    page = viewer("many")
    texts = " ".join(numbers(page, "#lines text"))
    for part in ("onset", "peak", "commitment (p = .031)", "5 % token threshold", "1 % token threshold"):
        assert part in texts


def opened(viewer: Open, path: Path, verdicts: object, **parts: object) -> Any:
    """The page with one result that has these verdicts (none where they are None)."""
    result = samples.result("Why?", "Because of the rain that fell all day on the hills around us.") | parts
    result["verdicts"] = verdicts
    path.write_text(json.dumps(result))
    page = viewer()
    page.set_input_files("#pick-files", str(path))
    page.wait_for_selector(".item")
    return page


VERDICTS = {
    "refusal": {"response_score": 3.12, "p_value": 0.0033, "p_neutral": 0.002, "expressed": True, "expressed_1": True},
    "evil": {"response_score": -0.4, "p_value": 0.6, "p_neutral": 0.4, "expressed": False, "expressed_1": False},
    "verbosity": {"response_score": 2.0, "p_value": 0.03, "p_neutral": None, "expressed": True, "expressed_1": False},
    "sycophantic": {"response_score": 0.7, "p_value": 0.2, "p_neutral": None, "expressed": None, "expressed_1": None},
}  # fmt: skip


def test_the_verdict_on_the_whole_response_stands_at_the_top_for_the_chosen_trait(viewer: Open, tmp_path: Path) -> None:
    page = opened(viewer, tmp_path / "r.json", VERDICTS)
    line = page.locator("#head .verdict")
    assert line.text_content().startswith("refusal: yes (p = .003)")
    for part in ("at a rate of 1 % too", "unlike ordinary text: p = .002", "3.1 standard deviations above"):
        assert part in line.text_content()
    assert "noise" not in page.locator("#lines-note").text_content()
    for trait, said in [
        ("evil", "evil: no (p = .6)"),
        ("verbosity", "verbosity: yes (p = .03)but not at a rate of 1 %"),
        ("sycophantic", "sycophantic: not known (p = .2)there is too little text"),
        ("corrigibility", "corrigibility: not knownthis result has no verdict on it"),
    ]:
        page.evaluate("(trait) => change({ trait })", trait)
        assert line.text_content().startswith(said)
        assert ("read its dynamics as noise" in page.locator("#lines-note").text_content()) == (trait == "evil")
    page.evaluate("change({ trait: 'evil' })")
    assert "0.4 standard deviations below" in line.text_content()


def test_every_trait_has_its_verdict_in_the_table_and_a_note_tells_which_hold_together(
    viewer: Open, tmp_path: Path
) -> None:
    page = opened(viewer, tmp_path / "r.json", VERDICTS)
    assert numbers(page, "#stats thead th")[:2] == ["Trait", "Verdict"]
    said = dict(zip(numbers(page, "#stats tbody th"), numbers(page, "#stats tbody td:nth-child(2)"), strict=True))
    assert said == dict.fromkeys(samples.TRAITS, "not known") | {
        "refusal": "yes (p = .003)",
        "evil": "no (p = .6)",
        "verbosity": "yes (p = .03)",
        "sycophantic": "not known (p = .2)",
    }
    note = page.locator("#stats-note").text_content()
    assert "Each verdict alone is a false alarm in 5 %" in note
    assert "4 together give one or more in up to 19 %" in note
    assert "for all 4, this one holds: refusal." in note


@pytest.mark.parametrize(
    ("p_values", "said"),
    [
        ([0.001] * 8, "8 together give one or more in up to 34 %"),
        ([0.001] * 8, "for all 8, these hold: " + ", ".join(samples.TRAITS)),
        ([0.02] * 8, "for all 8, none of them holds."),
        ([0.02], "Each verdict alone is a false alarm in 5 % of the responses that do not show its trait. Tokens"),
    ],
)
def test_the_note_counts_the_verdicts_that_were_tried(
    viewer: Open, tmp_path: Path, p_values: list[float], said: str
) -> None:
    verdicts = {t: {"response_score": 2.5, "p_value": p} for t, p in zip(samples.TRAITS, p_values, strict=False)}
    page = opened(viewer, tmp_path / "r.json", verdicts)
    assert said in page.locator("#stats-note").text_content()


def test_a_maximum_over_tokens_in_the_dynamics_of_an_old_file_is_no_verdict(viewer: Open, tmp_path: Path) -> None:
    result = samples.result("Why?", "Because of the rain that fell all day on the hills around us.")
    pages = []
    for expressed in (True, False):
        dynamics = {t: d | {"expressed": expressed} for t, d in result["dynamics"].items()}
        page = opened(viewer, tmp_path / "r.json", None, dynamics=dynamics)
        assert "refusal: not known" in page.locator("#head .verdict").text_content()
        assert "Verdict" not in numbers(page, "#stats thead th")
        pages.append(page.locator("#panel-response").text_content())
    assert pages[0] == pages[1]
    assert "xpressed" not in pages[0]


def test_the_help_says_what_zero_means_and_that_single_tokens_decide_nothing(viewer: Open) -> None:
    page = viewer("many")
    page.keyboard.press("?")
    text = page.locator("#help").text_content()
    assert "above zero, nearer the trait's positive than its negative examples" in text
    assert "Single tokens are noisy" in text
    assert "The verdict is on the response" in text
    assert "trait is expressed" not in text
    assert "zero means neutral" not in text


def test_the_page_calls_every_threshold_a_token_threshold(viewer: Open) -> None:
    page = viewer("many")
    page.click("#tab-compare")
    page.click("#tab-response")
    shown = page.evaluate(
        "document.body.innerText + [...document.querySelectorAll('option, svg text, svg title')].map((e) => e.textContent).join(' ')"
    )
    assert "5 % token threshold" in shown
    assert "1 % token threshold" in shown
    assert re.findall(r"(?i)(?<!token )thresholds?\b", shown) == []


@pytest.mark.parametrize("p_value", [None, 0.06, 0.9])
def test_a_commitment_point_that_noise_could_have_is_not_shown(
    viewer: Open, tmp_path: Path, p_value: float | None
) -> None:
    shown = []
    for chance in (0.05, p_value):
        result = samples.result("Why?", "Because of the rain that fell all day on the hills around us.")
        for dynamics in result["dynamics"].values():
            dynamics |= {"commitment_point": 4, "commitment_p_value": chance}
        (tmp_path / "r.json").write_text(json.dumps(result))
        page = viewer()
        page.set_input_files("#pick-files", str(tmp_path / "r.json"))
        page.wait_for_selector(".item")
        cells = page.locator("#stats tbody tr").first.locator("td").all_text_contents()
        shown.append((any("commitment" in text for text in numbers(page, "#lines text")), cells))
    (marked, with_point), (noise_marked, without) = shown
    assert marked
    assert not noise_marked
    assert [a for a, b in zip(with_point, without, strict=True) if a != b] == ["token 4"]
    assert "–" in without


def test_a_result_without_optional_parts_says_what_it_lacks(viewer: Open) -> None:
    page = viewer("bare")
    assert page.input_value("#unit") == "raw"
    assert "No commitment point or onset" in page.locator("#lines-note").text_content()
    assert "5 %" not in page.locator("#stats").text_content()
    assert "Commitment" not in page.locator("#stats").text_content()
    page.click("#tab-heatmap")
    assert page.locator("#heat-layers-card").is_hidden()


def test_scores_can_be_raw_centred_or_in_thresholds(viewer: Open) -> None:
    page = viewer("many")
    record = samples.results()[0]
    raw, base, threshold = (
        record["trait_scores"]["refusal"][0],
        record["baselines"]["refusal"],
        record["thresholds"]["refusal"]["fpr_5"],
    )
    for unit, value in (("centred", raw - base), ("raw", raw), ("threshold", (raw - base) / (threshold - base))):
        page.select_option("#unit", unit)
        assert float(page.locator("#read-value").text_content().replace("−", "-")) == pytest.approx(value, abs=0.006)


def test_smoothing_keeps_the_raw_line_behind(viewer: Open) -> None:
    page = viewer("many")
    sharp = page.locator('#lines path[data-line="refusal"]').get_attribute("d")
    count = page.locator("#lines path").count()
    page.locator("#smoothing").evaluate(
        "(el) => { el.value = 2; el.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    assert page.locator('#lines path[data-line="refusal"]').get_attribute("d") != sharp
    assert page.locator("#lines path").count() == count + len(samples.TRAITS)
    assert page.locator("#smoothing-out").text_content() == "5 tokens"
    assert page.evaluate(
        "(d) => [...document.querySelectorAll('#lines path')].some((p) => p.getAttribute('d') === d)", sharp
    )


def test_velocity_and_acceleration_can_be_shown(viewer: Open) -> None:
    page = viewer("many")
    before = page.evaluate("document.querySelector('#lines svg').height.baseVal.value")
    page.check("#derivatives")
    texts = numbers(page, "#lines text")
    assert "velocity of refusal" in texts
    assert "acceleration of refusal" in texts
    assert page.evaluate("document.querySelector('#lines svg').height.baseVal.value") > before + 100


def test_each_trait_can_have_its_own_row_and_be_hidden(viewer: Open) -> None:
    page = viewer("many")
    page.get_by_role("button", name="One row each").click()
    assert [t for t in numbers(page, "#lines text") if t in samples.TRAITS] == list(samples.TRAITS)
    page.get_by_label("Draw evil").uncheck()
    assert "evil" not in numbers(page, "#lines text")
    assert page.locator("#bars g[data-trait]").count() == len(samples.TRAITS) - 1


def test_zoom_follows_the_token(viewer: Open) -> None:
    page = viewer("large")
    page.click("#zoom-in")
    page.click("#zoom-in")
    start, end = page.evaluate("State.zoom")
    assert end - start == 1000
    page.keyboard.press("End")
    assert page.evaluate("State.zoom[1]") == 4000
    page.click("#zoom-fit")
    assert page.evaluate("State.zoom") is None


def test_dragging_over_the_line_chart_moves_the_token(viewer: Open) -> None:
    page = viewer("many")
    box = page.locator("#lines svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 150)
    page.mouse.down()
    first = page.evaluate("State.token")
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 150, steps=4)
    page.mouse.up()
    assert 0 < first < page.evaluate("State.token")


def test_heatmaps_show_traits_and_layers_and_choose_a_token(viewer: Open) -> None:
    page = viewer("many")
    page.click("#tab-heatmap")
    assert [t for t in numbers(page, "#heat-traits text") if t in samples.TRAITS] == list(samples.TRAITS)
    layers = [t for t in numbers(page, "#heat-layers text") if t.isdigit()]
    assert layers == [str(k) for k in range(30, -1, -2)]
    cells = page.evaluate(
        "(async () => { const i = new Image(); i.src = document.querySelector('#heat-layers image').getAttribute('href'); await i.decode(); return [i.width, i.height]; })()"
    )
    assert cells == [len(samples.results()[0]["tokens"]), 16]
    box = page.locator("#heat-traits svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 80)
    assert page.evaluate("State.token") > 5
    assert page.evaluate("State.trait") != "refusal"
    page.locator("#heat-traits").focus()
    row = page.evaluate("State.trait")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("State.trait") == samples.TRAITS[samples.TRAITS.index(row) + 1]


def test_a_long_response_has_a_heatmap_that_scrolls_with_the_token(viewer: Open) -> None:
    page = viewer("large")
    page.click("#tab-heatmap")
    page.get_by_role("button", name="Readable tokens").click()
    page.keyboard.press("End")
    assert page.evaluate(
        "(() => { const c = document.querySelector('#heat-traits'); return c.scrollLeft > 10000 && c.scrollLeft + c.clientWidth > c.scrollWidth - 100; })()"
    )


def test_prompt_tokens_and_parts_of_a_conversation_are_told_apart(viewer: Open) -> None:
    page = viewer("many", "awkward")
    page.locator("details.prompt-tokens summary").click()
    assert "".join(numbers(page, "#prompt-tokens .t")) == "".join(samples.results()[0]["prompt_tokens"])
    page.evaluate("change({ open: State.records.length - 1 })")
    assert numbers(page, "#strip .role") == ["assistant · thinking", "assistant · answer"]
    assert "assistant · thinking" in numbers(page, "#lines text")


def test_whitespace_is_visible_and_a_copy_of_the_strip_is_the_response(viewer: Open) -> None:
    page = viewer("many")
    page.evaluate("change({ open: 2 })")
    marks = page.evaluate("[...document.querySelectorAll('#strip [data-m]')].map((el) => el.dataset.m).join('')")
    assert "↵" in marks
    assert "·" in marks
    spaces = marks.count("·")
    page.check("#spaces")
    assert (
        page.evaluate("[...document.querySelectorAll('#strip [data-m]')].map((el) => el.dataset.m).join('')").count("·")
        > spaces
    )
    assert "".join(numbers(page, "#strip > .t")) == samples.ANSWERS["Write a Python function that adds two numbers."]


def test_an_unknown_score_is_hatched_and_counted_never_zero(viewer: Open) -> None:
    page = viewer("awkward")
    assert "u" in page.locator("#strip > .t").nth(3).get_attribute("class").split()
    page.evaluate("change({ token: 3 })")
    assert page.locator("#read-value").text_content() == "–"
    assert "Unknown" in page.locator("#stats thead").text_content()


@pytest.mark.parametrize(
    "scores", [[1.0, 1.0000000000000002, 1.0], [0.0, 0.0, 0.0], [2e-7, -1e-7, 0.0], [1e300, -1e300, 0.0]]
)
def test_scores_of_any_size_or_spread_are_drawn_in_every_view(
    viewer: Open, tmp_path: Path, scores: list[float]
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(
        json.dumps({"prompt": "?", "response": "abc", "tokens": list("abc"), "trait_scores": {"refusal": scores}})
    )
    page = viewer()
    page.set_input_files("#pick-files", str(path))
    for view in ("heatmap", "compare", "spans", "overview", "response"):
        page.click(f"#tab-{view}")
    assert page.locator("#lines svg path[data-line=refusal]").get_attribute("d").count("L") == 2
    assert page.locator("#read-value").text_content() not in ("0.0000", "–")


def test_closing_all_results_while_they_play_ends_the_play(viewer: Open) -> None:
    page = viewer("many")
    page.keyboard.press("Space")
    page.click("#open-menu")
    page.click("#close-all")
    page.wait_for_timeout(400)
    assert page.locator("#welcome").is_visible()


def test_playing_steps_and_stops_at_the_end(viewer: Open) -> None:
    page = viewer("many")
    page.evaluate("change({ open: 1 })")
    page.select_option("#speed", "30")
    page.click("#play")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    page.wait_for_function("() => !State.playing")
    assert page.evaluate("State.token") == 6
    assert page.locator("#play").get_attribute("aria-label") == "Play"


def test_the_documented_example_of_the_format_is_read(viewer: Open, tmp_path: Path) -> None:
    example = {
        "prompt": "What is the capital of France?", "response": "The capital of France is Paris.",
        "tokens": ["The", " capital", " of", " France", " is", " Paris", "."],
        "trait_scores": {"retrieval_construction": [0.5, 2.3, 2.1, 1.8, 1.5, 1.2, 0.8]},
        "dynamics": {"retrieval_construction": {"commitment_point": 2, "peak_velocity": 1.8, "avg_velocity": 0.95, "persistence": 3,
                                                "velocity_profile": [1.8, -0.2, -0.3, -0.3, -0.3], "acceleration_profile": [-2.0, -0.1, 0.0, 0.0]}},
    }  # fmt: skip
    (tmp_path / "doc.json").write_text(json.dumps(example))
    page = viewer()
    page.set_input_files("#pick-files", str(tmp_path / "doc.json"))
    page.wait_for_selector(".item")
    assert "commitment" not in " ".join(numbers(page, "#lines text"))  # nothing tells its point from noise's
    assert page.locator("#stats tbody").text_content().endswith("–1.800.953")
    page.check("#derivatives")
    assert "velocity of retrieval_construction" in numbers(page, "#lines text")
