"""GGUF control vectors, the form of llama.cpp and of repeng.

Their ``direction.N`` acts on what leaves block N, counted from 0, which is our layer N + 1. llama.cpp has no
``direction.0``, so layers 0 and 1 cannot be expressed there; repeng has it, so only layer 0 cannot. In both a positive
strength adds the direction, as our vectors have it: towards the trait.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.files import parse_json, replacing

if TYPE_CHECKING:
    from torch import Tensor

    from utils.records import TraitVector

Unit = Literal["contrast", "unit"]
UNIT_MEANING: dict[Unit, str] = {
    "contrast": "strength 1 adds the distance between the class means along the vector",
    "unit": "strength 1 adds a direction of length one, so strengths are in units of activation",
}
Reader = Literal["llama.cpp", "repeng"]

_ARCHITECTURE = "controlvector"
_REMEDY = "Export it again"
_DIRECTION = re.compile(r"direction\.(\d{1,9})", re.ASCII)
LOWEST_LAYER: dict[Reader, int] = {"llama.cpp": 2, "repeng": 1}
# What gguf's reader raises at bytes that are not what they should be.
_READING_ERRORS = (
    ValueError, IndexError, KeyError, TypeError, OverflowError, OSError, MemoryError, RecursionError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class ControlVector:
    """What a GGUF control vector holds.

    Attributes:
        directions: float32 [hidden] by our layer number.
        model_hint: what the file says of its model; a name or an architecture.
        unit: what strength 1 means, None in files of other programs.
        sidecars: metadata by layer; empty in files of other programs.
    """

    directions: dict[int, Tensor]
    model_hint: str
    unit: Unit | None
    sidecars: dict[int, dict[str, Any]]


def write_control_vector(
    path: Path,
    vectors: Sequence[TraitVector],
    *,
    unit: Unit = "contrast",
    reader: Reader = "llama.cpp",
    model_hint: str = "",
) -> None:
    """Write vectors of one trait, one per layer, as a GGUF control vector.

    Args:
        path: the file, replaced atomically.
        vectors: of one model and one method, at different layers.
        unit: what strength 1 adds.
        reader: the program that it is for.
        model_hint: shown by some programs; by default the model's name.

    Raises:
        UserError: a layer that the program cannot express, or vectors that do not belong together.
    """
    import gguf

    _check(vectors, reader)
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", model_hint or vectors[0].model)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors))
        writer.add_string("traitlens.unit", unit)
        writer.add_string("traitlens.unit_meaning", UNIT_MEANING[unit])
        writer.add_string("traitlens.layer_numbers", "direction.N acts on the output of block N, which is layer N + 1")
        writer.add_string("traitlens.sidecars", json.dumps({v.layer: v.metadata for v in vectors}, allow_nan=False))
        for vector in vectors:
            writer.add_tensor(f"direction.{vector.layer - 1}", scaled(vector, unit).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def scaled(vector: TraitVector, unit: Unit) -> Tensor:
    """The vector in a unit: as it is, or of length one; float32 [hidden]."""
    return vector.vector if unit == "contrast" else vector.vector / vector.vector.norm()


def _check(vectors: Sequence[TraitVector], reader: Reader) -> None:
    if not vectors:
        raise UserError("no vectors to export")
    layers = [v.layer for v in vectors]
    if len({(v.trait, v.method, v.model, len(v.vector)) for v in vectors}) > 1 or len(set(layers)) < len(layers):
        raise UserError("a control vector holds one trait, method and model, with one vector per layer")
    lowest = LOWEST_LAYER[reader]
    if min(layers) < lowest:
        raise UserError(
            f"a control vector for {reader} cannot act on layer {min(layers)}: its directions begin at the output of "
            f"block {lowest - 1}, our layer {lowest}. Export higher --layers"
        )


def read_control_vector(path: Path) -> ControlVector:
    """A GGUF control vector by our layer numbers, whoever wrote it.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it is not a whole GGUF control vector of finite float32 directions.
    """
    if not path.is_file():
        raise MissingInputError(path, "Give the path of a GGUF control vector")
    try:
        reader = _bounded_reader(path)
        text = {name: _text(reader, name) for name in (
            "general.architecture", f"{_ARCHITECTURE}.model_hint", "traitlens.unit", "traitlens.sidecars"
        )}  # fmt: skip
        if sum(int(t.n_bytes) for t in reader.tensors) > path.stat().st_size:
            raise ValueError("tensors overlap, so copies of them would take more memory than the file has bytes")
        # Copied: the reader's arrays are views of the file.
        tensors = {t.name: (t.tensor_type.name, t.data.copy()) for t in reader.tensors}
    except _READING_ERRORS as error:
        raise DamagedFileError(path, f"not a whole GGUF file ({type(error).__name__})", _REMEDY) from error
    if text["general.architecture"] != _ARCHITECTURE:
        found = text["general.architecture"] or "none"
        raise DamagedFileError(path, f"holds the architecture {found!r}, not a control vector", _REMEDY)
    unit: Any = text["traitlens.unit"]
    return ControlVector(
        directions=_directions(path, tensors),
        model_hint=text[f"{_ARCHITECTURE}.model_hint"] or "",
        unit=unit if unit in UNIT_MEANING else None,
        sidecars=_sidecars(path, text["traitlens.sidecars"]),
    )


def _bounded_reader(path: Path) -> Any:
    """Gguf's reader, which on its own reads past the end of a file in silence, for as many items as a header claims."""
    import gguf

    class Reader(gguf.GGUFReader):
        def _get(self, offset: int, dtype: Any, count: Any = 1, *arguments: Any, **options: Any) -> Any:
            items = super()._get(offset, dtype, count, *arguments, **options)
            if len(items) != count:
                raise ValueError(f"{count} items wanted at byte {offset}, {len(items)} there")
            return items

    return Reader(path)


def _text(reader: Any, name: str) -> str | None:
    field = reader.get_field(name)
    if field is not None and field.types[0].name != "STRING":
        raise ValueError(f"{name} is not a text")
    return None if field is None else bytes(field.parts[field.data[0]]).decode("utf-8")


def _directions(path: Path, tensors: Mapping[str, tuple[str, Any]]) -> dict[int, Tensor]:
    import torch

    from utils.formats.torch_file import has_length

    directions = {}
    for name, (kind, values) in tensors.items():
        match = _DIRECTION.fullmatch(name)
        if match is None:
            continue
        vector = torch.from_numpy(values) if kind == "F32" and values.ndim == 1 else None
        if vector is None or not has_length(vector):
            raise DamagedFileError(path, f"{name} is not a finite float32 vector (it is {kind})", _REMEDY)
        directions[int(match[1]) + 1] = vector
    if not directions or len({len(v) for v in directions.values()}) > 1:
        raise DamagedFileError(path, "holds no directions, or directions of several sizes", _REMEDY)
    return dict(sorted(directions.items()))


def _sidecars(path: Path, text: str | None) -> dict[int, dict[str, Any]]:
    try:
        return {int(layer): sidecar for layer, sidecar in parse_json(text or "{}").items()}
    except (ValueError, AttributeError) as error:
        raise DamagedFileError(path, "its traitlens.sidecars are not JSON", _REMEDY) from error
