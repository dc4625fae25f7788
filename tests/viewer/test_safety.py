"""Token text is only ever text, and nothing leaves the page."""

from . import samples
from .conftest import VIEWER, Open


def test_hostile_texts_show_as_themselves_in_every_view(viewer: Open) -> None:
    page = viewer("awkward", "many")
    page.evaluate("change({ token: 1 })")
    assert page.locator("#strip > .t").nth(1).text_content() == samples.HOSTILE
    assert page.locator("#head h1").text_content() == samples.awkward()["prompt"]
    page.locator("#strip > .t").nth(1).hover()
    assert "<img" in page.locator("#tip .tok").text_content()
    for view in ("heatmap", "compare", "spans", "overview", "response"):
        page.click(f"#tab-{view}")
        assert (
            page.evaluate("document.querySelectorAll('img, iframe, object, embed, b > script, h1 b, .t script').length")
            == 0
        )
    assert page.title() != "owned"
    assert page.evaluate("document.scripts.length") == 5


def test_hostile_verdicts_show_as_text_and_are_left_out_where_they_are_wrong(viewer: Open) -> None:
    page = viewer("awkward")
    notes = page.locator("#messages li").all_text_contents()
    assert notes == [
        "awkward.json: verdicts.refusal.response_score is text, not a score; the verdict was ignored",
        f"awkward.json: verdicts.{samples.HOSTILE}.p_value is 2, not a probability; the verdict was ignored",
    ]
    assert "this one holds" not in page.locator("#stats-note").text_content()
    assert page.locator("#stats-note").text_content().endswith("these hold: __proto__, <i>trait</i>.")
    page.evaluate("change({ trait: '__proto__' })")
    assert page.locator("#head .verdict").text_content().startswith("__proto__: yes (p = .004)")
    assert page.locator("img, i").count() == page.locator("#help i").count()
    assert page.title() != "owned"


def test_a_trait_named_like_a_property_of_objects_is_a_trait(viewer: Open) -> None:
    page = viewer("awkward")
    assert page.locator(".chip").all_text_contents() == ["refusal", "__proto__", "<i>trait</i>"]
    page.evaluate("change({ trait: '__proto__' })")
    assert page.locator("#read-value").text_content() == "−2.00"


def test_the_policy_blocks_scripts_styles_and_connections(viewer: Open, browser: object) -> None:
    page = browser.new_page()  # type: ignore[attr-defined]  # apart from the fixture: blocked things are logged as errors
    page.goto(VIEWER.as_uri())
    blocked = page.evaluate(
        """async () => {
          const seen = [];
          document.addEventListener('securitypolicyviolation', (e) => seen.push(e.effectiveDirective));
          const script = document.createElement('script');
          try { script.textContent = 'window.ran = true'; document.body.append(script); } catch { seen.push('trusted-types'); }
          const style = document.createElement('style'); style.textContent = 'body { color: red }'; document.head.append(style);
          const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);
          try { document.body.innerHTML = '<b>x</b>'; } catch { seen.push('innerHTML'); }
          try { await fetch('http://127.0.0.1:9/'); } catch { seen.push('fetch'); }
          await new Promise((done) => setTimeout(done, 100));
          return [seen, window.ran ?? null];
        }"""
    )
    page.close()
    assert blocked[1] is None
    assert {"style-src-elem", "img-src", "connect-src", "innerHTML", "fetch"} <= set(blocked[0])


def test_the_source_holds_no_way_from_text_to_markup_or_code() -> None:
    source = VIEWER.read_text(encoding="utf-8")
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
        'http-equiv="refresh"',
    ):
        assert word not in source, word
    outside = [part.split('"')[0] for part in source.split('"http')[1:]]
    assert set(outside) == {"://www.w3.org/2000/svg"}
