"""One file that carries a trait's vectors anywhere: safetensors, with all of their metadata in its header.

The header's ``shared`` holds what all vectors have in common (model and revision, layer convention, context, pooling,
template, controls), ``vectors`` what each has of its own (baseline, scale, thresholds, held-out figures), and
``ranking`` their order, best first. All three are JSON. Nothing in such a file can run code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.files import parse_json, write_bytes
from utils.formats.json_records import shown
from utils.formats.torch_file import plain_vector
from utils.formats.vector_files import choose_place
from utils.formats.vector_metadata import VectorMetadata
from utils.hub import download_bundle, is_hub_address, parse_hub_address
from utils.records import TraitVector

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "traitlens vectors 1"
SUFFIX = ".safetensors"
_REMEDY = "Export it again: python -m extraction.export --format bundle"


@dataclass(frozen=True)
class Bundle:
    """A trait's vectors out of one file, best first."""

    path: Path
    vectors: tuple[TraitVector, ...]

    def choose(self, layer: int | None = None, method: str | None = None) -> TraitVector:
        """The vector asked for, else the documented layer of the model, else the best.

        Raises:
            UserError: none is of the layer and method asked for; names those there are.
        """
        ranked = [(v.method, v.layer) for v in self.vectors]
        place = choose_place(ranked, self.vectors[0].model, layer, method)
        if place is None:
            there = ", ".join(sorted({v.method for v in self.vectors}))
            layers = sorted({v.layer for v in self.vectors})
            raise UserError(
                f"{self.path} has no vector with method {method or 'any'} and layer "
                f"{'any' if layer is None else layer}: it holds {there} at layers {layers[0]}..{layers[-1]}"
            )
        return self.vectors[ranked.index(place)]


def write_bundle(path: Path, vectors: Sequence[TraitVector]) -> None:
    """Write one trait's vectors, given best first, into one file, atomically.

    Raises:
        UserError: no vectors, or vectors of several traits or models.
    """
    from safetensors.torch import save

    if len({(v.trait, v.model) for v in vectors}) != 1:
        raise UserError(f"a bundle holds the vectors of one trait and one model, got {len(vectors)} vectors")
    metadata = {v.metadata.name: v.metadata.to_json() for v in vectors}
    first = next(iter(metadata.values()))
    shared = {k: value for k, value in first.items() if all(k in m and m[k] == value for m in metadata.values())}
    own = {name: {k: value for k, value in m.items() if k not in shared} for name, m in metadata.items()}
    header = {
        "format": FORMAT,
        "shared": json.dumps(shared, allow_nan=False),
        "vectors": json.dumps(own, allow_nan=False),
        "ranking": json.dumps(list(own)),
    }
    write_bytes(path, save({v.metadata.name: v.vector.contiguous() for v in vectors}, header))


def read_bundle(path: Path) -> Bundle:
    """The vectors of a bundle.

    Raises:
        MissingInputError: there is no such file.
        DamagedFileError: it is not a whole bundle.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MissingInputError(path, "Make it with: python -m extraction.export --format bundle")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(path, f"not a whole safetensors file ({error})", _REMEDY) from error
    if header.get("format") != FORMAT:
        raise DamagedFileError(path, f"its format is {header.get('format')!r}, wanted {FORMAT!r}", _REMEDY)
    try:
        shared, own, ranking = (parse_json(header[key]) for key in ("shared", "vectors", "ranking"))
        vectors = tuple(_vector(name, tensors[name], {**shared, **own[name]}) for name in _names(ranking))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(path, f"its header does not describe its vectors ({error!s:.200})", _REMEDY) from error
    if not vectors:
        raise DamagedFileError(path, "holds no vectors", _REMEDY)
    if len({(v.trait, v.model) for v in vectors}) > 1:
        raise DamagedFileError(path, "holds vectors of several traits or models", _REMEDY)
    return Bundle(path, vectors)


def _names(ranking: object) -> list[str]:
    """The names in a ranking, unless it names a vector again and again, each time for another copy."""
    if not isinstance(ranking, list) or not all(isinstance(name, str) for name in ranking):
        raise ValueError("its ranking is not a list of names")
    # Names become names of files, where some systems take capitals for small letters.
    if len({name.casefold() for name in ranking}) < len(ranking):
        raise ValueError("its ranking names a vector twice")
    return ranking


def _vector(name: str, tensor: Tensor, described: dict[str, object]) -> TraitVector:
    metadata = VectorMetadata.from_json(described)
    if metadata.name != name:
        raise ValueError(f"{shown(name)} is of {metadata.method} at layer {metadata.layer}")
    return TraitVector(plain_vector(tensor, metadata.hidden_size), metadata)


def is_portable(source: str | Path) -> bool:
    """Whether ``source`` means a bundle, on the Hub or as a file, and not an experiment."""
    return is_hub_address(source) or str(source).endswith(SUFFIX)


def load_bundle(source: str | Path, trait: str | None = None) -> Bundle:
    """The bundle at a Hub address or a path; vectors from the Hub remember the commit under "source".

    Raises:
        UserError: it cannot be had, or is of another trait than ``trait``.
    """
    if is_hub_address(source):
        address = parse_hub_address(str(source), trait)
        path, commit = download_bundle(address)
        bundle = read_bundle(path)
        pinned = address.at(commit)
        vectors = (replace(v, metadata=replace(v.metadata, source=pinned)) for v in bundle.vectors)
        bundle = Bundle(path, tuple(vectors))
        trait = address.trait
    else:
        bundle = read_bundle(Path(source))
    found = bundle.vectors[0].trait
    if trait not in (None, found):
        raise UserError(f"{source} holds vectors of {found!r}, not of {trait!r}")
    return bundle
