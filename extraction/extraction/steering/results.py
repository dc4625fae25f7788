"""What a causal check found: answers under doses of a direction, their effect and their price."""

from __future__ import annotations

import math
from dataclasses import dataclass

from traitlens import DoseResponse
from utils.records import TraitVector


@dataclass(frozen=True)
class Answer:
    """One answer under one dose, as the unsteered model sees it; None where it is empty or unscored.

    Attributes:
        readout: mean centred score of its tokens at the reading layer, in distances of the class means.
        judged: the judge's score, 0-100.
        surprise: mean negative log-likelihood of its tokens, in nats.
        n_tokens: how many tokens it has.
    """

    question: str
    text: str
    readout: float | None
    judged: float | None
    surprise: float | None
    n_tokens: int


@dataclass(frozen=True)
class Series:
    """What one direction did in all doses.

    Attributes:
        direction: "vector" or "random".
        doses: in typical norms, ascending.
        answers: per dose, one per question.
        effect: the readout's dose-response.
        judged_effect: the judge's, None without a judge or scores.
    """

    direction: str
    doses: tuple[float, ...]
    answers: tuple[tuple[Answer, ...], ...]
    effect: DoseResponse
    judged_effect: DoseResponse | None

    def perplexities(self) -> list[float | None]:
        """Perplexity of all tokens of a dose's answers under the unsteered model, per dose; None without tokens."""
        return [_perplexity(answers) for answers in self.answers]


def _perplexity(answers: tuple[Answer, ...]) -> float | None:
    known = [(a.surprise * a.n_tokens, a.n_tokens) for a in answers if a.surprise is not None]
    return math.exp(sum(s for s, _ in known) / sum(n for _, n in known)) if known else None


@dataclass(frozen=True)
class CausalCheck:
    """The whole check of one vector.

    Attributes:
        vector: what was added.
        reader: what read the answers, at another layer.
        typical_norm: median norm of the states of unsteered answer tokens at the steered layer.
        series: of the vector, then of the random direction where there is one.
    """

    vector: TraitVector
    reader: TraitVector
    typical_norm: float
    series: tuple[Series, ...]
