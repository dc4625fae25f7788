"""Stage 3: fit vectors, say how good each is on responses it has not seen, and write them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extraction.cli import check_range, for_each_trait, progress_bar
from extraction.distributed import Process
from extraction.fit.card import write_card
from extraction.fit.contrast import Contrast, read_contrast
from extraction.fit.findings import doubts_about, headline
from extraction.fit.matrix import matrix_is_due, write_matrix
from extraction.fit.record import metadata_of
from extraction.fit.results import Sweep
from extraction.fit.sweep import sweep
from traitlens.methods import METHODS, ExtractionMethod, get_method
from utils.errors import UserError
from utils.experiment import ACTIVATIONS, Experiment, TraitFolder
from utils.formats.vector_files import available_vectors, summary_path, write_summary, write_vector
from utils.formats.vector_metadata import SummaryRow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What stage 3 fits, and how it measures.

    Attributes:
        experiment: the experiment's name.
        traits: names; empty means all that have activations.
        methods: names of extraction methods.
        layers: layer numbers; None for all that were captured.
        threshold: score that a positive response needs; None for stage 1's.
        folds: groups of questions (and of instruction pairs) to hold out.
        seed: for folds, resampling, shuffling and ICA's start.
        experiments_dir: folder of the experiments.
    """

    experiment: str
    traits: Sequence[str] = ()
    methods: tuple[str, ...] = tuple(METHODS)
    layers: tuple[int, ...] | None = None
    threshold: float | None = None
    folds: int = 5
    seed: int = 0
    experiments_dir: Path = Path("experiments")


def run(settings: Settings) -> dict[str, Sweep]:
    """What was measured, by trait; the traits' vectors are written.

    Several traits are also read with each other's vectors (``vectors_matrix.csv``).

    Raises:
        UserError: something foreseeable, as missing activations or a method that failed; other traits are finished.
    """
    _check(settings)
    experiment = Experiment(settings.experiments_dir, settings.experiment)
    folders = experiment.select(settings.traits, ACTIVATIONS, experiment.command(2, settings.traits))
    results: dict[str, Sweep] = {}

    def work(i: int) -> None:
        with folders[i].locked():
            results[folders[i].trait] = _fit_trait(folders[i], settings)

    try:
        for_each_trait([folder.trait for folder in folders], work)
    finally:  # the traits that went well are compared even where another failed
        if len(results) > 1 or (results and matrix_is_due(experiment)):  # one new vector makes an earlier matrix stale
            write_matrix(experiment)
    return results


def _check(settings: Settings) -> None:
    unknown = [name for name in settings.methods if name not in METHODS]
    if unknown or not settings.methods:
        raise UserError(f"--methods knows {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}")
    if settings.layers == ():
        raise UserError("--layers names no layer")
    check_range("threshold", settings.threshold, 0, 100)
    check_range("folds", settings.folds, 2)


def _fit_trait(folder: TraitFolder, settings: Settings) -> Sweep:
    """Fit, measure and write the vectors of one trait. Nothing is written unless every method worked.

    Raises:
        UserError: no activations, a layer that was not captured, an empty class, or a method that failed.
    """
    contrast = read_contrast(folder, settings.threshold, settings.folds, settings.seed)
    captured = contrast.file.info.layers
    layers = sorted(set(captured if settings.layers is None else settings.layers))
    missing = [layer for layer in layers if layer not in captured]
    if missing:
        found = f"{min(captured)}..{max(captured)}" if len(captured) > 1 else str(captured[0])
        raise UserError(f"{folder.trait}: layer {missing[0]} was not captured (captured: {found}); give other --layers")
    _log_counts(contrast)
    names = dict.fromkeys(settings.methods)
    methods = [get_method(name, seed=settings.seed) if name == "ica" else get_method(name) for name in names]
    with progress_bar(f"{folder.trait}: fitting", len(layers), Process()) as advance:
        result = sweep(contrast, methods, layers, settings.seed, lambda: advance(1))
    _write(contrast, methods, result, settings)
    logger.info(headline(folder.trait, result))
    for warning in doubts_about(result):
        logger.warning("%s: warning: %s", folder.trait, warning)
    logger.info("%s: vectors in %s", folder.trait, folder.vectors_dir)
    return result


def _log_counts(contrast: Contrast) -> None:
    for side, count in contrast.counts.items():
        if count.used != count.read:
            logger.info(
                "%s: %s of %s %s responses are used (%s dropped at threshold %g, %s unscored)",
                contrast.trait, count.used, count.read, side, count.dropped, contrast.threshold, count.unscored,
            )  # fmt: skip


def _write(contrast: Contrast, methods: Sequence[ExtractionMethod], result: Sweep, settings: Settings) -> None:
    folder = contrast.file.folder
    parameters = {method.name: vars(method) for method in methods}
    described = [
        metadata_of(measured, contrast, result, hyper_parameters=parameters[measured.method], seed=settings.seed)
        for measured in result.vectors
    ]
    for measured, metadata in zip(result.vectors, described, strict=True):
        write_vector(folder, measured.vector, metadata)
    write_summary(folder, [SummaryRow.of(metadata, best=bool(metadata.best)) for metadata in described])
    write_card(contrast, result, described[0])
    earlier = len(available_vectors(folder)) - len(described)
    if earlier:
        told = "%s: %d vectors of earlier runs stay beside these; %s lists this run"
        logger.info(told, folder.trait, earlier, summary_path(folder))
