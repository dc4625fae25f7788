"""What whole responses say of traits: their scores held against what is recorded with the vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from traitlens.validation.verdicts import LengthScale, Reference, ResponseThresholds, Verdict
from utils.records import TraitVector


def verdicts_on(trait_scores: Mapping[str, Sequence[float]], vectors: Mapping[str, TraitVector]) -> dict[str, Verdict]:
    """The verdict on a response for every trait whose vector knows what to hold it against.

    Args:
        trait_scores: raw scores of the response's tokens, by trait.
        vectors: those that they were made with, by trait.
    """
    found = {}
    for trait, scores in trait_scores.items():
        thresholds, baseline = response_thresholds(vectors[trait]), vectors[trait].baseline
        if thresholds is not None and baseline is not None:
            verdict = thresholds.verdict(torch.tensor(scores, dtype=torch.float64) - baseline)
            if verdict is not None:
                found[trait] = verdict
    return found


def response_thresholds(vector: TraitVector) -> ResponseThresholds | None:
    """What responses are held against on a vector, as its side-car records it; None where it does not."""
    record = vector.metadata.response_thresholds
    if record is None:
        return None
    kinds = {kind: Reference(r.n, r.tail, r.deciles) for kind, r in record.kinds.items()}
    return ResponseThresholds(LengthScale(record.centre, record.between, record.within), kinds, record.neutral)


def in_words(verdicts: Mapping[str, Mapping[str, object]]) -> str:
    """Verdicts as results hold them, in a line.

    >>> in_words({"refusal": {"p_value": 0.0042, "expressed": True}, "evil": {"p_value": 0.6, "expressed": False}})
    'refusal: yes (p = .004), evil: no (p = .6)'
    """
    return ", ".join(f"{trait}: {_word(verdict)}" for trait, verdict in verdicts.items())


def _word(verdict: Mapping[str, object]) -> str:
    expressed, p_value = verdict.get("expressed"), verdict.get("p_value")
    if expressed is None or not isinstance(p_value, float):
        return "not known"
    return f"{'yes' if expressed else 'no'} (p = {f'{p_value:.1g}'.removeprefix('0')})"
