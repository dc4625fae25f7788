"""Keyboard, accessibility, colours, sizes, print."""

import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from .conftest import Open

VIEWS = ("response", "heatmap", "compare", "spans", "overview")


def test_keys_move_through_tokens_traits_results_and_views(viewer: Open) -> None:
    page = viewer("many")
    last = page.evaluate("Derived.current().n - 1")
    steps = [
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("Shift+ArrowRight", 11),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("End", last),
        ("ArrowRight", last),
    ]
    for key, token in steps:
        page.keyboard.press(key)
        assert page.evaluate("State.token") == token, key
    for key, state, value in [
        ("]", "trait", "uncertainty"),
        ("[", "trait", "refusal"),
        ("j", "open", 1),
        ("k", "open", 0),
        ("2", "view", "heatmap"),
        ("1", "view", "response"),
        ("h", "hidden.size", 1),
    ]:
        page.keyboard.press(key)
        assert page.evaluate(f"State.{state}") == value, key
    page.keyboard.press("/")
    page.keyboard.type("j]")
    assert page.evaluate("[State.filter, State.open]") == ["j]", 0]
    page.keyboard.press("Escape")
    assert page.evaluate("State.filter") == ""


def test_the_skip_link_leads_to_the_result_and_is_not_taken_for_a_saved_view(viewer: Open) -> None:
    page = viewer("many")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.id === 'stage'")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => location.hash.includes('token=1')")
    assert page.locator("#toast").is_hidden()
    assert page.evaluate("State.pendingLink") is None


def test_space_plays_and_pauses_but_still_presses_a_focused_button(viewer: Open) -> None:
    page = viewer("many")
    page.keyboard.press("Space")
    assert page.evaluate("State.playing") is True
    page.keyboard.press("Space")
    assert page.evaluate("State.playing") is False
    page.locator("#derivatives").focus()
    page.keyboard.press("Space")
    assert page.evaluate("[State.playing, State.derivatives]") == [False, True]


def test_single_key_shortcuts_can_be_turned_off(viewer: Open) -> None:
    page = viewer("many")
    page.keyboard.press("?")
    page.uncheck("#single-keys")
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("j")
    assert page.evaluate("State.open") == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate("State.token") == 1


def test_tabs_follow_the_arrow_keys_and_keep_focus(viewer: Open) -> None:
    page = viewer("many")
    page.locator("#tab-response").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[State.view, document.activeElement.id]") == ["heatmap", "tab-heatmap"]


def test_focus_stays_on_a_control_that_is_drawn_again(viewer: Open) -> None:
    page = viewer("many")
    page.get_by_role("button", name="verbosity", exact=True).focus()
    page.keyboard.press("Enter")
    assert page.evaluate("[State.trait, document.activeElement.dataset.key]") == ["verbosity", "trait-verbosity"]


def test_every_control_is_reached_by_tab_with_a_visible_focus(viewer: Open) -> None:
    page = viewer("many")
    seen = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        name, outline, home = page.evaluate(
            "(() => { const el = document.activeElement, s = getComputedStyle(el.closest('label') ?? el); const own = getComputedStyle(el); return [el.id || el.dataset.key || el.textContent.slice(0, 12), [s, own].some((c) => c.outlineStyle !== 'none' && parseFloat(c.outlineWidth) >= 2), el === document.body]; })()"
        )
        if home:
            break
        seen.add(name)
        assert outline, f"{name} has no visible focus"
    assert {
        "open-menu",
        "filter",
        "sort",
        "trait-refusal",
        "show-evil",
        "unit",
        "strip",
        "derivatives",
        "smoothing",
        "slider",
        "play",
    } <= seen


def test_the_live_readout_speaks_the_token_and_the_score(viewer: Open) -> None:
    page = viewer("many")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('live').textContent.includes('token 1 of')")
    assert "refusal" in page.locator("#live").text_content()
    assert "cannot" in page.locator("#live").text_content()


