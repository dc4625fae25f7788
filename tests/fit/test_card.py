"""The card is one safe, complete page."""

import dataclasses
import html.parser
import re

import pytest
from extraction.fit.settings import Settings
from extraction.fit.stage import run

from tests.fit.conftest import write_trait
from utils.formats.response_files import read_responses

_HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'text'"


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def card(lab, **changes):
    folder = write_trait(lab, "alpha", **changes)
    run(Settings(lab.name, "alpha", methods=["mean_diff", "probe"], experiments_dir=lab.experiments_dir))
    return Page((folder.vectors_dir / "card.html").read_text(encoding="utf-8"))


@pytest.fixture
def hostile_rows(lab):
    rows = read_responses(write_trait(lab, "source"), "pos")
    return [dataclasses.replace(row, response=f"{_HOSTILE} {i}") for i, row in enumerate(rows)]


def test_a_response_with_markup_is_shown_as_text(lab, hostile_rows):
    page = card(lab, rows={"pos": hostile_rows})
    assert "<script>alert(1)</script>" in page.text
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_fetches_nothing(lab):
    page = card(lab)
    references = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert [value for value in references if not value.startswith("#")] == []
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy


def test_the_page_shows_figures_charts_responses_and_settings(lab):
    page = card(lab)
    for words in (
        "held-out AUROC", "length alone", "bag of words alone", "layer 0 alone", "shuffled labels", "random direction",
        "Highest held-out responses", "Lowest held-out responses", "Misread held-out responses", "Settings",
        "common words",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.tags.count("svg") == 2
    described = [value for name, value in page.attributes if name == "aria-label"]
    assert len(described) == 2


def test_the_page_says_what_its_figures_rest_on(lab):
    text = " ".join(card(lab).text.split())
    assert re.search(r"which rests on \d+ questions or instruction pairs\.", text)
    assert "unknown" in text  # recall at 1 % of too few negatives
    assert "in-sample" in text
    assert "Brier skill" in text


def test_warnings_stand_at_the_top(lab):
    page = card(lab, strength=0.0)
    assert re.search(r"no better than chance", page.text)
    assert ("class", "warning") in page.attributes
    assert page.text.index("no better than chance") < page.text.index("Figures")
