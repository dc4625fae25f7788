"""Does the commitment point mean what its name says? Cut answers before and after it, and resample the rest.

If a trait is settled at the commitment point, answers continued from after it end with nearly one score, and answers
continued from before it do not. A later cut always leaves less room, so the drop in spread across the commitment point
is compared with the drop across a control point: the commitment point of another answer, which says nothing about this
one.

    python experiments/examples/validate_commitment.py --experiment my_exp --trait refusal --prompts_file prompts.txt
"""

from __future__ import annotations

import logging
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from extraction.cli import check_range, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. In the project's folder run: pip install -e .") from None

if TYPE_CHECKING:
    from utils.formats.transcripts import Transcript
    from utils.models import LoadedModel
    from utils.models.generation import Sampling
    from utils.records import TraitVector

logger = logging.getLogger("traitlens")

# Where answers are cut: so many tokens are kept more or fewer than the point's number. The token at the point is the
# first that 2 and 4 keep and -3 and -1 resample.
OFFSETS = (-3, -1, 2, 4)
Sample = tuple[list[int], list[float]]
TAIL = 10  # the final score is the mean over this many tokens


@dataclass(frozen=True)
class Cut:
    """How far the final score still varies when an answer is resampled from a cut on.

    Attributes:
        prompt: which prompt.
        kind: commitment or control.
        point: the token that the cut is placed around.
        offset: cut minus point.
        spread: standard deviation of the final centred score over the resampled answers.
        p_value: of the answer's commitment point.
    """

    prompt: int
    kind: str
    point: int
    offset: int
    spread: float
    p_value: float | None


def validate_commitment(
    experiment: str,
    trait: str,
    prompts: str | None = None,
    prompts_file: str | None = None,
    output: str | None = None,
    layer: int | None = None,
    method: str | None = None,
    samples: int = 8,
    max_new_tokens: int = 60,
    temperature: float = 1.0,
    smoothing: int = 1,
    seed: int = 0,
    device: str | None = None,
    experiments_dir: str = "experiments",
) -> None:
    """Measure whether a trait's final score varies less when answers are resampled after their commitment point.

    Args:
        experiment: whose vectors to use.
        trait: the trait.
        prompts: one prompt, or several as a JSON list of texts.
        prompts_file: prompts one per line, or .json, .jsonl, .csv; use ten or more.
        output: JSON file of all cuts and the summary; by default commitment_{trait}.json in the experiment's inference.
        layer: layer of the vector; by default the documented one of the model, or the best.
        method: method of the vector; by default the best at the layer.
        samples: answers per cut.
        max_new_tokens: longest answer.
        temperature: of sampling, above 0.
        smoothing: of the trajectory before its commitment point is looked for.
        seed: of sampling and of the control points.
        device: cpu, cuda, cuda:1 or mps.
        experiments_dir: folder of the experiments.
    """
    check_range("samples", samples, 2)
    check_range("max_new_tokens", max_new_tokens, 1)
    check_range("temperature", temperature, 0.01)
    check_range("smoothing", smoothing, 1)

    from extraction.monitoring.run import find_texts
    from extraction.monitoring.texts import choose_vectors, load_model_of

    from utils.errors import UserError
    from utils.experiment import Experiment
    from utils.formats.files import check_output, write_json
    from utils.models.generation import Sampling

    if smoothing % 2 == 0:
        raise UserError(f"--smoothing must be an odd number of tokens, got {smoothing}")
    lab = Experiment(Path(experiments_dir), experiment)
    texts = find_texts(prompts, prompts_file, None)
    chosen = choose_vectors(lab, [trait], layer, method)
    path = Path(output) if output else lab.results_dir.parent / f"commitment_{trait}.json"
    check_output(path)
    sampling = Sampling(max_new_tokens, temperature)
    setup = Setup(load_model_of(chosen, device=device), chosen[trait].main, sampling, samples, smoothing, seed)
    answers = [setup.answer(text, i) for i, text in enumerate(texts)]
    cuts = []
    controls = control_points(answers, seed)
    logger.info("%d of %d answers have a commitment point with room for cuts", len(controls), len(answers))
    for i, control in controls.items():
        cuts += setup.resample(answers[i], i, "commitment", answers[i].point or 0)
        cuts += setup.resample(answers[i], i, "control", control)
        logger.info("answer %d of %d", i + 1, len(answers))
    summary = summarise(cuts, seed)
    write_json(path, {"trait": trait, "samples": samples, "summary": summary, "cuts": [asdict(cut) for cut in cuts]})
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in summary.items()))
    logger.info("Results: %s", path)


@dataclass(frozen=True)
class Answer:
    """One answer: ids of prompt and response, and its commitment point."""

    prompt_ids: list[int]
    response_ids: list[int]
    point: int | None
    p_value: float | None

    def has_room(self, point: int | None) -> bool:
        """Whether all cuts around ``point`` are within the response."""
        return point is not None and point + min(OFFSETS) >= 0 and point + max(OFFSETS) < len(self.response_ids)


