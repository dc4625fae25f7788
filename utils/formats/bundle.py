"""One file that carries a trait's vectors anywhere: safetensors, with all of their metadata in its header.

The header's ``shared`` holds what all vectors have in common (model and revision, layer convention, context, pooling,
template, controls), ``vectors`` what each has of its own (baseline, scale, thresholds, held-out figures), and
``ranking`` their order, best first. All three are JSON. Nothing in such a file can run code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.files import parse_json, write_bytes
from utils.formats.torch_file import as_plain, has_length
from utils.formats.vector_metadata import shown
from utils.hub import download_bundle, is_hub_address, parse_hub_address
from utils.models.load import LoadedModel, load_model, same_model
from utils.records import TraitVector
from utils.vectors import choose_place, trait_vector, vector_name

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

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
    first = vectors[0].metadata
    shared = {k: value for k, value in first.items() if all(v.metadata.get(k, _ABSENT) == value for v in vectors)}
    named = {vector_name(v.method, v.layer): v for v in vectors}
    own = {name: {k: value for k, value in v.metadata.items() if k not in shared} for name, v in named.items()}
    header = {
        "format": FORMAT,
        "shared": json.dumps(shared, allow_nan=False),
        "vectors": json.dumps(own, allow_nan=False),
        "ranking": json.dumps(list(own)),
    }
    write_bytes(path, save({name: v.vector.contiguous() for name, v in named.items()}, header))


_ABSENT = object()


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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


def _vector(name: str, tensor: Tensor, metadata: Mapping[str, Any]) -> TraitVector:
    vector = as_plain(tensor)
    if vector is None or list(vector.shape) != [metadata["hidden_size"]] or not has_length(vector):
        raise ValueError(
            f"shape {list(tensor.shape)} or NaN or too large where the hidden size is {metadata['hidden_size']}"
        )
    found = trait_vector(vector, dict(metadata))
    if vector_name(found.method, found.layer) != name:
        raise ValueError(f"{shown(name)} is of {found.method} at layer {found.layer}")
    return found


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
        came = {"source": address.at(commit)}
        bundle = Bundle(path, tuple(replace(v, metadata={**v.metadata, **came}) for v in bundle.vectors))
        trait = address.trait
    else:
        bundle = read_bundle(Path(source))
    found = bundle.vectors[0].trait
    if trait not in (None, found):
        raise UserError(f"{source} holds vectors of {found!r}, not of {trait!r}")
    return bundle


def load_portable(
    source: str | Path, trait: str | None = None, *, layer: int | None = None, method: str | None = None
) -> TraitVector:
    """One vector of a bundle; ``utils.vectors.load_vector`` calls this for addresses and paths of bundles."""
    return load_bundle(source, trait).choose(layer, method)


def load_model_for(
    vector: TraitVector,
    model: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The model that a vector is of, at the revision that it was made with; or ``model``, where that is given.

    Raises:
        UserError: it cannot be loaded, or is not the vector's.
    """
    name, made_with = model or vector.model, vector.metadata.get("revision")
    revision = made_with if isinstance(made_with, str) and name == vector.model else None
    loaded = load_model(name, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    check_model(vector, loaded)
    return loaded


def check_model(vector: TraitVector, loaded: LoadedModel) -> None:
    """Refuse a vector that is not of the model at hand; warn where the model's revision or chat template differ.

    Raises:
        UserError: another model by name, or other sizes; names both.
    """
    label = f"the {vector.trait} vector"
    if not same_model(vector.model, loaded.name):
        raise UserError(f"{label} is of {vector.model}, but the model at hand is {loaded.name}")
    check_sizes(vector, loaded)
    from utils.prompts import template_hash

    now = {"revision": loaded.revision, "template_hash": template_hash(loaded.tokenizer)}
    for key, value in now.items():
        then = vector.metadata.get(key)
        if None not in (then, value) and then != value:
            logger.warning("%s was made with %s %s of %s; at hand is %s", label, key, then, vector.model, value)


def check_sizes(vector: TraitVector, loaded: LoadedModel) -> None:
    """Refuse a vector that has no place in the model.

    Raises:
        UserError: another hidden size, or a layer that the model does not have.
    """
    config = loaded.model.config.get_text_config()
    if len(vector.vector) != config.hidden_size or vector.layer > config.num_hidden_layers:
        raise UserError(
            f"the {vector.trait} vector of {vector.model} has {len(vector.vector)} values at layer {vector.layer}, but "
            f"{loaded.name} has hidden size {config.hidden_size} and layers 0..{config.num_hidden_layers}"
        )
