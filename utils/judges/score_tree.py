"""The scores that a local judge can give, as a tree of tokens, and their exact probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ScoreTree:
    """Every beginning of the token sequences that spell the scores of a scale.

    Attributes:
        nodes: the beginnings, each after its own; node 0 is empty and stands for the prompt's end.
        ends: (node, value) for every score that is complete there.
        going_on: ids of the tokens that would make a complete score a longer one, such as "7" after "8".
    """

    nodes: tuple[tuple[int, ...], ...]
    ends: tuple[tuple[int, float], ...]
    going_on: tuple[int, ...]

    @property
    def parents(self) -> list[int]:
        """The node that each node but the first extends by one token."""
        places = {node: place for place, node in enumerate(self.nodes)}
        return [places[node[:-1]] for node in self.nodes[1:]]

    @property
    def leaves(self) -> list[tuple[int, ...]]:
        """The nodes that no other extends."""
        inner = {node[:-1] for node in self.nodes[1:]}
        return [node for node in self.nodes if node not in inner]

    def visibility(self) -> Tensor:
        """Which node begins with which, itself included, without node 0: bool [n_nodes - 1, n_nodes - 1]."""
        import torch

        nodes = self.nodes[1:]
        return torch.tensor([[node[: len(other)] == other for other in nodes] for node in nodes])


def build_tree(scores: Iterable[tuple[Sequence[int], float]], going_on: Iterable[int]) -> ScoreTree:
    """The tree of ``scores`` (token ids, value)."""
    spelt = [(tuple(ids), value) for ids, value in scores]
    nodes = tuple(dict.fromkeys(ids[:length] for ids, _ in spelt for length in range(len(ids) + 1)))
    places = {node: place for place, node in enumerate(nodes)}
    return ScoreTree(nodes, tuple((places[ids], value) for ids, value in spelt), tuple(going_on))


def score_ids(tokenizer: PreTrainedTokenizerBase, lead: str, score: str) -> list[int]:
    """The tokens that the tokenizer makes of ``score`` after ``lead`` and a space."""
    head = tokenizer(lead, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{lead} {score}", add_special_tokens=False)["input_ids"]
    if whole[: len(head)] != head:  # a tokenizer that merges across the boundary; the space goes on its own
        return list(tokenizer(f" {score}", add_special_tokens=False)["input_ids"])
    return list(whole[len(head) :])


def continuing_ids(tokenizer: PreTrainedTokenizerBase, *, words: bool) -> list[int]:
    """Ids of the tokens that begin with an ASCII digit, or also with an ASCII letter where scores are ``words``."""
    ids = []
    for piece, token in tokenizer.get_vocab().items():
        # Byte tokens of SentencePiece read <0x37>. A space or line break before a word is a letter beyond ASCII.
        first = chr(int(piece[3:5], 16)) if len(piece) == 6 and piece.startswith("<0x") else piece[:1]
        if first.isascii() and (first.isdigit() or (words and first.isalpha())):
            ids.append(token)
    return sorted(ids)


def score_probabilities(tree: ScoreTree, log_probs: Tensor) -> Tensor:
    """The probability of each score in ``tree.ends``: its tokens', times that the next token does not go on with it.

    Args:
        tree: the scores.
        log_probs: log-probabilities of the next token at every node, float32 [n_nodes, vocabulary].

    Returns:
        Float32 [n_scores]. The scores exclude each other, so the sum is at most 1.
    """
    import torch

    reached = [0.0]
    for parent, node in zip(tree.parents, tree.nodes[1:], strict=True):
        reached.append(reached[parent] + float(log_probs[parent, node[-1]]))
    ends = [node for node, _ in tree.ends]
    goes_on = log_probs[:, list(tree.going_on)].exp().sum(-1)[ends]
    return torch.tensor([reached[node] for node in ends]).exp() * (1.0 - goes_on).clamp(min=0.0).cpu()