RULES = """() => {
  const visible = (el) => el.checkVisibility({ checkOpacity: false }) && el.getClientRects().length;
  const problems = [], ids = new Set();
  const name = (el) => el.getAttribute('aria-label') || (el.getAttribute('aria-labelledby') || '').split(' ').map((i) => document.getElementById(i)?.textContent ?? '').join('') || [...(el.labels ?? [])].map((l) => l.textContent).join('') || (el.matches('input, select, textarea') ? '' : el.textContent.trim()) || el.title;
  for (const el of document.querySelectorAll('[id]')) { if (ids.has(el.id)) problems.push('id twice: ' + el.id); ids.add(el.id); }
  for (const el of document.querySelectorAll('button, input:not([type=file]), select, textarea, [role=group], [role=region], [role=img], dialog')) if (visible(el) && !name(el)) problems.push('no name: ' + el.outerHTML.slice(0, 80));
  for (const el of document.querySelectorAll('[aria-controls], [aria-labelledby]')) for (const a of ['aria-controls', 'aria-labelledby']) for (const i of (el.getAttribute(a) || '').split(' ').filter(Boolean)) if (!document.getElementById(i)) problems.push('no such id: ' + i);
  for (const el of document.querySelectorAll('button')) if (visible(el)) { const b = el.getBoundingClientRect(); if (b.width < 20 || b.height < 18) problems.push('too small: ' + el.outerHTML.slice(0, 80) + b.width + 'x' + b.height); }
  for (const el of document.querySelectorAll('*')) if (visible(el) && el.scrollHeight > el.clientHeight + 2 && ['auto', 'scroll'].includes(getComputedStyle(el).overflowY) && el.tabIndex < 0 && !el.querySelector('button, input, [tabindex]') && el !== document.scrollingElement) problems.push('cannot be scrolled by key: ' + el.className);
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1]; };
  const hex = (c) => '#' + c.slice(0, 3).map((v) => Math.round(v).toString(16).padStart(2, '0')).join('');
  const ground = (el) => { for (let e = el; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0.99) return hex(c); } return hex(parse(getComputedStyle(document.documentElement).backgroundColor)); };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const el = node.parentElement;
    if (!node.textContent.trim() || !visible(el) || el.closest('script, style, desc, title, option, optgroup') || el.classList.contains('sr')) continue;
    const svg = el.closest('svg');
    const ink = svg ? el.closest('[fill]').getAttribute('fill') : hex(parse(getComputedStyle(el).color));
    const ratio = Pure.contrast(ink, svg ? svg.querySelector('rect')?.getAttribute('fill') ?? ground(svg) : ground(el));
    if (ratio < 4.5 && !el.closest('button:disabled')) problems.push('contrast ' + ratio.toFixed(2) + ': ' + node.textContent.slice(0, 30));
    const size = parseFloat(getComputedStyle(el).fontSize);
    if (size < 10.5 && !el.closest('.c')) problems.push('small text ' + size + ': ' + node.textContent.slice(0, 30));
  }
  return [...new Set(problems)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_contrast_sizes_and_scrolling_obey_the_rules_in_every_view(viewer: Open, scheme: str) -> None:
    page = viewer("many", "other", "awkward", color_scheme=scheme)
    for view in VIEWS:
        page.click(f"#tab-{view}")
        assert page.evaluate(RULES) == [], view
    page.evaluate("change({ metric: 'verdict' })")
    assert page.evaluate(RULES) == []
    page.keyboard.press("?")
    assert page.evaluate(RULES) == []


def axe_source() -> str:
    """The axe-core script where npm has installed it: beside this repository, globally, or at AXE_CORE."""
    places = [Path(os.environ.get("AXE_CORE", "")), Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"]
    if shutil.which("npm") and not any(p.is_file() for p in places):
        root = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, check=False).stdout.strip()
        places.append(Path(root) / "axe-core/axe.min.js")
    found = next((p for p in places if p.is_file()), None)
    if not found:
        pytest.skip(
            "axe-core is not installed (npm install axe-core, or AXE_CORE=path/to/axe.min.js); the rules above ran without it"
        )
    return found.read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_any_view(viewer: Open, scheme: str) -> None:
    page = viewer("many", "other", color_scheme=scheme)
    page.evaluate(axe_source())
    for view in VIEWS:
        page.click(f"#tab-{view}")
        found = page.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) => [v.id, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 120))]))"
        )
        assert found == [], view


OVERLAPS = """() => [...document.querySelectorAll('.chart svg')].filter((svg) => svg.checkVisibility()).flatMap((svg) => {
  const boxes = [...svg.querySelectorAll('text')].filter((t) => !t.getAttribute('transform') && t.textContent.trim()).map((t) => [t.textContent, t.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect(), out = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1 || b.bottom > frame.bottom + 1).map(([t]) => 'outside: ' + t);
  for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left), high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 2 && high > 4) out.push(boxes[i][0] + ' over ' + boxes[j][0]);
  }
  return out;
})"""


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 860), (2560, 1440)])
def test_no_label_overlaps_and_nothing_overflows_at_any_size(viewer: Open, width: int, height: int) -> None:
    page = viewer("many", "other", width=width, height=height)
    page.evaluate("change({ derivatives: true })")
    for view in VIEWS:
        page.evaluate(f"change({{ view: '{view}' }})")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.evaluate(OVERLAPS) == [], view
    page.evaluate("change({ view: 'response', lines: 'rows' })")
    assert page.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("name", ["retrieval_construction", "retrieval_construction_" * 12])
def test_long_names_of_traits_leave_room_for_what_they_name(
    viewer: Open, tmp_path: Path, width: int, name: str
) -> None:
    tokens = ["one", " two", " three"]
    path = tmp_path / "long.json"
    result = {"prompt": "?", "response": "".join(tokens), "tokens": tokens, "baselines": {"short": 0}}
    path.write_text(json.dumps(result | {"trait_scores": {name: [1, 2, 3], "short": [3, 2, 1]}}))
    page = viewer(width=width, height=800)
    page.set_input_files("#pick-files", str(path))
    for view in ("response", "heatmap", "compare", "spans", "overview"):
        page.click(f"#tab-{view}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        wide = page.evaluate(
            "Math.max(0, ...[...document.querySelectorAll('.library-head *')].map((el) => el.getBoundingClientRect().right))"
            " - document.querySelector('.library').getBoundingClientRect().right"
        )
        assert wide <= 0 or width == 360, view
    page.click("#tab-response")
    head = page.locator("#stats tbody th").first
    assert head.bounding_box()["width"] <= page.locator("#stats").bounding_box()["width"] * 0.6
    assert head.get_attribute("title") == name
    page.click("#tab-heatmap")
    assert float(page.locator("#heat-traits image").get_attribute("width")) > width / 6


def test_the_list_opens_and_closes_on_a_narrow_screen(viewer: Open) -> None:
    page = viewer("many", width=360, height=740)
    assert page.locator("#library").is_hidden()
    page.click("#library-toggle")
    page.locator(".item").nth(2).click()
    assert page.locator("#library").is_hidden()
    assert page.evaluate("State.open") == 2


def brightness(page: Any) -> float:
    return float(matplotlib.image.imread(io.BytesIO(page.screenshot()), format="png")[..., :3].mean())


def test_colours_follow_the_system_or_the_button(viewer: Open) -> None:
    page = viewer("many", color_scheme="dark")
    assert brightness(page) < 0.3
    page.click("#theme")
    assert page.locator("#theme").get_attribute("aria-label") == "Colours: light"
    assert brightness(page) > 0.8
    page.reload()
    assert page.evaluate("State.theme") == "light"


def test_print_is_light_and_without_controls(viewer: Open) -> None:
    page = viewer("many", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert brightness(page) > 0.8
    assert page.locator("#player").is_hidden()
    assert page.locator("#library").is_hidden()
    assert page.locator("#strip").is_visible()
    page.set_viewport_size({"width": 740, "height": 1050})
    assert page.evaluate("document.querySelector('#stats table').getBoundingClientRect().right") <= 740
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert brightness(page) < 0.3
    assert page.pdf()[:5] == b"%PDF-"


def test_reduced_motion_is_respected(viewer: Open) -> None:
    page = viewer("many", reduced_motion="reduce")
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every((el) => parseFloat(getComputedStyle(el).transitionDuration) === 0 && getComputedStyle(el).animationName === 'none')"
    )
