"""A model that answers under doses of a direction, and what the same model without them makes of the answers."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from traitlens import DoseResponse, HookManager, add_steering_hook, dose_response, projection
from utils.errors import UserError
from utils.judge import Judge, fill_template
from utils.models.generation import Sampling, generate_batch
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, format_prompt
from utils.records import TraitVector

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One answer under one dose, as the unsteered model sees it; None where it is empty or unscored.

    Attributes:
        readout: mean centred score of its tokens at the reading layer, in distances of the class means.
        judged: the judge's score, 0-100.
        surprise: mean negative log-likelihood of its tokens, in nats.
        n_tokens: how many tokens it has.
    """

    question: str
    text: str
    readout: float | None
    judged: float | None
    surprise: float | None
    n_tokens: int


@dataclass(frozen=True)
class Series:
    """What one direction did in all doses.

    Attributes:
        direction: "vector" or "random".
        doses: in typical norms, ascending.
        answers: per dose, one per question.
        effect: the readout's dose-response.
        judged_effect: the judge's, None without a judge or scores.
    """

    direction: str
    doses: tuple[float, ...]
    answers: tuple[tuple[Answer, ...], ...]
    effect: DoseResponse
    judged_effect: DoseResponse | None

    def perplexities(self) -> list[float | None]:
        """Perplexity of all tokens of a dose's answers under the unsteered model, per dose."""
        return [_perplexity(answers) for answers in self.answers]


class Bench:
    """The model with the questions, where directions are tried."""

    def __init__(
        self,
        loaded: LoadedModel,
        vector: TraitVector,
        reader: TraitVector,
        questions: Sequence[str],
        eval_prompt: str,
        judge: Judge | None,
        sampling: Sampling,
        seed: int,
    ) -> None:
        self.loaded, self.vector, self.reader = loaded, vector, reader
        self.questions, self.eval_prompt, self.judge = questions, eval_prompt, judge
        self.sampling, self.seed = sampling, seed
        tokenizer = loaded.tokenizer
        self.prompts = [encode_prompt(tokenizer, format_prompt(tokenizer, q)) for q in questions]

    def try_doses(self, doses: Sequence[float], control: bool) -> tuple[float, tuple[Series, ...]]:
        """The typical norm of a state, and what the vector did in each dose of it.

        Args:
            doses: in typical norms, with 0 among them.
            control: also try a random direction of the same length.

        Raises:
            UserError: there are too few answers to measure anything on.
        """
        import torch

        unsteered = self._generate(None)
        typical = self._typical_norm(unsteered)
        direction = self.vector.vector / self.vector.vector.norm()
        directions = {"vector": direction}
        if control:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(len(direction), generator=generator)
            across = drawn - (drawn @ direction) * direction
            directions["random"] = across / across.norm()
        at_zero = self._read(unsteered)
        series = []
        for name, unit in directions.items():
            answers = []
            for dose in doses:
                answers.append(at_zero if dose == 0 else self._read(self._generate(unit * typical * dose)))
                logger.info("%s: %s %+g done", self.vector.trait, name, dose)
            series.append(_series(name, doses, answers))
        return typical, tuple(series)

    def _generate(self, added: torch.Tensor | None) -> list[list[int]]:
        """Token ids of every answer, with ``added`` [hidden] at the vector's layer."""
        with HookManager(self.loaded.model) as hooks:
            if added is not None:
                add_steering_hook(hooks, added, self.vector.layer)
            generated = generate_batch(self.loaded, self.prompts, self.sampling, self.seed)
        return [answer.ids for answer in generated]

    def _typical_norm(self, answers: Sequence[Sequence[int]]) -> float:
        """Median norm of the states of answer tokens at the steered layer; the mean would follow a few massive ones."""
        import torch

        norms = [states.norm(dim=-1) for _, states in self._states(answers, self.vector.layer)]
        if not norms:
            raise UserError(f"{self.loaded.name} gave no answer to any of the {len(self.questions)} questions")
        return float(torch.cat(norms).median())

    def _states(self, answers: Sequence[Sequence[int]], layer: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of each answer that is not empty: log-likelihoods of its tokens [n], their states [n, hidden], unsteered."""
        import torch

        for prompt, answer in zip(self.prompts, answers, strict=True):
            if not answer:
                continue
            ids = torch.tensor([[*prompt, *answer]], device=self.loaded.device)
            kept: list[torch.Tensor] = []
            with HookManager(self.loaded.model) as hooks, torch.inference_mode():
                hooks.add_layer_hook(layer, lambda module, inputs, hidden: kept.append(hidden[0]))  # noqa: ARG005, B023
                logits = self.loaded.model(ids).logits[0, len(prompt) - 1 : -1].float()
            likelihoods = logits.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
            yield likelihoods.cpu(), kept[0][len(prompt) :].float().cpu()

    def _read(self, answers: Sequence[Sequence[int]]) -> tuple[Answer, ...]:
        """The answers as the unsteered model and the judge see them."""
        texts = [self.loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
        read = self._states(answers, self.reader.layer)
        judged = self._judge(texts)
        found = []
        for i, ids in enumerate(answers):
            answer = Answer(self.questions[i], texts[i], None, judged[i], None, len(ids))
            if ids:
                likelihoods, states = next(read)
                score = float(projection(states, self.reader.vector).mean()) - (self.reader.baseline or 0.0)
                answer = replace(
                    answer,
                    readout=score / float(self.reader.vector.norm()),
                    surprise=-float(likelihoods.mean()),
                )
            found.append(answer)
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
    return Series(
        direction=name,
        doses=tuple(doses),
        answers=tuple(answers),
        effect=_effect(doses, [[a.readout for a in at_dose] for at_dose in answers], required=True),
        judged_effect=_effect(doses, [[a.judged for a in at_dose] for at_dose in answers]),
    )


def _effect(doses: Sequence[float], values: Sequence[Sequence[float | None]], required: bool = False) -> Any:
    import torch

    table = torch.tensor([[math.nan if v is None else v for v in row] for row in values]).T
    try:
        return dose_response(doses, table)
    except ValueError as error:
        if required:
            raise UserError(
                f"the doses left too few answers to measure ({error}): give smaller --coefficients"
            ) from error
        return None


def _perplexity(answers: Sequence[Answer]) -> float | None:
    known = [(a.surprise * a.n_tokens, a.n_tokens) for a in answers if a.surprise is not None]
    return math.exp(sum(s for s, _ in known) / sum(n for _, n in known)) if known else None
