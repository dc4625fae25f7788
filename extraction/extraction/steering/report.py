"""What a causal check showed: a line, warnings and a picture."""

from __future__ import annotations

from pathlib import Path

from extraction.steering.results import CausalCheck, Series
from utils.formats.files import replacing

_COLOUR = {"vector": "#D55E00", "random": "#555555"}
_MARKER = {"vector": "o", "random": "s"}
_COSTLY = 2.0  # times the unsteered perplexity: from there on the answers are another kind of text


def headline(result: CausalCheck) -> str:
    """One line: how far the trait follows the dose, for how many questions, and at what price."""
    vector, reader = result.vector, result.reader
    main = result.series[0]
    effect = main.effect
    right = round(effect.share_right * effect.n_prompts)
    parts = [
        f"{vector.trait}: steered by {vector.method} at layer {vector.layer}, read by {reader.method} at layer "
        f"{reader.layer}: {_slope(main)} class distances per dose of one activation norm",
        f"{right} of {effect.n_prompts} questions move the right way",
    ]
    if main.judged_effect is not None:
        judged = main.judged_effect
        parts.append(f"judge {judged.slope:+.1f} ({judged.low:+.1f} to {judged.high:+.1f}) points")
    parts += [f"random direction {_slope(series)}" for series in result.series[1:]]
    parts.append("perplexity " + _perplexities(main))
    return "; ".join(parts)


def doubts_about(result: CausalCheck) -> list[str]:
    """What speaks against reading the effect as the trait's."""
    main, found = result.series[0], []
    if main.effect.low <= 0 <= main.effect.high:
        found.append("the interval of the slope holds 0: no causal effect is shown")
    elif main.effect.slope < 0:
        found.append("the trait falls where the vector is added: the vector's sign does not mean what it says")
    for series in result.series[1:]:
        if abs(series.effect.slope) >= abs(main.effect.slope):
            found.append(f"a {series.direction} direction of the same length does as much")
    if costly := _costly_doses(main):
        doses = ", ".join(f"{dose:+g}" for dose in costly)
        found.append(
            f"at dose {doses} perplexity is over {_COSTLY:g} times the unsteered: read those answers as damage"
        )
    return found


def _slope(series: Series) -> str:
    effect = series.effect
    return f"{effect.slope:+.2f} ({effect.low:+.2f} to {effect.high:+.2f})"


def _perplexities(series: Series) -> str:
    pairs = zip(series.doses, series.perplexities(), strict=True)
    return ", ".join(f"{'none' if p is None else f'{p:.1f}'} at {dose:+g}" for dose, p in pairs)


def _costly_doses(series: Series) -> list[float]:
    by_dose = dict(zip(series.doses, series.perplexities(), strict=True))
    usual = by_dose[0.0]
    return [d for d, p in by_dose.items() if usual is not None and p is not None and p > _COSTLY * usual]


def draw(result: CausalCheck, path: Path) -> None:
    """Write the picture as PNG: readout against dose, question by question, and perplexity against dose."""
    import pandas as pd
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained", dpi=120)
    effect, price = figure.subplots(1, 2)
    for series in result.series:
        colour = _COLOUR[series.direction]
        readouts = pd.DataFrame([[a.readout for a in answers] for answers in series.answers], dtype=float)
        if series.direction == "vector":
            effect.plot(series.doses, readouts, color=colour, alpha=0.18, linewidth=0.8)
        label = f"{result.vector.trait} vector" if series.direction == "vector" else "random direction"
        style = {"color": colour, "marker": _MARKER[series.direction], "linewidth": 1.8, "label": label}
        effect.plot(series.doses, readouts.mean(axis=1), **style)
        price.plot(series.doses, pd.Series(series.perplexities(), dtype=float), **style)
    effect.axhline(0, color="#000000", linewidth=0.8, linestyle=":")
    effect.set(ylabel=f"readout at layer {result.reader.layer}, class distances", title="what it does")
    price.set(ylabel="perplexity, unsteered model", title="what it costs")
    for axes in (effect, price):
        axes.set_xlabel(f"dose at layer {result.vector.layer}, in activation norms")
        axes.legend(frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
