"""The page's pure functions: validation, scales, ticks, colours, smoothing, statistics, alignment, text."""

from typing import Any

import pytest

from traitlens.validation.verdicts import holm
from utils.formats.results import problem_of_result

from . import samples

GOOD = {"prompt": "p", "response": "ab", "tokens": ["a", "b"], "trait_scores": {"x": [1, -2.5]}}


def read(pure: Any, value: object) -> Any:
    return pure(
        "(v) => { const r = Pure.readParsed(v, 'f.json'); return {n: r.records.length, problems: r.problems, notes: r.notes}; }",
        value,
    )


def test_a_minimal_result_is_read_without_complaint(pure: Any) -> None:
    assert read(pure, GOOD) == {"n": 1, "problems": [], "notes": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "f.json: prompt is null, not text"),
        ({"response": 3}, "f.json: response is a number, not text"),
        ({"tokens": "ab"}, "f.json: tokens is text, not a list of texts"),
        ({"tokens": ["a", 1]}, "f.json: tokens[1] is a number, not text"),
        ({"trait_scores": {}}, "f.json: trait_scores names no trait"),
        ({"trait_scores": {"x": [1]}}, "f.json: trait_scores.x has 1 values but there are 2 tokens"),
        ({"trait_scores": {"x": [1, "2"]}}, "f.json: trait_scores.x[1] is text, not a number or null"),
        ({"trait_scores": {"x": 5}}, "f.json: trait_scores.x is a number, not a list of numbers"),
    ],
)
def test_a_wrong_required_part_is_named_with_file_key_and_problem(
    pure: Any, change: dict[str, object], message: str
) -> None:
    assert read(pure, GOOD | change) == {"n": 0, "problems": [message], "notes": []}


@pytest.mark.parametrize("key", ["prompt", "response", "tokens", "trait_scores"])
def test_a_missing_required_part_is_named(pure: Any, key: str) -> None:
    broken = {k: v for k, v in GOOD.items() if k != key}
    assert read(pure, broken)["problems"] == [f"f.json: {key} is missing"]


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ({"baselines": {"x": "high"}}, "baselines.x is text and was ignored"),
        ({"layer": {"x": 1.5}}, "layer.x is a number and was ignored"),
        (
            {"dynamics": {"x": {"commitment_point": 9}}},
            "dynamics.x.commitment_point is 9, not a token index, and was ignored",
        ),
        (
            {"dynamics": {"x": {"velocity_profile": [1, 2, 3]}}},
            "dynamics.x.velocity_profile has 3 values for 2 tokens: it is computed from the scores instead",
        ),
        (
            {"layer_scores": {"x": {"layers": [0, 1], "scores": [[1, 2]]}}},
            "layer_scores.x has 2 layers but 1 rows of scores and was ignored",
        ),
        (
            {"segments": [{"where": "response", "start": 0, "end": 5}]},
            "segments[0] is not a range of tokens and was ignored",
        ),
        (
            {"prompt_tokens": ["p"], "prompt_trait_scores": {"x": [1, 2]}},
            "prompt_trait_scores.x has 2 values but there are 1 prompt tokens; the prompt is shown as plain text",
        ),
        ({"response": "abc"}, "the tokens do not join to the response; the tokens are shown"),
    ],
)
def test_a_wrong_optional_part_is_left_out_with_a_note(pure: Any, extra: dict[str, object], note: str) -> None:
    assert read(pure, GOOD | extra) == {"n": 1, "problems": [], "notes": [f"f.json: {note}"]}


