"""The names, paths and locks of experiments and the traits in them.

What the files hold is read and written by functions of a ``TraitFolder``: ``read_definition``
(``utils.definition``), ``read_responses`` (``utils.formats.response_files``), ``read_activations``
(``utils.formats.activation_files``) and ``read_vector`` (``utils.vectors``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from utils.errors import MissingInputError, UserError
from utils.formats.files import locked, remove_leftovers
from utils.formats.journal import Journal
from utils.records import Polarity
from utils.remedies import stage_command

# The file of a trait that shows it has come so far, below its folder.
DEFINITION = "trait_definition.json"
RESPONSES = "responses/pos.csv"
ACTIVATIONS = "activations/metadata.json"
SUMMARY = "vectors/summary.csv"
# The folder of everyday text, which all traits of an experiment share: it holds neutral responses and is no trait.
EVERYDAY = "everyday"
# The experiment whose responses and everyday text come with the project.
STARTER = "starter"

# Names become folders: word characters of any language, dots, dashes and inner spaces, nothing that can climb out.
_NAME = re.compile(r"\w[\w .+-]*", re.UNICODE)
_LOCK = ".lock"
# Names of devices on Windows, whatever ending they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


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

    @property
    def everyday(self) -> TraitFolder:
        """Everyday text, laid out as a trait that has only neutral responses."""
        return TraitFolder(self, EVERYDAY)

    def trait(self, name: str) -> TraitFolder:
        """The folder of one trait, which need not exist yet."""
        check_name("a trait", name)
        if name == EVERYDAY:
            raise UserError(f"{name!r} cannot be the name of a trait: the folder holds text that all traits share")
        check_inside(self.root / name, self.experiments_dir)
        return TraitFolder(self, name)

    def traits_with(self, relative: str) -> list[TraitFolder]:
        """Traits that have the file or folder ``relative``, such as ``DEFINITION``, in order of name."""
        found = [path.name for path in sorted(self.root.glob("*")) if (path / relative).exists()]
        return [self.trait(name) for name in found if name != EVERYDAY]

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


@dataclass(frozen=True)
class TraitFolder:
    """The files of one trait in one experiment."""

    experiment: Experiment
    trait: str

    @property
    def root(self) -> Path:
        """The trait's folder."""
        return self.experiment.root / self.trait

    @property
    def definition_path(self) -> Path:
        """The trait's definition."""
        return self.root / DEFINITION

    @property
    def responses_dir(self) -> Path:
        """Folder of the responses, and of the journals of unfinished work on them."""
        return self.root / "responses"

    @property
    def responses_metadata_path(self) -> Path:
        """How the responses were made and judged."""
        return self.responses_dir / "metadata.json"

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
        return self.responses_dir / f"{polarity}.csv"

    @property
    def generation_journal(self) -> Journal:
        """Responses of a generation under way. It goes when all files are written, whose metadata come first."""
        return Journal(self.responses_dir, "generated")

    @property
    def scores_journal(self) -> Journal:
        """Scores of responses that are not all judged yet."""
        return Journal(self.responses_dir, "scores")

    def command(self, stage: int) -> str:
        """The command line that makes this trait's files at a stage, for messages; everyday text comes with any."""
        return self.experiment.command(stage, [] if self.trait == EVERYDAY else [self.trait])

    def in_experiment(self, experiment_name: str) -> TraitFolder:
        """The same trait in another experiment beside this one."""
        return replace(self, experiment=replace(self.experiment, name=experiment_name))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the trait for one run; a second run on it is refused, so that nothing interleaves.

        Everyday text is waited for, as it is of use to both.

        Raises:
            UserError: another run holds it.
        """
        shared = self.trait == EVERYDAY
        busy = f"another run is working on {self.root}: wait for it, or end it, and run again"
        with locked(self.root / _LOCK, f"waiting for another run's {self.root}" if shared else busy, wait=shared):
            remove_leftovers(self.root)
            yield


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
