"""Scoring the responses of a trait: which judge, which rows, and what to think of the scores."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from extraction.cli import check_range
from extraction.judging.agreement import agreement, warnings_about
from utils.errors import UserError
from utils.experiment import TraitFolder
from utils.formats.files import append_jsonl, read_jsonl, sha256_of_texts
from utils.formats.response_files import (
    read_responses,
    read_responses_metadata,
    write_responses,
    write_responses_metadata,
)
from utils.judge import ApiJudge, Judge, Verdict, choose_judge, fill_template, make_endpoint, make_local_judge
from utils.models.load import LoadedModel, load_model
from utils.records import DEFAULT_THRESHOLD, POLARITIES, Polarity, Response, TraitDefinition

logger = logging.getLogger(__name__)

JOURNAL = "scores"
_SECONDS_BETWEEN_WRITES = 1.0
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class JudgeSettings:
    """How to judge, as the flags of stage 1 say it; ``threshold`` None means the default, which ``kept_from`` knows."""

    judge_model: str | None = None
    judge_base_url: str | None = None
    judge_concurrency: int = 20
    judge_samples: int = 1
    threshold: float | None = None

    @property
    def kept_from(self) -> float:
        """The score from which a response shows what it was asked for."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold


@dataclass(frozen=True)
class _Row:
    """One response and where it stands."""

    polarity: Polarity
    number: int
    response: Response

    def key(self, definition: TraitDefinition) -> str:
        """Fingerprint of all that the judge reads."""
        return sha256_of_texts([definition.eval_prompt, self.response.question, self.response.response])


def resolve_judge(
    settings: JudgeSettings,
    generation: LoadedModel | Callable[[], LoadedModel] | None,
    load: Callable[[str], LoadedModel] = load_model,
) -> Judge | None:
    """The judge to use, found able to work; None where judging is skipped.

    Args:
        settings: which judge.
        generation: the model that "local" means, or a function that loads it.
        load: loads a model by its name, for local:MODEL.

    Raises:
        UserError: no key, a refused key, an unknown model, no server: before anything is generated.
    """
    check_range("judge_concurrency", settings.judge_concurrency, 1)
    check_range("judge_samples", settings.judge_samples, 1)
    check_range("threshold", settings.threshold, 0, 100)
    name = choose_judge(settings.judge_model, settings.judge_base_url)
    chosen = "" if settings.judge_model else " (the first at hand; choose with --judge_model)"
    if name == "none":
        logger.info("judge: none; responses stay unscored")
        return None
    if name == "local" or name.startswith("local:"):
        judge = make_local_judge(_local_model(name, generation, load))
    else:
        endpoint = make_endpoint(name, settings.judge_base_url, settings.judge_concurrency, settings.judge_samples)
        judge = ApiJudge(endpoint)
    try:
        judge.check()
    except UserError:
        judge.close()
        raise
    logger.info("judge: %s%s", judge.name, chosen)
    return judge


def _local_model(
    name: str, generation: LoadedModel | Callable[[], LoadedModel] | None, load: Callable[[str], LoadedModel]
) -> LoadedModel:
    if name != "local":
        return load(name.removeprefix("local:"))
    if generation is None:
        raise UserError("--judge_model local means the generation model and there is none here: use local:MODEL")
    return generation if isinstance(generation, LoadedModel) else generation()


def judge_trait(
    folder: TraitFolder, definition: TraitDefinition, judge: Judge | None, settings: JudgeSettings
) -> dict[str, Any]:
    """Score the unscored responses of a trait, or all of them where another judge or prompt scored them before.

    Finished scores go to a journal, so an interrupted run loses none. The caller holds the folder's lock.

    Returns:
        What the responses' metadata keep under "judge".

    Raises:
        UserError: the judge stopped working; scores made until then are in the journal.
    """
    metadata = read_responses_metadata(folder)
    recorded = metadata.get("judge") or {}
    if judge is None:
        return dict(recorded) or {"name": None}
    responses = {polarity: read_responses(folder, polarity) for polarity in POLARITIES}
    rows = [_Row(p, i, r) for p in POLARITIES for i, r in enumerate(responses[p])]
    prompt_hash = sha256_of_texts([definition.eval_prompt])
    if (recorded.get("name"), recorded.get("eval_prompt_sha256")) != (judge.name, prompt_hash):
        rows = _without_scores(folder, rows, recorded.get("name"), judge)
    rows = _with_journal(folder, definition, rows, judge)
    tokens_before = judge.usage.tokens
    rows, reasons = _score(folder, definition, rows, judge)
    for polarity in POLARITIES:
        if responses[polarity]:
            write_responses(folder, polarity, [row.response for row in rows if row.polarity == polarity])
    sides = {polarity: [row.response for row in rows if row.polarity == polarity] for polarity in POLARITIES}
    report = {
        "name": judge.name,
        "eval_prompt_sha256": prompt_hash,
        **agreement(sides, settings.kept_from),
        "reasons": dict(Counter(reasons).most_common(5)),
        "tokens": judge.usage.tokens - tokens_before,
        "earlier": _earlier(recorded, judge.name),
    }
    report["warnings"] = warnings_about(report)
    write_responses_metadata(folder, {**metadata, "judge": report})
    folder.journal_path(JOURNAL).unlink(missing_ok=True)
    _say(folder, report, judge)
    return report


