"""Does the commitment point mean what its name says? Cut answers before and after it, and resample the rest.

If a trait is settled at the commitment point, answers continued from after it end with nearly one score, and answers
continued from before it do not. A later cut always leaves less room, so the drop in spread across the commitment point
is compared with the drop across a control point: the commitment point of another answer, which says nothing about this
one.

    python benchmarks/commitment.py --experiment my_exp --trait refusal --prompts_file prompts.txt
"""

from __future__ import annotations

import logging
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from extraction.cli import check_range, run_command

if TYPE_CHECKING:
    from utils.formats.transcripts import Transcript
    from utils.models import LoadedModel
    from utils.models.generation import Sampling
    from utils.records import TraitVector

logger = logging.getLogger("traitlens")

# Where answers are cut: so many tokens are kept more or fewer than the point's number. The token at the point is the
# first that 2 and 4 keep and -3 and -1 resample.
OFFSETS = (-3, -1, 2, 4)
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
    from extraction.monitoring.vectors import choose_vectors, vectors_in

    from utils.errors import UserError
    from utils.experiment import Experiment
    from utils.formats.files import check_output, write_json
    from utils.models.compatibility import load_model_for
    from utils.models.generation import Sampling

    if smoothing % 2 == 0:
        raise UserError(f"--smoothing must be an odd number of tokens, got {smoothing}")
    home = Experiment(Path(experiments_dir), experiment)
    texts = find_texts(prompts, prompts_file)
    chosen = choose_vectors(home, [trait], layer, method)
    path = Path(output) if output else home.results_dir.parent / f"commitment_{trait}.json"
    check_output(path)
    loaded, sampling = load_model_for(vectors_in(chosen), device=device), Sampling(max_new_tokens, temperature)
    sampler = Sampler(loaded, chosen[trait].main, sampling, samples, smoothing, seed)
    answers = [sampler.answer(text, i) for i, text in enumerate(texts)]
    points = points_to_cut_around(answers, seed)
    logger.info("%d of %d answers have a commitment point with room for cuts", len(points), len(answers))
    cuts = []
    for i, by_kind in points.items():
        for kind, point in by_kind.items():
            cuts += [sampler.cut(answers[i], i, kind, point, offset) for offset in OFFSETS]
        logger.info("answer %d of %d", i + 1, len(answers))
    summary = summarise(cuts, seed)
    write_json(path, {"trait": trait, "samples": samples, "summary": summary, "cuts": [asdict(cut) for cut in cuts]})
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in summary.items()))
    logger.info("Results: %s", path)


@dataclass(frozen=True)
class WholeAnswer:
    """An answer before it is cut: ids of prompt and response, and its commitment point."""

    prompt_ids: list[int]
    response_ids: list[int]
    point: int | None
    p_value: float | None

    def has_room(self, point: int | None) -> bool:
        """Whether all cuts around ``point`` are within the response."""
        return point is not None and point + min(OFFSETS) >= 0 and point + max(OFFSETS) < len(self.response_ids)


