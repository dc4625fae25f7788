"""Ordinary text: responses that show neither a trait nor its opposite, to fit against and to hold verdicts against."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import ACTIVATIONS
from utils.formats.activation_files import Activations, read_activations
from utils.records import DEFAULT_THRESHOLD

logger = logging.getLogger(__name__)

EVERYDAY, NEUTRAL = "everyday", "neutral"


@dataclass(frozen=True)
class Part:
    """Neutral responses of one file of activations.

    Attributes:
        kind: what they are: everyday text, or neutral answers to a trait's questions.
        file: the activations.
        rows: which of the file's neutral rows.
    """

    kind: str
    file: Activations
    rows: list[int]

    @property
    def questions(self) -> list[str]:
        """What each answers."""
        return [self.file.responses["neutral"][row].question for row in self.rows]

    @property
    def n_tokens(self) -> list[int]:
        """Their lengths."""
        return [self.file.info.n_response_tokens["neutral"][row] for row in self.rows]

    def layer(self, layer: int) -> Tensor:
        """Their activations at a layer: float32 [n, hidden]."""
        return self.file.layer("neutral", layer)[self.rows]


@dataclass(frozen=True)
class Ordinary:
    """A trait's ordinary text.

    Attributes:
        fitted: what vectors are fitted against; everyday text, and the trait's own neutral responses.
        unseen: what only verdicts are held against; the neutral responses of the experiment's other traits.
        left_out: own neutral responses whose score says that they show the trait, or that have none.
    """

    fitted: list[Part]
    unseen: list[Part]
    left_out: int

    @property
    def questions(self) -> list[Hashable]:
        """The questions of what is fitted against."""
        return [question for part in self.fitted for question in part.questions]

    @property
    def kinds(self) -> list[str]:
        """The kind of each response, fitted first."""
        return [part.kind for part in (*self.fitted, *self.unseen) for _ in part.rows]

    @property
    def n_tokens(self) -> Tensor:
        """The length of each response, fitted first: float64 [n]."""
        lengths = [n for part in (*self.fitted, *self.unseen) for n in part.n_tokens]
        return torch.tensor(lengths, dtype=torch.float64)

    def fitted_at(self, layer: int) -> Tensor | None:
        """Activations of what is fitted against: float32 [n, hidden]; None where there is nothing."""
        return torch.cat([part.layer(layer) for part in self.fitted]) if self.fitted else None

    def unseen_at(self, layer: int) -> Tensor | None:
        """Activations of what no fit sees: float32 [n, hidden]; None where there is nothing."""
        return torch.cat([part.layer(layer) for part in self.unseen]) if self.unseen else None

    def within_at(self, layer: int, own: Activations) -> Tensor:
        """How states move within the trait's own responses and everyday ones: float32 [m, hidden]."""
        everyday = [p.file for p in (*self.fitted, *self.unseen) if p.kind == EVERYDAY]
        return torch.cat([file.within(layer) for file in (own, *everyday)])


def read_ordinary(file: Activations, threshold: float | None, *, fit_against: bool) -> Ordinary:
    """The ordinary text that a trait's experiment holds.

    Args:
        file: the trait's own activations.
        threshold: score that a positive response needs; None where nothing was judged. Unless it is 0, neutral
            responses that score 50 or more show the trait and are left out.
        fit_against: whether vectors are fitted against it, and not only measured.
    """
    scores = [response.trait_score for response in file.responses["neutral"]]
    all_of_them = not threshold  # nothing was judged, or --threshold 0 says that scores decide nothing
    rows = [i for i, score in enumerate(scores) if all_of_them or (score is not None and score < DEFAULT_THRESHOLD)]
    if left_out := len(scores) - len(rows):
        logger.warning(
            "%s: %d of %d neutral responses show the trait (score %g or more) or have no score; they are left out",
            file.folder.trait, left_out, len(scores), DEFAULT_THRESHOLD,
        )  # fmt: skip
    own = [Part(NEUTRAL, file, rows)] if rows else []
    everyday = [Part(EVERYDAY, e, list(range(len(e.responses["neutral"])))) for e in _everyday(file)]
    others = [Part(NEUTRAL, other, list(range(len(other.responses["neutral"])))) for other in _other_traits(file)]
    others = [part for part in others if part.rows]
    return (
        Ordinary([*own, *everyday], others, left_out)
        if fit_against
        else Ordinary([], own + everyday + others, left_out)
    )


def _everyday(file: Activations) -> list[Activations]:
    folder = file.folder.experiment.everyday
    if not (folder.root / ACTIVATIONS).exists():
        return []
    everyday = read_activations(folder)
    if differs := _difference(file, everyday):
        raise UserError(f"everyday text was captured with another {differs}. {file.folder.command(2)}")
    return [everyday]


def _other_traits(file: Activations) -> list[Activations]:
    """The activations of the experiment's other traits, as far as they can stand beside this one's."""
    found = []
    for folder in file.folder.experiment.traits_with(ACTIVATIONS):
        if folder != file.folder:
            try:
                other = read_activations(folder)
            except (MissingInputError, DamagedFileError, UserError) as error:
                logger.warning("%s: neutral text of %s is left out: %s", file.folder.trait, folder.trait, error)
                continue
            if _difference(file, other) is None:
                found.append(other)
    return found


def _difference(file: Activations, other: Activations) -> str | None:
    """What keeps activations from standing beside a trait's, in a word; None where nothing does."""
    mine, theirs = file.info, other.info
    for what in ("model", "revision", "template_hash"):
        if getattr(mine, what) != getattr(theirs, what):
            return what
    return None if set(mine.layers) <= set(theirs.layers) else "choice of layers"
