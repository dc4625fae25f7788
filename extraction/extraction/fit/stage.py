"""Stage 3: fit vectors, say how good each is on responses it has not seen, and write them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from extraction.cli import for_each_trait, progress_bar
from extraction.distributed import Process
from extraction.fit.card import write_card
from extraction.fit.contrast import Contrast, read_contrast
from extraction.fit.matrix import matrix_is_due, write_matrix
from extraction.fit.record import metadata_of
from extraction.fit.results import Sweep, doubts_about, headline
from extraction.fit.settings import Settings
from extraction.fit.sweep import sweep
from traitlens.methods import METHODS, ExtractionMethod, get_method
from utils.errors import UserError
from utils.experiment import ACTIVATIONS, TraitFolder
from utils.formats.vector_files import available_vectors, summary_path, write_summary, write_vector
from utils.formats.vector_metadata import SummaryRow

logger = logging.getLogger(__name__)


def run(settings: Settings) -> dict[str, Sweep]:
    """What was measured, by trait; the traits' vectors are written.

    Several traits are also read with each other's vectors (``vectors_matrix.csv``).

    Raises:
        UserError: something foreseeable, as missing activations or a method that failed; other traits are finished.
    """
    experiment, methods = settings.home, _methods(settings)
    folders = experiment.select(settings.names, ACTIVATIONS, experiment.command(2, settings.names))
    results: dict[str, Sweep] = {}

    def work(folder: TraitFolder) -> None:
        with folder.locked():
            results[folder.trait] = _fit_trait(folder, methods, settings)

    try:
        for_each_trait(folders, work)
    finally:  # the traits that went well are compared even where another failed
        if len(results) > 1 or (results and matrix_is_due(experiment)):  # one new vector makes an earlier matrix stale
            write_matrix(experiment)
    return results


def _methods(settings: Settings) -> list[ExtractionMethod]:
    names = list(METHODS) if settings.methods is None else settings.methods
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise UserError(f"--methods knows {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}")
    return [
        get_method(name, seed=settings.seed) if name == "ica" else get_method(name) for name in dict.fromkeys(names)
    ]


def _fit_trait(folder: TraitFolder, methods: Sequence[ExtractionMethod], settings: Settings) -> Sweep:
    """Fit, measure and write the vectors of one trait. Nothing is written unless every method worked.

    Raises:
        UserError: no activations, a layer that was not captured, an empty class, or a method that failed.
    """
    contrast = read_contrast(
        folder, settings.threshold, settings.folds, settings.seed, fit_against_neutral=settings.negatives != "neg"
    )
    captured = contrast.file.info.layers
    layers = sorted(set(captured if settings.layers is None else settings.layers))
    missing = [layer for layer in layers if layer not in captured]
    if missing:
        found = f"{min(captured)}..{max(captured)}" if len(captured) > 1 else str(captured[0])
        raise UserError(f"{folder.trait}: layer {missing[0]} was not captured (captured: {found}); give other --layers")
    _log_counts(contrast)
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
