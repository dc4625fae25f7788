"""Monitoring results as one HTML file: the viewer with the data inside, to send to someone or to keep.

    python -m extraction.report results.json more_results/ -o report.html

The viewer's Content-Security-Policy names its style and script blocks by hash; ``--seal`` renews them after an edit.
"""

import base64
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from extraction.cli import run_command
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.files import check_output, read_json, write_text
from utils.formats.results import REMEDY, read_results

logger = logging.getLogger("traitlens")

VIEWER = Path(__file__).resolve().parents[2] / "visualization.html"
_SLOT = '<script id="embedded-data" type="application/json"></script>'
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")[^"]*(">)')
_REMEDY = "Restore visualization.html at the root of the repository"


def write_report(
    records: Sequence[Mapping[str, object] | str | Path], output: str | Path, name: str = "results.json"
) -> Path:
    """The path of a self-contained page that shows the records.

    Args:
        records: results in the monitoring format, or paths of result files and of folders of them, or both.
        output: where the page is written, atomically.
        name: what the page calls the file that the given records would be in.

    Raises:
        UserError: nothing to show, a path is missing or holds no results, or a score is not a number.
    """
    given = [dict(record) for record in records if isinstance(record, Mapping)]
    files: list[dict[str, Any]] = [{"file": name, "data": given}] if given else []
    for place in (Path(record) for record in records if not isinstance(record, Mapping)):
        files += [{"file": label, "data": _read_results(path)} for label, path in _result_files(place)]
    if not files:
        raise UserError("no results to report: give result files, or folders that hold them")
    output = Path(output)
    check_output(output)
    write_text(output, _filled(_viewer(), files))
    return output


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


def _filled(page: str, files: Sequence[Mapping[str, Any]]) -> str:
    try:
        text = json.dumps(files, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError) as error:
        problem = f"the results hold a value that JSON does not have ({error})"
        raise UserError(f"{problem}; write None for an unknown score") from error
    # no "<" remains, so no token can end the data block or open a comment in it
    return page.replace(_SLOT, _SLOT.replace("></", ">" + text.replace("<", "\\u003c") + "</"))


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


def _read_results(path: Path) -> Any:
    """What a checked result file holds: one result or a list, which the page names differently."""
    if not read_results(path):
        raise DamagedFileError(path, "holds no results", REMEDY)
    return read_json(path, REMEDY)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and flags of a command line: a path is what is neither a flag nor the value of ``-o`` or ``--output``."""
    paths: list[str] = []
    flags: list[str] = []
    for i, argument in enumerate(argv):
        is_value = i > 0 and argv[i - 1] in ("-o", "--output")
        (flags if argument.startswith("-") or is_value else paths).append(argument)
    return paths, flags


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command: paths anywhere on the line, then the flags of ``report``."""
    paths, flags = _split(sys.argv[1:] if argv is None else argv)

    def report(output: str = "report.html", seal: bool = False) -> None:
        """Write the viewer with results inside.

        Usage: python -m extraction.report RESULTS.json [MORE.json|FOLDER ...] -o report.html

        Args:
            output: the page to write.
            seal: renew the hashes in visualization.html after editing it, and write no report.
        """
        if seal:
            write_text(VIEWER, sealed(_viewer()))
            logger.info("%s", VIEWER)
        else:
            logger.info("Open in a browser: %s", write_report(paths, output).resolve())

    run_command(report, flags)


if __name__ == "__main__":
    main()
