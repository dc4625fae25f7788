"""Every path of an experiment, and its definitions and responses.

The formats of responses, vectors and activations are in ``utils.formats.response_csv``, ``utils.vectors`` and
``utils.formats.activation_files``; all take their paths from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import DamagedFileError, DefinitionError, MissingInputError, UserError
from utils.formats.files import locked, read_json, remove_leftovers, sha256_of_texts, write_json
from utils.formats.journal import Journal
from utils.formats.response_csv import read_responses_csv, write_responses_csv
from utils.records import InstructionPair, Polarity, Response, TraitDefinition
from utils.remedies import definition_remedy, stage_command

# The file of a trait that shows it has come so far, below its folder.
DEFINITION = "trait_definition.json"
RESPONSES = "responses/pos.csv"
ACTIVATIONS = "activations/metadata.json"
SUMMARY = "vectors/summary.csv"

# Names become folders: word characters of any language, dots, dashes and inner spaces, nothing that can climb out.
_NAME = re.compile(r"\w[\w .+-]*", re.UNICODE)
_LOCK = ".lock"
# Names of devices on Windows, whatever ending they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class TraitFolder:
    """The files of one trait in one experiment."""

    root: Path
    experiment: str
    trait: str

    @property
    def definition_path(self) -> Path:
        """The trait's definition."""
        return self.root / DEFINITION

    @property
    def responses_metadata_path(self) -> Path:
        """How the responses were made and judged."""
        return self.root / "responses" / "metadata.json"

    @property
    def activations_dir(self) -> Path:
        """Folder of the captured activations."""
        return self.root / "activations"

    @property
    def unfinished_activations_dir(self) -> Path:
        """Where a capture works until it is whole."""
        return self.root / "activations.partial"

    @property
    def vectors_dir(self) -> Path:
        """Folder of the vectors, their side-cars and their summary."""
        return self.root / "vectors"

    def responses_path(self, polarity: Polarity) -> Path:
        """CSV of one side's responses."""
        return self.root / "responses" / f"{polarity}.csv"

    @property
    def generation_journal(self) -> Journal:
        """Responses that are not all there yet; what it was begun with stays until they are."""
        return Journal(self.root / "responses", "generated")

    @property
    def scores_journal(self) -> Journal:
        """Scores of responses that are not all judged yet."""
        return Journal(self.root / "responses", "scores")

    def command(self, stage: int) -> str:
        """The command line that makes this trait's files at a stage, for error messages."""
        return stage_command(stage, self.root.parent.parent, self.experiment, [self.trait])

    def read_definition(self) -> TraitDefinition:
        """The trait's definition.

        Raises:
            MissingInputError: there is none; says how to begin one.
            DefinitionError: a key is missing or has the wrong form.
        """
        value = read_json(self.definition_path, definition_remedy(self.definition_path))
        return parse_definition(value, self.definition_path, self.trait)

    def read_responses(self, polarity: Polarity) -> list[Response]:
        """One side's responses in the order of the file; [] where neutral responses were never made.

        Raises:
            MissingInputError, DamagedFileError: no file, or not one of ours; names the command that makes it.
        """
        path = self.responses_path(polarity)
        if polarity == "neutral" and not path.is_file():
            return []
        return read_responses_csv(path, self._responses_remedy)

    def write_responses(self, polarity: Polarity, responses: Sequence[Response]) -> None:
        """Replace one side's CSV, atomically."""
        write_responses_csv(self.responses_path(polarity), responses)

    def read_responses_metadata(self) -> dict[str, Any]:
        """How the responses were made; empty where they came from elsewhere and nothing is recorded."""
        if not self.responses_metadata_path.is_file():
            return {}
        value = read_json(self.responses_metadata_path, self._responses_remedy)
        if not isinstance(value, dict):
            raise DamagedFileError(self.responses_metadata_path, "not a JSON object", self._responses_remedy)
        for key in ("generation", "judge"):
            if not isinstance(value.get(key), dict | None):
                raise DamagedFileError(
                    self.responses_metadata_path, f"{key!r} is not a JSON object", self._responses_remedy
                )
        return value

    def check_responses_are_whole(self) -> None:
        """Raise UserError where stage 1 was ended while it wrote the files: they are of two runs, or not all there.

        Its metadata are written first, and the journal goes last.
        """
        begun = self.generation_journal.settings()
        if begun is not None and self.read_responses_metadata().get("generation") == begun:
            place, command = self.root / "responses", self.command(1)
            raise UserError(f"{place}: the run that was writing these responses did not finish. {command}")

    @property
    def _responses_remedy(self) -> str:
        """How to make the responses again: stage 1 takes those that its metadata vouch for as finished."""
        finished = self.responses_metadata_path.is_file() and not self.generation_journal.settings_path.is_file()
        return self.command(1) + (" --overwrite" if finished else "")

    def write_responses_metadata(self, metadata: dict[str, Any]) -> None:
        """Replace the responses' side-car, atomically."""
        write_json(self.responses_metadata_path, metadata)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the trait for one run; a second run on it is refused, so that nothing interleaves.

        Raises:
            UserError: another run holds it.
        """
        busy = f"another run is working on {self.root}: wait for it, or end it, and run again"
        with locked(self.root / _LOCK, busy):
            remove_leftovers(self.root)
            yield


@dataclass(frozen=True)
class Experiment:
    """An experiment's folder and the traits in it."""

    experiments_dir: Path
    name: str

    def __post_init__(self) -> None:
        check_name("an experiment", self.name)
        check_inside(self.root, self.experiments_dir)

    @property
    def root(self) -> Path:
        """The experiment's folder."""
        return self.experiments_dir / self.name

    @property
    def results_dir(self) -> Path:
        """Folder of monitored generations."""
        return self.root / "inference" / "results"

    @property
    def matrix_path(self) -> Path:
        """CSV of how each trait's vector reads every trait's responses; its picture has the suffix .png."""
        return self.root / "vectors_matrix.csv"

    @property
    def matrix_due_path(self) -> Path:
        """A mark that an earlier matrix has gone and the new one is not there yet."""
        return self.root / "vectors_matrix.partial"

    @contextmanager
    def locked_for_matrix(self) -> Iterator[None]:
        """Wait until no other run writes the matrix: the last one to write it has then seen what all have made."""
        with locked(self.root / _LOCK, f"waiting for another run's matrix of {self.root}", wait=True):
            yield

    def command(self, stage: int, traits: Sequence[str]) -> str:
        """The command line that makes the traits' files at a stage, of all where none is named, for error messages."""
        return stage_command(stage, self.experiments_dir, self.name, traits)

    def trait(self, name: str) -> TraitFolder:
        """The folder of one trait, which need not exist yet."""
        check_name("a trait", name)
        check_inside(self.root / name, self.experiments_dir)
        return TraitFolder(self.root / name, self.name, name)

    def traits_with(self, relative: str) -> list[TraitFolder]:
        """Traits that have the file or folder ``relative``, such as ``DEFINITION``, in order of name."""
        return [self.trait(path.name) for path in sorted(self.root.glob("*")) if (path / relative).exists()]

    def select(self, traits: Sequence[str], having: str, remedy: str) -> list[TraitFolder]:
        """The traits asked for, or all that have ``having`` where none is named.

        Raises:
            MissingInputError: a trait, or every trait, lacks it.
        """
        for name in traits:
            if not (self.trait(name).root / having).exists():
                raise MissingInputError(self.trait(name).root / having, remedy)
        folders = [self.trait(name) for name in dict.fromkeys(traits)] or self.traits_with(having)
        if not folders:
            raise MissingInputError(self.root / "*" / having, remedy)
        return folders


