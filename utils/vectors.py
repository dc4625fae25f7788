"""The files of a trait's vectors: one tensor and one side-car per method and layer, and the summary over them."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import SUMMARY, Experiment, TraitFolder
from utils.formats.files import read_json, read_text, replacing, write_bytes, write_json
from utils.formats.torch_file import as_plain, has_length, load_tensors
from utils.formats.vector_metadata import check_figures, is_number, shown
from utils.models.load import LoadedModel, documented_layer
from utils.records import TraitVector

logger = logging.getLogger(__name__)

_LONGEST_LIST = 200  # characters
_STAGE = 3
_VECTOR_NAME = re.compile(r"(?P<method>\w{1,99})_layer(?P<layer>[0-9]{1,6})")


def vector_name(method: str, layer: int) -> str:
    """The name of a vector among those of its trait: of its files, and inside a bundle."""
    return f"{method}_layer{layer}"


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


def _fingerprint(vector: torch.Tensor) -> str:
    return hashlib.sha256(vector.numpy().astype("<f4").tobytes()).hexdigest()


def write_vector(folder: TraitFolder, vector: torch.Tensor, metadata: dict[str, Any]) -> Path:
    """Write a vector [hidden] and its side-car, the side-car first; returns the tensor's path.

    Raises:
        UserError: the vector holds NaN or infinity, which never reach a file.
    """
    path = vector_path(folder, metadata["method"], metadata["layer"])
    vector = vector.detach().to("cpu", torch.float32).contiguous().clone()
    if not has_length(vector):
        raise UserError(f"{metadata['method']} gave NaN or infinity for {folder.trait} at layer {metadata['layer']}")
    write_json(sidecar_path(path), {**metadata, _FINGERPRINT: _fingerprint(vector)})
    # Through memory: torch would write its temporary file's name into the archive, and report a full disk as a bug.
    archive = io.BytesIO()
    torch.save(vector, archive)
    write_bytes(path, archive.getvalue())
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
        raise MissingInputError(path, _there_are(folder) + remedy)
    metadata = read_json(sidecar_path(path), remedy)
    keys = ("trait", "method", "layer", "model", "baseline", "hidden_size")
    missing = [key for key in keys if not isinstance(metadata, dict) or key not in metadata]
    if missing:
        raise DamagedFileError(sidecar_path(path), f"lacks {', '.join(missing)}", remedy)
    vector = as_plain(load_tensors(path, remedy))
    if vector is None or vector.ndim != 1:
        raise DamagedFileError(path, "does not hold one vector [hidden]", remedy)
    if len(vector) != metadata["hidden_size"] or not has_length(vector):
        said = f"the side-car says {metadata['hidden_size']} numbers"
        problem = f"holds {len(vector)} values, NaN or numbers too large where {said}"
        raise DamagedFileError(path, problem, remedy)
    fingerprint = _fingerprint(vector)
    if metadata.pop(_FINGERPRINT, fingerprint) != fingerprint:
        raise DamagedFileError(path, "is not the vector that the side-car beside it describes", remedy)
    if (metadata["method"], metadata["layer"], metadata["trait"]) != (method, layer, folder.trait):
        raise DamagedFileError(sidecar_path(path), "describes another vector", remedy)
    try:
        return trait_vector(vector, metadata)
    except ValueError as error:
        raise DamagedFileError(sidecar_path(path), str(error), remedy) from error


def trait_vector(vector: torch.Tensor, metadata: dict[str, Any]) -> TraitVector:
    """A vector [hidden] and its metadata in one.

    Raises:
        KeyError, ValueError: the metadata lack something, or have it in the wrong form; names it.
    """
    neutral = metadata.get("neutral") or {}
    if not isinstance(neutral, dict):
        raise ValueError("'neutral' is not a JSON object")  # noqa: TRY004 - wrong data, not a wrong call
    thresholds = {key: neutral[key] for key in ("fpr_1", "fpr_5") if neutral.get(key) is not None}
    numbers = {"baseline": metadata["baseline"], **thresholds}
    for key, value in numbers.items():
        if value is not None and not is_number(value):
            raise ValueError(f"{key!r} is {shown(value)}, not a number")
    check_figures(metadata)
    for key in ("trait", "method", "model"):
        if not isinstance(metadata[key], str):
            raise ValueError(f"{key!r} is {shown(metadata[key])}, not a text")  # noqa: TRY004 - wrong data
    # Both become part of a file's name.
    is_place = _VECTOR_NAME.fullmatch(vector_name(metadata["method"], metadata["layer"]))
    if type(metadata["layer"]) is not int or not is_place:
        place = f"{shown(metadata['method'])} at layer {shown(metadata['layer'])}"
        raise ValueError(f"{place} is not a method and the number of a layer")
    return TraitVector(
        trait=metadata["trait"], method=metadata["method"], layer=metadata["layer"], vector=vector.float(),
        baseline=metadata["baseline"], thresholds=thresholds, model=metadata["model"], metadata=metadata,
    )  # fmt: skip


def available_vectors(folder: TraitFolder) -> list[tuple[str, int]]:
    """(method, layer) of every vector file of a trait, in order."""
    matches = [_VECTOR_NAME.fullmatch(path.stem) for path in folder.vectors_dir.glob("*.pt")]
    return sorted((m["method"], int(m["layer"])) for m in matches if m)


def _there_are(folder: TraitFolder) -> str:
    """A sentence that lists a trait's vectors, empty where they are too many for one line."""
    there = ", ".join(f"{method} layer {layer}" for method, layer in available_vectors(folder)) or "no vectors at all"
    return f"There are {there}. " if len(there) < _LONGEST_LIST else ""


