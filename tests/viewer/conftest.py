"""A real Chromium for the viewer's tests. Where it is missing, tests skip and say why; under CI they fail."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import samples

VIEWER = Path(__file__).resolve().parents[2] / "visualization.html"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def _without(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _without("playwright is not installed (pip install -e '.[test]')")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        _without("no Chromium on this machine (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sample result files by short name."""
    folder = tmp_path_factory.mktemp("results")
    bare = samples.result("Bare?", "Only the four required keys.", full=False)
    contents = {
        "many": samples.results(),
        "other": samples.other_run(),
        "awkward": samples.awkward(),
        "bare": bare,
        "large": samples.large(),
    }
    paths = {name: folder / f"{name}.json" for name in contents}
    for name, content in contents.items():
        paths[name].write_text(json.dumps(content), encoding="utf-8")
    return paths


Open = Callable[..., Any]


@pytest.fixture(scope="session")
def plain_context(browser: Any) -> Any:
    """The context of all pages that ask for nothing special: a new one for each would double the time of the tests."""
    return browser.new_context(accept_downloads=True)


@pytest.fixture
def viewer(browser: Any, plain_context: Any, files: dict[str, Path]) -> Iterator[Open]:
    """Opens the page with sample files by name; at the end no error was logged and nothing outside the page was asked for."""
    complaints: list[str] = []
    opened: list[Any] = []

    def open_page(*names: str, width: int = 1280, height: int = 860, url: str | None = None, **options: Any) -> Any:
        context = browser.new_context(**options) if options else plain_context
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        opened.append(context if options else page)
        page.set_default_timeout(8000)
        home = (url or VIEWER.as_uri()).split("/visualization.html")[0] if url and url.startswith("http") else None
        page.on(
            "console",
            lambda m: complaints.append(f"console {m.type}: {m.text}") if m.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "request",
            lambda r: complaints.append(f"request: {r.url[:80]}") if _leaves(r.url, r.resource_type, home) else None,
        )
        page.goto(url or VIEWER.as_uri())
        if names:
            page.set_input_files("#pick-files", [str(files[name]) for name in names])
            page.wait_for_selector(".item", state="attached")
        return page

    yield open_page
    for one in opened:
        one.close()
    assert not complaints, complaints


def _leaves(url: str, kind: str, home: str | None) -> bool:
    """Whether a request is anything but the page's own document, its data: and blob: pictures, or a ?src= file beside it."""
    if url.startswith(("data:", "blob:")):
        return False
    if home and url.startswith(home) and kind in ("document", "fetch"):
        return False
    return kind != "document"


@pytest.fixture(scope="session")
def pure(browser: Any) -> Callable[[str], Any]:
    """Evaluates JavaScript in a page that has the viewer's pure functions as ``Pure``."""
    page = browser.new_page()
    page.goto(VIEWER.as_uri())
    return page.evaluate  # type: ignore[no-any-return]
