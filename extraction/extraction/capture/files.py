"""The files of a capture under way: its settings, rows written so far, and what each process has done of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from extraction.distributed import Process
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import TraitFolder
from utils.formats.activation_files import TENSOR, activations_path, read_activations_info, write_activations_info
from utils.formats.files import append_jsonl, read_jsonl
from utils.formats.row_file import RowWriter, StoredDtype, is_laid_out
from utils.records import POLARITIES, ActivationsInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decided:
    """What is decided once for a capture, from the model's states: a run that goes on must do as the first one did."""

    dtype: StoredDtype
    share_prompts: bool


@dataclass(frozen=True)
class Begun:
    """A capture that can be written to."""

    writers: Mapping[str, RowWriter]
    decided: Decided


def begin_capture(
    folder: TraitFolder, info: ActivationsInfo, process: Process, decide: Callable[[], Decided], *, overwrite: bool
) -> Begun:
    """The unfinished files of this capture: as an interrupted run left them, or new."""
    unfinished = folder.unfinished_activations_dir
    header = unfinished / "settings.jsonl"
    if process.is_main:
        _refuse_links(folder)
        begun = read_jsonl(header)
        same = bool(begun) and _is_of(info, begun[0])
        # A file that is gone or cut would be made anew, empty, while the journals say that its rows are there.
        if overwrite or not same or not _are_whole(folder, info, begun[0]["dtype"]):
            if unfinished.is_dir():
                logger.info("%s: unfinished activations of another capture are discarded", folder.trait)
                shutil.rmtree(unfinished)
            append_jsonl(header, [{"capture": timeless(info), **asdict(decide())}])
    process.wait()
    entry = read_jsonl(header)[0]
    decided = Decided(entry["dtype"], entry["share_prompts"])
    if process.is_main:
        writers = _writers(folder, info, decided.dtype)  # makes the files; the others open them
    process.wait()
    return Begun(writers if process.is_main else _writers(folder, info, decided.dtype), decided)


def journal_path(folder: TraitFolder, process: Process) -> Path:
    """Where a process notes the batches that it has written."""
    return folder.unfinished_activations_dir / f"batches.{process.rank}.jsonl"


def batches_done(folder: TraitFolder) -> set[int]:
    """Numbers of the batches that any process has written."""
    journals = sorted(folder.unfinished_activations_dir.glob("batches.*.jsonl"))
    found = (entry.get("batch") for path in journals for entry in read_jsonl(path))
    return {number for number in found if type(number) is int}


def finish_capture(folder: TraitFolder, info: ActivationsInfo) -> None:
    """Put the finished folder in the place of the old one; the journals go last, so that a crash can be repeated."""
    write_activations_info(folder.unfinished_activations_dir, info)
    if folder.activations_dir.is_dir():
        shutil.rmtree(folder.activations_dir)
    folder.unfinished_activations_dir.replace(folder.activations_dir)
    clear_journals(folder)


def clear_journals(folder: TraitFolder) -> None:
    """Remove the journals beside finished activations."""
    for journal in folder.activations_dir.glob("*.jsonl"):
        journal.unlink()


def is_finished(folder: TraitFolder, info: ActivationsInfo) -> bool:
    """Whether the activations of just this capture are there."""
    try:
        found = read_activations_info(folder)
    except (MissingInputError, DamagedFileError):
        return False
    return timeless(found) == timeless(info) and _stored_as_asked(info, found.dtype)


def timeless(info: ActivationsInfo) -> dict[str, object]:
    """What two captures share when one can stand for the other, but for the precision of the files."""
    return {key: value for key, value in asdict(info).items() if key not in ("versions", "dtype")}


def _is_of(info: ActivationsInfo, begun: Mapping[str, object]) -> bool:
    """Whether an unfinished capture began like this one; what a damaged file says of it is no reason to go on."""
    stored = begun.get("dtype")
    return (
        begun.get("capture") == timeless(info)
        and isinstance(begun.get("share_prompts"), bool)
        and isinstance(stored, str)
        and stored in get_args(StoredDtype)
        and _stored_as_asked(info, stored)
    )


def _stored_as_asked(info: ActivationsInfo, stored: str) -> bool:
    """Whether files of this precision will do: any where none was asked for."""
    return info.dtype in ("", stored)


def _refuse_links(folder: TraitFolder) -> None:
    """Raise UserError where a finished capture, which is moved into its place, would not stay behind a link."""
    for path in (folder.activations_dir, folder.unfinished_activations_dir):
        if path.is_symlink():
            raise UserError(f"{path} is a link: a capture takes its place, so link the whole --experiments_dir instead")


def _files(folder: TraitFolder, info: ActivationsInfo) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Path and shape of each part's tensor in an unfinished capture."""
    rows = {polarity: len(info.rows[polarity]) for polarity in POLARITIES} | {"neutral_tokens": info.n_neutral_tokens}
    return {
        part: (
            folder.unfinished_activations_dir / activations_path(folder, part).name,
            (n, len(info.layers), info.hidden_size),
        )
        for part, n in rows.items()
    }


def _are_whole(folder: TraitFolder, info: ActivationsInfo, dtype: StoredDtype) -> bool:
    return all(is_laid_out(path, TENSOR, shape, dtype) for path, shape in _files(folder, info).values())


def _writers(folder: TraitFolder, info: ActivationsInfo, dtype: StoredDtype) -> dict[str, RowWriter]:
    return {part: RowWriter(path, TENSOR, shape, dtype) for part, (path, shape) in _files(folder, info).items()}
