"""The files of a trait's activations: one tensor per side, sampled neutral tokens, and how they were captured.

Tensor files are in the safetensors format. They are written row by row, so that memory does not grow with their length,
and read layer by layer.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import ACTIVATIONS, TraitFolder
from utils.formats.files import naming, read_json, sha256_of_file, write_json
from utils.formats.response_files import read_responses, responses_fingerprint
from utils.records import POLARITIES, ActivationsInfo, Polarity, Response, StoredDtype

if TYPE_CHECKING:
    from torch import Tensor

TENSOR = "activations"
_STAGE = 2
_METADATA = Path(ACTIVATIONS).name
_FINGERPRINTS = "files_sha256"
# Squares of such numbers, summed over a state, are beyond float32. States of models are millions of times smaller.
_TOO_LARGE = 1e15
# The format's name of a precision, and the bytes that a number takes.
_CODES: dict[StoredDtype, tuple[str, int]] = {"float16": ("F16", 2), "bfloat16": ("BF16", 2), "float32": ("F32", 4)}


def activations_path(folder: TraitFolder, part: str) -> Path:
    """File of one part: a polarity, "neutral_tokens" or "within"."""
    return folder.activations_dir / f"{part}.safetensors"


@dataclass(frozen=True)
class Activations:
    """A trait's captured activations, read layer by layer.

    Attributes:
        info: how they were captured.
        responses: the response behind each row, per polarity.
    """

    folder: TraitFolder
    info: ActivationsInfo
    responses: dict[Polarity, list[Response]]

    def layer(self, polarity: Polarity, layer: int) -> Tensor:
        """Mean activations of one side at one layer: float32 [n, hidden].

        Raises:
            UserError: the layer was not captured.
            DamagedFileError: the file is not what the side-car describes.
        """
        return self._slice(polarity, layer, len(self.responses[polarity]))

    def neutral_tokens(self, layer: int) -> Tensor:
        """States at sampled tokens of neutral responses at one layer: float32 [m, hidden]; m can be 0."""
        return self._slice("neutral_tokens", layer, self.info.n_neutral_tokens)

    def within(self, layer: int) -> Tensor:
        """How states move within responses at a layer: means of windows less the response's, float32 [m, hidden]."""
        return self._slice("within", layer, self.info.n_windows)

    def _slice(self, part: str, layer: int, rows: int) -> Tensor:
        import torch
        from safetensors import SafetensorError, safe_open

        path, remedy = activations_path(self.folder, part), self.folder.command(_STAGE)
        if layer not in self.info.layers:
            have = ", ".join(map(str, self.info.layers))
            raise UserError(f"layer {layer} of {self.folder.trait} was not captured (captured: {have}). {remedy}")
        if rows == 0:
            return torch.zeros(0, self.info.hidden_size)
        shape = [rows, len(self.info.layers), self.info.hidden_size]
        try:
            with safe_open(path, framework="pt") as file:
                stored = file.get_slice(TENSOR)
                if (found := list(stored.get_shape())) != shape:
                    raise DamagedFileError(path, f"has shape {found} where the side-car says {shape}", remedy)
                values: Tensor = stored[:, self.info.layers.index(layer)].float()
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(path, f"cannot be read ({error})", remedy) from error
        if not bool((values.abs() < _TOO_LARGE).all()):
            raise DamagedFileError(path, f"holds NaN, infinity or numbers over 1e15 at layer {layer}", remedy)
        return values


def read_activations(folder: TraitFolder) -> Activations:
    """A trait's activations with the responses behind them.

    Raises:
        MissingInputError, DamagedFileError: something is missing or damaged; names the command that makes it.
        UserError: the responses' texts have changed since.
    """
    info = read_activations_info(folder)
    source = folder.in_experiment(info.responses_from)
    responses: dict[Polarity, list[Response]] = {}
    for polarity in POLARITIES:
        rows = info.rows.get(polarity, [])
        all_responses = read_responses(source, polarity) if rows else []
        responses[polarity] = [all_responses[i] for i in rows if i < len(all_responses)]
        if responses_fingerprint(responses[polarity]) != info.texts_sha256.get(polarity):
            elsewhere = "" if source == folder else f" --responses_from {source.experiment.name}"
            raise UserError(
                f"{source.responses_path(polarity)} has changed since its activations were captured. "
                f"{folder.command(_STAGE)}{elsewhere}"
            )
    return Activations(folder, info, responses)


