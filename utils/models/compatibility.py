"""Does this vector fit this model: by name, by sizes, by revision and chat template."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.models.load import LoadedModel, load_model
from utils.prompts import template_hash
from utils.records import TraitVector

logger = logging.getLogger(__name__)

# The layers that the documentation promises; every other model's default is the best layer that was measured.
_DOCUMENTED_LAYER = {"google/gemma-2-2b-it": 16, "meta-llama/Llama-3.1-8B-Instruct": 20}


def same_model(name: str, other: str) -> bool:
    """Whether two names mean one model: equal, or a Hub id and a local folder of the same last part.

    >>> same_model("google/gemma-2-2b-it", "/models/gemma-2-2b-it/"), same_model("google/gemma", "other/gemma")
    (True, False)
    """
    if _is_hub_id(name) and _is_hub_id(other):
        return name.lower() == other.lower()
    return name.rstrip("/").split("/")[-1].lower() == other.rstrip("/").split("/")[-1].lower()


def _is_hub_id(name: str) -> bool:
    owner, slash, model = name.partition("/")
    return bool(slash and model) and "/" not in model and owner not in (".", "..", "~") and not Path(name).exists()


def documented_layer(model: str) -> int | None:
    """The layer to monitor that the documentation states for a model, None where it states none.

    >>> documented_layer("google/gemma-2-2b-it"), documented_layer("gpt2")
    (16, None)
    """
    return next((layer for name, layer in _DOCUMENTED_LAYER.items() if same_model(name, model)), None)


def load_model_for(
    vectors: Sequence[TraitVector],
    model: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The model that vectors are of, at the revision that the first was made with; or ``model``, where that is given.

    Raises:
        UserError: it cannot be loaded, or is not the model of every vector.
    """
    first = vectors[0]
    if model is not None and not same_model(first.model, model):
        raise UserError(f"the vectors are of {first.model}, not of {model}: extract vectors of {model} first")
    name = model or first.model
    revision = first.metadata.revision if name == first.model else None
    loaded = load_model(name, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    check_model(first, loaded)
    for vector in vectors[1:]:
        _check_fits(vector, loaded)
    return loaded


def check_model(vector: TraitVector, loaded: LoadedModel) -> None:
    """Refuse a vector that is not of the model at hand; warn where the model's revision or chat template differ.

    Raises:
        UserError: another model by name, or other sizes; names both.
    """
    label, metadata = f"the {vector.trait} vector", vector.metadata
    _check_fits(vector, loaded)
    for what, made_with, at_hand in (
        ("revision", metadata.revision, loaded.revision),
        ("template_hash", metadata.template_hash, template_hash(loaded.tokenizer)),
    ):
        if None not in (made_with, at_hand) and made_with != at_hand:
            logger.warning("%s was made with %s %s of %s; at hand is %s", label, what, made_with, vector.model, at_hand)


def _check_fits(vector: TraitVector, loaded: LoadedModel) -> None:
    if not same_model(vector.model, loaded.name):
        raise UserError(f"the {vector.trait} vector is of {vector.model}, but the model at hand is {loaded.name}")
    config = loaded.model.config.get_text_config()
    if len(vector.vector) != config.hidden_size or vector.layer > config.num_hidden_layers:
        raise UserError(
            f"the {vector.trait} vector of {vector.model} has {len(vector.vector)} values at layer {vector.layer}, but "
            f"{loaded.name} has hidden size {config.hidden_size} and layers 0..{config.num_hidden_layers}"
        )
