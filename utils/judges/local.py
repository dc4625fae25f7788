"""A judge without server and key: the exact expected score from a local model's own probabilities."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.judges.answer_tree import AnswerTree, answer_ids, answer_probabilities, build_tree, continuing_ids
from utils.judges.endpoint import Usage
from utils.judges.reading import MIN_MASS, Verdict, answer_values
from utils.judges.tree_reader import TreeReader, read_paths
from utils.prompts import encode_prompt, format_prompt

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

# Written into the model's turn, so that a number comes next even from a model that would rather explain.
_LEAD = {"0_100": "Score:", "0_10": "Score:", "binary": "Answer:"}
_TOKENS_PER_BATCH = 2048
_TRIAL_LENGTH = 24
_LOGITS_PER_BATCH = 2**27  # 512 MB in float32


class LocalJudge:
    """Expected scores from the probability of every answer on the scale.

    The model's turn is begun with "Score:". The probability of an answer such as 87 is that of its tokens as the
    tokenizer writes them after "Score:", times the probability that the next token does not begin with a digit, so that
    8 does not include 87. The score is the expected value over all answers, renormalised; there is none where they hold
    less than a quarter of the probability. The beginning that all prompts share is read once, and all answers to a
    prompt at once: every node of the tree of answers sees the prompt and its own ancestors.
    """

    paid = False

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.name = f"local:{name}"
        self.usage = Usage()
        self._model = model
        self._tokenizer = tokenizer
        self._trees: dict[str, AnswerTree] = {}
        self._shares: bool | None = None

    def check(self) -> None:
        """Nothing can fail before the first prompt: the model is loaded."""

    def close(self) -> None:
        """Nothing to let go of."""

    def verdicts(self, prompts: Sequence[str], eval_type: str = "0_100") -> Iterator[tuple[int, Verdict]]:
        """The index and verdict of every prompt, shortest first.

        Raises:
            UserError: ``eval_type`` is "binary_text", which a local judge does not generate.
        """
        if eval_type not in _LEAD:
            raise UserError(f"a local judge scores {', '.join(_LEAD)}, not {eval_type}: use binary")
        encoded = [self._encode(prompt, eval_type) for prompt in prompts]
        limit = self._longest_prompt()
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        fitting = [i for i in order if len(encoded[i]) <= limit]
        for i in order[len(fitting) :]:
            yield i, Verdict.unscored(f"the prompt has {len(encoded[i])} tokens, the judge reads {limit}")
        tree = self._tree(eval_type)
        shared = _shared_length([encoded[i] for i in fitting])
        reader: TreeReader | None = None
        for batch in self._batches(fitting, encoded, shared, tree):
            ids = [encoded[i] for i in batch]
            if self._shares is None:
                self._shares = self._reads_trees(ids[0], eval_type)
            if self._shares:
                reader = reader or TreeReader(self._model, ids[0][:shared])
                log_probs = reader.read([prompt[shared:] for prompt in ids], tree)
            else:
                log_probs = (read_paths(self._model, prompt, tree) for prompt in ids)
            for i, row in zip(batch, log_probs, strict=True):
                yield i, _verdict(answer_probabilities(tree, row), tree)

    def probabilities(self, prompt: str, eval_type: str = "0_100") -> dict[float, float]:
        """The probability of every answer on the scale, not renormalised."""
        tree, ids = self._tree(eval_type), self._encode(prompt, eval_type)
        found = answer_probabilities(tree, read_paths(self._model, ids, tree))
        values: dict[float, float] = {}
        for (_, value), p in zip(tree.ends, found.tolist(), strict=True):
            values[value] = values.get(value, 0.0) + p
        return values

    def _encode(self, prompt: str, eval_type: str) -> list[int]:
        lead = self._tokenizer(_LEAD[eval_type], add_special_tokens=False)["input_ids"]
        return [*encode_prompt(self._tokenizer, format_prompt(self._tokenizer, prompt)), *lead]

    def _longest_prompt(self) -> int:
        config = self._model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2**20) - 8

    def _tree(self, eval_type: str) -> AnswerTree:
        if eval_type not in self._trees:
            answers = answer_values(eval_type)
            words = eval_type == "binary"
            if words:
                answers = {spelt: v for s, v in answers.items() for spelt in (s, s.title(), s.lower())}
            ids = [(answer_ids(self._tokenizer, _LEAD[eval_type], s), v) for s, v in answers.items()]
            self._trees[eval_type] = build_tree(ids, continuing_ids(self._tokenizer, words=words))
        return self._trees[eval_type]

    def _batches(
        self, order: Sequence[int], encoded: Sequence[Sequence[int]], shared: int, tree: AnswerTree
    ) -> Iterator[list[int]]:
        """Prompts of similar length, within bounds of memory."""
        rows = max(1, _LOGITS_PER_BATCH // (len(tree.tokens) * self._model.get_output_embeddings().weight.shape[0]))
        batch: list[int] = []
        for i in order:  # shortest first, so the last one is the widest
            if batch and (len(batch) == rows or (len(batch) + 1) * (len(encoded[i]) - shared) > _TOKENS_PER_BATCH):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _reads_trees(self, prompt: Sequence[int], eval_type: str) -> bool:
        """Whether the model sees a tree of answers as it sees each of them alone; found out once, on a small one.

        Models with a recurrent state, or with positions that no argument sets, do not.
        """
        short, shorter = prompt[:_TRIAL_LENGTH], prompt[: _TRIAL_LENGTH // 2]
        shared = len(shorter) // 2
        answers = list(answer_values(eval_type))
        few = [answers[0], answers[len(answers) // 2], answers[-1]]
        tree = build_tree([(answer_ids(self._tokenizer, _LEAD[eval_type], s), 0.0) for s in few], ())
        alone = read_paths(self._model, short, tree)
        try:
            reader = TreeReader(self._model, short[:shared])
            together = list(reader.read([shorter[shared:], short[shared:]], tree))[1]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
            logger.info(
                "%s reads one answer at a time, which is slower (%s)", self.name, str(error).split("\n")[0][:100]
            )
            return False
        # Half-precision numbers round differently in another order of summation; a wrong reading differs by far more.
        tolerance = 0.003 if self._model.dtype.itemsize >= 4 else 0.5
        agree = bool((together - alone).square().mean().sqrt() < tolerance)
        if not agree:
            logger.info("%s reads one answer at a time, which is slower", self.name)
        return agree


def _shared_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, at most all but the last of the shortest."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)  # in sorted order the extremes differ first
    limit = min(map(len, prompts)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def _verdict(probabilities: Tensor, tree: AnswerTree) -> Verdict:
    mass = float(probabilities.sum())
    if not mass >= MIN_MASS:  # also where it is not a number
        return Verdict.unscored(f"only {mass:.0%} of the probability on valid answers")
    values = probabilities.new_tensor([value for _, value in tree.ends])
    return Verdict(float((probabilities * values).sum() / mass), "local_logprobs")
