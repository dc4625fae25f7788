"""Files of ``torch.save``, read without running code and without more memory than they have bytes."""

from __future__ import annotations

import mmap
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import DamagedFileError

# What torch raises at bytes that are not what they should be.
_LOADING_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError, TypeError, AttributeError,
    AssertionError, ArithmeticError, MemoryError, struct.error,
)  # fmt: skip
# The one callable that torch lets pickles call and that fills as much memory as a number in the file says.
_FILLS_MEMORY = b"bytearray"


def load_tensors(path: Path, remedy: str) -> Any:
    """What ``torch.save`` wrote into a file: tensors and plain containers of them. Pickled code is never run.

    Raises:
        DamagedFileError: it is not a whole file, or holds something else, or more than it has bytes.
    """
    try:
        _refuse_more_than_its_bytes(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*_LOADING_ERRORS, zipfile.BadZipFile) as error:
        raise DamagedFileError(path, f"not a file of tensors ({type(error).__name__})", remedy) from error


def _refuse_more_than_its_bytes(path: Path) -> None:
    """Raise ValueError where reading would take far more memory than the file has bytes: torch allocates as told."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        # torch compresses nothing.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries are larger than the file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(_FILLS_MEMORY) >= 0:
            raise ValueError("it holds more than tensors")


def as_plain(value: object) -> torch.Tensor | None:
    """``value`` as a float32 tensor without gradient; None for what is no dense tensor of real floating-point numbers.

    >>> as_plain(torch.ones(2, dtype=torch.float16)), as_plain(torch.ones(2, dtype=torch.int64))
    (tensor([1., 1.]), None)
    """
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not dense or value.is_nested:
        return None
    # A few stored numbers can be spread over any shape; a copy would need the memory of all of it.
    spread = value.numel() * value.element_size() > value.untyped_storage().nbytes()
    return None if spread else value.detach().float()


def has_length(vector: torch.Tensor) -> bool:
    """Whether a vector's values are finite and so is its norm in float32, by which scores are divided."""
    return bool(vector.float().norm().isfinite())
