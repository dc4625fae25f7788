"""The vector card: one page that says what a trait's vectors are worth, complete in itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from extraction.fit.charts import auroc_by_layer, score_histograms
from extraction.fit.contrast import Contrast
from extraction.fit.results import Measured, Sweep, doubts_about, headline
from utils.formats.files import write_text
from utils.formats.vector_files import card_path
from utils.formats.vector_metadata import VectorMetadata
from utils.records import Response

_TEMPLATES = Path(__file__).parents[1] / "templates"
_SHOWN_RESPONSES = 6
_SETTINGS = ("model", "context", "pooling", "counts", "threshold", "held_out", "seed", "responses_from", "versions")


def write_card(contrast: Contrast, result: Sweep, metadata: VectorMetadata) -> None:
    """Write the trait's card beside its vectors, from ``card.html``; what responses hold is text there, never markup.

    Args:
        contrast: the trait's examples.
        result: what was measured.
        metadata: of any of the vectors; what they share is listed as settings.
    """
    folder, measured = contrast.file.folder, result.best.metrics is not None
    described = metadata.to_json()
    files = FileSystemLoader(_TEMPLATES)
    environment = Environment(loader=files, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    page = environment.get_template("card.html").render(
        title=f"{folder.trait} ({folder.experiment.name})",
        headline=headline(folder.trait, result),
        doubts=doubts_about(result),
        result=result,
        best_of_methods=list(_best_of_methods(result)),
        auroc_by_layer=auroc_by_layer(result) if measured else "",
        histograms=score_histograms(_scores_by_side(contrast, result.best)) if measured else "",
        held_out=contrast.folds.describe(),
        examples=_examples(contrast, result.best.held_out),
        settings={name: described[name] for name in _SETTINGS},
    )
    write_text(card_path(folder), page)


def _best_of_methods(result: Sweep) -> Iterator[Measured]:
    """Each method's vector of the highest AUROC, the best method first; none where nothing was held out."""
    seen: set[str] = set()
    for measured in sorted(result.vectors, key=lambda v: -(v.metrics.auroc.value if v.metrics else 0)):
        if measured.metrics is not None and measured.method not in seen:
            seen.add(measured.method)
            yield measured


def _scores_by_side(contrast: Contrast, best: Measured) -> dict[str, Tensor]:
    labels = contrast.labels
    return {"neg": best.held_out[~labels], "pos": best.held_out[labels], "neutral": best.ordinary}


def _examples(contrast: Contrast, scores: Tensor) -> dict[str, list[tuple[float, str, Response]]]:
    """The highest, the lowest and the most misread held-out responses, by title: score, side, response."""
    sides = ("pos" if label else "neg" for label in contrast.labels.tolist())
    read = zip(scores.tolist(), sides, contrast.responses, strict=True)
    known = sorted((example for example in read if not math.isnan(example[0])), key=lambda example: example[0])
    misread = sorted((e for e in known if (e[0] > 0) != (e[1] == "pos")), key=lambda e: -abs(e[0]))
    return {
        "Highest held-out responses": known[::-1][:_SHOWN_RESPONSES],
        "Lowest held-out responses": known[:_SHOWN_RESPONSES],
        f"Misread held-out responses ({len(misread)} of {len(known)})": misread[:_SHOWN_RESPONSES],
    }
