"""What the commands of stages 1 and 2 do: choose traits, load one model, go through the traits."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from extraction.capture.activations import CaptureSettings, capture_activations
from extraction.cli import check_range, for_each_trait, progress_bar, trait_names
from extraction.distributed import Process, this_process
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
from utils.config import without_keys
from utils.errors import UserError
from utils.experiment import DEFINITION, RESPONSES, Experiment, TraitFolder
from utils.formats.row_file import StoredDtype
from utils.models.load import LoadedModel, load_model, model_of_experiment
from utils.records import POLARITIES, Context, TraitDefinition
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
    definitions = [folder.read_definition() for folder in folders]
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
        with _held(folders[i], process):
            if generator is not None and not judge_only:
                _generate(folders[i], definitions[i], generator, settings, process, overwrite)
            if judge_only:
                folders[i].check_responses_are_whole()
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


@contextlib.contextmanager
def _held(folder: TraitFolder, process: Process) -> Iterator[None]:
    """The trait's lock, held by the main process for all of them."""
    with folder.locked() if process.is_main else contextlib.nullcontext():
        yield


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
        folder.write_responses_metadata({"generation": recorded, "versions": package_versions()})
        counts = write_generated(folder, definition, settings)
        _report_endings(folder, settings)
        clear_journal(folder)
        logger.info("%s: %s", folder.trait, ", ".join(f"{n} {polarity}" for polarity, n in counts.items()))
    process.wait()


def _report_endings(folder: TraitFolder, settings: GenerationSettings) -> None:
    endings = Counter(r.finish_reason for polarity in POLARITIES for r in folder.read_responses(polarity))
    if cut := endings["length"]:
        logger.info(
            "%s: %d of %d responses were cut at --max_new_tokens %d",
            folder.trait, cut, endings.total(), settings.sampling.max_new_tokens,
        )  # fmt: skip


def _judge(folder: TraitFolder, definition: TraitDefinition, scorer: Any, settings: JudgeSettings) -> None:
    report = judge_trait(folder, definition, scorer, settings)
    metadata = folder.read_responses_metadata()
    folder.write_responses_metadata({**metadata, "threshold": settings.kept_from, "judge": report})


def run_stage_2(
    *,
    experiment: str,
    trait: str | None,
    traits: list[str] | None,
    model: str | None,
    responses_from: str | None,
    context: Context,
    layers: list[int] | None,
    threshold: float | None,
    batch_size: int,
    batch_tokens: int,
    neutral_tokens: int,
    store_dtype: StoredDtype | None,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    overwrite: bool,
    experiments_dir: str,
) -> None:
    """Capture the activations of the chosen traits; ``extraction/2_extract_activations.py`` has the arguments.

    Raises:
        UserError: something foreseeable; traits that did not fail are finished.
    """
    check_range("batch_size", batch_size, 1)
    check_range("batch_tokens", batch_tokens, 1)
    check_range("neutral_tokens", neutral_tokens, 0)
    check_range("threshold", threshold, 0, 100)
    process = this_process(device)
    lab = Experiment(Path(experiments_dir), experiment)
    origin = Experiment(Path(experiments_dir), responses_from or experiment)
    names = trait_names(trait, traits)
    sources = origin.select(names, RESPONSES, origin.command(1, names))
    chosen = tuple(layers) if layers is not None else None
    settings = CaptureSettings(context, chosen, batch_size, batch_tokens, neutral_tokens, store_dtype)
    load = functools.cache(
        lambda name, at: load_model(
            name, device=process.device, dtype=dtype, revision=at, trust_remote_code=trust_remote_code
        )
    )
    named_by_experiment = functools.cache(lambda: model_of_experiment(experiment))  # its line is for once a run

    def work(i: int) -> None:
        source, folder = sources[i], lab.trait(sources[i].trait)
        with _held(folder, process):  # from here on the responses and the model that made them stay what they are
            source.check_responses_are_whole()
            name, made_with = _generated_by(source) if origin == lab and not model else (model, None)
            used = load(name or named_by_experiment(), revision or made_with)
            with _examples_bar(source, process) as advance:
                capture_activations(
                    folder, source, used, settings, process,
                    threshold=threshold, overwrite=overwrite, progress=advance,
                )  # fmt: skip

    for_each_trait([s.trait for s in sources], work, stop_at_first=process.count > 1)
    if process.is_main:
        logger.info("activations: %s", ", ".join(str(lab.trait(s.trait).activations_dir) for s in sources))


def _generated_by(source: TraitFolder) -> tuple[str | None, str | None]:
    """The model that made the responses and its revision, each None where it is not recorded."""
    generation = source.read_responses_metadata().get("generation")
    if not isinstance(generation, dict):
        return None, None
    if generation.get("base_url"):
        raise UserError(
            f"{source.trait}: a server at {without_keys(str(generation['base_url']))} generated these responses. "
            "Name the same model here: --model HUB_ID_OR_FOLDER"
        )
    name, revision = (v if isinstance(v, str) else None for v in (generation.get("model"), generation.get("revision")))
    return name, revision if name else None


@contextlib.contextmanager
def _examples_bar(source: TraitFolder, process: Process) -> Iterator[Callable[[int], object]]:
    total = sum(len(source.read_responses(polarity)) for polarity in POLARITIES)
    with progress_bar(f"{source.trait}: reading", total, process) as advance:
        yield advance
