"""GGUF control vectors, the form of llama.cpp and of repeng.

Their ``direction.N`` acts on what leaves block N, counted from 0, which is our layer N + 1. llama.cpp has no
``direction.0``, so layers 0 and 1 cannot be expressed there; repeng has it, so only layer 0 cannot. In both a positive
strength adds the direction, as our vectors have it: towards the trait.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.files import parse_json, replacing
from utils.formats.torch_file import is_direction, plain_vector
from utils.formats.vector_metadata import VectorMetadata
from utils.records import TraitVector

if TYPE_CHECKING:
    from gguf import GGUFReader
    from torch import Tensor

logger = logging.getLogger(__name__)

Unit = Literal["contrast", "unit"]
UNIT_MEANING: dict[Unit, str] = {
    "contrast": "strength 1 adds the distance between the class means along the vector",
    "unit": "strength 1 adds a direction of length one, so strengths are in units of activation",
}
Program = Literal["llama.cpp", "repeng"]

_ARCHITECTURE = "controlvector"
_REMEDY = "Export it again"
_DIRECTION = re.compile(r"direction\.(\d{1,9})", re.ASCII)
LOWEST_LAYER: dict[Program, int] = {"llama.cpp": 2, "repeng": 1}


@dataclass(frozen=True)
class ControlVector:
    """What a GGUF control vector holds.

    Attributes:
        directions: float32 [hidden] by our layer number.
        model_hint: what the file says of its model; a name or an architecture.
        unit: what strength 1 means, None in files of other programs.
        ours: the vectors as they were exported, with their metadata; empty in files of other programs.
    """

    directions: dict[int, Tensor]
    model_hint: str
    unit: Unit | None
    ours: tuple[TraitVector, ...]


def write_control_vector(
    path: Path,
    vectors: Sequence[TraitVector],
    *,
    unit: Unit = "contrast",
    program: Program = "llama.cpp",
    model_hint: str = "",
) -> None:
    """Write vectors of one trait, one per layer, as a GGUF control vector.

    Args:
        path: the file, replaced atomically.
        vectors: of one model and one method, at different layers.
        unit: what strength 1 adds.
        program: who is to read it.
        model_hint: shown by some programs; by default the model's name.

    Raises:
        UserError: a layer that the program cannot express, or vectors that do not belong together.
    """
    import gguf

    check_belong_together(vectors, "a control vector", LOWEST_LAYER[program], program)
    with replacing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", model_hint or vectors[0].model)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors))
        writer.add_string("traitlens.unit", unit)
        writer.add_string("traitlens.unit_meaning", UNIT_MEANING[unit])
        writer.add_string("traitlens.layer_numbers", "direction.N acts on the output of block N, which is layer N + 1")
        sidecars = {v.layer: v.metadata.to_json() for v in vectors}
        writer.add_string("traitlens.sidecars", json.dumps(sidecars, allow_nan=False))
        for vector in vectors:
            writer.add_tensor(f"direction.{vector.layer - 1}", scaled(vector, unit).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def scaled(vector: TraitVector, unit: Unit) -> Tensor:
    """The vector in a unit: as it is, or of length one; float32 [hidden]."""
    return vector.vector if unit == "contrast" else vector.vector / vector.vector.norm()


def check_belong_together(vectors: Sequence[TraitVector], form: str, lowest: int, program: str) -> None:
    """Refuse vectors that one file of another program cannot hold.

    Args:
        vectors: to be written.
        form: what the file is called, with its article.
        lowest: the lowest of our layers that the program can act on.
        program: its name.

    Raises:
        UserError: no vectors, several traits, methods or models, a layer twice, or one that is too low.
    """
    layers = [v.layer for v in vectors]
    together = len({(v.trait, v.method, v.model, len(v.vector)) for v in vectors}) == 1
    if not together or len(set(layers)) < len(layers):
        raise UserError(
            f"{form} holds one trait, method and model, with one vector per layer: got {len(layers)} vectors"
        )
    if min(layers) < lowest:
        raise UserError(
            f"{form} for {program} cannot act on layer {min(layers)}: its directions begin at the output of block "
            f"{lowest - 1}, our layer {lowest}. Export higher --layers"
        )


def read_control_vector(path: Path) -> ControlVector:
    """A GGUF control vector by our layer numbers, whoever wrote it.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it is not a whole GGUF control vector of finite float32 directions.
    """
    if not path.is_file():
        raise MissingInputError(path, "Give the path of a GGUF control vector")
    reader = _bounded_reader(path)
    architecture = _text(reader, path, "general.architecture") or "none"
    if architecture != _ARCHITECTURE:
        raise DamagedFileError(path, f"holds the architecture {architecture!r}, not a control vector", _REMEDY)
    said = _text(reader, path, "traitlens.unit")
    unit = next((known for known in UNIT_MEANING if known == said), None)
    directions, sidecars = _directions(reader, path), _text(reader, path, "traitlens.sidecars")
    return ControlVector(
        directions=directions,
        model_hint=_text(reader, path, f"{_ARCHITECTURE}.model_hint") or "",
        unit=unit,
        ours=_restored(path, directions, unit, sidecars) if sidecars else (),
    )


def _bounded_reader(path: Path) -> GGUFReader:
    """Gguf's reader, which on its own reads past the end of a file in silence, for as many items as a header claims."""
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        def _get(
            self,
            offset: int,
            dtype: np.typing.DTypeLike,
            count: int = 1,
            override_order: Literal["I", "S", "<"] | None = None,
        ) -> np.typing.NDArray[np.generic]:
            items: np.typing.NDArray[np.generic] = super()._get(offset, dtype, count, override_order)
            if len(items) != count:
                raise ValueError(f"{count} items wanted at byte {offset}, {len(items)} there")
            return items

    try:
        reader = Reader(path)
        if sum(int(t.n_bytes) for t in reader.tensors) > path.stat().st_size:
            raise ValueError("tensors overlap, so copies of them would take more memory than the file has bytes")  # noqa: TRY301
        return reader  # noqa: TRY300
    except Exception as error:
        raise DamagedFileError(path, f"not a whole GGUF file ({type(error).__name__})", _REMEDY) from error


