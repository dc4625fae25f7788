"""Links lead somewhere."""

import re

import pytest

from . import pages

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+\s+(.*)$", pages.prose(page), flags=re.MULTILINE)
    cleaned = (re.sub(r"[^\w\- ]", "", heading.lower().strip()) for heading in headings)
    return {heading.replace(" ", "-") for heading in cleaned}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(pages.prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(pages.ROOT), f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {target.name} has no heading for #{anchor}"


def test_the_pages_link_to_one_another():
    links = {link for page in pages.PAGES for link in LINK.findall(pages.prose(page))}
    assert len([link for link in links if ".md" in link]) > 10


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_every_paper_is_linked_under_its_own_number(page):
    for text, target in re.findall(r"\[arXiv:([\d.]+)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert target == f"https://arxiv.org/abs/{text}"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_every_repository_path_named_in_the_text_exists(page):
    """Paths with a folder that the repository has; braces, stars and placeholders stand for what a user makes."""
    for code in re.findall(r"`([^`\n]+)`", pages.prose(page)):
        if re.fullmatch(
            r"(docs|traitlens|utils|extraction|tests|benchmarks|experiments/(examples|starter))/[\w./]+", code
        ):
            assert (pages.ROOT / code).exists(), f"{page.name}: {code} does not exist"