def _without_scores(folder: TraitFolder, rows: list[_Row], before: str | None, judge: Judge) -> list[_Row]:
    """The rows to be scored anew, saying so where scores are replaced."""
    if any(row.response.trait_score is not None for row in rows):
        by = before or "an unrecorded judge"
        why = "the eval_prompt has changed" if before == judge.name else f"they were scored by {by}"
        logger.info("%s: scoring all responses anew with %s: %s", folder.trait, judge.name, why)
    return [replace(row, response=replace(row.response, trait_score=None, judge_method="")) for row in rows]


def _with_journal(folder: TraitFolder, definition: TraitDefinition, rows: list[_Row], judge: Judge) -> list[_Row]:
    """The rows with the scores that an interrupted run of the same judge has left."""
    keys = ("judge", "polarity", "row", "key", "score", "method")
    entries = read_jsonl(folder.journal_path(JOURNAL), keys)
    found = {_place_of(e): e for e in entries if e["judge"] == judge.name and _is_score(e["score"])}
    result = []
    for row in rows:
        entry = found.get(str((row.polarity, row.number, row.key(definition))))
        result.append(_scored(row, Verdict(float(entry["score"]), str(entry["method"]))) if entry else row)
    if found:
        logger.info("%s: continuing after %d scores of an interrupted run", folder.trait, len(found))
    return result


def _place_of(entry: dict[str, Any]) -> str:
    return str((entry["polarity"], entry["row"], entry["key"]))  # a damaged entry may hold what has no hash


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def _scored(row: _Row, verdict: Verdict) -> _Row:
    return replace(row, response=replace(row.response, trait_score=verdict.score, judge_method=verdict.method))


def _score(
    folder: TraitFolder, definition: TraitDefinition, rows: list[_Row], judge: Judge
) -> tuple[list[_Row], list[str]]:
    """The rows with their new scores, and why others got none."""
    todo = [i for i, row in enumerate(rows) if row.response.trait_score is None]
    pairs = [(rows[i].response.question, rows[i].response.response) for i in todo]
    prompts = [fill_template(definition.eval_prompt, question, answer) for question, answer in pairs]
    if judge.paid and todo:
        estimate = sum(map(len, prompts)) // _CHARACTERS_PER_TOKEN
        logger.info("%s: %d responses to score, about %d tokens to send", folder.trait, len(todo), estimate)
    result, reasons = list(rows), []
    with _journal(folder) as write, _progress(folder.trait, len(todo), judge) as advance:
        for n, verdict in judge.verdicts(prompts):
            row = rows[todo[n]]
            advance(verdict)
            if verdict.score is None:
                reasons.append(verdict.reason)
                continue
            result[todo[n]] = _scored(row, verdict)
            place = {"judge": judge.name, "polarity": row.polarity, "row": row.number, "key": row.key(definition)}
            write({**place, "score": verdict.score, "method": verdict.method})
    return result, reasons


@contextlib.contextmanager
def _journal(folder: TraitFolder) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that journals entries, on disk about every second and at the end, whatever ends it."""
    waiting: list[dict[str, Any]] = []
    last = time.monotonic()

    def _write(entry: dict[str, Any]) -> None:
        nonlocal last
        waiting.append(entry)
        if time.monotonic() - last > _SECONDS_BETWEEN_WRITES:
            _flush()
            last = time.monotonic()

    def _flush() -> None:
        if waiting:
            append_jsonl(folder.journal_path(JOURNAL), waiting)
            waiting.clear()

    try:
        yield _write
    finally:
        _flush()


@contextlib.contextmanager
def _progress(trait: str, total: int, judge: Judge) -> Iterator[Callable[[Verdict], None]]:
    from tqdm import tqdm

    counts = Counter({"scored": 0, "unscored": 0})
    with tqdm(total=total, desc=f"{trait}: judging", unit="response", disable=not sys.stderr.isatty()) as bar:

        def _advance(verdict: Verdict) -> None:
            counts["unscored" if verdict.score is None else "scored"] += 1
            bar.set_postfix({**counts, "tokens": judge.usage.tokens} if judge.paid else counts, refresh=False)
            bar.update()

        yield _advance


def _earlier(recorded: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What judges before this one found."""
    earlier = [dict(e) for e in recorded.get("earlier", []) if e.get("name") != name]
    if recorded.get("name") not in (None, name):
        earlier.append({key: recorded.get(key) for key in ("name", "auroc", "contrast", "mean_pos", "mean_neg")})
    return earlier


def _say(folder: TraitFolder, report: dict[str, Any], judge: Judge) -> None:
    scored, unscored = sum(report["scored"].values()), sum(report["unscored"].values())
    used = f", {report['tokens']} tokens used" if judge.paid else ""
    logger.info("%s: %d scored, %d unscored%s", folder.trait, scored, unscored, used)
    for reason, n in report["reasons"].items():
        logger.info("%s: %d unscored: %s", folder.trait, n, reason)
    if report["auroc"] is not None:
        logger.info(
            "%s: AUROC %.3f against the intended side, contrast %.1f (pos %.1f, neg %.1f)",
            folder.trait, report["auroc"], report["contrast"], report["mean_pos"], report["mean_neg"],
        )  # fmt: skip
        logger.info(
            "%s: at threshold %g, %d pos and %d neg responses show what they were asked for",
            folder.trait, report["threshold"], report["kept"]["pos"], report["kept"]["neg"],
        )  # fmt: skip
    for warning in report["warnings"]:
        logger.warning("%s: %s", folder.trait, warning)
