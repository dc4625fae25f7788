"""Files of ``torch.save``, read without running code and without more memory than they have bytes; plain vectors."""

from __future__ import annotations

import io
import mmap
import zipfile
from pathlib import Path

import torch

from utils.errors import DamagedFileError
from utils.formats.files import write_bytes

# The one callable that torch lets pickles call and that fills as much memory as a number in the file says.
_FILLS_MEMORY = b"bytearray"


def save_tensors(path: Path, value: object) -> None:
    """Write what ``torch.save`` makes of a value, atomically.

    Through memory: torch would write its temporary file's name into the archive, and report a full disk as a bug.
    """
    archive = io.BytesIO()
    torch.save(value, archive)
    write_bytes(path, archive.getvalue())


def load_tensors(path: Path, remedy: str) -> object:
    """What ``torch.save`` wrote into a file: tensors and plain containers of them. Pickled code is never run.

    Raises:
        DamagedFileError: it is not a whole file, or holds something else, or more than it has bytes.
    """
    try:
        _refuse_more_than_its_bytes(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
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


def plain_vector(value: object, hidden_size: int | None = None) -> torch.Tensor:
    """A tensor as a float32 vector [hidden] without gradient.

    Raises:
        ValueError: it is no dense vector of finite real numbers other than zero, or not of the size wanted; says what
            it is.

    >>> plain_vector(torch.ones(2, dtype=torch.float16))
    tensor([1., 1.])
    """
    vector = dense(value)
    if vector is None or vector.ndim != 1:
        raise ValueError("is not one vector [hidden] of floating-point numbers")
    if hidden_size not in (None, len(vector)):
        raise ValueError(f"has {len(vector)} values, not {hidden_size}")
    if not is_finite(vector):
        raise ValueError("holds NaN, infinity or numbers too large")
    if not is_direction(vector):
        raise ValueError("holds zeros alone, which is no direction")
    return vector


def dense(value: object) -> torch.Tensor | None:
    """A tensor as float32 without gradient; None for what is no dense tensor of real floating-point numbers."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_nested:
        return None
    # A few stored numbers can be spread over any shape; a copy would need the memory of all of it.
    spread = value.numel() * value.element_size() > value.untyped_storage().nbytes()
    return None if spread else value.detach().float()


def is_finite(vector: torch.Tensor) -> bool:
    """Whether a vector's values are finite and so is its norm in float32, by which scores are divided."""
    return bool(vector.float().norm().isfinite())


def is_direction(vector: torch.Tensor) -> bool:
    """Whether a vector has a length in float32: neither zeros nor numbers too small for one."""
    return bool(vector.float().norm() != 0)  # also of NaN, which is another fault
