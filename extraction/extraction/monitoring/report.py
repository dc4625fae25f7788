"""The viewer with results inside it, as one HTML file that guards itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.files import check_output, read_json, write_text
from utils.formats.results import REMEDY, results_of

VIEWER = Path(__file__).resolve().parents[3] / "visualization.html"
_SLOT = '<script id="embedded-data" type="application/json"></script>'
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")[^"]*(">)')
_REMEDY = "Restore visualization.html at the root of the repository"


def write_report(places: Sequence[str | Path], output: Path) -> Path:
    """The path of a self-contained page that shows the results at ``places``, result files and folders of them.

    Raises:
        UserError: nothing to show, or a path is missing or holds no results.
    """
    found = [(label, path) for place in places for label, path in _result_files(Path(place))]
    if not found:
        raise UserError("no results to report: give result files, or folders that hold them")
    files = [{"file": label, "data": _checked(path)} for label, path in found]
    check_output(output)
    # No "<" remains, so no token can end the data block or open a comment in it.
    data = json.dumps(files, separators=(",", ":")).replace("<", "\\u003c")
    write_text(output, _viewer().replace(_SLOT, _SLOT.replace("></", f">{data}</")))
    return output


def seal_viewer() -> Path:
    """Renew the hashes in the viewer's policy after its style or script was edited; the viewer's path."""
    write_text(VIEWER, sealed(_viewer()))
    return VIEWER


def sealed(page: str) -> str:
    """The page with a Content-Security-Policy that allows its own style and script blocks and nothing else."""
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "img-src data: blob:",  # heatmap cells and the PNG export, made by the page itself
            "connect-src 'self'",  # ?src= files, from the server that gave the page
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )
    return _POLICY.sub(lambda match: match[1] + policy + match[2], page, count=1)


def _hashes(page: str, tag: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _viewer() -> str:
    try:
        page = VIEWER.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingInputError(VIEWER, _REMEDY) from error
    if page.count(_SLOT) != 1:
        raise DamagedFileError(VIEWER, "has no place for data", _REMEDY)
    return page


def _result_files(place: Path) -> Iterator[tuple[str, Path]]:
    """Result files at a path with the names that the page shows: a file itself, or what a folder holds at any depth."""
    if not place.is_dir():
        yield place.name, place
        return
    found = sorted(place.rglob("*.json"))
    if not found:
        raise MissingInputError(place / "*.json", "Give a folder that holds result files")
    for path in found:
        yield (Path(place.name) / path.relative_to(place)).as_posix(), path


def _checked(path: Path) -> object:
    """What a result file holds: one result or a list, which the page names differently."""
    value: object = read_json(path, REMEDY)
    if not results_of(path, value):
        raise DamagedFileError(path, "holds no results", REMEDY)
    return value
