"""The two classes that a trait's vectors are fitted to: filtered responses, their activations, and what to hold out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traitlens.folds import Folds, make_folds
from utils.activation_files import ActivationsFile, read_activations
from utils.errors import DefinitionError, MissingInputError, UserError
from utils.records import DEFAULT_THRESHOLD, Polarity, Response
from utils.store import TraitFolder

if TYPE_CHECKING:
    from torch import Tensor

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
        folds: what is held out together, positive examples first.
    """

    file: ActivationsFile
    rows: dict[Polarity, list[int]]
    counts: dict[Polarity, dict[str, int]]
    threshold: float | None
    folds: Folds

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
        import torch

        return torch.arange(sum(map(len, self.rows.values()))) < len(self.rows["pos"])

    @property
    def n_response_tokens(self) -> Tensor:
        """Length of each example's response in tokens: float64 [n]."""
        import torch

        lengths = self.file.info.n_response_tokens
        return torch.tensor([lengths[side][row] for side in SIDES for row in self.rows[side]], dtype=torch.float64)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Activations of the positive and of the negative examples at a layer: float32 [n, hidden] each."""
        return self.file.layer("pos", layer)[self.rows["pos"]], self.file.layer("neg", layer)[self.rows["neg"]]


def read_contrast(folder: TraitFolder, threshold: float | None, n_folds: int, seed: int) -> Contrast:
    """The examples of a trait that its scores confirm.

    Args:
        folder: the trait.
        threshold: score that a positive response needs; by default the one of stage 1, else 50.
        n_folds: groups to hold out per axis.
        seed: for dealing questions to groups.

    Raises:
        UserError: no example of a side is left; says how many were lost to what.
    """
    file = read_activations(folder)
    judged = any(r.trait_score is not None for side in SIDES for r in file.responses[side])
    used = _threshold_of(folder, threshold) if judged else None
    if not judged:
        logger.info("%s: responses were not judged; all of them are used", folder.trait)
    rows: dict[Polarity, list[int]] = {}
    counts: dict[Polarity, dict[str, int]] = {}
    for side in SIDES:
        verdicts = [True if used is None else r.shows(side, used) for r in file.responses[side]]
        rows[side] = [i for i, verdict in enumerate(verdicts) if verdict]
        unscored = sum(r.trait_score is None for r in file.responses[side])
        counts[side] = {
            "read": len(verdicts), "used": len(rows[side]), "dropped": verdicts.count(False), "unscored": unscored,
        }  # fmt: skip
    _check_not_empty(folder, counts, used)
    examples = [(side, file.responses[side][i]) for side in SIDES for i in rows[side]]
    return Contrast(file, rows, counts, used, _folds(folder, examples, n_folds, seed))


def _threshold_of(folder: TraitFolder, threshold: float | None) -> float:
    if threshold is not None:
        return threshold
    recorded = folder.read_responses_metadata().get("threshold")
    return float(recorded) if isinstance(recorded, int | float) else DEFAULT_THRESHOLD


def _check_not_empty(folder: TraitFolder, counts: dict[Polarity, dict[str, int]], threshold: float | None) -> None:
    empty = [side for side in SIDES if counts[side]["used"] == 0]
    if not empty:
        return
    found = "; ".join(
        f"{side}: {c['read']} responses, {c['dropped']} against the threshold, {c['unscored']} unscored"
        for side, c in counts.items()
    )
    shown = "without a threshold" if threshold is None else f"at --threshold {threshold:g}"
    raise UserError(
        f"{folder.trait}: no {' and no '.join(empty)} example is left {shown} ({found}). "
        f"Lower --threshold, or judge again. {folder.command('1_generate_responses.py')} --judge_only"
    )


def _folds(folder: TraitFolder, examples: Sequence[tuple[Polarity, Response]], n_folds: int, seed: int) -> Folds:
    questions = [response.question for _, response in examples]
    if len(set(questions)) == 1:
        logger.warning("%s: all responses answer one question, so none can be held out", folder.trait)
    return make_folds(questions, _instruction_pairs(folder, examples), n_folds, seed)


def _instruction_pairs(folder: TraitFolder, examples: Sequence[tuple[Polarity, Response]]) -> list[int]:
    """Number of each example's instruction pair in the definition; texts it lacks are paired in order of appearance."""
    try:
        pairs = folder.read_definition().instruction
    except (MissingInputError, DefinitionError):  # the activations do not need one
        pairs = ()
    known = {side: {getattr(pair, side): i for i, pair in enumerate(pairs)} for side in SIDES}
    numbers = []
    for side, response in examples:
        texts = known[side]
        numbers.append(texts.setdefault(response.instruction, len(texts)))
    return numbers
