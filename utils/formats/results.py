"""Result files of monitoring: written as results are made, resumed after an interruption, read back with checks."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.errors import DamagedFileError, UserError
from utils.formats.files import check_output, locked, read_json, remove_leftovers_of, write_json, write_text
from utils.formats.journal import Journal
from utils.records import MonitoringRecord

logger = logging.getLogger(__name__)

REMEDY = "Give a result file, as run_dynamics.py writes it"
_REPLACE = "Give another --output, or --overwrite to replace it"
_LARGEST_SCORE = 1e300  # the page's limit: its axes need room for sums
# What every result has; all else is optional.
_REQUIRED_KEYS = ("prompt", "response", "tokens", "trait_scores")


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

    Every result goes into a journal beside the file as soon as it is there, so the same run continues after a crash and
    no other run gets mixed in. What a whole file was made with stays in ``NAME.settings``.

    Args:
        output: the JSON file.
        settings: everything that the results depend on, as JSON values.
        n_results: how many there will be.
        overwrite: replace what other settings made.

    Raises:
        UserError: the file holds something else; says what differs.
    """

    def __init__(self, output: Path, settings: Mapping[str, object], n_results: int, overwrite: bool = False) -> None:
        check_output(output)
        self.output = output
        self._n_results = n_results
        self._settings: dict[str, object] = json.loads(json.dumps(settings))  # tuples are lists when they are read back
        self._settings_path = output.with_name(f"{output.name}.settings")
        self._journal = Journal(output.parent, output.name)
        self._results = {} if overwrite else self._made_before()
        if self._results:
            logger.info("%s has %d of %d results already", output, len(self._results), n_results)
        else:
            self._journal.begin(self._settings)  # an older file stays until it is replaced, but no longer counts
            self._settings_path.unlink(missing_ok=True)

    def _made_before(self) -> dict[int, dict[str, object]]:
        """The results of the same settings that are there, by number."""
        begun = self._journal.settings()
        pieces = [] if begun is None else self._journal.pieces(("index", "result"))
        if not pieces and not self.output.exists():
            return {}
        known = self._settings_of_whole() if begun is None else begun
        differing = [key for key in {**known, **self._settings} if known.get(key) != self._settings.get(key)]
        if differing:
            raise UserError(f"{self.output} was made with other settings ({', '.join(differing)}). {_REPLACE}")
        if begun is None:
            results = dict(enumerate(read_results(self.output, _REPLACE)))
            return results if len(results) == self._n_results else {}  # some were taken out: made again
        whole = (p for p in pieces if type(p["index"]) is int and problem_of_result(p["result"]) is None)
        return {piece["index"]: piece["result"] for piece in whole}

    def _settings_of_whole(self) -> dict[str, object]:
        """What the whole file that is there was made with."""
        if not self._settings_path.is_file():
            raise UserError(f"{self.output} is there already, and it is not known how it was made. {_REPLACE}")
        known = read_json(self._settings_path, _REPLACE)
        if not isinstance(known, dict):
            raise DamagedFileError(self._settings_path, "not a JSON object", _REPLACE)
        return known

    @property
    def made(self) -> list[dict[str, object]]:
        """The results that are there, in order."""
        return [self._results[i] for i in sorted(self._results)]

    @property
    def missing(self) -> list[int]:
        """Numbers of the results that have yet to be made."""
        return [i for i in range(self._n_results) if i not in self._results]

    def add(self, records: Mapping[int, MonitoringRecord]) -> None:
        """Take in records by their numbers; they are on disk on return."""
        made = {i: to_json(record) for i, record in records.items()}
        self._journal.add({"index": i, "result": result} for i, result in made.items())
        self._results.update(made)

    def write(self) -> None:
        """Write the JSON file with what there is, in order; the journal stays until nothing is missing."""
        if self._results:
            write_results(self.output, self.made)
        if not self.missing:
            write_json(self._settings_path, self._settings)
            self._journal.clear()


def write_results(path: Path, results: Sequence[Mapping[str, object]]) -> None:
    """Write results atomically: one as an object, several as a list with one line each."""
    lines = [json.dumps(result, ensure_ascii=False, allow_nan=False) for result in results]
    write_text(path, lines[0] + "\n" if len(lines) == 1 else "[\n" + ",\n".join(lines) + "\n]\n")


def read_results(path: Path, remedy: str = REMEDY) -> list[dict[str, object]]:
    """The results in a file, checked as ``results_of`` does; ``remedy`` is what to do where it holds none."""
    return results_of(path, read_json(path, remedy), remedy)


def results_of(path: Path, value: Any, remedy: str = REMEDY) -> list[dict[str, object]]:
    """The results in the JSON value of the file at ``path``, whether it is one or a list of them.

    Raises:
        DamagedFileError: an entry is not a result; says which and why.
    """
    results = value if isinstance(value, list) else [value]
    for i, result in enumerate(results, start=1):
        if problem := problem_of_result(result):
            raise DamagedFileError(path, f"result {i} {problem}", remedy)
    return results


def problem_of_result(result: object) -> str | None:
    """Why a JSON value is not a result of monitoring, None where it is one; the page refuses the same."""
    if not isinstance(result, dict):
        return f"is {type(result).__name__}, not an object"
    missing = [key for key in _REQUIRED_KEYS if key not in result]
    if missing:
        return f"lacks {', '.join(missing)}"
    tokens, trait_scores = result["tokens"], result["trait_scores"]
    if not isinstance(tokens, list) or not isinstance(trait_scores, dict):
        return "has tokens or trait_scores of the wrong kind"
    for trait, scores in trait_scores.items():
        if not isinstance(scores, list) or len(scores) != len(tokens):
            return f"has not one score of {trait!r} per token"
    return next(_problems_of_values(result), None)


def _problems_of_values(result: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the texts and numbers of a result whose lists are of the right lengths."""
    for key in ("prompt", "response"):
        if not isinstance(result[key], str):
            yield f"has {_kind(result[key])}, not text, under {key}"
    for i, token in enumerate(result["tokens"]):
        if not isinstance(token, str):
            yield f"has {_kind(token)}, not text, as token {i}"
    if not result["trait_scores"]:
        yield "names no trait under trait_scores"
    for trait, scores in result["trait_scores"].items():
        for i, score in enumerate(scores):
            if score is not None and not _is_score(score):
                yield f"has {_kind(score)}, not a number or null, as score {i} of {trait!r}"


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_SCORE


def _kind(value: object) -> str:
    """What a JSON value is, in words."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number that is too large" if abs(value) > _LARGEST_SCORE else "a number"
    kinds = {str: "text", bool: "a truth value", list: "a list", dict: "an object"}
    return kinds.get(type(value), "nothing")


def to_json(record: MonitoringRecord) -> dict[str, object]:
    """The record as JSON values; optional parts only where they hold something.

    A number that is not finite becomes null, and that is said.
    """
    unknown: list[float] = []
    held = {key: value for key, value in asdict(record).items() if value or key in _REQUIRED_KEYS}
    values = {key: _rounded(value, unknown) for key, value in held.items()}
    if unknown:
        logger.warning("%d scores are not finite numbers and are written as null: %.60s", len(unknown), record.prompt)
    return values


def _rounded(value: object, unknown: list[float]) -> object:
    """``value`` with floats cut to eight digits, all that float32 holds; ``unknown`` takes those not finite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            unknown.append(value)
            return None
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(item, unknown) for key, item in value.items()}
    return [_rounded(item, unknown) for item in value] if isinstance(value, list | tuple) else value
