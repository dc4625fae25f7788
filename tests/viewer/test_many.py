"""Reading many: list, filter, sort, compare, spans, overview."""

from . import samples
from .conftest import Open


def test_the_filter_finds_words_in_prompts_and_responses(viewer: Open) -> None:
    page = viewer("many")
    page.fill("#filter", "paris capital")
    assert page.locator(".item-prompt").all_text_contents() == ["What is the capital of France?"]
    assert page.locator("#count").text_content() == "1 of 8 results"
    page.fill("#filter", "no such words")
    assert "No prompt or response contains" in page.locator("#items").text_content()


def test_results_sort_by_the_mean_or_maximum_of_any_trait(viewer: Open) -> None:
    page = viewer("many")
    records = samples.results()
    for metric in ("mean", "max"):

        def value(r: dict, metric: str = metric) -> float:
            scores = [v - r["baselines"]["evil"] for v in r["trait_scores"]["evil"]]
            return max(scores) if metric == "max" else sum(scores) / len(scores)

        page.select_option("#sort", f"{metric}:evil")
        expected = [r["prompt"] for r in sorted(records, key=value, reverse=True)]
        assert page.locator(".item-prompt").all_text_contents() == expected
        page.click("#direction")
        assert page.locator(".item-prompt").all_text_contents() == expected[::-1]


def test_every_result_has_a_curve(viewer: Open) -> None:
    page = viewer("many")
    assert page.locator(".item svg path").count() == 2 * 8
    assert all(
        "M" in d
        for d in page.evaluate(
            "[...document.querySelectorAll('.item svg')].map((s) => [...s.querySelectorAll('path')].map((p) => p.getAttribute('d')).join(''))"
        )
    )


def test_two_results_stand_side_by_side_with_their_differences(viewer: Open) -> None:
    page = viewer("many", "other")
    page.evaluate("change({ view: 'compare', open: 0, other: 8 })")
    a, b = samples.results()[0]["tokens"], samples.other_run()[0]["tokens"]
    strips = page.locator("#compare-body .strip")
    assert [strips.nth(k).locator(".t").count() for k in (0, 1)] == [len(a), len(b)]
    differing = strips.nth(1).locator(".t.diff").all_text_contents()
    assert "I'm" in differing
    assert " cannot" not in differing
    said = page.evaluate("[0, 8].map((i) => Pure.verdictText(State.records[i].verdicts.get('refusal')))")
    assert said[0] != said[1]
    assert "refusal; the verdict on A: {}, on B: {}.".format(*said) in page.locator("#compare-summary").text_content()
    assert "aligned tokens are equal" in page.locator("#compare-summary").text_content()
    assert "different models" in page.locator("#compare-summary").text_content()
    page.evaluate("change({ token: State.records[0].tokens.indexOf(' cannot') })")
    assert page.locator("#compare-body .t.cur").all_text_contents() == [" cannot", " cannot"]
    row = page.locator("#compare-table tbody tr").first.locator("td").all_text_contents()
    numbers = [float(t.replace("−", "-")) for t in row]
    assert abs(numbers[1] - numbers[0] - numbers[2]) < 0.011


def test_two_runs_of_the_same_tokens_can_be_overlaid(viewer: Open) -> None:
    page = viewer("many", "other")
    page.evaluate("change({ view: 'compare', open: 1, other: 9 })")
    page.click('[data-compare="overlay"]')
    assert "7 of 7 aligned tokens are equal" in page.locator("#compare-summary").text_content()
    lines = page.locator("#compare-chart path[data-line]")
    assert lines.count() == 2
    assert lines.nth(0).get_attribute("stroke-dasharray") != lines.nth(1).get_attribute("stroke-dasharray")
    page.click("#swap")
    assert page.evaluate("[State.open, State.other]") == [9, 1]
    page.select_option("#compare-b", "0")
    assert page.evaluate("State.other") == 0


def test_the_list_offers_to_compare_with_the_open_result(viewer: Open) -> None:
    page = viewer("many")
    page.locator(".item-vs").nth(3).click()
    assert page.evaluate("[State.view, State.open, State.other]") == ["compare", 0, 3]


def test_strongest_spans_come_from_all_results_and_open_at_their_token(viewer: Open) -> None:
    page = viewer("many")
    page.click("#tab-spans")
    means = page.evaluate(
        "[...document.querySelectorAll('#spans b')].map((b) => Number(b.textContent.replace('−', '-')))"
    )
    assert len(means) > 10
    assert means == sorted(means, reverse=True)
    assert page.locator("#spans mark").nth(0).text_content().strip()
    page.locator("#spans .text").first.click()
    r = samples.results()[0]
    scores = r["trait_scores"]["refusal"]
    best = max(range(len(scores) - 4), key=lambda i: sum(scores[i : i + 5]))
    assert page.evaluate("[State.view, State.open, State.token]") == ["response", 0, best]
    page.click("#tab-spans")
    page.get_by_role("button", name="Lowest").click()
    assert page.evaluate("Number(document.querySelector('#spans b').textContent.replace('−', '-'))") < 0


def test_the_overview_sorts_by_its_headings_and_opens_a_result(viewer: Open) -> None:
    page = viewer("many", "bare")
    page.click("#tab-overview")
    assert page.locator("#overview tbody tr").count() == 9
    page.get_by_role("button", name="hallucinating").last.click()
    assert page.evaluate("State.sort") == "mean:hallucinating"
    assert page.locator('#overview th[aria-sort="descending"]').count() == 1
    page.locator("#overview tbody .jump").nth(2).click()
    assert page.evaluate("State.view") == "response"


def test_the_overview_shows_every_verdict_and_sorts_by_the_responses_score(viewer: Open) -> None:
    page = viewer("many", "bare")
    page.click("#tab-overview")
    page.get_by_role("button", name="Verdict", exact=True).click()
    verdicts = [r["verdicts"] for r in samples.results()]
    cells = page.locator("#overview tbody tr").first.locator("td").all_text_contents()[1:]
    assert [c.split(" ")[0] for c in cells] == ["yes" if verdicts[0][t]["expressed"] else "no" for t in samples.TRAITS]
    assert {c.split(" ")[0] for c in page.locator("#overview tbody td").all_text_contents()} >= {"yes", "no", "not"}
    page.locator("#overview").get_by_role("button", name="evil").click()
    highest = max(range(8), key=lambda i: verdicts[i]["evil"]["response_score"])
    prompts = page.locator("#overview tbody .jump").all_text_contents()
    assert [prompts[0], prompts[-1]] == [list(samples.ANSWERS)[highest], "Bare?"]
    assert (
        page.locator(".item-meta")
        .first.text_content()
        .endswith(f"(p {page.evaluate('(p) => Pure.formatP(p)', verdicts[highest]['evil']['p_value'])})")
    )
    assert "false alarm in 5 %" in page.locator("#overview-note").text_content()
    page.get_by_role("button", name="Mean", exact=True).click()
    assert page.locator("#overview-note").text_content() == ""


def test_a_trait_that_a_result_lacks_is_said_to_be_missing(viewer: Open) -> None:
    page = viewer("many", "awkward")
    page.evaluate("change({ open: 8, trait: 'evil' })")
    assert page.locator(".item-meta").last.text_content().endswith("no evil")
    for view in ("heatmap", "compare", "spans", "overview", "response"):
        page.click(f"#tab-{view}")
