"""Stage 2: read every response with the model and keep its mean activation at every layer.

Examples go through the model in batches of similar length under a token budget. Each batch's means are written to
their rows of the file at once, so memory does not grow with the number of examples, and a run that was interrupted
continues with the batches that are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from extraction.capture.examples import Example, choose_neutral_tokens
from extraction.capture.files import (
    Decided,
    batches_done,
    begin_capture,
    clear_journals,
    finish_capture,
    is_finished,
    journal_path,
)
from extraction.capture.reading import Batch, Reader, States, plan_batches, read_batch, sharing_pays
from extraction.distributed import Process
from traitlens.layers import LAYER_CONVENTION, hook_point, n_layers
from utils.errors import UserError
from utils.experiment import TraitFolder, responses_fingerprint
from utils.formats.files import append_jsonl
from utils.formats.row_file import RowWriter, StoredDtype
from utils.models.generation import halving_on_out_of_memory
from utils.models.load import LoadedModel
from utils.prompts import encode_prompt, encode_response, format_prompt, template_hash
from utils.records import POLARITIES, ActivationsInfo, Context, Polarity, Response
from utils.versions import package_versions

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

POOLING = "mean over the response's own tokens, accumulated in float32"
# Where means come near float16's largest number (65,504) its range is the risk and bfloat16's precision the lesser
# evil.
_FLOAT16_SAFE = 16_384.0


@dataclass(frozen=True)
class CaptureSettings:
    """What to read and how to cut it into batches."""

    context: Context = "question"
    layers: tuple[int, ...] | None = None
    batch_size: int = 64
    batch_tokens: int = 4096
    neutral_tokens: int = 1000
    store_dtype: StoredDtype | None = None


def capture_activations(
    folder: TraitFolder,
    source: TraitFolder,
    loaded: LoadedModel,
    settings: CaptureSettings,
    process: Process,
    *,
    threshold: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] = int,
) -> ActivationsInfo:
    """Capture the activations of a trait's responses; returns how.

    Args:
        folder: where the activations go.
        source: whose responses are read; ``folder`` itself unless they come from another experiment.
        loaded: the model.
        settings: context, layers and batches.
        process: this process among those of the launch; all of them write to the same files.
        threshold: leave out responses whose score does not confirm their side; None reads all.
        overwrite: capture anew even where the same capture is there.
        progress: called with the number of responses read, batch by batch.

    Raises:
        UserError: there are no responses to read, or the model cannot read them.
    """
    kept = {polarity: _rows_to_read(source, polarity, threshold, loaded) for polarity in POLARITIES}
    examples, n_neutral_tokens = _examples(kept, loaded, settings)
    info = _describe(source, loaded, settings, kept, examples, n_neutral_tokens)
    if not overwrite and is_finished(folder, info):
        logger.info("%s: these activations are there already", folder.trait)
        if process.is_main:
            clear_journals(folder)  # of a run that was killed while it cleared them
        progress(len(examples))
        return info
    begun = begin_capture(
        folder,
        info,
        process,
        lambda: _decide(examples, loaded, info.layers, settings.store_dtype),
        overwrite=overwrite,
    )
    batches = plan_batches(examples, settings.batch_tokens, settings.batch_size, begun.decided.share_prompts)
    reader = Reader(loaded, info.layers)
    done = batches_done(folder)
    for number, batch in process.mine(enumerate(batches)):
        if number not in done:
            _read_and_write(batch, reader, begun.writers)
            for writer in begun.writers.values():
                writer.flush()
            append_jsonl(journal_path(folder, process), [{"batch": number}])
        progress(len(batch.examples))
    process.wait()
    if process.is_main:
        info = replace(info, dtype=begun.decided.dtype)
        finish_capture(folder, info)
    process.wait()
    return info


def _rows_to_read(
    source: TraitFolder, polarity: Polarity, threshold: float | None, loaded: LoadedModel
) -> list[tuple[int, Response]]:
    responses = source.read_responses(polarity)
    rows = [(i, r) for i, r in enumerate(responses) if encode_response(loaded.tokenizer, r.response)]
    if empty := len(responses) - len(rows):
        logger.warning(
            "%s: %d of %d %s responses are empty and left out", source.trait, empty, len(responses), polarity
        )
    if threshold is not None:
        before = len(rows)
        rows = [(i, r) for i, r in rows if r.shows(polarity, threshold)]
        logger.info(
            "%s: %d of %d %s responses pass the threshold %g", source.trait, len(rows), before, polarity, threshold
        )
    if not rows and polarity != "neutral":
        raise UserError(
            f"{source.responses_path(polarity)}: none of {len(responses)} responses can be read"
            + ("" if threshold is None else f" at --threshold {threshold:g}; lower it or judge again")
        )
    return rows


def _examples(
    kept: dict[Polarity, list[tuple[int, Response]]], loaded: LoadedModel, settings: CaptureSettings
) -> tuple[list[Example], int]:
    """All examples in the order of the files, and how many neutral tokens are kept."""
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    examples: list[Example] = []
    cut = 0
    for polarity in POLARITIES:
        for row, (_, response) in enumerate(kept[polarity]):
            instruction = response.instruction if settings.context == "full" else ""
            prompt = encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, response.question, instruction))
            ids = prompt + encode_response(loaded.tokenizer, response.response)
            if len(prompt) >= limit:
                raise UserError(
                    f"a prompt has {len(prompt)} tokens, but {loaded.name} reads {limit}: {response.question[:60]!r}"
                )
            cut += len(ids) > limit
            examples.append(Example(polarity, row, ids[:limit], len(prompt)))
    if cut:
        logger.warning("%d responses are longer than the %d positions of %s and cut there", cut, limit, loaded.name)
    return choose_neutral_tokens(examples, settings.neutral_tokens)


def _read_and_write(batch: Batch, reader: Reader, writers: Mapping[str, RowWriter]) -> None:
    """Write a batch's means and kept tokens to their rows."""

    def work(part: Sequence[Example]) -> list[None]:
        # A part of a batch that was too large is read whole: its prompts were part of what filled the memory.
        prompts = batch.prompts if len(part) == len(batch.examples) else ()
        _write(part, reader.read(Batch(tuple(part), prompts)), writers)
        return [None] * len(part)

    halving_on_out_of_memory(work, batch.examples)


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


