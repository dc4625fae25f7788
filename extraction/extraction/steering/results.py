"""What a causal check found: answers under doses of directions, and the verdict on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from traitlens import DoseResponse
from utils.records import TraitVector


@dataclass(frozen=True)
class Answer:
    """One answer under one dose, as the unsteered model sees it; None where it is empty or unscored.

    Attributes:
        readout: mean centred score of its tokens at the reading layer, in distances of the class means.
        judged: the judge's score, 0-100.
        surprise: mean negative log-likelihood of its tokens, in nats.
        repeated: share of its 4-grams that it has held before; None under four tokens.
        n_tokens: how many tokens it has.
    """

    question: str
    text: str
    readout: float | None
    judged: float | None
    surprise: float | None
    repeated: float | None
    n_tokens: int


@dataclass(frozen=True)
class Series:
    """What one direction did.

    Attributes:
        direction: "vector" or "random".
        answers: by dose in typical norms, ascending and with 0 among them; one per question.
        damage: by dose, what is wrong with the text in words; None where it is whole.
    """

    direction: Literal["vector", "random"]
    answers: Mapping[float, tuple[Answer, ...]]
    damage: Mapping[float, str | None]

    @property
    def deciding_dose(self) -> float | None:
        """The largest dose whose text is whole both when it is added and when it is subtracted; None without one."""
        whole = {dose for dose, damage in self.damage.items() if damage is None}
        return max((dose for dose in whole if dose > 0 and -dose in whole), default=None)


@dataclass(frozen=True)
class Push:
    """What one direction did to a readout at one dose, per typical norm.

    Attributes:
        dose: in typical norms.
        both: from the dose subtracted to the dose added.
        added: from no dose to the dose added.
        subtracted: from the dose subtracted to none; positive if the readout falls where the direction is subtracted.
    """

    dose: float
    both: DoseResponse
    added: DoseResponse
    subtracted: DoseResponse


@dataclass(frozen=True)
class Verdict:
    """Whether the model uses the direction, by one readout.

    Attributes:
        causal: None where it cannot be told.
        reason: in words.
        p_value: (1 + random directions as strong as the vector) / (1 + random directions); None without any.
        n_controls: how many random directions there were.
        n_as_strong: how many of them were as strong as the vector.
        push: what the vector did at the dose that decides; None where no dose left the text whole.
    """

    causal: bool | None
    reason: str
    p_value: float | None
    n_controls: int
    n_as_strong: int
    push: Push | None


@dataclass(frozen=True)
class CausalCheck:
    """The whole check of one vector.

    Attributes:
        vector: what was added.
        reader: what read the answers, at another layer.
        typical_norm: median norm of the states of unsteered answer tokens at the steered layer.
        series: of the vector, then of each random direction.
        verdict: by the reader.
        judged_verdict: by the judge's scores; None without a judge or scores.
    """

    vector: TraitVector
    reader: TraitVector
    typical_norm: float
    series: tuple[Series, ...]
    verdict: Verdict
    judged_verdict: Verdict | None
