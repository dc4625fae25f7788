"""The CSV of one side's responses: any text in its cells, and a file that was cut or edited found out."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from utils.errors import DamagedFileError
from utils.formats.files import read_text, replacing
from utils.records import Response

_COLUMNS = ("question", "instruction", "prompt", "response", "trait_score")


def write_responses_csv(path: Path, responses: Sequence[Response]) -> None:
    """Replace the CSV by ``responses``, atomically."""
    import pandas as pd

    rows = [{**asdict(r), "trait_score": _format_score(r.trait_score)} for r in responses]
    table = pd.DataFrame(rows, columns=[f.name for f in fields(Response)])
    with replacing(path) as temporary:
        # Every cell quoted: a bare carriage return would end its row. A lone surrogate, which JSON can carry, is no
        # character and becomes "?".
        table.to_csv(
            temporary, index=False, lineterminator="\n", encoding="utf-8", errors="replace", quoting=csv.QUOTE_ALL
        )


def read_responses_csv(path: Path, remedy: str) -> list[Response]:
    """Responses of a CSV with at least the documented columns; "NA" and the like are text, an empty score is None."""
    import pandas as pd

    uneven = _uneven_row(read_text(path, remedy))
    if uneven:
        raise DamagedFileError(path, uneven, remedy)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DamagedFileError(path, f"not a CSV table ({str(error).strip()})", remedy) from error
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise DamagedFileError(path, f"lacks the column {', '.join(missing)}", remedy)
    return [_response_of(row, path, i, remedy) for i, row in enumerate(table.to_dict("records"))]


def _uneven_row(text: str) -> str | None:
    """What is wrong with the first row that is not as wide as the header.

    pandas would fill a row that ends early up with empty cells, and shift all rows of a table whose first is too long.
    """
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    width = 0
    try:
        # What this reader refuses, as NUL in Python 3.10, pandas reads or explains.
        with contextlib.suppress(csv.Error):
            for number, row in enumerate(csv.reader(io.StringIO(text, newline=""))):
                if row and width and len(row) != width:
                    found = f"row {number} has {len(row)} cells where the header has {width}"
                    return f"{found}: the file was cut or edited, or a text with commas lacks its quotation marks"
                width = width or len(row)
    finally:
        csv.field_size_limit(limit)
    return None


def _response_of(row: dict[Any, Any], path: Path, index: int, remedy: str) -> Response:
    text = str(row["trait_score"]).strip()
    try:
        score = float(text) if text else None
    except ValueError:
        score = math.nan
    if score is not None and not 0 <= score <= 100:
        raise DamagedFileError(path, f"row {index + 1}: trait_score {text!r} is not a number from 0 to 100", remedy)
    known = {f.name: str(row[f.name]) for f in fields(Response) if f.name in row and f.name != "trait_score"}
    return Response(**known, trait_score=score)


def _format_score(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}".rstrip("0").rstrip(".")
