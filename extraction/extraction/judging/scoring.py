"""Scoring the responses of a trait: which judge, which rows, and what to think of the scores."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from extraction.judging.report import JudgeReport, read_report, report_on
from extraction.judging.settings import JudgeSettings
from utils.errors import UserError
from utils.experiment import TraitFolder
from utils.formats.files import sha256_of_texts
from utils.formats.response_files import (
    read_responses,
    read_responses_metadata,
    write_responses,
    write_responses_metadata,
)
from utils.judge import Judge, choose_judge, fill_template, make_api_judge
from utils.models.load import LoadedModel, load_model
from utils.records import POLARITIES, Polarity, Response, TraitDefinition

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_WRITES = 1.0
_CHARACTERS_PER_TOKEN = 4

# Where a response stands: its side and its row in that side's file.
Place = tuple[Polarity, int]


def resolve_judge(
    settings: JudgeSettings,
    generation: Callable[[], LoadedModel] | None,
    load: Callable[[str], LoadedModel] = load_model,
) -> Judge | None:
    """The judge to use, found able to work; None where judging is skipped.

    Args:
        settings: which judge.
        generation: gives the model that "local" means.
        load: loads a model by its name, for local:MODEL.

    Raises:
        UserError: no key, a refused key, an unknown model, no server: before anything is generated.
    """
    name = choose_judge(settings.judge_model, settings.judge_base_url)
    if name == "none":
        logger.info("judge: none; responses stay unscored")
        return None
    if name == "local" and generation is None:
        raise UserError("--judge_model local means the generation model and there is none here: use local:MODEL")
    judge: Judge
    if name == "local" or name.startswith("local:"):
        from utils.judges.local import LocalJudge

        loaded = generation() if generation and name == "local" else load(name.removeprefix("local:"))
        judge = LocalJudge(loaded.model, loaded.tokenizer, loaded.name)
    else:
        judge = make_api_judge(name, settings.judge_base_url, settings.judge_concurrency, settings.judge_samples)
        judge.check()
    chosen = "" if settings.judge_model else " (the first at hand; choose with --judge_model)"
    logger.info("judge: %s%s", judge.name, chosen)
    return judge


def judge_trait(
    folder: TraitFolder, definition: TraitDefinition, judge: Judge | None, settings: JudgeSettings
) -> JudgeReport:
    """Score the unscored responses of a trait, or all of them where another judge or prompt scored them before.

    Finished scores go to a journal, so an interrupted run loses none. The caller holds the folder's lock.

    Returns:
        What the responses' metadata hold under "judge" from now on.

    Raises:
        UserError: the judge stopped working; scores made until then are in the journal.
    """
    metadata = read_responses_metadata(folder)
    report = read_report(folder)
    judged = metadata.get("judge") or report.to_json()
    if judge is not None:
        report = _score_all(folder, definition, judge, settings, report)
        judged = report.to_json()
    write_responses_metadata(folder, {**metadata, "threshold": settings.kept_from, "judge": judged})
    if judge is not None:
        folder.scores_journal.clear()
        _say(folder, report, judge.paid)
    return report


def _score_all(
    folder: TraitFolder, definition: TraitDefinition, judge: Judge, settings: JudgeSettings, before: JudgeReport
) -> JudgeReport:
    """Write the responses with their scores; the report on them."""
    sides = {polarity: read_responses(folder, polarity) for polarity in POLARITIES}
    rows: dict[Place, Response] = {(p, i): r for p in POLARITIES for i, r in enumerate(sides[p])}
    prompt_hash = sha256_of_texts([definition.eval_prompt])
    if (before.name, before.eval_prompt_sha256) != (judge.name, prompt_hash):
        _say_what_is_replaced(folder.trait, rows.values(), before.name, judge.name)
        rows = {place: replace(row, trait_score=None, judge_method="") for place, row in rows.items()}
    rows |= _scored_before(folder, rows, {"judge": judge.name, "eval_prompt_sha256": prompt_hash})
    tokens_before = judge.tokens
    scored, reasons = _score(folder, definition, rows, judge)
    rows |= scored
    for polarity in POLARITIES:
        sides[polarity] = [row for (side, _), row in rows.items() if side == polarity]
        if sides[polarity]:
            write_responses(folder, polarity, sides[polarity])
    return report_on(
        sides,
        settings.kept_from,
        name=judge.name,
        eval_prompt_sha256=prompt_hash,
        reasons=reasons,
        tokens=judge.tokens - tokens_before,
        earlier=before.before(judge.name),
    )


def _say_what_is_replaced(trait: str, rows: Iterable[Response], before: str | None, name: str) -> None:
    if any(row.trait_score is not None for row in rows):
        by = before or "an unrecorded judge"
        why = "the eval_prompt has changed" if before == name else f"they were scored by {by}"
        logger.info("%s: scoring all responses anew with %s: %s", trait, name, why)


def _scored_before(
    folder: TraitFolder, rows: Mapping[Place, Response], settings: Mapping[str, object]
) -> dict[Place, Response]:
    """The rows that an interrupted run with the same settings has scored; without one, a journal is begun."""
    journal = folder.scores_journal
    if not journal.is_of(settings):
        journal.begin(settings)
    scored = {str(piece["key"]): piece for piece in journal.pieces(("key", "score", "method"))}
    found = {}
    for place, row in rows.items():
        if piece := scored.get(_key(row)):
            found[place] = replace(row, trait_score=piece["score"], judge_method=piece["method"])
    if found:
        logger.info("%s: continuing after %d scores of an interrupted run", folder.trait, len(found))
    return found


def _key(row: Response) -> str:
    """Fingerprint of what the judge reads of a response."""
    return sha256_of_texts([row.question, row.response])


def _score(
    folder: TraitFolder, definition: TraitDefinition, rows: Mapping[Place, Response], judge: Judge
) -> tuple[dict[Place, Response], list[str]]:
    """The rows that had no score and have one now, and why others got none."""
    from tqdm import tqdm

    todo = [place for place, row in rows.items() if row.trait_score is None and not row.was_refused]
    prompts = [fill_template(definition.eval_prompt, rows[p].question, rows[p].response) for p in todo]
    if judge.paid and todo:
        estimate = sum(map(len, prompts)) // _CHARACTERS_PER_TOKEN
        logger.info("%s: %d responses to score, about %d tokens to send", folder.trait, len(todo), estimate)
    scored = {}
    reasons = [f"there is no response ({row.finish_reason})" for row in rows.values() if row.was_refused]
    waiting, written = [], time.monotonic()
    title = f"{folder.trait}: judging"
    with tqdm(total=len(todo), desc=title, unit="response", disable=not sys.stderr.isatty()) as bar:
        try:
            for n, judgement in judge.judgements(prompts):
                place, row = todo[n], rows[todo[n]]
                if judgement.score is None:
                    reasons.append(judgement.reason)
                else:
                    scored[place] = replace(row, trait_score=judgement.score, judge_method=judgement.method)
                    waiting.append({"key": _key(row), "score": judgement.score, "method": judgement.method})
                if waiting and time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                    folder.scores_journal.add(waiting)
                    waiting, written = [], time.monotonic()
                counts = {"scored": len(scored), "unscored": len(reasons)}
                bar.set_postfix({**counts, "tokens": judge.tokens} if judge.paid else counts, refresh=False)
                bar.update()
        finally:  # whatever ends it, finished scores are on disk
            if waiting:
                folder.scores_journal.add(waiting)
    return scored, reasons


def _say(folder: TraitFolder, report: JudgeReport, paid: bool) -> None:
    scored, unscored = sum(report.scored.values()), sum(report.unscored.values())
    used = f", {report.tokens} tokens used" if paid else ""
    logger.info("%s: %d scored, %d unscored%s", folder.trait, scored, unscored, used)
    for reason, n in report.reasons.items():
        logger.info("%s: %d unscored: %s", folder.trait, n, reason)
    if report.auroc is not None:
        logger.info(
            "%s: AUROC %.3f against the intended side, contrast %.1f (pos %.1f, neg %.1f)",
            folder.trait, report.auroc, report.contrast, report.mean_pos, report.mean_neg,
        )  # fmt: skip
        logger.info(
            "%s: at threshold %g, %d pos and %d neg responses show what they were asked for",
            folder.trait, report.threshold, report.kept["pos"], report.kept["neg"],
        )  # fmt: skip
    for warning in report.warnings:
        logger.warning("%s: %s", folder.trait, warning)
