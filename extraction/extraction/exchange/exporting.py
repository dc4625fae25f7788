"""What the export command does: choose vectors, write them in a form, say where they are and how to use them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from extraction.cli import for_each_trait
from extraction.exchange.model_card import write_model_card
from extraction.exchange.settings import ExportForm, ExportSettings
from extraction.judging.report import read_report
from utils.errors import UserError
from utils.experiment import SUMMARY, TraitFolder
from utils.formats.exchange.bundle import SUFFIX, Bundle, write_bundle
from utils.formats.exchange.gguf_vectors import LOWEST_LAYER, UNIT_MEANING, Program, write_control_vector
from utils.formats.exchange.steering_vectors import write_steering_vector
from utils.formats.files import write_bytes
from utils.formats.response_files import read_responses_metadata
from utils.formats.vector_files import available_vectors, card_path, ranked_places, read_vector
from utils.records import TraitVector
from utils.vectors import load_vector

logger = logging.getLogger(__name__)

_SUFFIXES: dict[ExportForm, str] = {
    "bundle": SUFFIX, "gguf": ".gguf", "repeng": ".repeng.gguf", "steering_vectors": ".pt"
}  # fmt: skip
_USE: dict[ExportForm, str] = {
    "bundle": 'load_vector("{path}")',
    "gguf": "llama-cli --model MODEL.gguf --control-vector {path}",
    "repeng": 'ControlVector.import_gguf("{path}")',
    "steering_vectors": 'SteeringVector(**torch.load("{path}"))',
}


def run(settings: ExportSettings) -> list[Path]:
    """Export the traits named, or all that have vectors; the paths written.

    Raises:
        UserError: something foreseeable, such as missing vectors or a layer that the form cannot express.
    """
    if settings.all_layers and settings.layers is not None:
        raise UserError("--all_layers and --layers contradict each other: give one of them")
    experiment, output = settings.home, settings.output
    folders = experiment.select(settings.names, SUMMARY, experiment.command(3, settings.names))
    exports = experiment.root / "exports"
    if settings.format == "hub":
        return [_export_hub(folders, settings, Path(output) if output else exports / "hub")]
    several = len(folders) > 1
    if output and several and Path(output).suffix:
        raise UserError(f"--output must be a folder for {len(folders)} traits, got {output}")
    paths: list[Path] = []

    def work(folder: TraitFolder) -> None:
        vectors = _chosen(folder, settings)
        path = Path(output) if output and not several else Path(output or exports) / _name(vectors, settings)
        _write(path, vectors, settings)
        paths.append(path)

    for_each_trait(folders, work)
    return paths


def _chosen(folder: TraitFolder, settings: ExportSettings) -> list[TraitVector]:
    """The vectors to export, best first for bundles, by layer for the others."""
    if settings.format == "bundle":
        return _ranked(folder, settings)
    first = settings.layers[0] if settings.layers else None
    main = load_vector(
        folder.experiment.name,
        folder.trait,
        layer=first,
        method=settings.method,
        experiments_dir=settings.experiments_dir,
    )
    if settings.all_layers:
        layers = _layers_to_act_at(folder, main.method, settings)
    else:
        layers = sorted(set(settings.layers or [main.layer]))
    return [read_vector(folder, main.method, layer) for layer in layers]


def _program(settings: ExportSettings) -> Program:
    """Whose layers the form has; steering-vectors numbers them as repeng does."""
    return "llama.cpp" if settings.format == "gguf" else "repeng"


def _layers_to_act_at(folder: TraitFolder, method: str, settings: ExportSettings) -> list[int]:
    """Every layer with a vector of the method that the form can express."""
    layers = [layer for other, layer in available_vectors(folder) if other == method]
    kept = [layer for layer in layers if layer >= LOWEST_LAYER[_program(settings)]]
    if not kept:
        raise UserError(f"{folder.trait} has {method} vectors only at layers that {settings.format} cannot express")
    if left_out := ", ".join(str(layer) for layer in layers if layer not in kept):
        logger.info("%s: left out layer %s, which %s cannot express", folder.trait, left_out, settings.format)
    if len(kept) > 1:
        logger.info("%s: acts at %d layers, whose effects add up: begin with a small strength", folder.trait, len(kept))
    return kept


def _ranked(folder: TraitFolder, settings: ExportSettings) -> list[TraitVector]:
    measured, there = ranked_places(folder), available_vectors(folder)
    if absent := sum(place not in there for place in measured):
        logger.info("%s: %d of the %d vectors in summary.csv are not here", folder.trait, absent, len(measured))
    places = [*(place for place in measured if place in there), *(place for place in there if place not in measured)]
    methods, layers = settings.method, settings.layers
    kept = [(m, n) for m, n in places if methods in (None, m) and (layers is None or n in layers)]
    if not kept:
        raise UserError(f"{folder.trait} has no vectors of that --method and those --layers")
    return [read_vector(folder, *place) for place in kept]


def _name(vectors: Sequence[TraitVector], settings: ExportSettings) -> str:
    first, suffix = vectors[0], _SUFFIXES[settings.format]
    if settings.format == "bundle":
        return first.trait + suffix
    where = f"_layer{first.layer}" if len(vectors) == 1 else ""
    return f"{first.trait}_{first.method}{where}{suffix}"


def _write(path: Path, vectors: list[TraitVector], settings: ExportSettings) -> None:
    first = vectors[0]
    what = f"{first.method}, layer {first.layer}" if len(vectors) == 1 else f"{len(vectors)} vectors"
    if settings.format == "bundle":
        write_bundle(path, vectors)
    elif settings.format == "steering_vectors":
        write_steering_vector(path, vectors, settings.unit)
    else:
        write_control_vector(
            path, vectors, unit=settings.unit, program=_program(settings), model_hint=settings.model_hint
        )
    unit = "" if settings.format == "bundle" else f"; {UNIT_MEANING[settings.unit]}"
    logger.info("%s (%s)%s: %s", first.trait, what, unit, path)
    logger.info("use it: %s", _USE[settings.format].format(path=path))


def _export_hub(folders: Sequence[TraitFolder], settings: ExportSettings, root: Path) -> Path:
    """A repository's folder: a bundle and a vector card per trait, and the model card."""
    bundles = {folder.trait: tuple(_ranked(folder, settings)) for folder in folders}
    models = {vectors[0].model for vectors in bundles.values()}
    if len(models) > 1:
        raise UserError(
            f"one repository holds the vectors of one model, found {', '.join(sorted(models))}: name --traits"
        )
    for folder in folders:
        write_bundle(root / f"{folder.trait}{SUFFIX}", bundles[folder.trait])
        if card_path(folder).is_file():
            write_bytes(root / f"{folder.trait}.html", card_path(folder).read_bytes())
    chosen = [Bundle(root, vectors).choose() for vectors in bundles.values()]
    sources = {f.trait: _source(f, vector) for f, vector in zip(folders, chosen, strict=True)}
    write_model_card(root / "README.md", chosen, sources, settings.license_name)
    logger.info("Read %s before you publish it", root / "README.md")
    logger.info("Publish: hf upload ORG/REPO %s .", root)
    return root


def _source(folder: TraitFolder, vector: TraitVector) -> str:
    """Where a trait's responses came from, as far as it is recorded."""
    other = vector.metadata.responses_from
    read = folder.in_experiment(other) if other else folder
    metadata = read_responses_metadata(read)
    if metadata.get("model"):
        judge = read_report(read).name
        return f"generated by {metadata['model']}, " + (f"scored by {judge}" if judge else "not scored by a judge")
    return f"those of {other!r}" if other else "their origin is not recorded; say here where they are from"
