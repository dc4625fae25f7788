"""The two classes that a trait's vectors are fitted to: filtered responses, their activations, and what to hold out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from extraction.fit.ordinary import Ordinary, read_ordinary
from traitlens.validation.folds import Folds, make_folds
from utils.definition import definition_behind
from utils.errors import DefinitionError, MissingInputError, UserError
from utils.experiment import TraitFolder
from utils.formats.activation_files import Activations, read_activations
from utils.formats.response_files import read_responses_metadata
from utils.formats.vector_metadata import CountsRecord
from utils.records import DEFAULT_THRESHOLD, InstructionPair, Polarity, Response

logger = logging.getLogger(__name__)

SIDES: tuple[Polarity, Polarity] = ("pos", "neg")


@dataclass(frozen=True)
class Contrast:
    """Positive and negative examples of one trait, as they passed the filter.

    Attributes:
        file: the trait's activations.
        rows: activation rows that are used, per side.
        counts: responses read, used, dropped by the threshold, and unscored, per side.
        threshold: the score that a positive response needs; negative ones need its mirror. None where nothing was
            judged.
        ordinary: text that shows neither side.
        all_folds: what is held out together: positive examples, negative ones, then the ordinary text fitted against.
    """

    file: Activations
    rows: dict[Polarity, list[int]]
    counts: Mapping[str, CountsRecord]
    threshold: float | None
    ordinary: Ordinary
    all_folds: Folds

    @property
    def folds(self) -> Folds:
        """What is held out together, of the positive and the negative examples."""
        return self.all_folds.part(torch.arange(len(self.labels)))

    @property
    def trait(self) -> str:
        """The trait's name."""
        return self.file.folder.trait

    @property
    def responses(self) -> list[Response]:
        """The responses behind the examples, positive ones first."""
        return [self.file.responses[side][row] for side in SIDES for row in self.rows[side]]

    @property
    def labels(self) -> Tensor:
        """True for positive examples: bool [n]."""
        return torch.arange(sum(map(len, self.rows.values()))) < len(self.rows["pos"])

    @property
    def all_labels(self) -> Tensor:
        """The same with ordinary text, which is false: bool [n]."""
        return torch.nn.functional.pad(self.labels, (0, len(self.ordinary.questions)))

    @property
    def is_neutral(self) -> Tensor:
        """True for ordinary text: bool [n]."""
        return torch.arange(len(self.all_labels)) >= len(self.labels)

    @property
    def n_response_tokens(self) -> Tensor:
        """Length of each example's response in tokens: float64 [n]."""
        lengths = self.file.info.n_response_tokens
        return torch.tensor([lengths[side][row] for side in SIDES for row in self.rows[side]], dtype=torch.float64)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Activations of the positive and of the negative examples at a layer: float32 [n, hidden] each."""
        return self.file.layer("pos", layer)[self.rows["pos"]], self.file.layer("neg", layer)[self.rows["neg"]]


def read_contrast(
    folder: TraitFolder, threshold: float | None, n_folds: int, seed: int, *, fit_against_neutral: bool = True
) -> Contrast:
    """The examples of a trait that its scores confirm.

    Args:
        folder: the trait.
        threshold: score that a positive response needs; by default the one of stage 1, else 50.
        n_folds: groups to hold out per axis.
        seed: for dealing questions to groups.
        fit_against_neutral: whether ordinary text is a part of the negative side.

    Raises:
        UserError: no example of a side is left; says how many were lost to what.
    """
    file = read_activations(folder)
    judged = any(r.trait_score is not None for side in SIDES for r in file.responses[side])
    used = _threshold_of(folder, threshold) if judged else None
    if not judged:
        logger.info("%s: responses were not judged; all of them are used", folder.trait)
    rows: dict[Polarity, list[int]] = {}
    counts: dict[str, CountsRecord] = {}
    for side in SIDES:
        verdicts = [True if used is None else r.shows(side, used) for r in file.responses[side]]
        rows[side] = [i for i, verdict in enumerate(verdicts) if verdict]
        unscored = sum(r.trait_score is None for r in file.responses[side])
        counts[side] = CountsRecord(len(verdicts), len(rows[side]), verdicts.count(False), unscored)
    _check_not_empty(folder, counts, used)
    ordinary = read_ordinary(file, used, fit_against=fit_against_neutral)
    return Contrast(file, rows, counts, used, ordinary, _folds(file, rows, ordinary, n_folds, seed))


def _threshold_of(folder: TraitFolder, threshold: float | None) -> float:
    if threshold is not None:
        return threshold
    recorded = read_responses_metadata(folder).get("threshold")
    return float(recorded) if isinstance(recorded, int | float) else DEFAULT_THRESHOLD


def _check_not_empty(folder: TraitFolder, counts: Mapping[str, CountsRecord], threshold: float | None) -> None:
    empty = [side for side in SIDES if not counts[side].used]
    if not empty:
        return
    found = "; ".join(
        f"{side}: {c.read} responses, {c.dropped} against the threshold, {c.unscored} unscored"
        for side, c in counts.items()
    )
    shown = "without a threshold" if threshold is None else f"at --threshold {threshold:g}"
    raise UserError(
        f"{folder.trait}: no {' and no '.join(empty)} example is left {shown} ({found}). "
        f"Lower --threshold, or judge again. {folder.command(1)} --judge_only"
    )


def _folds(file: Activations, rows: dict[Polarity, list[int]], ordinary: Ordinary, n_folds: int, seed: int) -> Folds:
    trait = file.folder.trait
    units = _instruction_units(file)
    questions = [file.responses[side][i].question for side in SIDES for i in rows[side]]
    instructions = [units[side][i] for side in SIDES for i in rows[side]]
    if len(set(questions)) == 1:
        logger.warning("%s: all responses answer one question, so none can be held out", trait)
    texts = {side: {file.responses[side][i].instruction for i in rows[side]} for side in SIDES}
    if len(set(instructions)) == 1 and max(map(len, texts.values())) > 1:
        logger.warning("%s: the instruction pairs share texts, so only questions are held out", trait)
    # Ordinary text answers no instruction: it is dealt out over them, so that each fit has as much of it.
    beside = [instructions[i % len(instructions)] for i in range(len(ordinary.questions))]
    return make_folds([*questions, *ordinary.questions], [*instructions, *beside], n_folds, seed)


def _instruction_units(file: Activations) -> dict[Polarity, list[int]]:
    """What is held out together with each response, per side: its instruction pair and those that share a text with it.

    Texts that the definition lacks are paired in order of appearance, or are one unit where the sides' numbers differ.
    """
    try:
        pairs = definition_behind(file.folder, file.info.responses_from).instruction
    except (MissingInputError, DefinitionError):  # the activations do not need one
        pairs = ()
    known = _units_of_pairs(pairs)
    texts = {side: [response.instruction for response in file.responses[side]] for side in SIDES}
    unknown = {side: [text for text in dict.fromkeys(texts[side]) if text not in known[side]] for side in SIDES}
    paired = len(unknown["pos"]) == len(unknown["neg"])
    for side in SIDES:
        known[side] |= {text: len(pairs) + (i if paired else 0) for i, text in enumerate(unknown[side])}
    return {side: [known[side][text] for text in texts[side]] for side in SIDES}


def _units_of_pairs(pairs: Sequence[InstructionPair]) -> dict[Polarity, dict[str, int]]:
    """Unit of each text, per side: pairs that share a text, directly or through others, are one."""
    unit = list(range(len(pairs)))
    for side in SIDES:
        first: dict[str, int] = {}
        for i, pair in enumerate(pairs):
            joined = unit[first.setdefault(getattr(pair, side), i)]
            unit = [joined if number == unit[i] else number for number in unit]
    return {side: {getattr(pair, side): unit[i] for i, pair in enumerate(pairs)} for side in SIDES}