def read_activations_info(folder: TraitFolder) -> ActivationsInfo:
    """How a trait's activations were captured; their files were found to be whole.

    Raises:
        MissingInputError, DamagedFileError: names the command that makes them.
    """
    path, remedy = folder.activations_dir / _METADATA, folder.command(_STAGE)
    value = read_json(path, remedy)
    names = [f.name for f in fields(ActivationsInfo)]
    if isinstance(value, dict):
        value = {"n_windows": 0, **value}  # earlier versions kept none
    if missing := sorted(name for name in names if not isinstance(value, dict) or name not in value):
        raise DamagedFileError(path, f"lacks {', '.join(missing)}", remedy)
    if wrong := _of_wrong_form(value):
        raise DamagedFileError(path, f"{', '.join(wrong)}: not as this command writes it", remedy)
    _check_files(folder, value.get(_FINGERPRINTS), remedy)
    return ActivationsInfo(**{name: value[name] for name in names})


def write_activations_info(directory: Path, info: ActivationsInfo) -> None:
    """Write the side-car of finished activations into their folder, with the fingerprints of its tensor files."""
    files = {path.name: sha256_of_file(path) for path in sorted(directory.glob("*.safetensors"))}
    write_json(directory / _METADATA, {**asdict(info), _FINGERPRINTS: files})


def _check_files(folder: TraitFolder, fingerprints: object, remedy: str) -> None:
    """Raise where a tensor file is not what was captured; side-cars without fingerprints vouch for nothing."""
    for name, fingerprint in fingerprints.items() if isinstance(fingerprints, dict) else ():
        path = folder.activations_dir / name
        if not path.is_file():
            raise MissingInputError(path, remedy)
        if sha256_of_file(path) != fingerprint:
            raise DamagedFileError(path, f"is not the file that {_METADATA} beside it describes", remedy)


def _of_wrong_form(value: Mapping[str, object]) -> list[str]:
    """Keys of the side-car whose values cannot be used."""
    wrong = [k for k in ("model", "responses_from", "layer_convention", "context") if not isinstance(value[k], str)]
    wrong += [key for key in ("n_layers", "hidden_size", "n_neutral_tokens", "n_windows") if not _is_count(value[key])]
    lists = {"layers": value["layers"]}
    for key in ("rows", "n_response_tokens", "texts_sha256", "hook_points"):
        found = value[key]
        if not isinstance(found, dict):
            wrong.append(key)
        elif key in ("rows", "n_response_tokens"):
            lists |= {f"{key}.{part}": numbers for part, numbers in found.items()}
    return wrong + [k for k, found in lists.items() if not isinstance(found, list) or not all(map(_is_count, found))]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


class RowWriter:
    """A tensor file of known shape, whose rows are written in any order and by several processes.

    Args:
        path: the file. Made at full size where there is none, else opened as it is.
        shape: [rows, ...].
        dtype: how values are stored.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: StoredDtype) -> None:
        self.dtype = dtype
        beginning, n_bytes = _layout(shape, dtype)
        self._offset = len(beginning)
        if not is_laid_out(path, shape, dtype):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(beginning)
                file.truncate(len(beginning) + n_bytes)
        self._row_bytes = n_bytes // shape[0] if n_bytes else 0
        # Not a memory map: on a full disk writing to one kills the process, where writing to a file says what is wrong.
        self._file = path.open("r+b", buffering=0)
        self._path = path

    def write(self, indices: Sequence[int], rows: Tensor) -> None:
        """Write float32 ``rows`` [len(indices), ...] at ``indices``."""
        import torch

        stored = rows.to(getattr(torch, self.dtype)).contiguous()
        as_integers = torch.int32 if self.dtype == "float32" else torch.int16  # numpy has no bfloat16
        values = stored.view(as_integers).numpy()
        with naming(self._path):
            for index, row in zip(indices, values, strict=True):
                self._file.seek(self._offset + index * self._row_bytes)
                rest = memoryview(row.tobytes())
                while rest:  # a disk that fills up takes a part before it refuses
                    rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        """Wait until everything written is on disk."""
        with naming(self._path):
            os.fsync(self._file.fileno())


def is_laid_out(path: Path, shape: Sequence[int], dtype: StoredDtype) -> bool:
    """Whether ``RowWriter`` would open the file as it is, with the rows that were written, and not make it anew."""
    beginning, n_bytes = _layout(shape, dtype)
    if not path.is_file() or path.stat().st_size != len(beginning) + n_bytes:
        return False
    with path.open("rb") as file:
        return file.read(len(beginning)) == beginning


def _layout(shape: Sequence[int], dtype: StoredDtype) -> tuple[bytes, int]:
    """What such a file begins with, and the number of bytes that follow."""
    code, item_size = _CODES[dtype]
    n_bytes = math.prod(shape) * item_size
    header = json.dumps({TENSOR: {"dtype": code, "shape": list(shape), "data_offsets": [0, n_bytes]}}).encode()
    header += b" " * (-len(header) % 8)  # the format wants data aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header, n_bytes
