"""Read every response of a trait with the model, and keep its mean activation at every layer.

Examples go through the model in batches of similar length under a token budget. Each batch's means are written to
their rows of the file at once, so memory does not grow with the number of examples, and a run that was interrupted
continues with the batches that are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from torch import Tensor

from extraction.capture.examples import (
    Example,
    NumberedResponses,
    choose_neutral_tokens,
    choose_windows,
    encoded,
    responses_to_read,
    token_budget_batches,
)
from extraction.capture.files import (
    batches_done,
    begin_capture,
    clear_journal,
    finish_capture,
    is_finished,
    unfinished_journal,
)
from extraction.capture.reading import States, read_batch
from extraction.capture.settings import Settings
from extraction.cli import progress_bar
from extraction.distributed import Process
from traitlens.layers import LAYER_CONVENTION, hook_point, n_layers
from utils.errors import UserError
from utils.experiment import EVERYDAY, TraitFolder
from utils.formats.activation_files import RowWriter
from utils.formats.response_files import responses_fingerprint
from utils.models.generation import halving_on_out_of_memory
from utils.models.load import LoadedModel
from utils.prompts import template_hash
from utils.records import POLARITIES, ActivationsInfo, Polarity, StoredDtype
from utils.versions import package_versions

logger = logging.getLogger(__name__)

POOLING = "mean over the response's own tokens, accumulated in float32"
# Where means come near float16's largest number (65,504) its range is the risk and bfloat16's precision the lesser
# evil.
_FLOAT16_SAFE = 16_384.0


def capture_activations(
    folder: TraitFolder, source: TraitFolder, loaded: LoadedModel, settings: Settings, process: Process
) -> None:
    """Capture the activations of a trait's responses, or of everyday text.

    Args:
        folder: where the activations go.
        source: whose responses are read; ``folder`` itself unless they come from another experiment.
        loaded: the model.
        settings: which responses, layers and batches.
        process: this process among those of the launch; all of them write to the same files.

    Raises:
        UserError: there are no responses to read, or the model cannot read them.
    """
    kept = {polarity: responses_to_read(source, polarity, settings.threshold, loaded) for polarity in POLARITIES}
    examples = choose_windows(encoded(kept, loaded, settings.context))
    if folder.trait != EVERYDAY:  # single tokens serve a trait's own thresholds
        examples = choose_neutral_tokens(examples, settings.neutral_tokens)
    info = _describe(source, loaded, settings, kept, examples)
    if not settings.overwrite and is_finished(folder, info):
        logger.info("%s: these activations are there already", folder.trait)
        if process.is_main:
            clear_journal(folder)  # of a run that was killed while it cleared it
        return
    writers = begin_capture(
        folder, info, process, lambda: settings.store_dtype or _safe_dtype(examples, loaded, info.layers),
        overwrite=settings.overwrite,
    )  # fmt: skip
    batches = token_budget_batches(examples, settings.batch_tokens, settings.batch_size)
    done = batches_done(folder)
    with progress_bar(f"{folder.trait}: reading", len(examples), process) as advance:
        for number, batch in process.mine(enumerate(batches)):
            if number not in done:
                _read_and_write(batch, loaded, info.layers, writers)
                unfinished_journal(folder).add([{"batch": number}], process.rank)
            advance(len(batch))
    process.wait()
    if process.is_main:
        finish_capture(folder, replace(info, dtype=writers["neutral"].dtype))
    process.wait()


def _describe(
    source: TraitFolder,
    loaded: LoadedModel,
    settings: Settings,
    kept: Mapping[Polarity, NumberedResponses],
    examples: Sequence[Example],
) -> ActivationsInfo:
    layers = _layers(loaded, settings.layers)
    return ActivationsInfo(
        model=loaded.name,
        revision=loaded.revision,
        model_dtype=str(loaded.model.dtype).removeprefix("torch."),
        n_layers=n_layers(loaded.model),
        hidden_size=loaded.model.config.get_text_config().hidden_size,
        layers=layers,
        hook_points={str(layer): asdict(hook_point(loaded.model, layer)) for layer in layers},
        layer_convention=LAYER_CONVENTION,
        context=settings.context,
        pooling=POOLING,
        template_hash=template_hash(loaded.tokenizer),
        dtype=settings.store_dtype or "",
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        responses_from=source.experiment.name,
        rows={polarity: [i for i, _ in kept[polarity]] for polarity in POLARITIES},
        texts_sha256={polarity: responses_fingerprint([r for _, r in kept[polarity]]) for polarity in POLARITIES},
        n_response_tokens={
            polarity: [len(e.ids) - e.response_start for e in examples if e.polarity == polarity]
            for polarity in POLARITIES
        },
        n_neutral_tokens=sum(len(e.kept_tokens) for e in examples),
        n_windows=sum(len(e.windows) for e in examples),
        versions=package_versions(),
    )


def _layers(loaded: LoadedModel, asked: Sequence[int] | None) -> list[int]:
    total = n_layers(loaded.model)
    layers = list(range(total)) if asked is None else sorted(set(asked))
    if not layers:
        raise UserError("--layers names no layer")
    if layers[-1] >= total or layers[0] < 0:
        raise UserError(f"--layers {','.join(map(str, layers))}: {loaded.name} has layers 0 to {total - 1}")
    return layers


def _safe_dtype(examples: Sequence[Example], loaded: LoadedModel, layers: Sequence[int]) -> StoredDtype:
    """float16 where the states of the longest response are far within its range."""
    states = read_batch([max(examples, key=lambda e: len(e.ids))], loaded, layers)
    largest = max(float(part.abs().max()) for part in states if len(part))
    return "float16" if largest < _FLOAT16_SAFE else "bfloat16"


def _read_and_write(
    batch: Sequence[Example], loaded: LoadedModel, layers: Sequence[int], writers: Mapping[str, RowWriter]
) -> None:
    """Read a batch, and write its means and kept tokens to their rows; they are on disk on return."""

    def work(part: Sequence[Example]) -> list[object]:
        _write(part, read_batch(part, loaded, layers), writers)
        return []

    halving_on_out_of_memory(work, batch)
    for writer in writers.values():
        writer.flush()


def _write(batch: Sequence[Example], states: States, writers: Mapping[str, RowWriter]) -> None:
    for polarity in POLARITIES:
        rows = [i for i, e in enumerate(batch) if e.polarity == polarity]
        if rows:
            _check_range(states.means[rows], writers[polarity].dtype)
            writers[polarity].write([batch[i].row for i in rows], states.means[rows])
    if len(states.tokens):
        indices = [e.first_kept + k for e in batch for k in range(len(e.kept_tokens))]
        _check_range(states.tokens, writers["neutral_tokens"].dtype)
        writers["neutral_tokens"].write(indices, states.tokens)
    if len(states.within):
        indices = [e.first_window + k for e in batch for k in range(len(e.windows))]
        _check_range(states.within, writers["within"].dtype)
        writers["within"].write(indices, states.within)


def _check_range(states: Tensor, dtype: StoredDtype) -> None:
    largest = float(states.abs().max())
    if not largest < float("inf"):
        raise UserError("the model's activations hold NaN or infinity: load it with --dtype bfloat16 or float32")
    if dtype == "float16" and largest > 65_504:
        raise UserError(f"activations reach {largest:.3g}, beyond float16: capture with --store_dtype bfloat16")
