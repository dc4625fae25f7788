"""The answers that a local judge can give, as a tree of tokens, and their exact probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AnswerTree:
    """Token sequences with shared beginnings. Node 0 is the prompt's end; any other node adds a token to its parent.

    Attributes:
        tokens: token of each node; that of node 0 is never read.
        parents: index of each node's parent, always smaller than its own; 0 for node 0.
        ends: (node, value) for every answer that is complete there.
        going_on: ids of the tokens that would make a complete answer a longer one, such as "7" after "8".
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    ends: tuple[tuple[int, float], ...]
    going_on: tuple[int, ...]

    @property
    def depths(self) -> list[int]:
        """Number of tokens from the prompt's end to each node."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return depths

    def ancestors(self, node: int) -> list[int]:
        """The nodes from the root's child down to ``node`` itself."""
        path = []
        while node:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    def visibility(self) -> Tensor:
        """Which node sees which, itself included, without the root: bool [n_nodes - 1, n_nodes - 1]."""
        import torch

        n = len(self.tokens)
        sees = torch.zeros(n, n, dtype=torch.bool)
        for node in range(1, n):
            sees[node, self.ancestors(node)] = True
        return sees[1:, 1:]


def build_tree(answers: Iterable[tuple[Sequence[int], float]], going_on: Iterable[int]) -> AnswerTree:
    """The tree of ``answers`` (token ids, value)."""
    tokens, parents, ends = [-1], [0], []
    children: dict[tuple[int, int], int] = {}
    for ids, value in answers:
        node = 0
        for token in ids:
            if (node, token) not in children:
                children[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = children[node, token]
        ends.append((node, value))
    return AnswerTree(tuple(tokens), tuple(parents), tuple(ends), tuple(going_on))


def answer_ids(tokenizer: Any, lead: str, answer: str) -> list[int]:
    """The tokens that the tokenizer makes of ``answer`` after ``lead`` and a space."""
    head = tokenizer(lead, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{lead} {answer}", add_special_tokens=False)["input_ids"]
    if whole[: len(head)] != head:  # a tokenizer that merges across the boundary; the space goes on its own
        return list(tokenizer(f" {answer}", add_special_tokens=False)["input_ids"])
    return list(whole[len(head) :])


def continuing_ids(tokenizer: Any, *, words: bool) -> list[int]:
    """Ids of the tokens that begin with an ASCII digit, or also with an ASCII letter where answers are ``words``."""
    ids = []
    for piece, token in tokenizer.get_vocab().items():
        # Byte tokens of SentencePiece read <0x37>. A space or line break before a word is a letter beyond ASCII.
        first = chr(int(piece[3:5], 16)) if len(piece) == 6 and piece.startswith("<0x") else piece[:1]
        if first.isascii() and (first.isdigit() or (words and first.isalpha())):
            ids.append(token)
    return sorted(ids)


def answer_probabilities(tree: AnswerTree, log_probs: Tensor) -> Tensor:
    """The probability of each answer in ``tree.ends``: its tokens', times that the next token does not go on with it.

    Args:
        tree: the answers.
        log_probs: log-probabilities of the next token at every node, float32 [n_nodes, vocabulary].

    Returns:
        Float32 [n_answers]. The answers exclude each other, so the sum is at most 1.
    """
    import torch

    steps = [0.0] + [float(log_probs[p, t]) for p, t in zip(tree.parents[1:], tree.tokens[1:], strict=True)]
    reached = [0.0]
    for node in range(1, len(steps)):
        reached.append(reached[tree.parents[node]] + steps[node])
    goes_on = log_probs[:, list(tree.going_on)].exp().sum(-1)
    ends = [node for node, _ in tree.ends]
    stops = (1.0 - goes_on[ends]).clamp(min=0.0)
    return torch.tensor([reached[node] for node in ends]).exp() * stops.cpu()
