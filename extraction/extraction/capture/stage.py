"""What the command of stage 2 does: choose traits, load the models that made their responses, capture each trait."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from extraction.capture.activations import CaptureSettings, capture_activations
from extraction.cli import check_range, for_each_trait
from extraction.distributed import held_by_main, this_process
from utils.config import without_keys
from utils.errors import UserError
from utils.experiment import RESPONSES, Experiment, TraitFolder
from utils.formats.response_files import check_responses_are_whole, read_responses_metadata
from utils.models.load import LoadedModel, load_model, model_of_experiment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What stage 2 is asked for; ``extraction/2_extract_activations.py`` says more of each."""

    experiment: str
    traits: tuple[str, ...]
    model: str | None
    responses_from: str | None
    capture: CaptureSettings
    device: str | None
    dtype: str | None
    revision: str | None
    trust_remote_code: bool
    experiments_dir: Path


def run(settings: Settings) -> None:
    """Capture the activations of the chosen traits.

    Raises:
        UserError: something foreseeable; traits that did not fail are finished.
    """
    check_range("batch_size", settings.capture.batch_size, 1)
    check_range("batch_tokens", settings.capture.batch_tokens, 1)
    check_range("neutral_tokens", settings.capture.neutral_tokens, 0)
    check_range("threshold", settings.capture.threshold, 0, 100)
    process = this_process(settings.device)
    experiment = Experiment(settings.experiments_dir, settings.experiment)
    origin = Experiment(settings.experiments_dir, settings.responses_from or settings.experiment)
    sources = origin.select(settings.traits, RESPONSES, origin.command(1, settings.traits))

    @functools.cache  # one model made the responses of most traits
    def load(name: str | None, revision: str | None) -> LoadedModel:
        return load_model(
            name or model_of_experiment(settings.experiment), device=process.device, dtype=settings.dtype,
            revision=revision, trust_remote_code=settings.trust_remote_code,
        )  # fmt: skip

    def capture(i: int) -> None:
        source, folder = sources[i], experiment.trait(sources[i].trait)
        with held_by_main(folder, process):  # from here on the responses and the model that made them stay as they are
            check_responses_are_whole(source)
            name, made_with = settings.model, None
            if name is None and origin == experiment:
                name, made_with = model_behind(source)
            loaded = load(name, settings.revision or made_with)
            capture_activations(folder, source, loaded, settings.capture, process)

    for_each_trait([s.trait for s in sources], capture, stop_at_first=process.count > 1)
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
