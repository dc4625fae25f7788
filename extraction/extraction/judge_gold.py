"""How far a judge agrees with clear labels: ``python -m extraction.judge_gold --judge_model NAME``."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from extraction.cli import run_command
from utils.definition import read_definition

if TYPE_CHECKING:
    from utils.judge import Judge
    from utils.records import TraitDefinition

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with ``n`` labelled pairs; those that are unscored are counted and left out.

    ``auroc`` is the chance that a positive answer scores above a negative one, ``accuracy`` the share of the scored
    pairs on the right side of 50.
    """

    n: int
    unscored: int
    auroc: float | None
    accuracy: float | None


def read_gold_set() -> list[dict[str, str]]:
    """Labelled pairs: trait, question, answer, and label "pos" or "neg"."""
    import utils.judges

    text = (Path(utils.judges.__file__).parent / "gold_set.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def judge_gold(
    judge_model: str | None = None,
    judge_base_url: str | None = None,
    judge_concurrency: int = 20,
    judge_samples: int = 1,
    traits: list[str] | None = None,
    definitions: str = "starter",
    experiments_dir: str = "experiments",
    output: str | None = None,
) -> None:
    """Report a judge's agreement with hand-labelled answers: AUROC and accuracy at 50, trait by trait.

    Args:
        judge_model: OpenAI or Anthropic model, local (the embedded model) or local:MODEL; by default the first at hand.
        judge_base_url: ask the judge model at this OpenAI-compatible server.
        judge_concurrency: requests to the judge at once.
        judge_samples: numeric answers to average where a judge gives no log-probabilities.
        traits: only these, separated by commas.
        definitions: experiment whose trait definitions hold the judge's prompts.
        experiments_dir: folder of the experiments.
        output: also write the figures to this JSON file.
    """
    from extraction.judging.scoring import resolve_judge
    from extraction.judging.settings import JudgeSettings
    from utils.errors import UserError
    from utils.experiment import Experiment
    from utils.formats.files import check_output, write_json
    from utils.models.embedded import EMBEDDED_MODEL
    from utils.models.load import load_model

    gold = read_gold_set()
    known = list(dict.fromkeys(pair["trait"] for pair in gold))
    if unknown := sorted(set(traits or []) - set(known)):
        raise UserError(f"the gold set has no trait {', '.join(unknown)}; it has {', '.join(known)}")
    if output:
        check_output(Path(output))
    experiment = Experiment(Path(experiments_dir), definitions)
    chosen = {name: read_definition(experiment.trait(name)) for name in traits or known}
    settings = JudgeSettings(judge_model, judge_base_url, judge_concurrency, judge_samples)
    judge = resolve_judge(settings, lambda: load_model(EMBEDDED_MODEL))
    if judge is None:
        raise UserError("--judge_model none has no agreement to report")
    results = {}
    with contextlib.closing(judge):
        for name, definition in chosen.items():
            pairs = [pair for pair in gold if pair["trait"] == name]
            results[name] = grade_pairs(judge, definition, pairs)
            logger.info("%s", _line(name, results[name]))
    if output:
        figures = {name: asdict(result) for name, result in results.items()}
        write_json(Path(output), {"judge": judge.name, "traits": figures})
        logger.info("agreement: %s", output)


def grade_pairs(judge: Judge, definition: TraitDefinition, pairs: list[dict[str, str]]) -> Agreement:
    """How far a judge agrees with labelled pairs."""
    from extraction.judging.report import auroc_of
    from utils.judge import fill_template

    prompts = [fill_template(definition.eval_prompt, pair["question"], pair["answer"]) for pair in pairs]
    scores: dict[str, list[float]] = {"pos": [], "neg": []}
    for i, judgement in judge.judgements(prompts):
        if judgement.score is not None:
            scores[pairs[i]["label"]].append(judgement.score)
    right = [score >= 50 for score in scores["pos"]] + [score < 50 for score in scores["neg"]]
    accuracy = sum(right) / len(right) if right else None
    return Agreement(len(pairs), len(pairs) - len(right), auroc_of(scores["pos"], scores["neg"]), accuracy)


def _line(trait: str, result: Agreement) -> str:
    auroc, accuracy = (f"{x:.2f}" if x is not None else "none" for x in (result.auroc, result.accuracy))
    unscored = f", {result.unscored} unscored" if result.unscored else ""
    return f"{trait:15} AUROC {auroc}  accuracy {accuracy}  ({result.n} pairs{unscored})"


if __name__ == "__main__":
    run_command(judge_gold)
