"""The vector card: one page that says what a trait's vectors are worth, complete in itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from extraction.fit.charts import auroc_by_layer, score_histograms
from extraction.fit.contrast import Contrast
from extraction.fit.findings import doubts_about, headline
from extraction.fit.results import Measured, Sweep
from traitlens.compute import projection
from traitlens.validation.evaluation import Interval
from utils.experiment import TraitFolder
from utils.formats.files import write_text
from utils.formats.vector_files import card_path
from utils.formats.vector_metadata import VectorMetadata

if TYPE_CHECKING:
    from torch import Tensor

_TEMPLATE = Path(__file__).parents[1] / "templates" / "card.html"
_SHOWN_RESPONSES = 6
_SHOWN_CHARACTERS = 400
_SETTINGS = ("model", "context", "pooling", "counts", "threshold", "held_out", "seed", "responses_from", "versions")
_METHODS_HEADER = (
    "method", "layer", "AUROC", "accuracy", "Cohen's d", "recall at 1 % FPR", "Brier", "norm", "baseline"
)  # fmt: skip


def write_card(folder: TraitFolder, contrast: Contrast, result: Sweep, metadata: VectorMetadata) -> None:
    """Write the trait's card beside its vectors.

    Args:
        folder: the trait.
        contrast: the examples.
        result: what was measured.
        metadata: of any of the vectors; what they share is listed as settings.
    """
    described, measured = metadata.to_json(), result.best.metrics is not None
    page = render_card(
        title=f"{folder.trait} ({folder.experiment.name})",
        headline=headline(folder.trait, result),
        warnings=doubts_about(result),
        controls=list(_controls(result)),
        methods_header=_METHODS_HEADER,
        methods=_best_by_method(result) if measured else [],
        auroc_by_layer=auroc_by_layer(result) if measured else "",
        histograms=score_histograms(_scores_by_side(contrast, result.best)) if measured else "",
        held_out=contrast.folds.describe(),
        nested=result.nested is not None,
        examples=list(_examples(contrast, result.best.held_out)),
        settings=[(name, _in_words(described[name])) for name in _SETTINGS],
    )
    write_text(card_path(folder), page)


def render_card(**parts: object) -> str:
    """The page with ``parts`` in the places that the template names; all text in them is text, whatever it holds."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(parts)


def _controls(result: Sweep) -> Iterator[tuple[str, str, str]]:
    """What reads the examples, its AUROC, and the vector's lead over it."""
    yield "the vector, chosen in a nested loop", str(result.nested or "not measured"), ""
    for control in result.controls:
        yield f"{control.name} alone", f"{control.auroc:.2f}", _signed(control.advantage)
    for name, chance in (("shuffled labels", result.shuffled), ("random direction", result.random)):
        if chance is not None:
            yield name, f"{chance.mean:.2f} (one in twenty: {chance.high:.2f})", ""


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})".replace("-0.00", "+0.00")


def _best_by_method(result: Sweep) -> list[tuple[object, ...]]:
    """A row of figures for the best layer of each method, the best method first."""
    rows: dict[str, tuple[object, ...]] = {}
    for vector in sorted(result.vectors, key=lambda v: -(v.metrics.auroc.value if v.metrics else 0)):
        m, calibration = vector.metrics, vector.calibration
        if m is not None and calibration is not None:
            norm = float(vector.vector.norm())
            figures = (m.accuracy, m.cohens_d, m.recall_at_1_fpr, calibration.brier, norm, vector.baseline)
            row = (vector.method, vector.layer, str(m.auroc), *(f"{figure:.2f}" for figure in figures))
            rows.setdefault(vector.method, row)
    return list(rows.values())


def _scores_by_side(contrast: Contrast, best: Measured) -> dict[str, Tensor]:
    neutral = contrast.file.layer("neutral", best.layer)
    labels = contrast.labels
    scores = {"neg": best.held_out[~labels], "pos": best.held_out[labels]}
    if len(neutral):
        scores["neutral"] = (projection(neutral, best.vector).double() - best.baseline) / float(best.vector.norm())
    return scores


def _examples(contrast: Contrast, scores: Tensor) -> Iterator[tuple[str, list[tuple[float, str, str, str]]]]:
    """The highest, the lowest and the most misread held-out responses: a title, and score, side, question, response."""
    sides = ("pos" if label else "neg" for label in contrast.labels.tolist())
    read = zip(scores.tolist(), sides, contrast.responses, strict=True)
    known = [(score, side, _short(r.question), _short(r.response)) for score, side, r in read if not math.isnan(score)]
    known.sort(key=lambda example: example[0])
    misread = sorted((e for e in known if (e[0] > 0) != (e[1] == "pos")), key=lambda e: -abs(e[0]))
    yield "Highest held-out responses", known[::-1][:_SHOWN_RESPONSES]
    yield "Lowest held-out responses", known[:_SHOWN_RESPONSES]
    yield f"Misread held-out responses ({len(misread)} of {len(known)})", misread[:_SHOWN_RESPONSES]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS].rstrip() + " …"


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_in_words(inner)}" for name, inner in value.items())
    return "none" if value is None else str(value)