def _text(reader: GGUFReader, path: Path, name: str) -> str | None:
    field = reader.get_field(name)
    if field is None:
        return None
    try:
        if field.types[0].name != "STRING":
            raise ValueError(f"{name} is not a text")  # noqa: TRY301 - told as other damage is
        return bytes(field.parts[field.data[0]]).decode("utf-8")
    except ValueError as error:
        raise DamagedFileError(path, f"not a whole GGUF file ({error})", _REMEDY) from error


def _directions(reader: GGUFReader, path: Path) -> dict[int, Tensor]:
    import torch

    directions: dict[int, Tensor] = {}
    zeros: list[str] = []
    for tensor in reader.tensors:
        match = _DIRECTION.fullmatch(tensor.name)
        if match is None:
            continue
        try:
            if tensor.tensor_type.name != "F32":
                raise ValueError(f"is {tensor.tensor_type.name}, not F32")  # noqa: TRY301 - told as other forms are
            direction = torch.from_numpy(tensor.data.copy())  # the reader's arrays are views of the file
            if not is_direction(direction):  # as these programs fill in a block that the vector leaves alone
                zeros.append(tensor.name)
                continue
            directions[int(match[1]) + 1] = plain_vector(direction)
        except ValueError as error:
            raise DamagedFileError(path, f"{tensor.name} {error}", _REMEDY) from error
    if not directions or len({len(v) for v in directions.values()}) > 1:
        raise DamagedFileError(path, "holds no directions, or directions of several sizes", _REMEDY)
    if zeros:
        logger.warning("%s: %s hold zeros alone and are left out", path, ", ".join(zeros))
    return dict(sorted(directions.items()))


def _restored(path: Path, directions: dict[int, Tensor], unit: Unit | None, sidecars: str) -> tuple[TraitVector, ...]:
    """The vectors that this project exported, at the length that they had."""
    vectors = []
    try:
        described = parse_json(sidecars)
        for layer, direction in directions.items():
            metadata = VectorMetadata.from_json(described[str(layer)])
            length = metadata.norm if unit == "unit" else 1.0
            if metadata.layer != layer or length is None:
                raise ValueError(f"layer {layer} lacks its norm or describes layer {metadata.layer}")  # noqa: TRY301
            vectors.append(TraitVector(plain_vector(direction * length, metadata.hidden_size), metadata))
    except (KeyError, TypeError, ValueError) as error:
        problem = f"its traitlens.sidecars do not describe its vectors ({error!s:.200})"
        raise DamagedFileError(path, problem, _REMEDY) from error
    return tuple(vectors)
