"""What the command of stage 2 does: choose traits, load the models that made their responses, capture each trait."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace

from extraction.capture.activations import capture_activations
from extraction.capture.settings import Settings
from extraction.cli import for_each_trait
from extraction.distributed import held_by_main, this_process
from utils.config import without_keys
from utils.errors import UserError
from utils.experiment import RESPONSES, STARTER, TraitFolder
from utils.formats.response_files import check_responses_are_whole, read_responses_metadata
from utils.models.load import LoadedModel, load_model, model_of_experiment

logger = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Capture the activations of the chosen traits.

    Raises:
        UserError: something foreseeable; traits that did not fail are finished.
    """
    process = this_process(settings.device)
    experiment = settings.home
    origin = replace(experiment, name=settings.responses_from or experiment.name)
    starter = replace(experiment, name=STARTER)
    sources = origin.select(settings.names, RESPONSES, origin.command(1, settings.names))

    @functools.cache  # one model made the responses of most traits
    def load(name: str | None, revision: str | None) -> LoadedModel:
        return load_model(
            name or model_of_experiment(settings.experiment), device=process.device, dtype=settings.dtype,
            revision=revision, trust_remote_code=settings.trust_remote_code,
        )  # fmt: skip

    def capture(source: TraitFolder) -> None:
        folder = experiment.trait(source.trait)
        with held_by_main(folder, process):  # from here on the responses and the model that made them stay as they are
            check_responses_are_whole(source)
            name, made_with = settings.model, None
            if name is None and origin == experiment:
                name, made_with = model_behind(source)
            loaded = load(name, settings.revision or made_with)
            capture_activations(folder, source, loaded, settings, process)
        capture_everyday(loaded)

    @functools.cache  # the traits of one model share it
    def capture_everyday(loaded: LoadedModel) -> None:
        everyday = experiment.everyday
        homes = (experiment, origin, starter)
        source = next((e.everyday for e in homes if e.everyday.responses_path("neutral").is_file()), None)
        if source is None:
            logger.warning(
                "no everyday text in %s: verdicts will rest on neutral responses alone", starter.everyday.root
            )
            return
        with held_by_main(everyday, process):
            capture_activations(everyday, source, loaded, settings, process)

    for_each_trait(sources, capture, stop_at_first=process.count > 1)
    if process.is_main:
        places = ", ".join(str(experiment.trait(s.trait).activations_dir) for s in sources)
        logger.info("activations: %s", places)


def model_behind(source: TraitFolder) -> tuple[str | None, str | None]:
    """The model that made the responses and its revision, each None where it is not recorded."""
    generation = read_responses_metadata(source).get("generation")
    if not isinstance(generation, dict):
        return None, None
    if generation.get("base_url"):
        raise UserError(
            f"{source.trait}: a server at {without_keys(str(generation['base_url']))} generated these responses. "
            "Name the same model here: --model HUB_ID_OR_FOLDER"
        )
    name, revision = (v if isinstance(v, str) else None for v in (generation.get("model"), generation.get("revision")))
    return name, revision if name else None
