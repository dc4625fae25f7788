"""Stage 1: ask the traits' questions under their instructions, keep the answers, and judge them."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from extraction.cli import for_each_trait, progress_bar
from extraction.distributed import Process, held_by_main, this_process
from extraction.generate.local_model import LocalModel
from extraction.generate.plan import fingerprint, plan
from extraction.generate.responses import begin, check_settings, finished_responses, note_finished, write_files
from extraction.generate.served_model import ServedModel
from extraction.generate.settings import Settings
from extraction.judging.scoring import judge_trait, resolve_judge
from utils.definition import read_definition
from utils.errors import DamagedFileError, UserError
from utils.experiment import DEFINITION, TraitFolder
from utils.formats.response_files import check_responses_are_whole, read_responses_metadata, write_responses_metadata
from utils.models.load import load_model, model_of_experiment
from utils.records import Polarity, Response, TraitDefinition
from utils.remedies import definition_remedy
from utils.versions import package_versions

logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Generate and judge the responses of the chosen traits.

    Raises:
        UserError: something foreseeable; traits that did not fail are finished.
    """
    generation, process = settings.generation, this_process(settings.device)
    experiment, names = settings.home, settings.names
    remedy = definition_remedy(experiment.root / (names[0] if len(names) == 1 else "TRAIT") / DEFINITION)
    folders = experiment.select(names, DEFINITION, remedy)
    definitions = {folder: read_definition(folder) for folder in folders}
    answered = _model_that_answered(folders) if settings.judge_only else None
    model_name = settings.gen_model or answered or model_of_experiment(settings.experiment)
    load = functools.partial(
        load_model, device=process.device, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code
    )
    local = LocalModel(model_name, functools.partial(load, revision=settings.revision))
    generator: LocalModel | ServedModel = local
    if settings.gen_base_url:
        generator = ServedModel(settings.gen_base_url, model_name, settings.gen_concurrency)
    if not (settings.judge_only or settings.overwrite):
        _refuse_other_settings({f: fingerprint(d, generation, generator.known) for f, d in definitions.items()})
    judge = resolve_judge(settings, local.load, load) if process.is_main else None

    def work(folder: TraitFolder) -> None:
        with held_by_main(folder, process):
            if settings.judge_only:
                check_responses_are_whole(folder)
            else:
                _generate(folder, definitions[folder], generator, settings, process)
            if process.is_main:
                judge_trait(folder, definitions[folder], judge, settings)

    with contextlib.closing(judge) if judge else contextlib.nullcontext():
        if not settings.judge_only:
            generator.load()
        for_each_trait(folders, work, stop_at_first=process.count > 1)
    if process.is_main:
        logger.info("responses: %s", ", ".join(str(f.root / "responses") for f in folders))


def _refuse_other_settings(known: Mapping[TraitFolder, Mapping[str, object]]) -> None:
    """Raise UserError where no trait can go on with these settings, before minutes go into loading a model."""
    refusals = []
    for folder, settings in known.items():
        try:
            check_settings(folder, settings)
        except UserError as error:
            refusals.append(error)
    if len(refusals) == len(known):
        raise refusals[0]


def _generate(
    folder: TraitFolder,
    definition: TraitDefinition,
    generator: LocalModel | ServedModel,
    settings: Settings,
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
        if generator.thoughts:
            logger.info("%s: thoughts before answers are not kept (%d so far)", folder.trait, generator.thoughts)
    process.wait()


def _say(trait: str, responses: Mapping[Polarity, Sequence[Response]], limit: int) -> None:
    made = [response for side in responses.values() for response in side]
    refused = Counter(r.finish_reason for r in made if r.was_refused)
    for reason, n in refused.most_common(5):
        logger.warning("%s: %d of %d responses were %s", trait, n, len(made), reason)
    if cut := sum(response.finish_reason == "length" for response in made):
        logger.info("%s: %d of %d responses were cut at --max_new_tokens %d", trait, cut, len(made), limit)
    if empty := [r for r in made if not r.response and not r.was_refused]:
        still_thinking = sum(response.finish_reason == "length" for response in empty)
        remedy = f"; {still_thinking} were cut while the model thought: raise it, or --enable_thinking false"
        logger.warning(
            "%s: %d of %d responses are empty%s", trait, len(empty), len(made), remedy if still_thinking else ""
        )
    logger.info("%s: %s", trait, ", ".join(f"{len(side)} {polarity}" for polarity, side in responses.items()))


def _model_that_answered(folders: Sequence[TraitFolder]) -> str | None:
    """The local model that made the first responses of which that is recorded; None where a server's did, or none."""
    for folder in folders:
        made = None
        with contextlib.suppress(DamagedFileError):  # told where that trait is judged
            made = read_responses_metadata(folder).get("generation")
        if made:
            return None if made.get("base_url") else made.get("model")
    return None