@dataclass(frozen=True)
class Sampler:
    """Samples answers and their continuations, and scores them."""

    loaded: LoadedModel
    vector: TraitVector
    sampling: Sampling
    samples: int
    smoothing: int
    seed: int

    def answer(self, text: Transcript, number: int) -> WholeAnswer:
        """The answer to a text, with its commitment point."""
        from traitlens import analyze_dynamics
        from utils.prompts import encode_prompt, format_conversation

        prompt_ids = encode_prompt(self.loaded.tokenizer, format_conversation(self.loaded.tokenizer, text.messages))
        ((response_ids, scores),) = self._continued(prompt_ids, [], 1, self.seed + number)
        dynamics = analyze_dynamics(scores, smoothing=self.smoothing)
        return WholeAnswer(prompt_ids, response_ids, dynamics.commitment_point, dynamics.commitment_p_value)

    def cut(self, answer: WholeAnswer, number: int, kind: str, point: int, offset: int) -> Cut:
        """The spread of the final score when an answer is resampled from a cut on."""
        kept = answer.response_ids[: point + offset]
        # The seed is the cut's own: one cut reached as commitment and as control gives the same numbers.
        seed = self.seed + 1000 * (number + 1) + point + offset
        sampled = self._continued(answer.prompt_ids, kept, self.samples, seed)
        finals = [statistics.fmean(scores[-TAIL:]) for _, scores in sampled if scores]
        return Cut(number, kind, point, offset, statistics.pstdev(finals), answer.p_value)

    def _continued(
        self, prompt_ids: list[int], kept: list[int], copies: int, seed: int
    ) -> list[tuple[list[int], list[float]]]:
        """Responses that begin with ``kept``: ids and centred scores of each."""
        from extraction.monitoring.texts import generate

        from traitlens import TraitMonitor

        baseline, vectors = self.vector.baseline or 0.0, {"trait": (self.vector.vector, self.vector.layer)}
        rest = replace(self.sampling, max_new_tokens=self.sampling.max_new_tokens - len(kept))
        with TraitMonitor(self.loaded.model, vectors, end_ids=self.loaded.end_ids) as monitor:
            generate(self.loaded, [prompt_ids + kept] * copies, rest, seed)
        responses = []
        for row in range(copies):
            raw = [*monitor.prompt_scores(row)["trait"][len(prompt_ids) :], *monitor.scores(row)["trait"]]
            responses.append((kept + monitor.token_ids(row), [float(score - baseline) for score in raw]))
        return responses


def points_to_cut_around(answers: Sequence[WholeAnswer], seed: int) -> dict[int, dict[str, int]]:
    """Of every answer whose commitment point has room for cuts: that, and another such answer's where that has too.

    Both kinds of points are so spread alike over positions, and every answer is its own comparison.
    """
    own = {i: answer.point for i, answer in enumerate(answers) if answer.has_room(answer.point)}
    if len(own) < 2:
        return {}
    order = list(own)
    random.Random(seed).shuffle(order)
    others = dict(zip(order, order[1:] + order[:1], strict=True))
    both = {i: {"commitment": point, "control": own[others[i]]} for i, point in own.items()}
    return {i: points for i, points in both.items() if answers[i].has_room(points["control"])}


def summarise(cuts: Sequence[Cut], seed: int) -> dict[str, float | None]:
    """Mean spread before and after both kinds of point, and how surely the drop is larger at the commitment point."""
    summary: dict[str, float | None] = {}
    prompts, drops = sorted({cut.prompt for cut in cuts}), {}
    for kind in ("commitment", "control"):
        spreads = {(cut.prompt, cut.offset): cut.spread for cut in cuts if cut.kind == kind}
        before = [statistics.fmean(spreads[prompt, o] for o in OFFSETS if o < 0) for prompt in prompts]
        after = [statistics.fmean(spreads[prompt, o] for o in OFFSETS if o > 0) for prompt in prompts]
        drops[kind] = [b - a for b, a in zip(before, after, strict=True)]
        summary[f"{kind}_answers"] = len(prompts)
        for offset in OFFSETS:
            summary[f"{kind}_spread_at_{offset:+d}"] = _mean([spreads[prompt, offset] for prompt in prompts])
        summary[f"{kind}_drop"] = _mean(drops[kind])
    extra = [own - control for own, control in zip(drops["commitment"], drops["control"], strict=True)]
    summary["answers_with_both"] = len(extra)
    summary["extra_drop_at_commitment"] = _mean(extra)
    summary["p_value"] = _sign_flip_p_value(extra, seed) if extra else None
    return summary


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def _sign_flip_p_value(differences: Sequence[float], seed: int, rounds: int = 9999) -> float:
    """Share of random sign flips whose mean is at least the one found; one-sided."""
    rng, observed = random.Random(seed), sum(differences)
    as_large = sum(sum(d * rng.choice((-1, 1)) for d in differences) >= observed for _ in range(rounds))
    return (1 + as_large) / (1 + rounds)


if __name__ == "__main__":
    run_command(validate_commitment)