def _check_range(states: Tensor, dtype: StoredDtype) -> None:
    largest = float(states.abs().max())
    if not largest < float("inf"):
        raise UserError("the model's activations hold NaN or infinity: load it with --dtype bfloat16 or float32")
    if dtype == "float16" and largest > 65_504:
        raise UserError(f"activations reach {largest:.3g}, beyond float16: capture with --store_dtype bfloat16")


def _describe(
    source: TraitFolder,
    loaded: LoadedModel,
    settings: CaptureSettings,
    kept: dict[Polarity, list[tuple[int, Response]]],
    examples: Sequence[Example],
    n_neutral_tokens: int,
) -> ActivationsInfo:
    total = n_layers(loaded.model)
    layers = list(range(total)) if settings.layers is None else sorted(set(settings.layers))
    if not layers:
        raise UserError("--layers names no layer")
    if layers[-1] >= total or layers[0] < 0:
        raise UserError(f"--layers {','.join(map(str, layers))}: {loaded.name} has layers 0 to {total - 1}")
    return ActivationsInfo(
        model=loaded.name,
        revision=loaded.revision,
        model_dtype=str(loaded.model.dtype).removeprefix("torch."),
        n_layers=total,
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
        responses_from=source.experiment,
        rows={polarity: [i for i, _ in kept[polarity]] for polarity in POLARITIES},
        texts_sha256={polarity: responses_fingerprint([r for _, r in kept[polarity]]) for polarity in POLARITIES},
        n_response_tokens={
            polarity: [len(e.ids) - e.response_start for e in examples if e.polarity == polarity]
            for polarity in POLARITIES
        },
        n_neutral_tokens=n_neutral_tokens,
        versions=package_versions(),
    )


def _decide(
    examples: Sequence[Example], loaded: LoadedModel, layers: Sequence[int], store_dtype: StoredDtype | None
) -> Decided:
    share = sharing_pays(examples, loaded, layers)
    if store_dtype:
        return Decided(store_dtype, share)
    means, tokens = read_batch([max(examples, key=lambda e: len(e.ids))], loaded, layers)
    largest = max(float(means.abs().max()), float(tokens.abs().max()) if len(tokens) else 0.0)
    return Decided("float16" if largest < _FLOAT16_SAFE else "bfloat16", share)
