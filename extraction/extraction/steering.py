"""The causal check: steer in doses, let the unsteered model read what came of it, and weigh effect against price."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extraction.judging import JudgeSettings, resolve_judge
from extraction.steering_report import draw, verdict, warnings_about
from traitlens import DoseResponse, HookManager, add_steering_hook, dose_response, projection
from utils.activation_files import responses_folder, spread_evenly
from utils.errors import UserError
from utils.files import write_json
from utils.generation import Sampling, generate_batch
from utils.judge import Judge, fill_template
from utils.models import LoadedModel, load_model
from utils.portable import check_model
from utils.prompts import encode_prompt, format_prompt
from utils.records import TraitDefinition, TraitVector
from utils.store import Experiment, TraitFolder
from utils.vectors import load_vector, read_summary, read_vector
from utils.versions import package_versions

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SteerSettings:
    """The command's flags. ``coefficients`` are in typical norms of the layer's states."""

    coefficients: tuple[float, ...]
    layer: int | None = None
    method: str | None = None
    read_layer: int | None = None
    n_prompts: int = 16
    sampling: Sampling = field(default_factory=lambda: Sampling(80, 0.0))
    seed: int = 0
    control: bool = True
    judge: JudgeSettings = field(default_factory=lambda: JudgeSettings("none"))


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


@dataclass(frozen=True)
class CausalCheck:
    """The whole check of one vector."""

    vector: TraitVector
    reader: TraitVector
    typical_norm: float
    series: tuple[Series, ...]


def run_causal_check(
    experiment: str,
    trait: str,
    settings: SteerSettings,
    output: str | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    experiments_dir: str | Path = "experiments",
) -> CausalCheck:
    """Check a trait's vector, write the answers and the picture, and log what was found.

    Raises:
        UserError: no vector, no definition, no other layer to read at, or unusable doses.
    """
    doses = tuple(sorted({0.0, *settings.coefficients}))
    if len(doses) < 2 or not all(map(math.isfinite, doses)):
        raise UserError("--coefficients needs at least one finite dose that is not 0")
    folder = Experiment(Path(experiments_dir), experiment).trait(trait)
    vector = load_vector(
        experiment, trait, layer=settings.layer, method=settings.method, experiments_dir=experiments_dir
    )
    reader = _reader(folder, vector, settings.read_layer)
    definition = _definition(folder, vector)
    loaded = load_model(model or vector.model, device=device, dtype=dtype)
    for used in (vector, reader):
        check_model(used, loaded)
    judge = resolve_judge(settings.judge, loaded)
    picks = spread_evenly(len(definition.questions), settings.n_prompts)
    bench = _Bench(
        loaded, vector, reader, [definition.questions[i] for i in picks], definition.eval_prompt, judge, settings
    )
    result = bench.check(doses)
    path = Path(output) if output else folder.vectors_dir / f"steering_{vector.method}_layer{vector.layer}.json"
    write_json(path, _as_json(result, settings, judge))
    draw(result, path.with_suffix(".png"))
    logger.info(verdict(result))
    for warning in warnings_about(result):
        logger.warning("%s: warning: %s", trait, warning)
    logger.info("answers: %s, picture: %s", path, path.with_suffix(".png"))
    return result


def _definition(folder: TraitFolder, vector: TraitVector) -> TraitDefinition:
    """The trait's definition, or that of the experiment whose responses the vector was fitted to."""
    source = vector.metadata.get("responses_from")
    if source and not folder.definition_path.is_file():
        folder = responses_folder(folder, source)
    return folder.read_definition()


def _reader(folder: TraitFolder, vector: TraitVector, read_layer: int | None) -> TraitVector:
    """The vector that reads the answers: at the layer asked for, or the best at any other than the steered layer."""
    ranked = [(str(row["method"]), int(row["layer"])) for row in read_summary(folder)]
    if read_layer is None:
        places = [place for place in ranked if place[1] != vector.layer]
    else:
        places = [place for place in ranked if place[1] == read_layer]
    if not places:
        wanted = "another layer than the steered one" if read_layer is None else f"layer {read_layer}"
        raise UserError(
            f"{folder.trait} has no vector at {wanted} to read with. {folder.command('3_extract_vectors.py')}"
        )
    return read_vector(folder, *places[0])


class _Bench:
    """The model with the questions, where directions are tried."""

    def __init__(
        self,
        loaded: LoadedModel,
        vector: TraitVector,
        reader: TraitVector,
        questions: Sequence[str],
        eval_prompt: str,
        judge: Judge | None,
        settings: SteerSettings,
    ) -> None:
        self.loaded, self.vector, self.reader = loaded, vector, reader
        self.questions, self.eval_prompt, self.judge, self.settings = questions, eval_prompt, judge, settings
        tokenizer = loaded.tokenizer
        self.prompts = [encode_prompt(tokenizer, format_prompt(tokenizer, q)) for q in questions]

    def check(self, doses: Sequence[float]) -> CausalCheck:
        import torch

        unsteered = self._generate(None)
        typical = self._typical_norm(unsteered)
        direction = self.vector.vector / self.vector.vector.norm()
        directions = {"vector": direction}
        if self.settings.control:
            generator = torch.Generator().manual_seed(self.settings.seed)
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
        return CausalCheck(self.vector, self.reader, typical, tuple(series))

    def _generate(self, added: torch.Tensor | None) -> list[list[int]]:
        """Token ids of every answer, with ``added`` [hidden] at the vector's layer."""
        settings = self.settings
        with HookManager(self.loaded.model) as hooks:
            if added is not None:
                add_steering_hook(hooks, added, self.vector.layer)
            generated = generate_batch(self.loaded, self.prompts, settings.sampling, settings.seed)
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
            for i, found in self.judge.verdicts(prompts):
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


def _as_json(result: CausalCheck, settings: SteerSettings, judge: Judge | None) -> dict[str, Any]:
    place = {"method": result.vector.method, "layer": result.vector.layer}
    return {
        "trait": result.vector.trait,
        "model": result.vector.model,
        "steered": place,
        "read": {"method": result.reader.method, "layer": result.reader.layer},
        "readout_unit": "distances of the class means at the reading layer, 0 at their midpoint",
        "dose_unit": "median norm of the states of unsteered answer tokens at the steered layer",
        "typical_norm": result.typical_norm,
        "judge": judge.name if judge else None,
        "sampling": {**asdict(settings.sampling), "seed": settings.seed},
        "series": [
            {
                "direction": series.direction,
                "effect": asdict(series.effect),
                "judged_effect": asdict(series.judged_effect) if series.judged_effect else None,
                "doses": [
                    {"dose": dose, "perplexity": perplexity, "answers": [asdict(a) for a in answers]}
                    for dose, perplexity, answers in zip(
                        series.doses, series.perplexities(), series.answers, strict=True
                    )
                ],
            }
            for series in result.series
        ],
        "warnings": warnings_about(result),
        "versions": package_versions(),
    }
