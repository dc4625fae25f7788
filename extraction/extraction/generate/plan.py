"""What stage 1 asks: every question under every instruction of each side, and once without any for neutral text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from extraction.generate.settings import GenerationSettings
from utils.formats.files import sha256_of_texts
from utils.records import POLARITIES, Polarity, TraitDefinition


@dataclass(frozen=True)
class Ask:
    """One planned response: its side, its row in that side's file, and what is asked."""

    polarity: Polarity
    row: int
    question: str
    instruction: str


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
