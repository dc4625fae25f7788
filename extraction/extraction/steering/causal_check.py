"""The causal check: steer in doses, let the unsteered model read what came of it, and weigh effect against price."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from extraction.judging.scoring import JudgeSettings, resolve_judge
from extraction.steering.bench import Bench, Series
from extraction.steering.report import draw, verdict, warnings_about
from utils.errors import UserError
from utils.experiment import Experiment, TraitFolder
from utils.formats.activation_files import definition_behind, spread_evenly
from utils.formats.bundle import check_model, load_model_for
from utils.formats.files import check_output, write_json
from utils.judge import Judge
from utils.models.generation import Sampling
from utils.records import TraitVector
from utils.vectors import available_vectors, load_vector, ranked_places, read_vector, vector_name
from utils.versions import package_versions

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
    trust_remote_code: bool = False,
    experiments_dir: str | Path = "experiments",
) -> CausalCheck:
    """Check a trait's vector, write the answers and the picture, and log what was found.

    Raises:
        UserError: no vector, no definition, no other layer to read at, unusable doses, or an output that its picture
            would replace.
    """
    doses = tuple(sorted({0.0, *settings.coefficients}))
    if len(doses) < 2 or not all(map(math.isfinite, doses)):
        raise UserError("--coefficients needs at least one finite dose that is not 0")
    folder = Experiment(Path(experiments_dir), experiment).trait(trait)
    vector = load_vector(
        experiment, trait, layer=settings.layer, method=settings.method, experiments_dir=experiments_dir
    )
    reader = _reader(folder, vector, settings.read_layer)
    definition = definition_behind(folder, vector.metadata.get("responses_from"))
    path = Path(output) if output else folder.vectors_dir / f"steering_{vector_name(vector.method, vector.layer)}.json"
    if path.suffix == ".png":
        raise UserError(f"{path} is where the picture of the answers goes: give --output an ending such as .json")
    check_output(path)
    loaded = load_model_for(vector, model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    check_model(reader, loaded)
    judge = resolve_judge(settings.judge, lambda: loaded)
    picks = spread_evenly(len(definition.questions), settings.n_prompts)
    questions = [definition.questions[i] for i in picks]
    bench = Bench(loaded, vector, reader, questions, definition.eval_prompt, judge, settings.sampling, settings.seed)
    with contextlib.closing(judge) if judge else contextlib.nullcontext():
        result = CausalCheck(vector, reader, *bench.try_doses(doses, settings.control))
    write_json(path, _as_json(result, settings, judge))
    draw(result, path.with_suffix(".png"))
    logger.info(verdict(result))
    for warning in warnings_about(result):
        logger.warning("%s: warning: %s", trait, warning)
    logger.info("answers: %s, picture: %s", path, path.with_suffix(".png"))
    return result


def _reader(folder: TraitFolder, vector: TraitVector, read_layer: int | None) -> TraitVector:
    """The vector that reads the answers: at the layer asked for, or the best at any other than the steered layer."""
    there = available_vectors(folder)  # a shared experiment may list more than it holds
    ranked = [place for place in ranked_places(folder) if place in there]
    if read_layer is None:
        places = [place for place in ranked if place[1] != vector.layer]
    else:
        places = [place for place in ranked if place[1] == read_layer]
    if not places:
        wanted = "another layer than the steered one" if read_layer is None else f"layer {read_layer}"
        raise UserError(f"{folder.trait} has no vector at {wanted} to read with. {folder.command(3)}")
    return read_vector(folder, *places[0])


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
