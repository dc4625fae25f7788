"""What a causal check showed: lines and warnings."""

from __future__ import annotations

from extraction.steering.damage import perplexity, repetition
from extraction.steering.results import CausalCheck, Verdict
from traitlens import DoseResponse


def verdict_in_words(verdict: Verdict) -> str:
    """Such as "causal (p = 0.05, 0 of 19 random directions are as strong): …"."""
    word = {True: "causal", False: "not shown to be causal", None: "undecided"}[verdict.causal]
    if verdict.p_value is not None:
        compared = f"{verdict.n_as_strong} of {verdict.n_controls} random directions are as strong"
        word += f" (p = {verdict.p_value:.2g}, {compared})"
    return f"{word}: {verdict.reason}"


def findings(result: CausalCheck) -> list[str]:
    """Lines: the verdict, the judge's where there is one, how far the trait follows the dose, at what price."""
    lines = [verdict_in_words(result.verdict)]
    if (judged := result.judged_verdict) is not None:
        points = f"; {_slope(judged.push.both)} points per dose of one activation norm" if judged.push else ""
        lines.append(f"by the judge {verdict_in_words(judged)}{points}")
    vector, reader = result.vector, result.reader
    where = f"steered by {vector.method} at layer {vector.layer}, read by {reader.method} at layer {reader.layer}"
    if (push := result.verdict.push) is not None:
        right = round(push.both.share_right * push.both.n_prompts)
        where += (
            f", at dose {push.dose:g}: {_slope(push.both)} class distances per dose of one activation norm, "
            f"{_slope(push.added)} by adding, {_slope(push.subtracted)} by subtracting; "
            f"{right} of {push.both.n_prompts} questions move the right way"
        )
    answers = result.series[0].answers
    price = "perplexity " + _by_dose({dose: perplexity(texts) for dose, texts in answers.items()}, ".1f")
    loops = "repeated 4-grams " + _by_dose({dose: repetition(texts) for dose, texts in answers.items()}, ".0%")
    return [f"{vector.trait}: {line}" for line in (*lines, where, f"{price}; {loops}")]


def doubts_about(result: CausalCheck) -> list[str]:
    """What speaks against reading the effect as the trait's, where the verdict does not say it."""
    main = result.series[0]
    found = [
        f"at dose {dose:+g} {damage}: read those answers as damage"
        for dose, damage in main.damage.items()
        if damage is not None
    ]
    if main.deciding_dose is None:
        found.append("no dose left the text whole in both directions: give smaller --coefficients")
    judged = result.judged_verdict
    if judged is not None and result.verdict.causal and judged.causal is False:
        found.append("the judge does not see what the reader sees: look at the answers")
    return found


def _slope(effect: DoseResponse) -> str:
    interval = "no interval" if effect.low is None else f"{effect.low:+.2f} to {effect.high:+.2f}"
    return f"{effect.slope:+.2f} ({interval})"


def _by_dose(values: dict[float, float | None], form: str) -> str:
    return ", ".join(f"{'none' if v is None else format(v, form)} at {dose:+g}" for dose, v in values.items())