@pytest.mark.parametrize(
    ("verdict", "fault"),
    [
        ("yes", " is text, not an object"),
        ([1], " is a list, not an object"),
        ({}, ".response_score is missing"),
        ({"response_score": None}, ".response_score is missing"),
        ({"response_score": "3"}, ".response_score is text, not a score"),
        ({"response_score": float("inf")}, ".response_score is Infinity, not a score"),
        ({"response_score": float("nan")}, ".response_score is NaN, not a score"),
        ({"p_value": -0.1}, ".p_value is -0.1, not a probability"),
        ({"p_value": 1.1}, ".p_value is 1.1, not a probability"),
        ({"p_value": float("nan")}, ".p_value is NaN, not a probability"),
        ({"p_value": True}, ".p_value is true, not a probability"),
        ({"p_neutral": "<b>0</b>"}, ".p_neutral is text, not a probability"),
        ({"expressed": 1}, ".expressed is 1, not true, false or null"),
        ({"expressed_1": "no"}, ".expressed_1 is text, not true, false or null"),
        ({"expressed": True, "p_value": 0.6}, ".expressed is true where p_value is 0.6"),
        ({"expressed": False, "p_value": 0.01}, ".expressed is false where p_value is 0.01"),
        ({"expressed_1": True, "p_value": 0.03}, ".expressed_1 is true where p_value is 0.03"),
    ],
)
def test_a_wrong_verdict_is_left_out_with_a_note_and_its_neighbour_stays(
    pure: Any, verdict: object, fault: str
) -> None:
    whole = {"response_score": 1.0} | verdict if isinstance(verdict, dict) and verdict else verdict
    seen = pure(
        "(v) => { const r = Pure.readParsed(v, 'f.json'); return [r.notes, [...r.records[0].verdicts.keys()]]; }",
        GOOD | {"verdicts": {"y": {"response_score": 0.5}, "x": whole}},
    )
    assert seen == [[f"f.json: verdicts.x{fault}; the verdict was ignored"], ["y"]]


def test_a_good_verdict_is_read_whole_and_what_it_lacks_is_unknown(pure: Any) -> None:
    verdicts = {
        "x": {"response_score": 3.1, "p_value": 0.003, "p_neutral": 0, "expressed": True, "expressed_1": True},
        "y": {"response_score": -1, "p_value": None, "expressed": None},
        "rounded": {"response_score": 1.7, "p_value": 0.05, "expressed": False},
        "z": None,
    }
    unknown = dict.fromkeys(("p_value", "p_neutral", "expressed", "expressed_1"))
    seen = pure(
        "(v) => { const r = Pure.readParsed(v, 'f.json'); return [r.notes, Object.fromEntries(r.records[0].verdicts)]; }",
        GOOD | {"verdicts": verdicts},
    )
    assert seen == [[], {t: unknown | verdicts[t] for t in ("x", "y", "rounded")}]


@pytest.mark.parametrize(("verdicts", "name"), [([], "a list"), ("yes", "text"), (3, "a number")])
def test_verdicts_that_are_no_object_are_left_out_with_a_note(pure: Any, verdicts: object, name: str) -> None:
    assert read(pure, GOOD | {"verdicts": verdicts}) == {
        "n": 1, "problems": [], "notes": [f"f.json: verdicts is {name} and was ignored"],
    }  # fmt: skip


def test_nulls_in_optional_maps_are_unknown_and_not_worth_a_note(pure: Any) -> None:
    assert (
        read(
            pure, GOOD | {"baselines": {"x": None}, "verdicts": None, "dynamics": None, "layer": 4, "method": "probe"}
        )["notes"]
        == []
    )


def test_good_results_of_a_list_survive_a_bad_neighbour(pure: Any) -> None:
    seen = read(pure, [GOOD, {"prompt": "p"}, GOOD])
    assert seen["n"] == 2
    assert seen["problems"] == ["f.json, result 2: response is missing"]


ODD = [
    {"tokens": ["a", 1]}, {"tokens": "ab"}, {"tokens": []}, {"prompt": ["p"]}, {"response": None}, {"trait_scores": {}},
    {"trait_scores": [1, 2]}, {"trait_scores": {"x": [1]}}, {"trait_scores": {"x": [1, "2"]}}, {"baselines": 3},
    {"trait_scores": {"x": [1, True]}}, {"trait_scores": {"x": [1, None]}}, {"trait_scores": {"x": [1, 1e301]}},
    {"trait_scores": {"x": [1, 1e300]}}, {"trait_scores": {"": [1, 2], "7": [1, 2]}}, {"dynamics": [1]}, {"segments": 1},
]  # fmt: skip


@pytest.mark.parametrize("change", ODD, ids=str)
def test_the_page_takes_exactly_what_the_report_takes(pure: Any, change: dict[str, object]) -> None:
    result = {**GOOD, **change}
    assert (read(pure, result)["n"] == 1) == (problem_of_result(result) is None)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "f.json: the file is empty"),
        ("{", "f.json: not valid JSON"),
        ('{"a": [1, NaN]}', "it holds NaN, which JSON does not have; write null"),
        ('{"a": "\\ud83d"}', "not valid JSON: a text holds half a character"),
        ("[]", "f.json: the list is empty"),
        ("7", "f.json: is a number"),
    ],
)
def test_text_that_is_no_result_says_what_is_wrong(pure: Any, text: str, part: str) -> None:
    seen = pure("(t) => Pure.readText(t, 'f.json')", text)
    assert seen["records"] == []
    assert part in seen["problems"][0]


