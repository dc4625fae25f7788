"""The causal check: steer in doses, let the unsteered model read what came of it, and weigh effect against price."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import asdict
from pathlib import Path

from extraction.capture.examples import spread_evenly
from extraction.judging.scoring import resolve_judge
from extraction.judging.settings import JudgeSettings
from extraction.steering.bench import Bench
from extraction.steering.damage import perplexity, repetition
from extraction.steering.picture import draw
from extraction.steering.report import doubts_about, findings
from extraction.steering.results import CausalCheck, Series
from extraction.steering.settings import Settings
from extraction.steering.verdict import verdict_on
from utils.definition import definition_behind
from utils.errors import UserError
from utils.experiment import Experiment, TraitFolder
from utils.formats.files import check_output, write_json
from utils.formats.vector_files import available_vectors, ranked_places, read_vector
from utils.judge import Judge
from utils.models.compatibility import check_model, load_model_for
from utils.records import TraitVector
from utils.vectors import load_vector
from utils.versions import package_versions

logger = logging.getLogger(__name__)


def run_causal_check(settings: Settings) -> CausalCheck:
    """Check a trait's vector, write the answers and the picture, and log what was found.

    Raises:
        UserError: no vector, no definition, no other layer to read at, unusable doses, or an output that its picture
            would replace.
    """
    doses = settings.doses
    if not doses or not all(map(math.isfinite, doses)):
        raise UserError("--coefficients needs at least one finite dose that is not 0")
    folder = Experiment(Path(settings.experiments_dir), settings.experiment).trait(settings.trait)
    vector = load_vector(
        settings.experiment, settings.trait, layer=settings.layer, method=settings.method,
        experiments_dir=settings.experiments_dir,
    )  # fmt: skip
    reader = _reader(folder, vector, settings.read_layer)
    definition = definition_behind(folder, vector.metadata.responses_from)
    path = Path(settings.output or folder.vectors_dir / f"steering_{vector.metadata.name}.json")
    picture = path.with_suffix(".png")
    if path == picture:
        raise UserError(f"{path} is where the picture of the answers goes: give --output an ending such as .json")
    check_output(path)
    loaded = load_model_for(
        [vector], settings.model, device=settings.device, dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )  # fmt: skip
    check_model(reader, loaded)
    judge = resolve_judge(JudgeSettings(settings.judge_model, settings.judge_base_url), lambda: loaded)
    picks = spread_evenly(len(definition.questions), settings.n_prompts)
    questions = [definition.questions[i] for i in picks]
    bench = Bench(loaded, vector, reader, questions, definition.eval_prompt, judge, settings.sampling, settings.seed)
    with contextlib.closing(judge) if judge else contextlib.nullcontext():
        typical_norm, series = bench.try_doses(doses, settings.n_controls)
    judged = any(answer.judged is not None for answers in series[0].answers.values() for answer in answers)
    judged_verdict = verdict_on(series, "judged") if judged else None
    result = CausalCheck(vector, reader, typical_norm, series, verdict_on(series, "readout"), judged_verdict)
    write_json(path, _as_json(result, settings, judge))
    draw(result, picture)
    for finding in findings(result):
        logger.info(finding)
    for doubt in doubts_about(result):
        logger.warning("%s: warning: %s", settings.trait, doubt)
    logger.info("answers: %s, picture: %s", path, picture)
    return result


def _reader(folder: TraitFolder, vector: TraitVector, read_layer: int | None) -> TraitVector:
    """The vector that reads the answers: at the layer asked for, or the best at any other than the steered layer."""
    there = available_vectors(folder)  # a shared experiment may list more than it holds
    for method, layer in ranked_places(folder):
        wanted = layer != vector.layer if read_layer is None else layer == read_layer
        if wanted and (method, layer) in there:
            return read_vector(folder, method, layer)
    place = "another layer than the steered one" if read_layer is None else f"layer {read_layer}"
    raise UserError(f"{folder.trait} has no vector at {place} to read with. {folder.command(3)}")


def _as_json(result: CausalCheck, settings: Settings, judge: Judge | None) -> dict[str, object]:
    return {
        "trait": result.vector.trait,
        "model": result.vector.model,
        "steered": {"method": result.vector.method, "layer": result.vector.layer},
        "read": {"method": result.reader.method, "layer": result.reader.layer},
        "readout_unit": "distances of the class means at the reading layer, 0 at their midpoint",
        "dose_unit": "median norm of the states of unsteered answer tokens at the steered layer",
        "typical_norm": result.typical_norm,
        "judge": judge.name if judge else None,
        "verdict": asdict(result.verdict),
        "judged_verdict": asdict(result.judged_verdict) if result.judged_verdict else None,
        "sampling": {**asdict(settings.sampling), "seed": settings.seed},
        "series": [_series_as_json(series) for series in result.series],
        "warnings": doubts_about(result),
        "versions": package_versions(),
    }


def _series_as_json(series: Series) -> dict[str, object]:
    return {
        "direction": series.direction,
        "deciding_dose": series.deciding_dose,
        "doses": [
            {
                "dose": dose, "perplexity": perplexity(answers), "repetition": repetition(answers),
                "damage": series.damage[dose], "answers": [asdict(answer) for answer in answers],
            }
            for dose, answers in series.answers.items()
        ],
    }  # fmt: skip
