"""Pictures of what stage 3 measured, as SVG for a page or PNG for a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from extraction.fit.results import Sweep
from utils.formats.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by readers with any kind of colour vision; each line has its own marker too.
_METHOD_STYLE = {
    "mean_diff": ("#0072B2", "o"),
    "probe": ("#D55E00", "s"),
    "ica": ("#009E73", "^"),
    "gradient": ("#CC79A7", "D"),
}
_SIDE_COLOUR = {"neg": "#0072B2", "neutral": "#888888", "pos": "#D55E00"}
_CONTROL_STYLE = ("--", "-.", ":", (0, (1, 3)))


def auroc_by_layer(result: Sweep) -> str:
    """SVG of held-out AUROC against layer, a line per method, the controls as level lines."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _canvas(8.6, 4.2)
    for method in dict.fromkeys(v.method for v in result.vectors):
        measured = [v for v in result.vectors if v.method == method and v.metrics is not None]
        layers = [v.layer for v in measured]
        values = [v.metrics.auroc.value for v in measured if v.metrics]
        colour, marker = _METHOD_STYLE.get(method, ("#000000", "x"))
        axes.plot(layers, values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=method)
    best = result.best
    if best.metrics is not None:
        interval = best.metrics.auroc
        reach = [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]
        axes.errorbar([best.layer], [interval.value], yerr=reach, color="#000000", capsize=4, linewidth=1.2, zorder=5)
        axes.plot([best.layer], [interval.value], "o", mfc="none", mec="#000000", markersize=12, label="chosen")
    levels = {control.name: control.auroc for control in result.controls}
    if result.shuffled is not None:
        levels["shuffled labels"] = result.shuffled.mean
    for (name, level), style in zip(levels.items(), _CONTROL_STYLE, strict=False):
        axes.axhline(level, color="#555555", linestyle=style, linewidth=1, label=f"{name} ({level:.2f})")
    axes.set(xlabel="layer", ylabel="held-out AUROC", ylim=(min(0.4, *axes.get_ylim()), 1.02))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _svg(figure)


def score_histograms(scores: Mapping[str, Tensor]) -> str:
    """SVG of the distribution of centred scores of each side ("neg", "neutral", "pos"), on common bins."""
    import numpy as np

    figure, axes = _canvas(8.6, 3.4)
    known = {side: values[~values.isnan()].numpy() for side, values in scores.items() if len(values)}
    everything = np.concatenate(list(known.values()))
    bins = np.histogram_bin_edges(everything, bins=min(40, max(8, len(everything) // 5)))
    for side, values in known.items():
        colour = _SIDE_COLOUR[side]
        filled = side != "neutral"
        axes.hist(
            values, bins=bins.tolist(), color=colour, alpha=0.45 if filled else 1.0, label=f"{side} ({len(values)})",
            histtype="stepfilled" if filled else "step", linewidth=1.6,
        )  # fmt: skip
    axes.axvline(0, color="#000000", linewidth=1, linestyle="--")
    axes.set(xlabel="centred score, in distances between the class means", ylabel="responses")
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def matrix_picture(path: Path, tables: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> None:
    """Write a PNG of square tables side by side, each with its numbers; NaN cells are left blank.

    Args:
        path: where to.
        tables: rows of numbers by title, rows and columns in the order of ``names``.
        names: of rows (vectors) and columns.
    """
    import numpy as np
    from matplotlib.figure import Figure

    side = max(3.0, 0.62 * len(names) + 1.2)
    figure = Figure(figsize=(side * len(tables) + 1.6, side + 0.9), layout="constrained")
    for i, (title, table) in enumerate(tables.items()):
        axes = figure.add_subplot(1, len(tables), i + 1)
        values = np.array(table, dtype=float)
        low, high = (-1.0, 1.0) if (values < 0).any() else (0.0, 1.0)
        axes.imshow(values, vmin=low, vmax=high, cmap="RdBu_r")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                faint = abs(value - (low + high) / 2) > 0.36 * (high - low)
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="w" if faint else "k"
                )
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel("vector of", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element with the same bytes each time."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "traitlens", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