def test_a_byte_order_mark_is_no_obstacle(pure: Any) -> None:
    assert pure("() => Pure.readText('\\ufeff[]', 'f').problems") == ["f: the list is empty"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1.2, 3.4, [-1, 0, 1, 2, 3]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.001, 0.0042, [0.001, 0.002, 0.003, 0.004]),
        (2, 2, [2]),
        (1, 1.0000000000000002, [1]),
        (1e16, 1e16 + 4, [1e16]),
    ],
)
def test_ticks_are_round_and_inside_the_range(pure: Any, low: float, high: float, expected: list[float]) -> None:
    assert pure("([a, b]) => Pure.ticks(a, b, 5)", [low, high]) == pytest.approx(expected)


def test_smoothing_is_centred_shorter_at_the_ends_and_skips_unknown_values(pure: Any) -> None:
    assert pure("() => [...Pure.smooth([0, 3, 6, 9], 3)]") == [1.5, 3, 6, 7.5]
    assert pure("() => [...Pure.smooth([1, NaN, 3], 3)].map((v) => Number.isNaN(v) ? null : v)") == [1, None, 3]
    assert pure("() => [...Pure.smooth([1, 5, 2], 1)]") == [1, 5, 2]


def test_statistics_count_unknown_values_and_name_the_first_extremes(pure: Any) -> None:
    seen = pure("() => Pure.statistics([2, NaN, -4, 2])")
    assert seen == {"n": 3, "unknown": 1, "mean": 0, "min": -4, "max": 2, "argmin": 2, "argmax": 0}
    assert pure("() => Pure.statistics([NaN]).mean") is None


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0033, "= .003"),
        (0.0781, "= .078"),
        (0.578, "= .58"),
        (0.6, "= .6"),
        (1, "= 1"),
        (0.30000000000000004, "= .3"),
        (0.0009, "< .001"),
        (0, "< .001"),
        (0.05, "= .05"),
        (0.0501, "= .0501"),
        (0.01004, "= .01004"),
        (0.010004, "= .010004"),
    ],
)
def test_a_p_value_is_short_and_never_rounded_to_the_other_side_of_a_rate(pure: Any, p: float, text: str) -> None:
    assert pure("(p) => Pure.formatP(p)", p) == text


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        ({"expressed": True, "p_value": 0.0033}, "yes (p = .003)"),
        ({"expressed": False, "p_value": 0.6}, "no (p = .6)"),
        ({"expressed": None, "p_value": 0.2}, "not known (p = .2)"),
        ({"expressed": None, "p_value": None}, "not known"),
        ({"expressed": True, "p_value": None}, "yes"),
        (None, "not known"),
    ],
)
def test_a_verdict_is_yes_no_or_not_known(pure: Any, verdict: dict[str, Any] | None, text: str) -> None:
    assert pure("(v) => Pure.verdictText(v)", verdict) == text


@pytest.mark.parametrize(
    "p_values",
    [
        {"refusal": 0.004, "evil": 0.03, "verbosity": 0.2},
        {"a": 0.01, "b": 0.02, "c": 0.04},
        {"a": 0.05},
        {"a": 0.0501},
        {"a": 0.025, "b": 0.05},
        {"a": 0.026, "b": 0.001, "c": 0.03},
        {"a": 0.02, "b": 0.001, "c": 0.02, "d": 0.9},
        {},
    ],
)
def test_the_verdicts_that_hold_together_are_those_of_the_toolkit(pure: Any, p_values: dict[str, float]) -> None:
    assert set(pure("(p) => Pure.holm(p)", list(p_values.items()))) == holm(p_values)


def test_units_centre_on_the_baseline_and_scale_to_the_threshold(pure: Any) -> None:
    assert pure("() => Pure.inUnit([1, 4], 'raw', 1, 3)") == [1, 4]
    assert pure("() => Pure.inUnit([1, 4], 'centred', 1, 3)") == [0, 3]
    assert pure("() => Pure.inUnit([1, 4], 'centred', undefined, 3)") == [1, 4]
    assert pure("() => Pure.inUnit([1, 5], 'threshold', 1, 3)") == [0, 2]
    assert pure("() => Pure.inUnit([1], 'threshold', 3, 1).every(Number.isNaN)")


