"""The model card of a folder of bundles: what the vectors read, how they were made, how well, and what to beware of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from traitlens.layers import LAYER_CONVENTION
from utils.formats.files import write_text
from utils.formats.vector_metadata import ControlRecord
from utils.models.embedded import EMBEDDED_MODEL
from utils.records import TraitVector
from utils.terminal import without_controls

_TEMPLATE = Path(__file__).parents[1] / "templates" / "model_card.md"
_HUB_ID_OF_EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
_MARKUP = re.compile(r"[\\`*\[\]<>|]")


def write_model_card(
    path: Path, vectors: Sequence[TraitVector], sources: Mapping[str, str], license_name: str | None = None
) -> None:
    """Write the README.md of a Hub repository of bundles.

    Args:
        path: the README, replaced atomically.
        vectors: each trait's default vector.
        sources: per trait, where its responses came from.
        license_name: the licence's identifier on the Hub; None leaves the choice to the publisher.
    """
    from huggingface_hub import ModelCard, ModelCardData

    model = vectors[0].model
    base_model = _HUB_ID_OF_EMBEDDED if model == EMBEDDED_MODEL else model
    data = ModelCardData(
        base_model=base_model if base_model.count("/") == 1 and not Path(model).exists() else None,
        library_name="traitlens",
        license=license_name,
        tags=["trait-vectors", "activation-steering", "interpretability"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        model=_words(model),
        vectors=vectors,
        layer_convention=LAYER_CONVENTION[0].upper() + LAYER_CONVENTION[1:],
        sources=sources,
        words=_words,
        controls=_controls,
        evil=any(vector.trait == "evil" for vector in vectors),
    )
    write_text(path, str(card).rstrip() + "\n")


def _controls(controls: Mapping[str, ControlRecord | None]) -> str:
    # Shuffled labels and random directions were tried many times: theirs is a mean.
    figures = {name: c.mean if c.auroc is None else c.auroc for name, c in controls.items() if c}
    return ", ".join(f"{_words(name)} {value:.2f}" for name, value in figures.items() if value is not None) or "unknown"


def _words(value: object) -> str:
    """A value of the metadata as words on one line: vectors from elsewhere bring their own, and they are no markup."""
    return _MARKUP.sub(r"\\\g<0>", without_controls(" ".join(str(value).split())))
