"""The vector card: one page that says what a trait's vectors are worth, complete in itself."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
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
from utils.records import Response

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN_RESPONSES = 6
_SHOWN_CHARACTERS = 400
_SETTINGS = ("model", "context", "pooling", "counts", "threshold", "held_out", "seed", "responses_from", "versions")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff }}
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem; margin-bottom: 0.2rem }} h2 {{ font-size: 1.1rem; margin: 2rem 0 0.4rem }}
p {{ margin: 0.4rem 0 }} svg {{ max-width: 100%; height: auto }} .note {{ color: #555; font-size: 0.9rem }}
.warning {{ border-left: 4px solid #b35900; background: #fff4e5; padding: 0.3rem 0.8rem; margin: 0.4rem 0 }}
.scroll {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: 0.88rem }}
th, td {{ text-align: left; vertical-align: top; padding: 0.25rem 0.7rem 0.25rem 0; border-bottom: 1px solid #e2e2e2 }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
td.text {{ white-space: pre-wrap; overflow-wrap: anywhere; min-width: 16rem }}
.pos {{ color: #a04300 }} .neg {{ color: #005a8c }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_card(folder: TraitFolder, contrast: Contrast, result: Sweep, metadata: VectorMetadata) -> None:
    """Write the trait's card beside its vectors.

    Args:
        folder: the trait.
        contrast: the examples.
        result: what was measured.
        metadata: of any of the vectors; what they share is listed as settings.
    """
    title = f"{folder.trait} ({folder.experiment})"
    described = metadata.to_json()
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(headline(folder.trait, result))}</p>",
        *(f'<p class="warning">{_text(_sentence(warning))}</p>' for warning in doubts_about(result)),
        *_figures(contrast, result),
        *_responses(contrast, result.best.held_out),
        "<h2>Settings</h2>",
        _table(("setting", "value"), [(name, _value(described[name])) for name in _SETTINGS]),
    ]
    write_text(card_path(folder), _PAGE.format(title=_text(title), body="\n".join(parts)))


def _figures(contrast: Contrast, result: Sweep) -> Iterable[str]:
    yield "<h2>Figures</h2>"
    yield _controls_table(result)
    if result.best.metrics is None:
        return
    nested = "" if result.nested is None else ": the figure at the top comes from a nested choice"
    yield "<h2>AUROC by layer and method</h2>"
    yield _picture(auroc_by_layer(result), "Held-out AUROC by layer, a line per method")
    yield (
        f'<p class="note">Held out: {_text(contrast.folds.describe())}. The bar is the 95 % interval of the chosen '
        f"vector. The best of many is optimistic{nested}.</p>"
    )
    yield "<h2>Scores of the chosen vector</h2>"
    yield _picture(score_histograms(_scores_by_side(contrast, result.best)), "Histograms of scores by side")
    yield (
        '<p class="note">pos and neg are held out; neutral responses took no part in any fit. In training the class '
        "means lie at -0.5 and 0.5.</p>"
    )
    yield "<h2>Best layer of each method</h2>"
    yield _methods_table(result)


def _controls_table(result: Sweep) -> str:
    figure = "not measured" if result.nested is None else str(result.nested)
    rows: list[tuple[object, ...]] = [("the vector, chosen in a nested loop", figure, "")]
    rows += [(c.name + " alone", f"{c.auroc:.2f}", _signed(c.advantage)) for c in result.controls]
    chance = (("shuffled labels", result.shuffled), ("random direction", result.random))
    rows += [(name, f"{c.mean:.2f} (one in twenty: {c.high:.2f})", "") for name, c in chance if c is not None]
    return _table(("what reads", "AUROC", "the vector's lead over it"), rows, numbers=(1, 2))


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})".replace("-0.00", "+0.00")


def _methods_table(result: Sweep) -> str:
    best: dict[str, Measured] = {}
    for measured in sorted(result.vectors, key=lambda v: -(v.metrics.auroc.value if v.metrics else 0)):
        best.setdefault(measured.method, measured)
    rows = []
    for v in best.values():
        if v.metrics is not None and v.calibration is not None:
            m = v.metrics
            figures = (
                m.accuracy,
                m.cohens_d,
                m.recall_at_1_fpr,
                v.calibration.brier,
                float(v.vector.norm()),
                v.baseline,
            )
            rows.append((v.method, v.layer, str(m.auroc), *(f"{figure:.2f}" for figure in figures)))
    header = ("method", "layer", "AUROC", "accuracy", "Cohen's d", "recall at 1 % FPR", "Brier", "norm", "baseline")
    return _table(header, rows, numbers=range(1, len(header)))


def _scores_by_side(contrast: Contrast, best: Measured) -> dict[str, Tensor]:
    neutral = contrast.file.layer("neutral", best.layer)
    labels = contrast.labels
    scores = {"neg": best.held_out[~labels], "pos": best.held_out[labels]}
    if len(neutral):
        scores["neutral"] = (projection(neutral, best.vector).double() - best.baseline) / float(best.vector.norm())
    return scores


def _responses(contrast: Contrast, scores: Tensor) -> Iterable[str]:
    """Tables of the highest, the lowest and the most misread held-out responses."""
    sides, responses = contrast.labels.tolist(), contrast.responses
    known = [
        (value, side, response)
        for value, side, response in zip(scores.tolist(), sides, responses, strict=True)
        if not math.isnan(value)
    ]
    known.sort(key=lambda item: item[0])
    misread = sorted((item for item in known if (item[0] > 0) != item[1]), key=lambda item: -abs(item[0]))
    for title, items in (
        ("Highest held-out responses", known[::-1]),
        ("Lowest held-out responses", known),
        (f"Misread held-out responses ({len(misread)} of {len(known)})", misread),
    ):
        yield f"<h2>{title}</h2>"
        yield _response_table(items[:_SHOWN_RESPONSES])


def _response_table(items: Sequence[tuple[float, bool, Response]]) -> str:
    head = '<tr><th class="number">score</th><th>side</th><th>question</th><th>response</th></tr>'
    rows = []
    for value, positive, response in items:
        side = "pos" if positive else "neg"
        rows.append(
            f'<tr><td class="number">{value:+.2f}</td><td class="{side}">{side}</td>'
            f'<td class="text">{_text(_short(response.question))}</td>'
            f'<td class="text">{_text(_short(response.response))}</td></tr>'
        )
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS].rstrip() + " …"


def _picture(svg: str, description: str) -> str:
    return f'<div role="img" aria-label="{_text(description)}">{svg}</div>'


def _table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> str:
    right = set(numbers)

    def line(cells: Sequence[object], tag: str) -> str:
        shown = (f"<{tag}{_class(i in right)}>{_text(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table>{line(header, "th")}{body}</table></div>'


def _class(right: bool) -> str:
    return ' class="number"' if right else ""


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_value(inner)}" for name, inner in value.items())
    return "none" if value is None else str(value)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _text(value: object) -> str:
    """HTML for a text that may hold anything."""
    return html.escape(str(value))