def check_name(kind: str, name: str) -> None:
    """Raise UserError unless ``name``, of ``kind`` such as "a trait", can be a folder of its own in the experiments."""
    if not _NAME.fullmatch(name) or name.endswith((" ", ".")) or len(name.encode()) > 200 or _DEVICE.fullmatch(name):
        allowed = "letters, digits, '_', '-', '.', '+' and inner spaces, beginning with a letter, digit or '_'"
        raise UserError(f"{name!r} cannot be the name of {kind}: use {allowed}")


def check_inside(folder: Path, root: Path) -> None:
    """Raise UserError where symbolic links lead from ``folder`` to a place that is not below ``root``."""
    try:
        inside = folder.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a circle
        inside = False
    if not inside:
        raise UserError(f"{folder} is a link that leads out of {root}: give --experiments_dir where the files are")


def parse_definition(value: object, path: Path, trait: str) -> TraitDefinition:
    """A definition from its JSON value; other keys than the documented ones are comments.

    Raises:
        DefinitionError: names the key at fault and what was found.
    """
    if not isinstance(value, dict):
        raise DefinitionError(path, f"expected a JSON object, found {type(value).__name__}")
    for key in ("instruction", "questions", "eval_prompt"):
        if key not in value:
            raise DefinitionError(path, f"key {key!r} is missing; found {', '.join(map(str, value)) or 'nothing'}")
    problem = (
        _problem_of_pairs(value["instruction"])
        or _problem_of_questions(value["questions"])
        or _problem_of_eval_prompt(value["eval_prompt"])
    )
    if problem:
        raise DefinitionError(path, problem)
    instruction = tuple(InstructionPair(pair["pos"], pair["neg"]) for pair in value["instruction"])
    return TraitDefinition(trait, instruction, tuple(value["questions"]), value["eval_prompt"])


def _problem_of_pairs(pairs: object) -> str | None:
    if not isinstance(pairs, list) or not pairs:
        return "'instruction' must be a list of pos/neg pairs with at least one"
    for i, pair in enumerate(pairs):
        for side in ("pos", "neg"):
            if not isinstance(pair, dict) or not _is_text(pair.get(side)):
                return f"'instruction'[{i}] needs a non-empty text under {side!r}"
    return None


def _problem_of_questions(questions: object) -> str | None:
    if not isinstance(questions, list) or not questions or not all(_is_text(q) for q in questions):
        return "'questions' must be a list of non-empty texts with at least one"
    if len(set(questions)) < len(questions):
        double = next(q for i, q in enumerate(questions) if q in questions[:i])
        return f"'questions' holds the same question twice: {double[:60]!r}"
    return None


def _problem_of_eval_prompt(eval_prompt: object) -> str | None:
    if not isinstance(eval_prompt, str):
        return "'eval_prompt' must be a text"
    missing = [p for p in ("{question}", "{answer}") if p not in eval_prompt]
    return f"'eval_prompt' lacks {missing[0]}, so a judge would never see it" if missing else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def responses_fingerprint(responses: Sequence[Response]) -> str:
    """Fingerprint of the texts of responses, whatever their scores."""
    return sha256_of_texts(text for r in responses for text in (r.question, r.instruction, r.response))
