"""What the command of stage 2 does: choose traits, load one model, go through the traits."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from extraction.capture.activations import CaptureSettings, capture_activations
from extraction.cli import check_range, for_each_trait, progress_bar, trait_names
from extraction.distributed import Process, this_process
from utils.config import without_keys
from utils.errors import UserError
from utils.experiment import RESPONSES, Experiment, TraitFolder
from utils.formats.row_file import StoredDtype
from utils.models.load import load_model, model_of_experiment
from utils.records import POLARITIES, Context

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _held(folder: TraitFolder, process: Process) -> Iterator[None]:
    """The trait's lock, held by the main process for all of them."""
    with folder.locked() if process.is_main else contextlib.nullcontext():
        yield


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
