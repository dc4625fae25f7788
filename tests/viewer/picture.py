"""A picture of the viewer for the README: python tests/viewer/picture.py RESULTS.json docs/images/viewer.png [#link]

The optional link (`#trait=…&token=…`) is what the viewer's Link button copies; it chooses the result, the token and the view.
"""

import shutil
import sys
from pathlib import Path

VIEWER = Path(__file__).resolve().parents[2] / "visualization.html"


def take(results: Path, picture: Path, link: str = "", scheme: str = "light") -> None:
    """Save the viewer's window, at twice the usual resolution, with the results open where the link says."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": 1400, "height": 900},
            device_scale_factor=2,
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page.goto(VIEWER.as_uri() + link)
        page.set_input_files("#pick-files", str(results))
        page.wait_for_selector("#lines svg, #heat-traits svg", state="attached")
        page.wait_for_timeout(300)
        page.evaluate("document.getElementById('toast').hidden = true")
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
