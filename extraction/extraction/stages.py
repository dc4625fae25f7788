"""What the command of stage 1 does: choose traits, load one model, go through the traits."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extraction.cli import check_range, for_each_trait, progress_bar, trait_names
from extraction.distributed import Process, held_by_main, this_process
from extraction.generate.responses import (
    GenerationSettings,
    begin_journal,
    check_settings,
    clear_journal,
    fingerprint,
    generate_responses,
    plan,
    source_of,
    write_generated,
)
from extraction.generate.serving import Server, generate_through_server
from extraction.judging.scoring import JudgeSettings, judge_trait, resolve_judge
from utils.errors import UserError
from utils.experiment import DEFINITION, Experiment, TraitFolder
from utils.formats.definition import read_definition
from utils.formats.response_files import (
    check_responses_are_whole,
    read_responses,
    read_responses_metadata,
    write_responses_metadata,
)
from utils.models.load import LoadedModel, load_model, model_of_experiment
from utils.records import POLARITIES, TraitDefinition
from utils.remedies import definition_remedy
from utils.versions import package_versions

logger = logging.getLogger(__name__)


def run_stage_1(
    *,
    experiment: str,
    trait: str | None,
    traits: list[str] | None,
    gen_model: str | None,
    gen_base_url: str | None,
    gen_concurrency: int,
    judge: JudgeSettings,
    judge_only: bool,
    settings: GenerationSettings,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    overwrite: bool,
    experiments_dir: str,
) -> None:
    """Generate and judge the responses of the chosen traits; ``extraction/1_generate_responses.py`` has the arguments.

    Raises:
        UserError: something foreseeable; traits that did not fail are finished.
    """
    _check_generation(settings, judge.threshold)
    check_range("gen_concurrency", gen_concurrency, 1)
    process = this_process(device)
    lab = Experiment(Path(experiments_dir), experiment)
    names = trait_names(trait, traits)
    remedy = definition_remedy(lab.root / (names[0] if len(names) == 1 else "TRAIT") / DEFINITION)
    folders = lab.select(names, DEFINITION, remedy)
    definitions = [read_definition(folder) for folder in folders]
    model_name = gen_model or model_of_experiment(experiment)

    @functools.cache
    def loaded() -> LoadedModel:
        return load_model(
            model_name, device=process.device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
        )

    load_judge = functools.partial(load_model, device=process.device, dtype=dtype, trust_remote_code=trust_remote_code)

    server = Server(gen_base_url, model_name, gen_concurrency) if gen_base_url else None
    if not (judge_only or overwrite):
        source = server.source() if server else {"model": model_name}
        _refuse_other_settings(folders, [fingerprint(d, settings, source) for d in definitions])
    scorer = resolve_judge(judge, loaded, load_judge) if process.is_main else None

    def work(i: int) -> None:
        with held_by_main(folders[i], process):
            if generator is not None and not judge_only:
                _generate(folders[i], definitions[i], generator, settings, process, overwrite)
            if judge_only:
                check_responses_are_whole(folders[i])
            if process.is_main:
                _judge(folders[i], definitions[i], scorer, judge)

    with contextlib.closing(scorer) if scorer else contextlib.nullcontext():
        generator = server or (None if judge_only else loaded())
        for_each_trait([f.trait for f in folders], work, stop_at_first=process.count > 1)
    if process.is_main:
        logger.info("responses: %s", ", ".join(str(f.root / "responses") for f in folders))


def _check_generation(settings: GenerationSettings, threshold: float | None) -> None:
    check_range("max_new_tokens", settings.sampling.max_new_tokens, 1)
    check_range("temperature", settings.sampling.temperature, 0)
    check_range("top_p", settings.sampling.top_p, 1e-6, 1)
    check_range("batch_size", settings.batch_size, 1)
    check_range("n_questions", settings.n_questions, 1)
    check_range("n_instructions", settings.n_instructions, 1)
    check_range("threshold", threshold, 0, 100)


def _refuse_other_settings(folders: Sequence[TraitFolder], known: Sequence[dict[str, Any]]) -> None:
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
    generator: LoadedModel | Server,
    settings: GenerationSettings,
    process: Process,
    overwrite: bool,
) -> None:
    source = generator.source() if isinstance(generator, Server) else source_of(generator)
    recorded = fingerprint(definition, settings, source)
    if process.is_main and not begin_journal(folder, recorded, overwrite):
        logger.info("%s: the responses are there already", folder.trait)
    process.wait()
    if not folder.generation_header_path.is_file():
        return
    with progress_bar(f"{folder.trait}: generating", len(plan(definition, settings)), process) as advance:
        if isinstance(generator, Server):
            generate_through_server(folder, definition, generator, settings, process, advance)
        else:
            generate_responses(folder, definition, generator, settings, process, advance)
    process.wait()
    if process.is_main:
        write_responses_metadata(folder, {"generation": recorded, "versions": package_versions()})
        counts = write_generated(folder, definition, settings)
        _report_endings(folder, settings)
        clear_journal(folder)
        logger.info("%s: %s", folder.trait, ", ".join(f"{n} {polarity}" for polarity, n in counts.items()))
    process.wait()


def _report_endings(folder: TraitFolder, settings: GenerationSettings) -> None:
    endings = Counter(r.finish_reason for polarity in POLARITIES for r in read_responses(folder, polarity))
    if cut := endings["length"]:
        logger.info(
            "%s: %d of %d responses were cut at --max_new_tokens %d",
            folder.trait, cut, endings.total(), settings.sampling.max_new_tokens,
        )  # fmt: skip


def _judge(folder: TraitFolder, definition: TraitDefinition, scorer: Any, settings: JudgeSettings) -> None:
    report = judge_trait(folder, definition, scorer, settings)
    metadata = read_responses_metadata(folder)
    write_responses_metadata(folder, {**metadata, "threshold": settings.kept_from, "judge": report})
