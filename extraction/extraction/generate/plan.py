"""What stage 1 asks: every question under every instruction of each side, and once without any for neutral text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from extraction.cli import check_range
from utils.formats.files import sha256_of_texts
from utils.models.generation import Sampling
from utils.records import POLARITIES, Polarity, TraitDefinition


@dataclass(frozen=True)
class Ask:
    """One planned response: its side, its row in that side's file, and what is asked."""

    polarity: Polarity
    row: int
    question: str
    instruction: str


@dataclass(frozen=True)
class GenerationSettings:
    """What decides the text of the responses, besides the model and the definition."""

    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 64
    seed: int = 0
    n_questions: int | None = None
    n_instructions: int | None = None

    def __post_init__(self) -> None:
        check_range("max_new_tokens", self.sampling.max_new_tokens, 1)
        check_range("temperature", self.sampling.temperature, 0)
        check_range("top_p", self.sampling.top_p, 1e-6, 1)
        check_range("batch_size", self.batch_size, 1)
        check_range("n_questions", self.n_questions, 1)
        check_range("n_instructions", self.n_instructions, 1)


def plan(definition: TraitDefinition, settings: GenerationSettings) -> list[Ask]:
    """All responses to make, side by side in the order of the files: by instruction, then by question."""
    questions = definition.questions[: settings.n_questions]
    pairs = definition.instruction[: settings.n_instructions]
    instructions: dict[Polarity, list[str]] = {
        "pos": [p.pos for p in pairs], "neg": [p.neg for p in pairs], "neutral": [""]
    }  # fmt: skip
    return [
        Ask(polarity, row, question, instruction)
        for polarity in POLARITIES
        for row, (instruction, question) in enumerate((i, q) for i in instructions[polarity] for q in questions)
    ]


def fingerprint(
    definition: TraitDefinition, settings: GenerationSettings, source: Mapping[str, object]
) -> dict[str, object]:
    """What two runs must share for one to continue the other, as JSON values."""
    texts = [t for pair in definition.instruction for t in (pair.pos, pair.neg)] + list(definition.questions)
    return {**source, **asdict(settings), "definition_sha256": sha256_of_texts(texts)}
