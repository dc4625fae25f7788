"""A model that answers under doses of a direction, and what the same model without them makes of the answers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from extraction.steering.damage import damage, repeated_share
from extraction.steering.results import Answer, Series
from traitlens import HookManager, add_steering_hook, projection
from utils.errors import UserError
from utils.judge import Judge, fill_template
from utils.models.generation import Sampling, generate_batch
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, format_prompt
from utils.records import TraitVector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """The model with the questions, where directions are tried.

    Attributes:
        vector: what is added, at its layer.
        reader: what reads the answers, at its own layer.
        judge: scores the answers by ``eval_prompt``; None to read them only.
        seed: of sampling and of the random directions.
    """

    loaded: LoadedModel
    vector: TraitVector
    reader: TraitVector
    questions: Sequence[str]
    eval_prompt: str
    judge: Judge | None
    sampling: Sampling
    seed: int

    @functools.cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of the questions' prompts."""
        tokenizer = self.loaded.tokenizer
        return [encode_prompt(tokenizer, format_prompt(tokenizer, question)) for question in self.questions]

    def try_doses(self, doses: Sequence[float], n_controls: int) -> tuple[float, tuple[Series, ...]]:
        """The typical norm of a state, and what the vector and random directions did in doses of it.

        The vector is tried in every dose, each random direction only from the largest downwards until its text is
        whole: that dose decides. Where no dose of the vector leaves its text whole, no random direction is tried.

        Args:
            doses: in typical norms, above 0; each is added and subtracted.
            n_controls: how many random directions, as long as the vector, are tried.

        Raises:
            UserError: the model gives no answers.
        """
        unsteered = self._generate(None)
        typical = self._typical_norm(unsteered)
        at_zero = self._read(unsteered)
        unit = self.vector.vector / self.vector.vector.norm()
        downwards = sorted(doses, reverse=True)
        found = [self._series("vector", unit * typical, at_zero, downwards, until_whole=False)]
        logger.info("%s: every dose of the vector done", self.vector.trait)
        if found[0].deciding_dose is not None:
            for i, direction in enumerate(self._random_directions(n_controls)):
                found.append(self._series("random", direction * typical, at_zero, downwards, until_whole=True))
                logger.info("%s: random direction %d of %d done", self.vector.trait, i + 1, n_controls)
        return typical, tuple(found)

    def _series(
        self, name: Literal["vector", "random"], added: torch.Tensor, at_zero: tuple[Answer, ...],
        downwards: Sequence[float], *, until_whole: bool,
    ) -> Series:  # fmt: skip
        answers = {0.0: at_zero}
        for dose in downwards:
            for signed in (dose, -dose):
                answers[signed] = self._read(self._generate(added * signed))
            if until_whole and all(damage(answers[signed], at_zero) is None for signed in (dose, -dose)):
                break
        ascending = dict(sorted(answers.items()))
        return Series(name, ascending, {dose: damage(texts, at_zero) for dose, texts in ascending.items()})

    def _random_directions(self, n: int) -> torch.Tensor:
        """Directions [n, hidden] of length 1, drawn independently: a vector that is like them is one more draw."""
        drawn = torch.randn(n, len(self.vector.vector), generator=torch.Generator().manual_seed(self.seed))
        return torch.nn.functional.normalize(drawn, dim=1)

    def _generate(self, added: torch.Tensor | None) -> list[list[int]]:
        """Token ids of every answer, with ``added`` [hidden] at the vector's layer."""
        with HookManager(self.loaded.model) as hooks:
            if added is not None:
                add_steering_hook(hooks, added, self.vector.layer)
            generated = generate_batch(self.loaded, self.prompts, self.sampling, self.seed)
        return [answer.ids for answer in generated]

    def _typical_norm(self, answers: Sequence[Sequence[int]]) -> float:
        """Median norm of the states of answer tokens at the steered layer; the mean would follow a few massive ones."""
        pairs = zip(self.prompts, answers, strict=True)
        norms = [self._unsteered(p, ids, self.vector.layer)[1].norm(dim=-1) for p, ids in pairs if ids]
        if not norms:
            raise UserError(f"{self.loaded.name} gave no answer to any of the {len(self.questions)} questions")
        return float(torch.cat(norms).median())

    def _unsteered(self, prompt: Sequence[int], answer: Sequence[int], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-likelihoods [n] and states [n, hidden] of an answer's tokens, without any direction added."""
        ids = torch.tensor([[*prompt, *answer]], device=self.loaded.device)
        kept: list[torch.Tensor] = []
        with HookManager(self.loaded.model) as hooks, torch.inference_mode():
            hooks.add_layer_hook(layer, lambda module, inputs, hidden: kept.append(hidden[0]))  # noqa: ARG005
            logits = self.loaded.model(ids).logits[0, len(prompt) - 1 : -1].float()
        likelihoods = logits.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        return likelihoods.cpu(), kept[0][len(prompt) :].float().cpu()

    def _read(self, answers: Sequence[Sequence[int]]) -> tuple[Answer, ...]:
        """The answers as the unsteered model and the judge see them."""
        texts = [self.loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
        judged = self._judge(texts)
        found = []
        for i, ids in enumerate(answers):
            readout = surprise = None
            if ids:
                likelihoods, states = self._unsteered(self.prompts[i], ids, self.reader.layer)
                score = float(projection(states, self.reader.vector).mean()) - (self.reader.baseline or 0.0)
                readout, surprise = score / float(self.reader.vector.norm()), -float(likelihoods.mean())
            repeated = repeated_share(ids)
            found.append(Answer(self.questions[i], texts[i], readout, judged[i], surprise, repeated, len(ids)))
        return tuple(found)

    def _judge(self, texts: Sequence[str]) -> list[float | None]:
        scores: list[float | None] = [None] * len(texts)
        if self.judge is not None:
            pairs = zip(self.questions, texts, strict=True)
            prompts = [fill_template(self.eval_prompt, question, text) for question, text in pairs]
            for i, found in self.judge.judgements(prompts):
                scores[i] = found.score
        return scores
