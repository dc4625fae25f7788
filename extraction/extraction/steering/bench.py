"""A model that answers under doses of a direction, and what the same model without them makes of the answers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from extraction.steering.results import Answer, Series
from traitlens import DoseResponse, HookManager, add_steering_hook, dose_response, projection
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
        seed: of sampling and of the random direction.
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

    def try_doses(self, doses: Sequence[float], control: bool) -> tuple[float, tuple[Series, ...]]:
        """The typical norm of a state, and what the vector did in each dose of it.

        Args:
            doses: in typical norms, with 0 among them.
            control: also try a random direction of the same length.

        Raises:
            UserError: there are too few answers to measure anything on.
        """
        unsteered = self._generate(None)
        typical = self._typical_norm(unsteered)
        at_zero = self._read(unsteered)
        unit = self.vector.vector / self.vector.vector.norm()
        directions = {"vector": unit, "random": self._across(unit)} if control else {"vector": unit}
        series = []
        for name, direction in directions.items():
            answers = []
            for dose in doses:
                answers.append(at_zero if dose == 0 else self._read(self._generate(direction * typical * dose)))
                logger.info("%s: %s %+g done", self.vector.trait, name, dose)
            series.append(_series(name, doses, answers))
        return typical, tuple(series)

    def _across(self, unit: torch.Tensor) -> torch.Tensor:
        """A random direction of length 1 at a right angle to ``unit``, both [hidden]."""
        drawn = torch.randn(len(unit), generator=torch.Generator().manual_seed(self.seed))
        across: torch.Tensor = drawn - (drawn @ unit) * unit
        return across.div(across.norm())

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
            found.append(Answer(self.questions[i], texts[i], readout, judged[i], surprise, len(ids)))
        return tuple(found)

    def _judge(self, texts: Sequence[str]) -> list[float | None]:
        scores: list[float | None] = [None] * len(texts)
        if self.judge is not None:
            pairs = zip(self.questions, texts, strict=True)
            prompts = [fill_template(self.eval_prompt, question, text) for question, text in pairs]
            for i, found in self.judge.judgements(prompts):
                scores[i] = found.score
        return scores


def _series(name: str, doses: Sequence[float], answers: Sequence[tuple[Answer, ...]]) -> Series:
    try:
        effect = _effect(doses, [[a.readout for a in at_dose] for at_dose in answers])
    except ValueError as error:
        raise UserError(f"the doses left too few answers to measure ({error}): give smaller --coefficients") from error
    try:
        judged_effect = _effect(doses, [[a.judged for a in at_dose] for at_dose in answers])
    except ValueError:  # no judge, or too few scores
        judged_effect = None
    return Series(name, tuple(doses), tuple(answers), effect, judged_effect)


def _effect(doses: Sequence[float], values: Sequence[Sequence[float | None]]) -> DoseResponse:
    """The dose-response of values [n_doses][n_questions]; raises ValueError where too few are known."""
    return dose_response(doses, torch.from_numpy(np.array(values, dtype=float)).T)
