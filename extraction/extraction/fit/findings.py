"""What the figures of a trait's vectors come to, in words."""

from __future__ import annotations

from extraction.fit.results import Sweep


def headline(trait: str, result: Sweep) -> str:
    """One line: the chosen vector, its figure, the best control."""
    best = f"{trait}: {result.best.method} at layer {result.best.layer}"
    if result.nested is None:
        return f"{best}, not measured: {_why_unmeasured(result)}"
    against = result.best.against_neutral
    ordinary = "" if against is None else f", against neutral text {against.auroc}"
    strongest = max(result.controls, key=lambda control: control.auroc, default=None)
    beside = f"; best control: {strongest.name} {strongest.auroc:.2f}" if strongest else ""
    return f"{best}, held-out AUROC {result.nested}{ordinary}{beside}"


def _why_unmeasured(result: Sweep) -> str:
    if result.best.metrics is None:
        return "nothing could be held out"
    return (
        "with two questions or two instruction pairs none are left to choose by "
        f"(the {result.best.metrics.auroc.value:.2f} of this vector is the best of {len(result.vectors)}, optimistic)"
    )


def doubts_about(result: Sweep) -> list[str]:
    """Plain reasons not to trust the chosen vector, [] where there are none."""
    found = []
    if result.nested is None:
        found.append(f"{_why_unmeasured(result)}, so nothing says how good the vector is")
    elif result.nested.low <= 0.5:
        found.append(f"the vector reads held-out responses no better than chance ({result.nested})")
    if result.best.thresholds is not None and "everyday" not in result.best.thresholds.kinds:
        found.append(
            "no everyday text was captured, so verdicts keep their rate on answers to the traits' questions alone"
        )
    for control in result.controls:
        if control.advantage.value <= 0:
            found.append(f"{control.name} alone separates these responses as well ({control.auroc:.2f})")
        elif control.advantage.low <= 0:
            found.append(f"the lead over {control.name} alone ({control.auroc:.2f}) could be chance")
    if result.random is not None and result.nested is not None and result.random.high >= result.nested.value:
        found.append(f"one in twenty random directions reads as well ({result.random.high:.2f})")
    if result.shuffled is not None and abs(result.shuffled.mean - 0.5) > 0.1:
        found.append(
            f"shuffled labels read {result.shuffled.mean:.2f} where 0.5 is right: examples are not independent"
        )
    if result.best.extras.get("converged") is False:
        found.append(f"{result.best.method} did not converge")
    return found
