"""The model card of a folder of bundles: what the vectors read, how they were made, how well, and what to beware of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from traitlens.layers import LAYER_CONVENTION
from traitlens.validation.evaluation import Interval
from utils.formats.files import write_text
from utils.formats.vector_metadata import ControlRecord, IntervalRecord, MetricsRecord
from utils.models.embedded import EMBEDDED_MODEL
from utils.records import TraitVector
from utils.terminal import without_controls

_TEMPLATE = Path(__file__).parents[1] / "templates" / "model_card.md"
_HUB_ID_OF_EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
_UNKNOWN = "unknown"
_MARKUP = re.compile(r"[\\`*\[\]<>|]")
_FACTS = (
    ("model revision", "revision"),
    ("prompt shown with a response:", "context"),
    ("activation of a response:", "pooling"),
    ("hash of the chat template", "template_hash"),
    ("held out:", "held_out"),
    ("score that examples needed:", "threshold"),
    ("seed", "seed"),
)


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
        figures=[_figures(vector) for vector in vectors],
        how=[_how(vector, sources.get(vector.trait, _UNKNOWN)) for vector in vectors],
        warnings=[f"**{v.trait}**: {_words(w)}." for v in vectors for w in _warnings(v)],
        evil=any(vector.trait == "evil" for vector in vectors),
    )
    write_text(path, str(card).rstrip() + "\n")


def _warnings(vector: TraitVector) -> tuple[str, ...]:
    choice = vector.metadata.own_choice
    return (choice.warnings or ()) if choice else ()


def _figures(vector: TraitVector) -> list[str]:
    metrics, choice = vector.metadata.metrics or MetricsRecord(), vector.metadata.own_choice
    counts = (metrics.n_pos, metrics.n_neg)
    return [
        vector.trait,
        _words(vector.method),
        str(vector.layer),
        _interval(metrics.auroc),
        _interval(choice.auroc if choice else None),
        _controls(vector.metadata.controls or {}),
        _UNKNOWN if None in counts else f"{counts[0]} + {counts[1]}",
    ]


def _interval(figure: IntervalRecord | None) -> str:
    return str(Interval(figure.value, figure.low, figure.high)) if figure else _UNKNOWN


def _controls(controls: Mapping[str, ControlRecord | None]) -> str:
    # Shuffled labels and random directions were tried many times: theirs is a mean.
    figures = {name: c.mean if c.auroc is None else c.auroc for name, c in controls.items() if c}
    return ", ".join(f"{_words(name)} {value:.2f}" for name, value in figures.items() if value is not None) or _UNKNOWN


def _how(vector: TraitVector, source: str) -> str:
    known = vector.metadata.to_json()
    facts = [f"{label} {_short(known[key])}" for label, key in _FACTS if known.get(key) is not None]
    return f"**{vector.trait}**: responses: {_words(source)}; " + "; ".join(facts) + "."


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else _words(value)


def _words(value: object) -> str:
    """A value of the metadata as words on one line: vectors from elsewhere bring their own, and they are no markup."""
    return _MARKUP.sub(r"\\\g<0>", without_controls(" ".join(str(value).split())))