def test_the_colour_range_is_symmetric_around_the_surface_colour(pure: Any) -> None:
    for theme in ("light", "dark"):
        ramp, surface = pure("(t) => [Pure.ramp(Pure.THEMES[t]), Pure.THEMES[t].surface]", theme)
        assert len(ramp) == 129
        assert ramp[64] == surface
    assert pure(
        "() => [Pure.rampIndex(0, 2), Pure.rampIndex(2, 2), Pure.rampIndex(-9, 2), Pure.rampIndex(NaN, 2)]"
    ) == [64, 128, 0, -1]


def test_every_text_colour_keeps_its_contrast_on_every_ground(pure: Any) -> None:
    pairs = pure(
        """() => Object.values(Pure.THEMES).flatMap((t) => [
          ...Pure.ramp(t).map((ground) => [ground, t.ink, 4.5]), ...["bg", "surface", "sunken"].flatMap((g) => [[t[g], t.ink, 4.5], [t[g], t.muted, 4.5]]),
          ...t.traits.map((c) => [t.surface, c, 3]), [t.surface, t.edge, 3], [t.bg, t.focus, 3], [t.surface, t.negLine, 3], [t.surface, t.posLine, 3],
        ].map(([a, b, least]) => [a, b, Pure.contrast(a, b), least]))"""
    )
    assert len(pairs) > 250
    assert [p for p in pairs if p[2] < p[3]] == []


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
VISION = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("vision", VISION)
def test_the_two_signs_stay_apart_for_colour_blind_eyes(pure: Any, vision: str) -> None:
    for theme in ("light", "dark"):
        neg, pos = pure("(t) => [Pure.THEMES[t].neg, Pure.THEMES[t].pos]", theme)
        a, b = (seen_by(colour, VISION[vision]) for colour in (neg, pos))
        assert sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 > 0.2


def seen_by(colour: str, matrix: list[list[float]]) -> list[float]:
    encoded = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in encoded]
    return [max(0.0, sum(m * c for m, c in zip(row, linear, strict=True))) for row in matrix]


def test_no_two_of_eight_traits_share_a_dash_or_a_colour(pure: Any) -> None:
    assert pure(
        "() => [new Set(Pure.DASHES).size, ...Object.values(Pure.THEMES).map((t) => new Set(t.traits).size)]"
    ) == [8, 8, 8]


def test_drawing_fewer_points_keeps_every_spike(pure: Any) -> None:
    kept = pure(
        "() => { const v = new Float64Array(4000); v[1777] = 9; v[2222] = -7; return Pure.decimate(v, 0, 4000, 100).map((p) => p[1]); }"
    )
    assert len(kept) <= 200
    assert max(kept) == 9
    assert min(kept) == -7
    assert (
        pure("() => { const v = new Float64Array(4000); v[1777] = -9; return Math.min(...Pure.strongest(v, 50)); }")
        == -9
    )


def test_a_line_is_broken_where_a_value_is_unknown(pure: Any) -> None:
    path = pure("() => Pure.linePath([[0, 1], [1, 2], [2, NaN], [3, 4], [4, NaN]], (x) => x, (y) => y)")
    assert path == "M0.0 1.0L1.0 2.0M3.0 4.0h.1"
    area = pure("() => Pure.areaPath([[0, 1], [1, 2], [2, NaN], [3, 4], [4, 5]], (x) => x, (y) => y, 9)")
    assert area == "M0.0 9.0L0.0 1.0L1.0 2.0L1.0 9.0ZM3.0 9.0L3.0 4.0L4.0 5.0L4.0 9.0Z"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("abcd", "abcd", [[0, 0], [1, 1], [2, 2], [3, 3]]),
        ("abcd", "axcd", [[0, 0], [1, None], [None, 1], [2, 2], [3, 3]]),
        ("ab", "", [[0, None], [1, None]]),
        ("ac", "abbc", [[0, 0], [None, 1], [None, 2], [1, 3]]),
    ],
)
def test_token_lists_are_aligned_on_what_they_share(
    pure: Any, a: str, b: str, expected: list[list[int | None]]
) -> None:
    assert pure("([a, b]) => Pure.alignTokens([...a], [...b])", [a, b]) == expected


def test_an_alignment_too_large_for_memory_still_covers_both_lists(pure: Any) -> None:
    assert pure("() => Pure.alignTokens([...'xaby'], [...'xcdey'], 4)") == [[0, 0], [1, 1], [2, 2], [None, 3], [3, 4]]