@dataclass(frozen=True)
class Setup:
    """What stays the same over all answers."""

    loaded: LoadedModel
    vector: TraitVector
    sampling: Sampling
    samples: int
    smoothing: int
    seed: int

    def generate(self, ids: Sequence[int], kept: int, copies: int, seed: int) -> list[Sample]:
        """Continuations of ``ids``, whose last ``kept`` are response already: all response ids and their scores."""
        import torch

        from traitlens import TraitMonitor

        model, baseline = self.loaded.model, self.vector.baseline or 0.0
        longest = self.sampling.max_new_tokens - kept
        torch.manual_seed(seed)
        with TraitMonitor(
            model, {"trait": (self.vector.vector, self.vector.layer)}, end_ids=self.loaded.end_ids
        ) as seen:
            model.generate(
                torch.tensor([ids], device=self.loaded.device), num_return_sequences=copies,
                eos_token_id=sorted(self.loaded.end_ids), pad_token_id=self.loaded.tokenizer.pad_token_id,
                **{**self.sampling.generate_arguments(), "max_new_tokens": longest},
            )  # fmt: skip
        before = [(seen.prompt_scores(row)["trait"] - baseline).tolist()[len(ids) - kept :] for row in range(copies)]
        new = [(seen.scores(row)["trait"] - baseline).tolist() for row in range(copies)]
        already = list(ids[len(ids) - kept :])
        return [([*already, *seen.token_ids(row)], before[row] + new[row]) for row in range(copies)]

    def answer(self, text: Transcript, number: int) -> Answer:
        """The answer that is cut later, with its commitment point."""
        from traitlens import analyze_dynamics
        from utils.prompts import encode_prompt, format_conversation

        prompt_ids = encode_prompt(self.loaded.tokenizer, format_conversation(self.loaded.tokenizer, text.messages))
        ((ids, scores),) = self.generate(prompt_ids, 0, 1, self.seed + number)
        dynamics = analyze_dynamics(scores, smoothing=self.smoothing)
        return Answer(prompt_ids, ids, dynamics.commitment_point, dynamics.commitment_p_value)

    def resample(self, answer: Answer, number: int, kind: str, point: int) -> list[Cut]:
        """The spread of the final score after cuts around one point."""
        measured = []
        for offset in OFFSETS:
            cut = point + offset
            ids = [*answer.prompt_ids, *answer.response_ids[:cut]]
            # The seed is the cut's own: one cut reached as commitment and as control gives the same numbers.
            samples = self.generate(ids, cut, self.samples, self.seed + 1000 * (number + 1) + cut)
            finals = [statistics.fmean(scores[-TAIL:]) for _, scores in samples if scores]
            measured.append(Cut(number, kind, point, offset, statistics.pstdev(finals), answer.p_value))
        return measured


def control_points(answers: Sequence[Answer], seed: int) -> dict[int, int]:
    """For every answer whose commitment point has room for cuts, the point of another such answer, where that has too.

    Both kinds of points are so spread alike over positions, and every answer is its own comparison.
    """
    usable = [i for i, answer in enumerate(answers) if answer.has_room(answer.point)]
    order = usable[:]
    random.Random(seed).shuffle(order)
    following = dict(zip(order, order[1:] + order[:1], strict=True)) if len(usable) > 1 else {}
    others = {i: answers[following[i]].point for i in usable if i in following}
    return {i: point for i, point in others.items() if point is not None and answers[i].has_room(point)}


def summarise(cuts: Sequence[Cut], seed: int) -> dict[str, Any]:
    """Mean spread before and after both kinds of point, and how surely the drop is larger at the commitment point."""
    drops: dict[str, dict[int, float]] = {"commitment": {}, "control": {}}
    for kind, by_prompt in drops.items():
        for prompt in sorted({cut.prompt for cut in cuts if cut.kind == kind}):
            own = [cut for cut in cuts if cut.kind == kind and cut.prompt == prompt]
            before = statistics.fmean(cut.spread for cut in own if cut.offset < 0)
            by_prompt[prompt] = before - statistics.fmean(cut.spread for cut in own if cut.offset > 0)
    summary: dict[str, Any] = {}
    for kind, by_prompt in drops.items():
        summary[f"{kind}_answers"] = len(by_prompt)
        for offset in OFFSETS:
            spreads = [cut.spread for cut in cuts if cut.kind == kind and cut.offset == offset]
            summary[f"{kind}_spread_at_{offset:+d}"] = round(statistics.fmean(spreads), 4) if spreads else None
        summary[f"{kind}_drop"] = round(statistics.fmean(by_prompt.values()), 4) if by_prompt else None
    both = [drops["commitment"][i] - drops["control"][i] for i in drops["commitment"] if i in drops["control"]]
    summary["answers_with_both"] = len(both)
    summary["extra_drop_at_commitment"] = round(statistics.fmean(both), 4) if both else None
    summary["p_value"] = _sign_flip_p_value(both, seed) if both else None
    return summary


def _sign_flip_p_value(differences: Sequence[float], seed: int, rounds: int = 9999) -> float:
    """Share of random sign flips whose mean is at least the one found; one-sided."""
    rng, observed = random.Random(seed), sum(differences)
    as_large = sum(sum(d * rng.choice((-1, 1)) for d in differences) >= observed for _ in range(rounds))
    return (1 + as_large) / (1 + rounds)


if __name__ == "__main__":
    run_command(validate_commitment)
