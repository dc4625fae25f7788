"""How far a judge's scores agree with what was intended, and what to do where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from utils.records import Polarity, Response

LOW_AUROC = 0.6
LOW_CONTRAST = 20.0


def auroc_of(pos: Sequence[float], neg: Sequence[float]) -> float | None:
    """The chance that a positive example scores above a negative one, ties counting half; None where a side is empty.

    >>> auroc_of([80.0, 50.0], [50.0, 10.0])
    0.875
    """
    import torch

    from traitlens.validation.evaluation import auroc

    if not pos or not neg:
        return None
    labels = torch.tensor([True] * len(pos) + [False] * len(neg))
    return auroc(torch.tensor([*pos, *neg], dtype=torch.float64), labels)


def agreement(sides: Mapping[Polarity, Sequence[Response]], threshold: float) -> dict[str, Any]:
    """Counts, means, AUROC and contrast of scored responses; figures that need both sides are None without them."""
    scores = {side: [r.trait_score for r in sides[side] if r.trait_score is not None] for side in sides}
    means = {side: fmean(values) if values else None for side, values in scores.items()}
    pos, neg = means["pos"], means["neg"]
    methods = Counter(r.judge_method for responses in sides.values() for r in responses if r.trait_score is not None)
    return {
        "methods": dict(methods),
        "scored": {side: len(scores[side]) for side in sides},
        "unscored": {side: len(sides[side]) - len(scores[side]) for side in sides},
        "auroc": auroc_of(scores["pos"], scores["neg"]),
        "contrast": None if pos is None or neg is None else pos - neg,
        **{f"mean_{side}": mean for side, mean in means.items()},
        "threshold": threshold,
        "kept": {side: sum(r.shows(side, threshold) is True for r in sides[side]) for side in ("pos", "neg")},
    }


def warnings_about(report: Mapping[str, Any]) -> list[str]:
    """What a user should know before going on, with remedies."""
    warnings = []
    auroc, contrast = report["auroc"], report["contrast"]
    if auroc is None:
        empty = [side for side in ("pos", "neg") if not report["scored"][side]]
        warnings.append(f"no {' and no '.join(empty)} response has a score, so the judge cannot be checked")
    elif auroc < LOW_AUROC:
        warnings.append(
            f"this judge cannot tell the sides apart (AUROC {auroc:.2f}): use another --judge_model with --judge_only, "
            "or keep all scored responses with --threshold 0"
        )
    if contrast is not None and contrast < LOW_CONTRAST:
        warnings.append(
            f"contrast is low ({contrast:.1f}): strengthen the trait's instructions, keep clearer responses only "
            "(for example --threshold 60), or try another extraction method (probe often does better than mean_diff)"
        )
    return warnings
