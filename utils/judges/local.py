"""A judge without server and key: the exact expected score from a local model's own probabilities."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.judges.reading import MIN_MASS, EvalType, Judgement, answer_values
from utils.judges.score_tree import ScoreTree, build_tree, continuing_ids, score_ids, score_probabilities
from utils.judges.tree_reading import SharedBeginning, read_one_by_one
from utils.prompts import encode_prompt, format_prompt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    prompt at once: every node of the tree of answers sees the prompt and what it begins with itself.

    Args:
        model: the model that judges.
        tokenizer: the model's own.
        name: of the model, for the record.
        eval_type: the scale.

    Raises:
        UserError: ``eval_type`` is "binary_text", for which a reply would have to be generated.
    """

    paid = False
    tokens = 0

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        eval_type: EvalType = "0_100",
    ) -> None:
        if eval_type not in _LEAD:
            raise UserError(f"a local judge scores {', '.join(_LEAD)}, not {eval_type}: use binary")
        self.name = f"local:{name}"
        self._model = model
        self._tokenizer = tokenizer
        self._eval_type = eval_type
        self._lead = _LEAD[eval_type]
        self._sees_trees: bool | None = None

    def close(self) -> None:
        """Nothing to let go of."""

    def judgements(self, prompts: Sequence[str]) -> Iterator[tuple[int, Judgement]]:
        """The index and judgement of every prompt, shortest first."""
        encoded = [self._encode(prompt) for prompt in prompts]
        config = self._model.config.get_text_config()
        limit = int(getattr(config, "max_position_embeddings", None) or 2**20) - 8
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        fitting = [i for i in order if len(encoded[i]) <= limit]
        for i in order[len(fitting) :]:
            yield i, Judgement.unscored(f"the prompt has {len(encoded[i])} tokens, the judge reads {limit}")
        if not fitting:
            return
        shared = _shared_length([encoded[i] for i in fitting])
        if self._sees_trees is None:
            self._sees_trees = self._reads_trees(encoded[fitting[0]])
        beginning = SharedBeginning(self._model, encoded[fitting[0]][:shared]) if self._sees_trees else None
        for batch in self._batches(fitting, encoded, shared):
            if beginning is not None:
                log_probs = beginning.read([encoded[i][shared:] for i in batch], self._tree)
            else:
                log_probs = (read_one_by_one(self._model, encoded[i], self._tree) for i in batch)
            for i, row in zip(batch, log_probs, strict=True):
                yield i, _judgement(score_probabilities(self._tree, row), self._tree)

    @functools.cached_property
    def _tree(self) -> ScoreTree:
        answers = answer_values(self._eval_type)
        words = self._eval_type == "binary"
        if words:
            answers = {spelt: v for s, v in answers.items() for spelt in (s, s.title(), s.lower())}
        ids = [(score_ids(self._tokenizer, self._lead, s), v) for s, v in answers.items()]
        return build_tree(ids, continuing_ids(self._tokenizer, words=words))

    def _encode(self, prompt: str) -> list[int]:
        lead = self._tokenizer(self._lead, add_special_tokens=False)["input_ids"]
        return [*encode_prompt(self._tokenizer, format_prompt(self._tokenizer, prompt)), *lead]

    def _batches(self, order: Sequence[int], encoded: Sequence[Sequence[int]], shared: int) -> Iterator[list[int]]:
        """Prompts of similar length, within bounds of memory."""
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        rows = max(1, _LOGITS_PER_BATCH // (len(self._tree.nodes) * vocabulary))
        batch: list[int] = []
        for i in order:  # shortest first, so the last one is the widest
            if batch and (len(batch) == rows or (len(batch) + 1) * (len(encoded[i]) - shared) > _TOKENS_PER_BATCH):
                yield batch
                batch = []
            batch.append(i)
        yield batch

    def _reads_trees(self, prompt: Sequence[int]) -> bool:
        """Whether the model sees a tree of answers as it sees each of them alone, tried on a small one.

        Models with a recurrent state, or with positions that no argument sets, do not.
        """
        short, shorter = prompt[:_TRIAL_LENGTH], prompt[: _TRIAL_LENGTH // 2]
        shared = len(shorter) // 2
        answers = list(answer_values(self._eval_type))
        few = [answers[0], answers[len(answers) // 2], answers[-1]]
        tree = build_tree([(score_ids(self._tokenizer, self._lead, s), 0.0) for s in few], ())
        alone = read_one_by_one(self._model, short, tree)
        try:
            beginning = SharedBeginning(self._model, short[:shared])
            together = list(beginning.read([shorter[shared:], short[shared:]], tree))[1]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
            why = str(error).split("\n")[0][:100]
            logger.info("%s reads one answer at a time, which is slower (%s)", self.name, why)
            return False
        # Half-precision numbers round differently in another order of summation; a wrong reading differs by far more.
        tolerance = 0.003 if self._model.dtype.itemsize >= 4 else 0.5
        agree = bool((together - alone).square().mean().sqrt() < tolerance)
        if not agree:
            logger.info("%s reads one answer at a time, which is slower", self.name)
        return agree


def _shared_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, at most all but the last of the shortest."""
    first, last = min(prompts), max(prompts)  # in sorted order the extremes differ first
    limit = min(map(len, prompts)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def _judgement(probabilities: Tensor, tree: ScoreTree) -> Judgement:
    mass = float(probabilities.sum())
    if not mass >= MIN_MASS:  # also where it is not a number
        return Judgement.unscored(f"only {mass:.0%} of the probability on valid answers")
    values = probabilities.new_tensor([value for _, value in tree.ends])
    return Judgement(float((probabilities * values).sum() / mass), "local_logprobs")