def test_strongest_spans_do_not_overlap_and_skip_unknown_values(pure: Any) -> None:
    spans = pure("() => Pure.topSpans([1, 2, 3, NaN, 5, 6, 0], 2, 5)")
    assert [(s["start"], s["end"], s["mean"]) for s in spans] == [(4, 6, 5.5), (1, 3, 2.5)]
    assert pure("() => Pure.topSpans([3, -1, -2], 2, 1, -1)[0].mean") == -1.5
    assert pure("() => Pure.topSpans([], 3, 5)") == []


def test_results_without_a_value_sort_last_in_both_directions(pure: Any) -> None:
    order = "(down) => { const v = [2, null, 5, 2]; return Pure.orderBy([0, 1, 2, 3], (i) => v[i], down); }"
    assert pure(order, True) == [2, 0, 3, 1]
    assert pure(order, False) == [0, 3, 2, 1]


def test_labels_never_share_a_place(pure: Any) -> None:
    assert pure("() => Pure.labelRows([{x: 0, width: 50}, {x: 20, width: 30}, {x: 70, width: 10}])") == [0, 1, 0]
    heights = pure("() => Pure.spread([50, 51, 52, 5], 10, 0, 60)")
    assert all(abs(a - b) >= 10 for i, a in enumerate(heights) for b in heights[:i])
    assert max(heights) <= 60


def test_parts_of_a_token_join_to_the_token(pure: Any) -> None:
    tokens = [*samples.awkward()["tokens"], "  def", "a\n\n\tb", "\u00a0", "word"]
    for marks in (False, True):
        parts = pure("([tokens, marks]) => tokens.map((t) => Pure.tokenParts(t, marks))", [tokens, marks])
        assert ["".join(p["text"] for p in part) for part in parts] == tokens
        assert [p["kind"] for p in parts[tokens.index("\n")]] == ["break"]
        assert all(parts), "a token without a visible part"
        assert [p["kind"] for p in parts[tokens.index("\u202eevil")]] == ["control", "text"]
    assert pure("() => [Pure.tokenParts(' a').length, Pure.tokenParts(' a', true).length]") == [2, 2]


def test_labels_make_whitespace_and_invisible_characters_visible(pure: Any) -> None:
    label = "(t) => Pure.tokenLabel(t)"
    assert [pure(label, t) for t in ("", "\n", " a", "\t", "\u202e")] == ["∅", "↵", "·a", "⇥", "⟨U+202E⟩"]


def test_numbers_have_a_real_minus_and_zero_has_no_sign(pure: Any) -> None:
    assert pure(
        "() => [[-1.5, 1], [1.5, 1], [-0.001, 2], [null, 2]].map(([v, d]) => Pure.formatNumber(v, d, true))"
    ) == ["−1.5", "+1.5", "0.00", "–"]


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [(-3e-6, 3e-6, "−0.00000300"), (4.2e-12, 9e-12, "4.200e-12"), (0, 9e-12, "0"), (1.5e22, 2e22, "1.500e+22")],
)
def test_small_scores_are_no_zeros_and_great_ones_no_rows_of_digits(
    pure: Any, value: float, limit: float, text: str
) -> None:
    assert pure("([v, limit]) => Pure.formatNumber(v, Pure.decimalsFor(limit))", [value, limit]) == text


def test_ticks_have_the_decimals_that_tell_them_apart(pure: Any) -> None:
    of = "([a, b]) => Pure.decimalsOf(Pure.ticks(a, b, 5))"
    assert [pure(of, range_) for range_ in ([0, 100], [-1, 1], [0.12, 0.13], [0, 4e-7], [7.123, 7.124])] == [
        0,
        1,
        3,
        7,
        4,
    ]


def test_scores_that_differ_by_rounding_are_drawn_as_level(pure: Any) -> None:
    low, high = pure("() => Pure.padded(1, 1.0000000000000002)")
    assert (low, high) == pytest.approx((0.94, 1.06))
    assert pure("() => Pure.padded(-1, 4)") == pytest.approx([-1.3, 4.3])


def test_a_link_says_the_same_after_a_round_trip(pure: Any) -> None:
    link = {
        "file": "a b&c#.json",
        "result": 3,
        "token": 12,
        "trait": "x~y=z",
        "hidden": ["a~b", "ü,"],
        "view": "compare",
    }
    assert pure("(l) => Pure.decodeLink(Pure.encodeLink(l))", link) == link
    assert pure("() => Pure.decodeLink('#result=-1&token=x&hidden=%25E0')") == {"hidden": ["%E0"]}
