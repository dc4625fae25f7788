"""The files of a trait's responses: a CSV for each side, and how they were made and judged."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from utils.errors import DamagedFileError, UserError
from utils.experiment import TraitFolder
from utils.formats.files import read_json, read_text, replacing, sha256_of_texts, write_json
from utils.records import Polarity, Response

_SEPARATOR_REMEDY = "Save it with commas, as a program of tables can, or change it with pandas.read_csv and to_csv"
_COLUMNS = ("question", "instruction", "prompt", "response", "trait_score")


def read_responses(folder: TraitFolder, polarity: Polarity) -> list[Response]:
    """One side's responses in the order of the file; [] where neutral responses were never made.

    The file has at least the documented columns. "NA" and the like are text, an empty score is None.

    Raises:
        MissingInputError, DamagedFileError: no file, or not one of ours; names the command that makes it.
    """
    import pandas as pd

    path, remedy = folder.responses_path(polarity), _remedy(folder)
    if polarity == "neutral" and not path.is_file():
        return []
    text = read_text(path, remedy)
    if separator := _other_separator(text.partition("\n")[0]):
        raise DamagedFileError(path, f"its columns are separated by {separator!r}, not by commas", _SEPARATOR_REMEDY)
    if uneven := _uneven_row(text):
        raise DamagedFileError(path, uneven, remedy)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DamagedFileError(path, f"not a CSV table ({str(error).strip()})", remedy) from error
    if missing := [column for column in _COLUMNS if column not in table.columns]:
        raise DamagedFileError(path, f"lacks the column {', '.join(missing)}", remedy)
    responses = []
    for number, row in enumerate(table.to_dict("records"), start=1):
        texts = {f.name: str(row[f.name]) for f in fields(Response) if f.name in row and f.name != "trait_score"}
        try:
            responses.append(Response(**texts, trait_score=_score(str(row["trait_score"]))))
        except ValueError as error:
            raise DamagedFileError(path, f"row {number}: {error}", remedy) from error
    return responses


def write_responses(folder: TraitFolder, polarity: Polarity, responses: Sequence[Response]) -> None:
    """Replace one side's CSV, atomically."""
    import pandas as pd

    rows = [{**asdict(r), "trait_score": _score_text(r.trait_score)} for r in responses]
    table = pd.DataFrame(rows, columns=[f.name for f in fields(Response)])
    with replacing(folder.responses_path(polarity)) as temporary:
        # Every cell quoted: a bare carriage return would end its row. A lone surrogate, which JSON can carry, is no
        # character and becomes "?".
        table.to_csv(
            temporary, index=False, lineterminator="\n", encoding="utf-8", errors="replace", quoting=csv.QUOTE_ALL
        )


def read_responses_metadata(folder: TraitFolder) -> dict[str, Any]:
    """How the responses were made; empty where they came from elsewhere and nothing is recorded."""
    path, remedy = folder.responses_metadata_path, _remedy(folder)
    if not path.is_file():
        return {}
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise DamagedFileError(path, "not a JSON object", remedy)
    for key in ("generation", "judge"):
        if not isinstance(value.get(key), dict | None):
            raise DamagedFileError(path, f"{key!r} is not a JSON object", remedy)
    return value


def write_responses_metadata(folder: TraitFolder, metadata: Mapping[str, object]) -> None:
    """Replace the responses' side-car, atomically."""
    write_json(folder.responses_metadata_path, metadata)


def check_responses_are_whole(folder: TraitFolder) -> None:
    """Raise UserError where stage 1 was ended while it wrote the files: they are of two runs, or not all there."""
    begun = folder.generation_journal.settings()
    if begun is not None and read_responses_metadata(folder).get("generation") == begun:
        raise UserError(
            f"{folder.responses_dir}: the run that was writing these responses did not finish. {folder.command(1)}"
        )


def responses_fingerprint(responses: Sequence[Response]) -> str:
    """Fingerprint of the texts of responses, whatever their scores."""
    return sha256_of_texts(text for r in responses for text in (r.question, r.instruction, r.response))


def _remedy(folder: TraitFolder) -> str:
    """How to make the responses again: stage 1 takes those that its metadata vouch for as finished."""
    finished = folder.responses_metadata_path.is_file() and not folder.generation_journal.settings_path.is_file()
    return folder.command(1) + (" --overwrite" if finished else "")


def _other_separator(header: str) -> str | None:
    """What separates the documented columns in a header, where that is not a comma; None also for other headers."""
    for separator in (";", "\t", "|"):
        names = [name.strip('"\ufeff\r ') for name in header.split(separator)]
        if "question" in names and "response" in names:
            return separator
    return None


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


def _score(text: str) -> float | None:
    text = text.strip()
    try:
        score = float(text) if text else None
    except ValueError:
        score = math.nan
    if score is not None and not 0 <= score <= 100:
        raise ValueError(f"trait_score {text!r} is not a number from 0 to 100")
    return score


def _score_text(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}".rstrip("0").rstrip(".")
