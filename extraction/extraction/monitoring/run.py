"""A whole monitoring run: texts in batches, results on disk as they are made, continued after an interruption."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from extraction.monitoring.texts import Chosen, describe_vectors, monitor_texts
from traitlens.monitor import OnToken
from utils.errors import UserError
from utils.formats.results import ResultsFile, locked_output
from utils.formats.transcripts import Transcript, prompts_of, read_prompts, read_texts
from utils.models.generation import Sampling, derived_seed, halving_on_out_of_memory
from utils.models.load import LoadedModel
from utils.records import MonitoringRecord
from utils.terminal import TintedTokens

logger = logging.getLogger(__name__)

Metrics = Callable[[MonitoringRecord, str, int], dict[str, Any]]


@dataclass(frozen=True)
class RunSettings:
    """How a run is made.

    Attributes:
        sampling: how responses are generated.
        seed: of sampling; results do not depend on where a run was interrupted.
        smoothing: window that dynamics are computed with.
        prompt_scores: also score the prompts' tokens.
        batch_size: texts at once.
        tint: the trait to colour tokens by as they come, None not to show them.
    """

    sampling: Sampling
    seed: int = 0
    smoothing: int = 1
    prompt_scores: bool = False
    batch_size: int = 8
    tint: str | None = None

    @property
    def texts_at_once(self) -> int:
        """How many texts are in a batch: one where tokens are shown as they come."""
        return 1 if self.tint else self.batch_size


def find_texts(prompts: str | None, prompts_file: str | None, text_file: str | None) -> list[Transcript]:
    """The prompts to answer or the texts to read, from the one source that was given.

    Raises:
        UserError: none or several sources, or a file that cannot be used.
    """
    if sum(source is not None for source in (prompts, prompts_file, text_file)) != 1:
        raise UserError("give one of --prompts, --prompts_file and --text_file")
    if prompts is not None:
        return prompts_of(prompts)
    return read_prompts(Path(prompts_file)) if prompts_file is not None else read_texts(Path(str(text_file)))


def run_monitoring(
    texts: Sequence[Transcript],
    chosen: Mapping[str, Chosen],
    load: Callable[[], LoadedModel],
    *,
    output: Path,
    settings: RunSettings,
    metrics: Metrics,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Monitor texts into a result file, and give back what it holds.

    Args:
        texts: prompts to answer, or texts to read.
        chosen: vectors by trait.
        load: gives the model; called only if a result is missing.
        output: the JSON file.
        settings: how.
        metrics: what to say of a trait's scores in a record: called with record, trait and smoothing.
        overwrite: replace an output made in another way.

    Raises:
        UserError: the output was made in another way, or is being made.
    """
    with locked_output(output):
        results = ResultsFile(output, _description(texts, chosen, settings), len(texts), overwrite)
        if results.missing:
            loaded = load()

            def make(numbered: Sequence[tuple[int, Transcript]]) -> list[MonitoringRecord]:
                show = _shower(loaded, chosen, settings.tint, numbered[0][1]) if settings.tint else None
                batch, seed = [text for _, text in numbered], derived_seed(settings.seed, numbered[0][0])
                shared: dict[str, Any] = {"prompt_scores": settings.prompt_scores, "on_token": show}
                records = monitor_texts(loaded, chosen, batch, settings.sampling, seed=seed, **shared)
                if settings.tint:
                    sys.stdout.write("\n")
                return [replace(r, dynamics=_dynamics(r, metrics, settings.smoothing)) for r in records]

            _make_missing(results, texts, make, settings)
        return results.write()


def _dynamics(record: MonitoringRecord, metrics: Metrics, smoothing: int) -> dict[str, dict[str, Any]]:
    """The metrics of every trait whose scores are all numbers; half precision can overflow."""
    usable = [trait for trait, scores in record.trait_scores.items() if all(map(math.isfinite, scores))]
    return {trait: metrics(record, trait, smoothing) for trait in usable}


def _description(texts: Sequence[Transcript], chosen: Mapping[str, Chosen], settings: RunSettings) -> dict[str, Any]:
    """Everything that results depend on. The batch size counts where sampling draws for a whole batch."""
    generating = texts[0].response is None
    drawing = generating and settings.sampling.temperature > 0
    return {
        "texts": [asdict(text) for text in texts],
        "vectors": describe_vectors(chosen),
        "sampling": asdict(settings.sampling) if generating else None,
        "seed": settings.seed if drawing else None,
        "batch_size": settings.texts_at_once if drawing else None,
        "smoothing": settings.smoothing,
        "prompt_scores": settings.prompt_scores,
    }


def _make_missing(
    results: ResultsFile,
    texts: Sequence[Transcript],
    make: Callable[[Sequence[tuple[int, Transcript]]], list[MonitoringRecord]],
    settings: RunSettings,
) -> None:
    """Make what is missing, batch by batch. Batches are cut from all texts, so that a seed means the same again."""
    from tqdm import tqdm

    size = settings.texts_at_once
    missing = set(results.missing)
    silent = bool(settings.tint) or not sys.stderr.isatty()
    try:
        with tqdm(total=len(texts), initial=len(texts) - len(missing), disable=silent, unit="text") as bar:
            for start in range(0, len(texts), size):
                numbers = [n for n in range(start, min(start + size, len(texts))) if n in missing]
                if numbers:
                    records = halving_on_out_of_memory(make, [(n, texts[n]) for n in numbers])
                    results.add(dict(zip(numbers, records, strict=True)))
                    bar.update(len(numbers))
    finally:  # what is there can be looked at, however the run ended
        results.write()


def _shower(loaded: LoadedModel, chosen: Mapping[str, Chosen], trait: str, text: Transcript) -> OnToken:
    """A callback that writes tokens to standard output, coloured by one trait's centred score."""
    vector = chosen[trait].main
    baseline = vector.baseline or 0.0
    limit = vector.thresholds.get("fpr_1")
    # The strongest colour at the score that 1 % of neutral tokens reach, or at the positive class's mean.
    scale = abs(limit - baseline) if limit is not None else float(vector.vector.norm()) / 2
    printer = TintedTokens(sys.stdout, loaded.tokenizer, scale or 1.0)
    printer.heading(text.prompt)

    def show(row: int, token_id: int, scores: dict[str, Any]) -> None:  # noqa: ARG001 - one row at a time
        printer.add(token_id, scores[trait][0] - baseline)

    return show
