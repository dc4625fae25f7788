"""Stage 1: ask the traits' questions under their instructions, keep the answers, and judge them."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extraction.cli import check_range, for_each_trait, progress_bar, trait_names
from extraction.distributed import Process, held_by_main, this_process
from extraction.generate.local_model import LocalModel
from extraction.generate.plan import GenerationSettings, fingerprint, plan
from extraction.generate.responses import begin, check_settings, finished_responses, note_finished, write_files
from extraction.generate.served_model import ServedModel
from extraction.judging.scoring import JudgeSettings, judge_trait, resolve_judge
from utils.definition import read_definition
from utils.errors import UserError
from utils.experiment import DEFINITION, Experiment, TraitFolder
from utils.formats.response_files import check_responses_are_whole, write_responses_metadata
from utils.models.load import load_model, model_of_experiment
from utils.records import Polarity, Response, TraitDefinition
from utils.remedies import definition_remedy
from utils.versions import package_versions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage1Settings:
    """What ``extraction/1_generate_responses.py`` is told; its help has the meaning of each."""

    experiment: str
    trait: str | None = None
    traits: list[str] | None = None
    gen_model: str | None = None
    gen_base_url: str | None = None
    gen_concurrency: int = 16
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    judge_only: bool = False
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False
    experiments_dir: str = "experiments"

    def __post_init__(self) -> None:
        check_range("gen_concurrency", self.gen_concurrency, 1)


def run(settings: Stage1Settings) -> None:
    """Generate and judge the responses of the chosen traits.

    Raises:
        UserError: something foreseeable; traits that did not fail are finished.
    """
    process = this_process(settings.device)
    experiment = Experiment(Path(settings.experiments_dir), settings.experiment)
    names = trait_names(settings.trait, settings.traits)
    remedy = definition_remedy(experiment.root / (names[0] if len(names) == 1 else "TRAIT") / DEFINITION)
    folders = experiment.select(names, DEFINITION, remedy)
    definitions = [read_definition(folder) for folder in folders]
    model_name = settings.gen_model or model_of_experiment(settings.experiment)
    load = functools.partial(
        load_model, device=process.device, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code
    )
    local = LocalModel(model_name, functools.partial(load, revision=settings.revision))
    generator: LocalModel | ServedModel = local
    if settings.gen_base_url:
        generator = ServedModel(settings.gen_base_url, model_name, settings.gen_concurrency)
    if not (settings.judge_only or settings.overwrite):
        _refuse_other_settings(folders, [fingerprint(d, settings.generation, generator.known) for d in definitions])
    judge = resolve_judge(settings.judge, local.load, load) if process.is_main else None

    def work(i: int) -> None:
        with held_by_main(folders[i], process):
            if settings.judge_only:
                check_responses_are_whole(folders[i])
            else:
                _generate(folders[i], definitions[i], generator, settings, process)
            if process.is_main:
                judge_trait(folders[i], definitions[i], judge, settings.judge)

    with contextlib.closing(judge) if judge else contextlib.nullcontext():
        if not settings.judge_only:
            generator.load()
        for_each_trait([f.trait for f in folders], work, stop_at_first=process.count > 1)
    if process.is_main:
        logger.info("responses: %s", ", ".join(str(f.root / "responses") for f in folders))


def _refuse_other_settings(folders: Sequence[TraitFolder], known: Sequence[Mapping[str, object]]) -> None:
    """Raise UserError where no trait can go on with these settings, before minutes go into loading a model."""
    refusals = []
    for folder, settings in zip(folders, known, strict=True):
        try:
            check_settings(folder, settings)
        except UserError as error:
            refusals.append(error)
    if len(refusals) == len(folders):
        raise refusals[0]


def _generate(
    folder: TraitFolder,
    definition: TraitDefinition,
    generator: LocalModel | ServedModel,
    settings: Stage1Settings,
    process: Process,
) -> None:
    """Write the trait's responses, unless they are there."""
    recorded = fingerprint(definition, settings.generation, generator.source)
    if process.is_main and not begin(folder, recorded, settings.overwrite):
        logger.info("%s: the responses are there already", folder.trait)
    process.wait()
    if folder.generation_journal.settings() is None:
        return
    finished = finished_responses(folder)
    total = len(plan(definition, settings.generation)) - len(finished)
    with progress_bar(f"{folder.trait}: generating", total, process) as advance:
        for made in generator.generate(definition, settings.generation, process, finished.keys()):
            note_finished(folder, made, process.rank)
            advance(len(made))
    process.wait()
    if process.is_main:
        write_responses_metadata(folder, {"generation": recorded, "versions": package_versions()})
        responses = write_files(folder, definition, settings.generation)
        folder.generation_journal.clear()
        _say(folder.trait, responses, settings.generation.sampling.max_new_tokens)
    process.wait()


def _say(trait: str, responses: Mapping[Polarity, Sequence[Response]], limit: int) -> None:
    endings = Counter(response.finish_reason for side in responses.values() for response in side)
    if cut := endings["length"]:
        logger.info("%s: %d of %d responses were cut at --max_new_tokens %d", trait, cut, endings.total(), limit)
    logger.info("%s: %s", trait, ", ".join(f"{len(side)} {polarity}" for polarity, side in responses.items()))
