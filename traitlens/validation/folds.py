"""Which examples to hold out together, so that a figure is about questions and instructions never seen.

A random split of responses is no test: two responses to one question share its topic, and all responses under one
instruction share its wording, so whatever a fold holds out has a twin in training. Here questions are put into groups,
and so are instruction pairs where there are several. A cell is a question group crossed with an instruction group; the
vector that reads a cell is fitted to the examples that share neither with it. With one instruction (or none, as for
answers written by hand) only questions are held out. With one question nothing can be: no example has a held-out score.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Cell = tuple[int, int]
# What a fit leaves out: question groups and instruction groups.
Exclusion = tuple[frozenset[int], frozenset[int]]

# With both axes held out, more groups than this cost a fit for every pair of cells and win few training examples.
_MOST_CROSSED_GROUPS = 4


@dataclass(frozen=True)
class Folds:
    """Groups of examples that are held out together.

    Attributes:
        question_group: int64 [n].
        instruction_group: int64 [n], all 0 where instructions are not held out.
        question: int64 [n], the question itself; the unit that intervals rest on.
        instruction: int64 [n], the instruction pair itself.
    """

    question_group: Tensor
    instruction_group: Tensor
    question: Tensor
    instruction: Tensor

    @property
    def crossed(self) -> bool:
        """Whether instruction pairs are held out as well as questions."""
        return bool(self.instruction_group.any())

    @property
    def cells(self) -> list[Cell]:
        """Every combination of groups that has examples."""
        return sorted(set(zip(self.question_group.tolist(), self.instruction_group.tolist(), strict=True)))

    def test(self, cell: Cell) -> Tensor:
        """Examples in the cell: bool [n]."""
        return (self.question_group == cell[0]) & (self.instruction_group == cell[1])

    def exclusion(self, *cells: Cell) -> Exclusion:
        """What a fit must leave out to know nothing of these cells."""
        instructions = frozenset(cell[1] for cell in cells) if self.crossed else frozenset()
        return frozenset(cell[0] for cell in cells), instructions

    def train(self, exclusion: Exclusion) -> Tensor:
        """Examples that share no excluded group: bool [n]."""
        questions, instructions = (torch.tensor(sorted(groups), dtype=torch.int64) for groups in exclusion)
        return ~(torch.isin(self.question_group, questions) | torch.isin(self.instruction_group, instructions))

    def inner_cells(self, outer: Cell) -> Iterator[Cell]:
        """Cells whose examples share nothing with ``outer``: those to choose by when ``outer`` is held out."""
        for cell in self.cells:
            if cell[0] != outer[0] and (not self.crossed or cell[1] != outer[1]):
                yield cell

    def part(self, rows: Tensor) -> Folds:
        """The same groups for the examples ``rows`` alone, bool [n] or a slice of them."""
        return Folds(
            self.question_group[rows], self.instruction_group[rows], self.question[rows], self.instruction[rows]
        )

    def describe(self) -> str:
        """What is held out, in words."""
        questions = f"{len(set(self.question_group.tolist()))} groups of questions"
        return (
            f"{questions} x {len(set(self.instruction_group.tolist()))} of instruction pairs"
            if self.crossed
            else questions
        )


def make_folds(
    questions: Sequence[Hashable], instructions: Sequence[Hashable] | None = None, n_folds: int = 5, seed: int = 0
) -> Folds:
    """Folds that hold out whole questions, and whole instruction pairs where there are several.

    Args:
        questions: [n], the question of each example.
        instructions: [n], the instruction pair of each example (equal for the positive and the negative side of a
            pair).
        n_folds: groups per axis; at most 4 where both axes are held out.
        seed: for the order in which questions and instructions are dealt to groups.

    Raises:
        ValueError: lengths that differ, or fewer than two folds.

    >>> make_folds(["a", "a", "b", "c"], n_folds=3).describe()
    '3 groups of questions'
    """
    instructions = [""] * len(questions) if instructions is None else list(instructions)
    if len(instructions) != len(questions):
        raise ValueError(
            f"{len(questions)} questions but {len(instructions)} instructions: wanted one of each per example"
        )
    if n_folds < 2:
        raise ValueError(f"holding out questions needs at least 2 folds, got {n_folds}")
    crossed = len(set(instructions)) > 1
    n_groups = min(n_folds, _MOST_CROSSED_GROUPS) if crossed else n_folds
    return Folds(
        question_group=_dealt(questions, n_groups, seed),
        instruction_group=_dealt(instructions, n_groups, seed),
        question=_numbered(questions),
        instruction=_numbered(instructions),
    )


def _dealt(values: Sequence[Hashable], n_groups: int, seed: int) -> Tensor:
    """Group of each value [n]: distinct values are shuffled and dealt out, the most frequent first, for even groups."""
    counts = Counter(values)
    distinct = list(counts)
    random.Random(seed).shuffle(distinct)
    distinct.sort(key=lambda value: -counts[value])
    group = {value: i % n_groups for i, value in enumerate(distinct)}
    return torch.tensor([group[value] for value in values])


def _numbered(values: Sequence[Hashable]) -> Tensor:
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([number[value] for value in values])
