"""The picture of a causal check: the readout against the dose, and what the doses cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extraction.steering.damage import perplexity, repetition
from extraction.steering.report import verdict_in_words
from extraction.steering.results import CausalCheck, Series
from utils.formats.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VECTOR, _RANDOM = "#D55E00", "#777777"


def draw(result: CausalCheck, path: Path) -> None:
    """Write the picture as PNG: readout, perplexity and repetition against the dose."""
    import pandas as pd
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained", dpi=120)
    effect, price, loops = figure.subplots(1, 3)
    main, *controls = result.series
    readouts = pd.DataFrame([[a.readout for a in answers] for answers in main.answers.values()], dtype=float)
    effect.plot(list(main.answers), readouts, color=_VECTOR, alpha=0.18, linewidth=0.8)
    for series in (*controls, main):
        answers = series.answers.values()
        means = pd.DataFrame([[a.readout for a in texts] for texts in answers], dtype=float).mean(axis=1)
        label = f"{result.vector.trait} vector" if series is main else ""
        if controls and series is controls[0]:
            label = f"{len(controls)} random directions"
        _line(effect, series, list(means), label)
        _line(price, series, [perplexity(texts) for texts in answers], label)
        _line(loops, series, [repetition(texts) for texts in answers], label)
    effect.axhline(0, color="#000000", linewidth=0.8, linestyle=":")
    effect.set(ylabel=f"readout at layer {result.reader.layer}, class distances", title="what it does")
    price.set(ylabel="perplexity, unsteered model", title="what it costs: surprise")
    loops.set(ylabel="share of repeated 4-grams", title="what it costs: loops (× text is broken)")
    for axes in (effect, price, loops):
        axes.set_xlabel(f"dose at layer {result.vector.layer}, in activation norms")
    effect.legend(frameon=False, fontsize=8)
    figure.suptitle(verdict_in_words(result.verdict), fontsize=10)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _line(axes: Axes, series: Series, values: list[float | None], label: str) -> None:
    """A line over the doses, with a dot where the text is whole and a cross where it is broken."""
    is_vector = series.direction == "vector"
    colour, width, size = (_VECTOR, 1.8, 5) if is_vector else (_RANDOM, 0.7, 3)
    known = [(dose, value) for dose, value in zip(series.answers, values, strict=True) if value is not None]
    axes.plot(*zip(*known, strict=True), color=colour, linewidth=width, alpha=1 if is_vector else 0.6, label=label)
    for dose, value in known:
        axes.plot(dose, value, color=colour, marker="x" if series.damage[dose] else "o", markersize=size)
