"""Vectors of the steering-vectors package, which are saved with ``torch.save``.

Its layer i is what leaves decoder block i, our layer i + 1; negative numbers count from the last block. Its sign is
ours: a positive multiplier adds the vector, towards the trait. (repeng saves GGUF: ``gguf_vectors`` beside this.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.exchange.gguf_vectors import Unit, check_belong_together, scaled
from utils.formats.torch_file import dense, is_direction, load_tensors, plain_vector, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from utils.records import TraitVector

logger = logging.getLogger(__name__)

_REMEDY = "Save it again: torch.save(steering_vector, PATH), or torch.save(vars(steering_vector), PATH)"
# Other tools save a vector alone, or a stack of one per layer, whose rows count from the embedding or from block 0.
NUMBERED_VECTORS = (
    "Save vectors by the number of their block, torch.save({15: vector}, PATH): what leaves block i, which is "
    "hidden_states[i + 1] of transformers, is our layer i + 1"
)
_BLOCKS = "decoder_block"


class _SteeringVector:
    """Stands for the package's class while its pickled form is read, so that no code of it has to be there or run."""


# torch looks classes up by the name that they carry.
_SteeringVector.__module__ = "steering_vectors.steering_vector"
_SteeringVector.__name__ = _SteeringVector.__qualname__ = "SteeringVector"


def write_steering_vector(path: Path, vectors: Sequence[TraitVector], unit: Unit = "contrast") -> None:
    """Write vectors of one trait, one per layer, as the arguments of the package's class.

    It reads them with ``SteeringVector(**torch.load(path))``: plain tensors, so the file needs no pickled class.

    Raises:
        UserError: layer 0, which no block puts out, or vectors that do not belong together.
    """
    check_belong_together(vectors, "a file", 1, "steering-vectors")
    by_block = {v.layer - 1: scaled(v, unit).clone() for v in vectors}
    save_tensors(path, {"layer_activations": by_block, "layer_type": _BLOCKS})


def read_steering_vector(path: Path, n_blocks: int) -> dict[int, Tensor]:
    """Vectors by our layer number, float32 [hidden], from a file made with ``torch.save`` in the package or here.

    Args:
        path: a saved ``SteeringVector``, its attributes as a dict, or its ``layer_activations`` alone.
        n_blocks: how many blocks the model has, for numbers that count from the end.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it is something else. Pickled code is never run.
        UserError: it acts on another place than the residual stream, or on a block that the model does not have.
    """
    import torch

    if not path.is_file():
        raise MissingInputError(path, "Give the path of a saved steering vector")
    with torch.serialization.safe_globals([_SteeringVector]):
        value = load_tensors(path, _REMEDY)
    if isinstance(value, torch.Tensor):
        raise DamagedFileError(
            path, f"holds one tensor {list(value.shape)}, which does not say its layers", NUMBERED_VECTORS
        )
    attributes = vars(value) if isinstance(value, _SteeringVector) else value
    if not isinstance(attributes, dict):
        raise DamagedFileError(path, f"holds a {type(value).__name__}, not a steering vector", _REMEDY)
    kind = attributes.get("layer_type", _BLOCKS)
    if kind != _BLOCKS:
        raise UserError(f"{path} acts on {kind!r}, not on the residual stream between blocks: it has no layer here")
    return _by_layer(path, attributes.get("layer_activations", attributes), n_blocks)


def _by_layer(path: Path, activations: object, n_blocks: int) -> dict[int, Tensor]:
    import torch

    found: dict[int, Tensor] = {}
    zeros: list[str] = []
    for number, tensor in activations.items() if isinstance(activations, dict) else ():
        if type(number) is not int:
            raise DamagedFileError(path, f"entry {number!r} is not the number of a block", NUMBERED_VECTORS)
        if not -n_blocks <= number < n_blocks:
            raise UserError(f"{path} acts on block {number}, but the model has blocks 0..{n_blocks - 1}")
        try:
            vector = _flat(tensor)
            if isinstance(vector, torch.Tensor) and not is_direction(vector):
                zeros.append(str(number))
                continue
            found[number % n_blocks + 1] = plain_vector(vector).clone()
        except ValueError as error:
            raise DamagedFileError(path, f"entry {number} {error}", _REMEDY) from error
    if not found or len({len(v) for v in found.values()}) > 1:
        raise DamagedFileError(path, "holds no vectors, or vectors of several sizes", _REMEDY)
    if zeros:
        logger.warning("%s: entries %s hold zeros alone and are left out", path, ", ".join(zeros))
    return dict(sorted(found.items()))


def _flat(value: object) -> object:
    """A tensor without its dimensions of size 1: the package saves vectors as [1, 1, hidden] too."""
    tensor = dense(value)
    return value if tensor is None else tensor.reshape([n for n in tensor.shape if n != 1] or [-1])
