"""A whole monitoring run: texts in batches, results on disk as they are made, continued after an interruption."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from extraction.monitoring.texts import monitor_texts
from extraction.monitoring.tinting import TintedTokens
from extraction.monitoring.vectors import VectorsOfTrait
from extraction.monitoring.verdicts import in_words
from utils.errors import UserError
from utils.formats.results import ResultsFile, locked_output
from utils.formats.transcripts import Transcript, prompts_of, read_prompts, read_texts
from utils.models.generation import Sampling, derived_seed, halving_on_out_of_memory
from utils.models.load import LoadedModel
from utils.records import MonitoringRecord, TraitVector

logger = logging.getLogger(__name__)

_TOLD = 10  # results whose verdicts are logged

Analyze = Callable[[MonitoringRecord, str, int], Mapping[str, object]]


@dataclass(frozen=True)
class RunSettings:
    """How a run is made; ``experiments/examples/run_dynamics.py`` says more of each.

    Attributes:
        tint: the trait to colour tokens by as they come, one text after the other; None not to show them.
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


def find_texts(prompts: str | None, prompts_file: str | None, text_file: str | None = None) -> list[Transcript]:
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
    chosen: Mapping[str, VectorsOfTrait],
    load: Callable[[], LoadedModel],
    *,
    output: Path,
    settings: RunSettings,
    analyze: Analyze,
    overwrite: bool = False,
) -> None:
    """Monitor texts into a result file.

    Args:
        texts: prompts to answer, or texts to read.
        chosen: vectors by trait.
        load: gives the model; called only if a result is missing.
        output: the JSON file.
        settings: how.
        analyze: what to say of a trait's scores in a record: called with record, trait and smoothing.
        overwrite: replace an output made in another way.

    Raises:
        UserError: the output was made in another way, or is being made.
    """
    with locked_output(output):
        results = ResultsFile(output, _description(texts, chosen, settings), len(texts), overwrite)
        try:
            if results.missing:
                loaded = load()
                for numbers in _batches(results.missing, len(texts), settings):
                    records = halving_on_out_of_memory(
                        lambda part: _monitored(loaded, chosen, settings, analyze, part),
                        [(n, texts[n]) for n in numbers],
                    )
                    results.add(dict(zip(numbers, records, strict=True)))
        finally:  # what is there can be looked at, however the run ended
            results.write()
    _tell(results.made)


def _tell(results: Sequence[Mapping[str, object]]) -> None:
    """Log the verdicts on the first few results."""
    for result in results[:_TOLD]:
        verdicts = result.get("verdicts")
        if isinstance(verdicts, dict) and verdicts:
            prompt = " ".join(str(result["prompt"]).split())
            logger.info("%s\n  %s", prompt if len(prompt) <= 70 else f"{prompt[:69]}…", in_words(verdicts))
    if len(results) > _TOLD:
        logger.info("... and %d more", len(results) - _TOLD)


def _description(
    texts: Sequence[Transcript], chosen: Mapping[str, VectorsOfTrait], settings: RunSettings
) -> dict[str, object]:
    """Everything that results depend on. The batch size counts where sampling draws for a whole batch."""
    generating = texts[0].response is None
    drawing = generating and settings.sampling.temperature > 0
    return {
        "texts": [asdict(text) for text in texts],
        "vectors": {trait: [_identity(vector) for vector in c.all] for trait, c in chosen.items()},
        "sampling": asdict(settings.sampling) if generating else None,
        "seed": settings.seed if drawing else None,
        "batch_size": settings.texts_at_once if drawing else None,
        "smoothing": settings.smoothing,
        "prompt_scores": settings.prompt_scores,
    }


def _identity(vector: TraitVector) -> list[object]:
    place = [vector.model, vector.method, vector.layer, vector.baseline]
    return [*place, float(vector.vector.sum()), float(vector.vector.norm())]


def _batches(missing: Sequence[int], n_texts: int, settings: RunSettings) -> Iterator[list[int]]:
    """The missing numbers, batch by batch. Batches are cut from all texts, so that a seed means the same again."""
    from tqdm import tqdm

    size = settings.texts_at_once
    silent = bool(settings.tint) or not sys.stderr.isatty()
    with tqdm(total=n_texts, initial=n_texts - len(missing), disable=silent, unit="text") as bar:
        for start in range(0, n_texts, size):
            if numbers := [n for n in missing if start <= n < start + size]:
                yield numbers
                bar.update(len(numbers))


def _monitored(
    loaded: LoadedModel,
    chosen: Mapping[str, VectorsOfTrait],
    settings: RunSettings,
    analyze: Analyze,
    numbered: Sequence[tuple[int, Transcript]],
) -> list[MonitoringRecord]:
    """Records of numbered texts with their dynamics; the first number decides what is sampled."""
    texts, seed = [text for _, text in numbered], derived_seed(settings.seed, numbered[0][0])
    show = TintedTokens(sys.stdout, loaded.tokenizer, chosen[settings.tint].main) if settings.tint else None
    if show:
        show.begin(texts[0].prompt)
    records = monitor_texts(
        loaded, chosen, texts, settings.sampling, seed=seed, prompt_scores=settings.prompt_scores,
        on_token=show.on_token if show else None,
    )  # fmt: skip
    if show:
        show.end()
    return [replace(r, dynamics=_dynamics(r, analyze, settings.smoothing)) for r in records]


def _dynamics(record: MonitoringRecord, analyze: Analyze, smoothing: int) -> dict[str, Mapping[str, object]]:
    """What ``analyze`` says of every trait whose scores are all numbers; half precision can overflow."""
    usable = [trait for trait, scores in record.trait_scores.items() if all(map(math.isfinite, scores))]
    return {trait: analyze(record, trait, smoothing) for trait in usable}
