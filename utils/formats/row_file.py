"""Safetensors files that are written row by row, so that memory does not grow with their length."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from utils.formats.files import naming

if TYPE_CHECKING:
    from torch import Tensor

StoredDtype = Literal["float16", "bfloat16", "float32"]
_CODES: dict[StoredDtype, tuple[str, type]] = {
    "float16": ("F16", np.uint16),
    "bfloat16": ("BF16", np.uint16),
    "float32": ("F32", np.uint32),
}


def is_laid_out(path: Path, name: str, shape: tuple[int, ...], dtype: StoredDtype) -> bool:
    """Whether ``RowWriter`` would open the file as it is, with the rows that were written, and not make it anew."""
    beginning, n_bytes = _layout(name, shape, dtype)
    if not path.is_file() or path.stat().st_size != len(beginning) + n_bytes:
        return False
    with path.open("rb") as file:
        return file.read(len(beginning)) == beginning


def _layout(name: str, shape: tuple[int, ...], dtype: StoredDtype) -> tuple[bytes, int]:
    """What such a file begins with, and the number of bytes that follow."""
    code, item = _CODES[dtype]
    n_bytes = int(np.prod(shape)) * np.dtype(item).itemsize
    header = json.dumps({name: {"dtype": code, "shape": list(shape), "data_offsets": [0, n_bytes]}}).encode()
    header += b" " * (-len(header) % 8)  # the format wants data aligned to 8 bytes
    return len(header).to_bytes(8, "little") + header, n_bytes


class RowWriter:
    """A file with one tensor of known shape, whose rows are written in any order and by several processes.

    Args:
        path: the file. Made at full size where there is none, else opened as it is.
        name: the tensor's name.
        shape: [rows, ...].
        dtype: how values are stored.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: StoredDtype) -> None:
        self.dtype = dtype
        self._item = _CODES[dtype][1]
        beginning, n_bytes = _layout(name, shape, dtype)
        self._offset = len(beginning)
        if not is_laid_out(path, name, shape, dtype):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(beginning)
                file.truncate(len(beginning) + n_bytes)
        self._row_bytes = n_bytes // shape[0] if n_bytes else 0
        # Not a memory map: on a full disk writing to one kills the process, where writing to a file says what is wrong.
        self._file = path.open("r+b", buffering=0)
        self._path = path

    def write(self, indices: list[int], rows: Tensor) -> None:
        """Write float32 ``rows`` [len(indices), ...] at ``indices``."""
        import torch

        stored = rows.to(getattr(torch, self.dtype)).contiguous()
        values: np.ndarray = (
            stored.view(torch.int32 if self.dtype == "float32" else torch.int16).numpy().view(self._item)
        )
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
