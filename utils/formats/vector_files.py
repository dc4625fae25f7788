"""The files of a trait's vectors: one tensor and one side-car per method and layer, and the summary over them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import SUMMARY, TraitFolder
from utils.formats.files import read_json, read_text, write_json, write_text
from utils.formats.torch_file import is_direction, is_finite, load_tensors, plain_vector, save_tensors
from utils.formats.vector_metadata import SummaryRow, VectorMetadata, place_of, vector_name
from utils.models.compatibility import documented_layer
from utils.records import TraitVector

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST_LIST = 200  # characters
_STAGE = 3
# Key of the side-car that says which file it is of: a kill can leave a new side-car beside an old vector. Side-cars
# without it vouch for nothing.
_FINGERPRINT = "vector_sha256"


def vector_path(folder: TraitFolder, method: str, layer: int) -> Path:
    """Where a vector's tensor is; its side-car is beside it."""
    return folder.vectors_dir / f"{vector_name(method, layer)}.pt"


def sidecar_path(tensor_path: Path) -> Path:
    """The metadata file of a vector file."""
    return tensor_path.with_name(f"{tensor_path.stem}_metadata.json")


def summary_path(folder: TraitFolder) -> Path:
    """CSV with one row per method and layer, best first."""
    return folder.root / SUMMARY


def card_path(folder: TraitFolder) -> Path:
    """Page that says how good the trait's vectors are."""
    return folder.vectors_dir / "card.html"


def _fingerprint(vector: Tensor) -> str:
    return hashlib.sha256(vector.numpy().astype("<f4").tobytes()).hexdigest()


def write_vector(folder: TraitFolder, vector: Tensor, metadata: VectorMetadata) -> Path:
    """Write a vector [hidden] and its side-car, the side-car first; returns the tensor's path.

    Raises:
        UserError: the vector is zero or holds NaN or infinity, which never reach a file.
    """
    path = vector_path(folder, metadata.method, metadata.layer)
    vector = vector.detach().cpu().float().contiguous().clone()
    if not is_finite(vector):
        raise UserError(f"{metadata.method} gave NaN or infinity for {folder.trait} at layer {metadata.layer}")
    if not is_direction(vector):
        raise UserError(f"{metadata.method} gave a vector of zeros for {folder.trait} at layer {metadata.layer}")
    write_json(sidecar_path(path), {**metadata.to_json(), _FINGERPRINT: _fingerprint(vector)})
    save_tensors(path, vector)
    return path


def read_vector(folder: TraitFolder, method: str, layer: int) -> TraitVector:
    """A vector with its metadata.

    Raises:
        MissingInputError: it was not made; names the command that makes it and what is there.
        DamagedFileError: the tensor or the side-car is not one of ours. Pickled code is never run.
    """
    path = vector_path(folder, method, layer)
    remedy = f"{folder.command(_STAGE)} --methods {method} --layers {layer}"
    if not path.is_file():
        raise MissingInputError(path, list_of_vectors(folder) + remedy)
    sidecar = read_json(sidecar_path(path), remedy)
    if not isinstance(sidecar, dict):
        raise DamagedFileError(sidecar_path(path), "is not a JSON object", remedy)
    fingerprint = sidecar.pop(_FINGERPRINT, None)
    try:
        metadata = VectorMetadata.from_json(sidecar)
    except ValueError as error:
        raise DamagedFileError(sidecar_path(path), str(error), remedy) from error
    try:
        vector = plain_vector(load_tensors(path, remedy), metadata.hidden_size)
    except ValueError as error:
        raise DamagedFileError(path, f"{error}, as its side-car says", remedy) from error
    if fingerprint not in (None, _fingerprint(vector)):
        raise DamagedFileError(path, "is not the vector that the side-car beside it describes", remedy)
    if (metadata.method, metadata.layer, metadata.trait) != (method, layer, folder.trait):
        raise DamagedFileError(sidecar_path(path), "describes another vector", remedy)
    return TraitVector(vector, metadata)


def available_vectors(folder: TraitFolder) -> list[tuple[str, int]]:
    """(method, layer) of every vector file of a trait, in order."""
    places = [place_of(path.stem) for path in folder.vectors_dir.glob("*.pt")]
    return sorted(place for place in places if place)


def list_of_vectors(folder: TraitFolder) -> str:
    """A sentence that lists a trait's vectors for an error message, empty where they are too many for one line."""
    there = ", ".join(f"{method} layer {layer}" for method, layer in available_vectors(folder)) or "no vectors at all"
    return f"There are {there}. " if len(there) < _LONGEST_LIST else ""


def write_summary(folder: TraitFolder, rows: Sequence[SummaryRow]) -> None:
    """Replace the summary by ``rows``: first the one marked as best, then by held-out AUROC, unknown ones last."""
    ordered = sorted(rows, key=lambda row: (row.best is not True, 1 if row.auroc is None else -row.auroc))
    cells = [row.to_row() for row in ordered]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in cells for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    write_text(summary_path(folder), text.getvalue())


def read_summary(folder: TraitFolder) -> list[SummaryRow]:
    """Rows of the summary, best first.

    Raises:
        MissingInputError, DamagedFileError: it is not there, or not one of ours.
    """
    path, remedy = summary_path(folder), folder.command(_STAGE)
    reader = csv.DictReader(io.StringIO(read_text(path, remedy), newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError("is not as wide as the header")  # noqa: TRY301 - told with the row's number below
            rows.append(SummaryRow.from_row(row))
    except (csv.Error, ValueError) as error:
        raise DamagedFileError(path, f"row {len(rows) + 1} {error}", remedy) from error
    if not rows:
        raise DamagedFileError(path, "has no rows", remedy)
    return rows


def ranked_places(folder: TraitFolder) -> list[tuple[str, int]]:
    """Method and layer of every vector in the summary, best first; raises as ``read_summary`` does."""
    return [(row.method, row.layer) for row in read_summary(folder)]


def choose_place(
    ranked: Sequence[tuple[str, int]], model: str, layer: int | None, method: str | None
) -> tuple[str, int] | None:
    """The (method, layer) to use of those ranked best first; None where none is of the method or layer asked for.

    Where no layer is asked for, the documented layer of the model goes before the best.
    """
    fitting = [(m, n) for m, n in ranked if method in (None, m) and layer in (None, n)]
    default = documented_layer(model) if layer is None else None
    return next((place for place in fitting if place[1] == default), fitting[0] if fitting else None)
