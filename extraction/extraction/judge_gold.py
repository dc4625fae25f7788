"""How far a judge agrees with clear labels: ``python -m extraction.judge_gold --judge_model NAME``."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extraction.cli import run_command
from utils.formats.definition import read_definition

if TYPE_CHECKING:
    from utils.judge import Judge
    from utils.records import TraitDefinition

logger = logging.getLogger(__name__)


def read_gold_set() -> list[dict[str, str]]:
    """Labelled pairs: trait, question, answer, and label "pos" or "neg"."""
    import utils.judges

    text = (Path(utils.judges.__file__).parent / "gold_set.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


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
    from extraction.judging.scoring import JudgeSettings, resolve_judge
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
    lab = Experiment(Path(experiments_dir), definitions)
    chosen = {name: read_definition(lab.trait(name)) for name in traits or known}
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
        write_json(Path(output), {"judge": judge.name, "traits": results})
        logger.info("agreement: %s", output)


def grade_pairs(judge: Judge, definition: TraitDefinition, pairs: list[dict[str, str]]) -> dict[str, Any]:
    """AUROC, accuracy at 50 and counts of a judge on labelled pairs; unscored pairs are counted and left out."""
    from extraction.judging.agreement import auroc_of
    from utils.judge import fill_template

    prompts = [fill_template(definition.eval_prompt, pair["question"], pair["answer"]) for pair in pairs]
    scores: dict[str, list[float]] = {"pos": [], "neg": []}
    for i, verdict in judge.verdicts(prompts):
        if verdict.score is not None:
            scores[pairs[i]["label"]].append(verdict.score)
    right = [score >= 50 for score in scores["pos"]] + [score < 50 for score in scores["neg"]]
    return {
        "n": len(pairs),
        "unscored": len(pairs) - len(right),
        "auroc": auroc_of(scores["pos"], scores["neg"]),
        "accuracy": sum(right) / len(right) if right else None,
    }


def _line(trait: str, result: dict[str, Any]) -> str:
    shown = {key: "none" if result[key] is None else f"{result[key]:.2f}" for key in ("auroc", "accuracy")}
    unscored = f", {result['unscored']} unscored" if result["unscored"] else ""
    return f"{trait:15} AUROC {shown['auroc']}  accuracy {shown['accuracy']}  ({result['n']} pairs{unscored})"


if __name__ == "__main__":
    run_command(judge_gold)