def write_summary(folder: TraitFolder, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the summary by ``rows``, best first."""
    import pandas as pd

    with replacing(summary_path(folder)) as temporary:
        pd.DataFrame(list(rows)).to_csv(temporary, index=False, lineterminator="\n")


def read_summary(folder: TraitFolder) -> list[dict[str, Any]]:
    """Rows of the summary, best first.

    Raises:
        MissingInputError, DamagedFileError: it is not there, or not one of ours.
    """
    import pandas as pd

    path, remedy = summary_path(folder), folder.command(_STAGE)
    read_text(path, remedy)
    try:
        # Methods may be called "NA" or "007"; only an empty cell is unknown.
        table = pd.read_csv(path, dtype={"method": str}, keep_default_na=False, na_values=[""])
        rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    except (ValueError, OverflowError) as error:  # pandas' own errors are ValueErrors
        raise DamagedFileError(path, "not a CSV table", remedy) from error
    if not rows or not {"method", "layer"} <= set(rows[0]):
        raise DamagedFileError(path, "lacks the columns method and layer", remedy)
    for number, row in enumerate(rows, start=1):
        if not _VECTOR_NAME.fullmatch(vector_name(row["method"], row["layer"])):
            raise DamagedFileError(path, f"row {number} names no method and layer", remedy)
        row["layer"] = int(row["layer"])
    return rows


def ranked_places(folder: TraitFolder) -> list[tuple[str, int]]:
    """Method and layer of every vector in the summary, best first; raises as ``read_summary`` does."""
    return [(row["method"], row["layer"]) for row in read_summary(folder)]


def choose_place(
    ranked: Sequence[tuple[str, int]], model: str, layer: int | None, method: str | None
) -> tuple[str, int] | None:
    """The (method, layer) to use of those ranked best first; None where none is of the method or layer asked for.

    Where no layer is asked for, the documented layer of the model goes before the best.
    """
    fitting = [(m, n) for m, n in ranked if method in (None, m) and layer in (None, n)]
    default = documented_layer(model) if layer is None else None
    return next((place for place in fitting if place[1] == default), fitting[0] if fitting else None)


def load_vector(
    experiment: str | Path,
    trait: str | None = None,
    *,
    layer: int | None = None,
    method: str | None = None,
    experiments_dir: str | Path = "experiments",
    model: LoadedModel | None = None,
) -> TraitVector:
    """A trait's vector: the one asked for, else the documented layer of the model, else the best by held-out AUROC.

    Args:
        experiment: the experiment's name; or the path of a bundle (``.safetensors``); or a bundle on the Hub, as
            ``hf://org/repo/trait`` or pinned to a commit, branch or tag, ``hf://org/repo@revision/trait``.
        trait: the trait's name; a bundle has only one.
        layer: a layer number; by default the documented one (Gemma 2 2B: 16, Llama 3.1 8B: 20) or the best.
        method: mean_diff, probe, ica or gradient; by default the best at the layer.
        experiments_dir: folder of the experiments.
        model: the model at hand; a vector of another one is refused.

    Raises:
        MissingInputError, DamagedFileError: no such vector, or a damaged one.
        UserError: the vector is not of ``model``; names both.
    """
    from utils.formats.bundle import check_model, is_portable, load_portable

    if is_portable(experiment):
        vector = load_portable(experiment, trait, layer=layer, method=method)
    elif trait is None:
        raise UserError(f"which trait of the experiment {str(experiment)!r}? Give load_vector(experiment, trait)")
    else:
        vector = _load_local(Experiment(Path(experiments_dir), str(experiment)).trait(trait), layer, method)
    if model is not None:
        check_model(vector, model)
    return vector


def _load_local(folder: TraitFolder, layer: int | None, method: str | None) -> TraitVector:
    if layer is not None and method is not None:
        return read_vector(folder, method, layer)
    ranked = ranked_places(folder)
    first = read_vector(folder, *ranked[0])
    place = choose_place(ranked, first.model, layer, method)
    if place is None:
        wanted = " and ".join(f"{k} {v}" for k, v in (("method", method), ("layer", layer)) if v is not None)
        raise UserError(
            f"{folder.vectors_dir} has no vector with {wanted}. {_there_are(folder)}{folder.command(_STAGE)}"
        )
    return first if place == ranked[0] else read_vector(folder, *place)
