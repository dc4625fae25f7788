"""A capture under way: what it was begun with, the rows written so far, and its move to where it belongs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from extraction.distributed import Process
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import TraitFolder
from utils.formats.activation_files import (
    RowWriter,
    activations_path,
    is_laid_out,
    read_activations_info,
    write_activations_info,
)
from utils.formats.journal import Journal
from utils.records import POLARITIES, ActivationsInfo, StoredDtype

logger = logging.getLogger(__name__)

_JOURNAL = "batches"


def begin_capture(
    folder: TraitFolder, info: ActivationsInfo, process: Process, decide: Callable[[], StoredDtype], *, overwrite: bool
) -> dict[str, RowWriter]:
    """The unfinished files of this capture, by part: as an interrupted run left them, or new.

    Args:
        folder: the trait.
        info: what is captured and how.
        process: this process; the main one makes the files, and the others open them.
        decide: gives the precision of new files. A run that goes on keeps to the one that it began with.
        overwrite: begin anew in any case.
    """
    unfinished = folder.unfinished_activations_dir
    journal = unfinished_journal(folder)
    if process.is_main:
        _refuse_links(folder)
        if overwrite or not _goes_on(folder, info, journal.settings()):
            if unfinished.is_dir():
                logger.info("%s: unfinished activations of another capture are discarded", folder.trait)
                shutil.rmtree(unfinished)
            journal.begin(asdict(replace(info, dtype=decide())))
        _writers(folder, info, journal)
    process.wait()
    return _writers(folder, info, journal)


def unfinished_journal(folder: TraitFolder) -> Journal:
    """What is written of an unfinished capture."""
    return Journal(folder.unfinished_activations_dir, _JOURNAL)


def batches_done(folder: TraitFolder) -> set[int]:
    """Numbers of the batches that any process has written."""
    numbers = (piece["batch"] for piece in unfinished_journal(folder).pieces(["batch"]))
    return {number for number in numbers if type(number) is int}


def finish_capture(folder: TraitFolder, info: ActivationsInfo) -> None:
    """Put the finished folder in the place of the old one; the journal goes last, so that a crash can be repeated."""
    write_activations_info(folder.unfinished_activations_dir, info)
    if folder.activations_dir.is_dir():
        shutil.rmtree(folder.activations_dir)
    folder.unfinished_activations_dir.replace(folder.activations_dir)
    clear_journal(folder)


def clear_journal(folder: TraitFolder) -> None:
    """Remove the journal beside finished activations."""
    Journal(folder.activations_dir, _JOURNAL).clear()


def is_finished(folder: TraitFolder, info: ActivationsInfo) -> bool:
    """Whether the activations of just this capture are there."""
    try:
        return _is_of(asdict(read_activations_info(folder)), info)
    except (MissingInputError, DamagedFileError):
        return False


def _is_of(found: Mapping[str, object], info: ActivationsInfo) -> bool:
    """Whether one capture can stand for another: in all but package versions, and a precision that nobody asked for."""
    decides = [key for key in asdict(info) if key != "versions" and (key != "dtype" or info.dtype)]
    return all(found.get(key) == getattr(info, key) for key in decides)


def _goes_on(folder: TraitFolder, info: ActivationsInfo, begun: Mapping[str, Any] | None) -> bool:
    """Whether an unfinished capture is the one that is asked for, and all of its files are there."""
    if begun is None or not _is_of(begun, info) or begun.get("dtype") not in get_args(StoredDtype):
        return False
    # A file that is gone or cut would be made anew, empty, while the journal says that its rows are there.
    return all(is_laid_out(path, shape, begun["dtype"]) for path, shape in _files(folder, info).values())


def _refuse_links(folder: TraitFolder) -> None:
    """Raise UserError where a finished capture, which is moved into its place, would not stay behind a link."""
    for path in (folder.activations_dir, folder.unfinished_activations_dir):
        if path.is_symlink():
            raise UserError(f"{path} is a link: a capture takes its place, so link the whole --experiments_dir instead")


def _files(folder: TraitFolder, info: ActivationsInfo) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Path and shape of each part's tensor in an unfinished capture."""
    rows: dict[str, int] = {polarity: len(info.rows[polarity]) for polarity in POLARITIES}
    rows |= {"neutral_tokens": info.n_neutral_tokens, "within": info.n_windows}
    return {
        part: (
            folder.unfinished_activations_dir / activations_path(folder, part).name,
            (n, len(info.layers), info.hidden_size),
        )
        for part, n in rows.items()
    }


def _writers(folder: TraitFolder, info: ActivationsInfo, journal: Journal) -> dict[str, RowWriter]:
    dtype = (journal.settings() or {})["dtype"]
    return {part: RowWriter(path, shape, dtype) for part, (path, shape) in _files(folder, info).items()}
