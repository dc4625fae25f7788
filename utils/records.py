"""What goes from stage to stage: definition -> responses -> activations -> vectors -> monitored generations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

from utils.formats.vector_metadata import VectorMetadata

if TYPE_CHECKING:
    from torch import Tensor

Polarity = Literal["pos", "neg", "neutral"]
POLARITIES: tuple[Polarity, ...] = ("pos", "neg", "neutral")
Context = Literal["question", "full"]
StoredDtype = Literal["float16", "bfloat16", "float32"]
DEFAULT_THRESHOLD = 50.0
REFUSED = "refused"  # what the finish_reason of a response begins with that a server would not make


@dataclass(frozen=True)
class InstructionPair:
    """Two system prompts: one asks for the trait, one for its opposite."""

    pos: str
    neg: str


@dataclass(frozen=True)
class TraitDefinition:
    """What stage 1 needs to know of a trait."""

    trait: str
    instruction: tuple[InstructionPair, ...]
    questions: tuple[str, ...]
    eval_prompt: str


@dataclass(frozen=True)
class Response:
    """One answer of the model and what a judge made of it.

    Attributes:
        question: what was asked.
        instruction: the trait instruction in force, empty for neutral responses.
        prompt: the text that the model read.
        response: what it answered.
        trait_score: 0-100, None where no valid score was made.
        judge_method: how the score was made, empty where there is none.
        finish_reason: "stop" where the model ended its turn, "length" where it was cut, "refused: WHY" where a server
            would not let it answer, empty where unknown.
    """

    question: str
    instruction: str
    prompt: str
    response: str
    trait_score: float | None = None
    judge_method: str = ""
    finish_reason: str = ""

    @property
    def was_refused(self) -> bool:
        """Whether a server would not let the model answer."""
        return self.finish_reason.startswith(REFUSED)

    def shows(self, polarity: Polarity, threshold: float) -> bool | None:
        """Whether the score confirms the polarity: at least ``threshold`` for pos, at most its mirror for neg.

        None where there is no score. Neutral responses have nothing to confirm.

        >>> answer = Response("q", "", "q", "a", trait_score=70.0)
        >>> answer.shows("pos", 60), answer.shows("pos", 80), answer.shows("neg", 60)
        (True, False, False)
        """
        if polarity == "neutral":
            return True
        if self.trait_score is None:
            return None
        return self.trait_score >= threshold if polarity == "pos" else self.trait_score <= 100 - threshold


@dataclass(frozen=True)
class ActivationsInfo:
    """How activations were captured: enough to refuse the wrong model, and to fit vectors without it."""

    model: str
    revision: str | None
    model_dtype: str
    n_layers: int
    hidden_size: int
    layers: list[int]
    hook_points: dict[str, dict[str, str]]
    layer_convention: str
    context: Context
    pooling: str
    template_hash: str
    dtype: str
    batch_size: int
    batch_tokens: int
    responses_from: str
    rows: dict[str, list[int]]
    texts_sha256: dict[str, str]
    n_response_tokens: dict[str, list[int]]
    n_neutral_tokens: int
    versions: dict[str, str]
    n_windows: int = 0


@dataclass(frozen=True)
class TraitVector:
    """A direction with what it needs to be read: where, on what scale, and how far to trust it.

    Attributes:
        vector: float32 [hidden]; its norm is the distance of the class means along it.
        metadata: all that is known of it.
    """

    vector: Tensor
    metadata: VectorMetadata = field(repr=False)

    @property
    def trait(self) -> str:
        """What it reads."""
        return self.metadata.trait

    @property
    def method(self) -> str:
        """How it was found."""
        return self.metadata.method

    @property
    def layer(self) -> int:
        """Where it acts."""
        return self.metadata.layer

    @property
    def model(self) -> str:
        """The model that it is of."""
        return self.metadata.model

    @property
    def baseline(self) -> float | None:
        """Projection of the midpoint between the class means: above it a state is nearer the positive examples."""
        return self.metadata.baseline

    @property
    def thresholds(self) -> dict[str, float]:
        """Raw scores that 1 % and 5 % of neutral tokens exceed ("fpr_1", "fpr_5"); empty where unknown."""
        return self.metadata.neutral.thresholds if self.metadata.neutral else {}


class LayerScores(TypedDict):
    """Scores of a trait at several layers: of every layer its baseline and a score per token."""

    layers: list[int]
    baselines: list[float | None]
    scores: list[list[float]]


@dataclass(frozen=True)
class MonitoringRecord:
    """One monitored generation. ``utils.formats.results`` writes it as result files and the viewer have it.

    ``trait_scores[trait][k]`` is the raw projection of the state at ``tokens[k]``. ``thresholds`` are of single tokens,
    for tinting; ``verdicts`` are on the whole response (``traitlens.validation.verdicts.Verdict``).
    """

    prompt: str
    response: str
    tokens: list[str]
    trait_scores: dict[str, list[float]]
    baselines: dict[str, float | None] = field(default_factory=dict)
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    verdicts: dict[str, Mapping[str, object]] = field(default_factory=dict)
    model: str = ""
    layer: dict[str, int] = field(default_factory=dict)
    method: dict[str, str] = field(default_factory=dict)
    dynamics: dict[str, Mapping[str, object]] = field(default_factory=dict)
    layer_scores: dict[str, LayerScores] = field(default_factory=dict)
    prompt_tokens: list[str] = field(default_factory=list)
    prompt_trait_scores: dict[str, list[float]] = field(default_factory=dict)
    segments: list[Mapping[str, object]] = field(default_factory=list)
