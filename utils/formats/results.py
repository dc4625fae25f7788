"""Result files of monitoring: written as results are made, resumed after an interruption, read back with checks."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import DamagedFileError, UserError
from utils.formats.files import (
    append_jsonl,
    check_output,
    locked,
    read_json,
    read_jsonl,
    remove_leftovers_of,
    write_json,
    write_text,
)
from utils.records import REQUIRED_KEYS, MonitoringRecord

logger = logging.getLogger(__name__)

REMEDY = "Give a result file, as run_dynamics.py writes it"
_REPLACE = "Give another --output, or --overwrite to replace it"


@contextlib.contextmanager
def locked_output(output: Path) -> Iterator[None]:
    """Hold a result file for one run, so that no other mixes its results in.

    Raises:
        UserError: another run holds it.
    """
    lock = output.with_name(f".{output.name}.lock")
    with locked(lock, f"another run is writing {output}: wait for it, end it, or give another --output"):
        try:
            remove_leftovers_of(output)
            yield
        finally:
            lock.unlink(missing_ok=True)  # it is beside the user's own files


class ResultsFile:
    """A run's results on their way into one JSON file.

    Every result goes into a journal beside the file as soon as it is there, with the settings that it was made under in
    a second file; so the same run continues after a crash, and another run does not get mixed in.

    Args:
        output: the JSON file.
        settings: everything that the results depend on, as JSON values.
        n_results: how many there will be.
        overwrite: replace what other settings made.

    Raises:
        UserError: the file holds something else; says what differs.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], n_results: int, overwrite: bool = False) -> None:
        self.output = output
        self._n_results = n_results
        self._journal = output.with_name(f"{output.name}.partial.jsonl")
        self._settings_path = output.with_name(f"{output.name}.settings")
        check_output(output)
        settings = json.loads(json.dumps(settings))  # tuples become lists, as they will when read back
        if overwrite or not self._continues(settings):
            self._journal.unlink(missing_ok=True)
            if output.exists():  # it stays until it is replaced, but an empty journal says that it does not count
                self._journal.touch()
            self._results: dict[int, dict[str, Any]] = {}
            write_json(self._settings_path, settings)
        else:
            self._results = self._read_back()
            logger.info("%s has %d of %d results already", output, len(self._results), n_results)

    def _continues(self, settings: Mapping[str, Any]) -> bool:
        """Whether there are results of the same settings; False where there are none at all."""
        if not self.output.exists() and not self._journal.exists():
            return False
        remedy = _REPLACE
        if not self._settings_path.is_file():
            raise UserError(f"{self.output} is there already, and it is not known how it was made. {remedy}")
        known = read_json(self._settings_path, remedy)
        if not isinstance(known, dict):
            raise DamagedFileError(self._settings_path, "not a JSON object", remedy)
        differing = [k for k in {**known, **settings} if known.get(k) != settings.get(k)]
        if differing:
            raise UserError(f"{self.output} was made with other settings ({', '.join(differing)}). {remedy}")
        return True

    def _read_back(self) -> dict[int, dict[str, Any]]:
        if self._journal.exists():
            entries = read_jsonl(self._journal, ("index", "result"))
            whole = (entry for entry in entries if type(entry["index"]) is int and _problem(entry["result"]) is None)
            return {entry["index"]: entry["result"] for entry in whole}
        return dict(enumerate(read_results(self.output, _REPLACE)))

    @property
    def missing(self) -> list[int]:
        """Numbers of the results that have yet to be made."""
        return [i for i in range(self._n_results) if i not in self._results]

    def add(self, results: Mapping[int, MonitoringRecord]) -> None:
        """Take in results by their numbers; they are on disk on return."""
        made = {i: as_json(record) for i, record in results.items()}
        append_jsonl(self._journal, [{"index": i, "result": result} for i, result in made.items()])
        self._results.update(made)

    def write(self) -> list[dict[str, Any]]:
        """Write the JSON file with what there is, in order; the journal stays until nothing is missing."""
        results = [self._results[i] for i in sorted(self._results)]
        if results:
            write_results(self.output, results)
        if not self.missing:
            self._journal.unlink(missing_ok=True)
        return results


def write_results(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write results atomically: one as an object, several as a list with one line each."""
    lines = [json.dumps(result, ensure_ascii=False, allow_nan=False) for result in results]
    write_text(path, lines[0] + "\n" if len(lines) == 1 else "[\n" + ",\n".join(lines) + "\n]\n")


def read_results(path: Path, remedy: str = REMEDY) -> list[dict[str, Any]]:
    """The results in a file, whether it holds one or a list of them; ``remedy`` is what to do where it holds none.

    Raises:
        MissingInputError, DamagedFileError: no such file, or an entry that is not a result; says which and why.
    """
    value = read_json(path, remedy)
    results = value if isinstance(value, list) else [value]
    for i, result in enumerate(results, start=1):
        problem = _problem(result)
        if problem:
            raise DamagedFileError(path, f"result {i} {problem}", remedy)
    return results


def _problem(result: Any) -> str | None:
    if not isinstance(result, dict):
        return f"is {type(result).__name__}, not an object"
    missing = [key for key in REQUIRED_KEYS if key not in result]
    if missing:
        return f"lacks {', '.join(missing)}"
    tokens, trait_scores = result["tokens"], result["trait_scores"]
    if not isinstance(tokens, list) or not isinstance(trait_scores, dict):
        return "has tokens or trait_scores of the wrong kind"
    for trait, scores in trait_scores.items():
        if not isinstance(scores, list) or len(scores) != len(tokens):
            return f"has not one score of {trait!r} per token"
    return None


def as_json(record: MonitoringRecord) -> dict[str, Any]:
    """The record as JSON values. A number that is not finite becomes null, and that is said."""
    unknown: list[float] = []
    values: dict[str, Any] = _rounded(record.to_json(), unknown)
    if unknown:
        logger.warning("%d scores are not finite numbers and are written as null: %.60s", len(unknown), record.prompt)
    return values


def _rounded(value: Any, unknown: list[float]) -> Any:
    """``value`` with floats cut to eight digits, which is all that float32 holds."""
    if isinstance(value, float):
        if not math.isfinite(value):
            unknown.append(value)
            return None
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(item, unknown) for key, item in value.items()}
    return [_rounded(item, unknown) for item in value] if isinstance(value, list | tuple) else value
