"""What the import command does: read a form, convert its layers, find zero and scale, write the vectors."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from extraction.exchange.settings import ImportForm, ImportSettings
from extraction.fit.contrast import Contrast, read_contrast
from extraction.fit.matrix import matrix_is_due, write_matrix
from extraction.fit.measure import clusters, held_against
from extraction.fit.record import thresholds_record
from traitlens.compute import projection
from traitlens.layers import LAYER_CONVENTION
from traitlens.validation.calibration import midpoint_baseline, neutral_scale
from traitlens.validation.evaluation import evaluate
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.experiment import ACTIVATIONS, Experiment, TraitFolder
from utils.formats.exchange.bundle import is_portable, load_bundle
from utils.formats.exchange.gguf_vectors import ControlVector, read_control_vector
from utils.formats.exchange.steering_vectors import NUMBERED_VECTORS, read_steering_vector
from utils.formats.json_records import recorded
from utils.formats.vector_files import (
    ranked_places,
    read_summary,
    read_vector,
    summary_path,
    vector_path,
    write_summary,
    write_vector,
)
from utils.formats.vector_metadata import (
    AgainstNeutralRecord,
    ImportRecord,
    MetricsRecord,
    NeutralRecord,
    SummaryRow,
    ThresholdsRecord,
    VectorMetadata,
)
from utils.hub import hub_errors
from utils.models.compatibility import same_model
from utils.models.load import model_of_experiment, model_path
from utils.records import TraitVector
from utils.versions import package_versions

logger = logging.getLogger(__name__)

_FORM_OF_SUFFIX: dict[str, ImportForm] = {".gguf": "gguf", ".pt": "steering_vectors", ".pth": "steering_vectors"}


def run(settings: ImportSettings) -> Sequence[TraitVector]:
    """Read vectors into an experiment; what was written.

    Raises:
        UserError: the file cannot be read, is of another model, or would replace vectors that are there.
    """
    source, trait, model = settings.source, settings.trait, settings.model
    if not re.fullmatch(r"\w{1,99}", settings.method):
        raise UserError(f"--method must be letters, digits and '_', got {settings.method!r}")
    target = Experiment(Path(settings.experiments_dir), settings.experiment)
    folder = target.trait(trait)
    form = _form_of(source) if settings.format == "auto" else settings.format
    control = read_control_vector(Path(source)) if form == "gguf" else None
    ours = load_bundle(source, trait).vectors if form == "bundle" else control.ours if control else ()
    _check_are_of(ours, source, trait, model)
    vectors = ours or _of_other_program(folder, Path(source), control, model, settings.method)
    with folder.locked():
        there = [str(vector_path(folder, v.method, v.layer)) for v in vectors if _would_replace(folder, v)]
        if there and not settings.overwrite:
            raise UserError(f"{there[0]} is there already ({len(there)} in all): give --overwrite or another --method")
        before = _best_place(folder)
        for vector in vectors:
            write_vector(folder, vector.vector, vector.metadata)
        _add_to_summary(folder, vectors)
        best = _best_place(folder)
    is_new = best != before or best in {(v.method, v.layer) for v in vectors}
    if before is not None and is_new and matrix_is_due(target):
        write_matrix(target)  # the one that is there is of the vector before
    layers = ", ".join(str(v.layer) for v in vectors) if len(vectors) < 8 else f"{len(vectors)} layers and methods"
    logger.info("%s: imported %s (layers: %s) of %s", trait, vectors[0].method, layers, vectors[0].model)
    if any(v.baseline is None for v in vectors):
        logger.warning(
            "%s: no baseline is known, so scores have no zero. Capture activations of the trait with stage 2 and "
            "import again with --overwrite", trait,
        )  # fmt: skip
    logger.info("vectors in %s", folder.vectors_dir)
    return vectors


def _would_replace(folder: TraitFolder, vector: TraitVector) -> bool:
    """Whether another vector is in this one's place; this one itself was left by an import that was interrupted."""
    try:
        there = read_vector(folder, vector.method, vector.layer)
    except (MissingInputError, DamagedFileError):
        return vector_path(folder, vector.method, vector.layer).exists()
    return there.metadata != vector.metadata or not bool((there.vector == vector.vector).all())


def _form_of(source: str) -> ImportForm:
    if is_portable(source):
        return "bundle"
    form = _FORM_OF_SUFFIX.get(Path(source).suffix)
    if Path(source).suffix in (".npy", ".npz"):
        raise UserError(
            f"{source} is a file of NumPy. {NUMBERED_VECTORS} (torch.from_numpy makes a vector of an array)"
        )
    if form is None:
        raise UserError(
            f"cannot tell the form of {source!r} by its name: give --format bundle, gguf or steering_vectors"
        )
    return form


def _check_are_of(vectors: Sequence[TraitVector], source: str, trait: str, model: str | None) -> None:
    """Refuse vectors of this project that are of another trait or model than was asked for."""
    for vector in vectors:
        if vector.trait != trait:
            raise UserError(f"{source} holds vectors of {vector.trait!r}, not of {trait!r}")
        if model is not None and not same_model(vector.model, model):
            raise UserError(f"{source} holds vectors of {vector.model}, not of {model}")


def _of_other_program(
    folder: TraitFolder, path: Path, control: ControlVector | None, model: str | None, method: str
) -> list[TraitVector]:
    """Vectors of a control vector, or of a saved steering vector where that is None, measured as far as can be."""
    name = model or model_of_experiment(folder.experiment.name)
    n_layers, hidden_size = _sizes(name)
    directions = control.directions if control else read_steering_vector(path, n_layers - 1)
    for layer, vector in directions.items():
        if len(vector) != hidden_size or layer >= n_layers:
            raise UserError(
                f"{path} has {len(vector)} values at layer {layer}, but {name} has hidden size {hidden_size} and "
                f"layers 0..{n_layers - 1}: is it of another model? Name it with --model"
            )
    contrast = _contrast(folder, name)
    form = "gguf" if control else "steering_vectors"
    vectors = []
    for layer, vector in directions.items():
        measured = _measured(contrast, layer, vector)
        metadata = VectorMetadata(
            method=method,
            layer=layer,
            best=False,
            norm=float(vector.norm()),
            baseline=measured.baseline,
            neutral=measured.neutral,
            metrics=measured.metrics,
            calibration=None,
            against_neutral=measured.against_neutral,
            response_thresholds=measured.response_thresholds,
            trait=folder.trait,
            experiment=folder.experiment.name,
            model=name,
            revision=None,
            n_layers=n_layers,
            hidden_size=hidden_size,
            layer_convention=LAYER_CONVENTION,
            threshold=None,
            imported=ImportRecord(path.name, form, control.model_hint if control else None),
            versions=package_versions(),
        )
        vectors.append(TraitVector(vector, metadata))
    return vectors


def _sizes(model: str) -> tuple[int, int]:
    """Layers and hidden size of a model, by its configuration."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model_path(model), trust_remote_code=False).get_text_config()
    except hub_errors() as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"cannot read the configuration of the model {model!r}: {reason}. Name it with --model"
        ) from error
    return config.num_hidden_layers + 1, config.hidden_size


def _contrast(folder: TraitFolder, model: str) -> Contrast | None:
    """The trait's examples, where the experiment has activations of them in this model."""
    if not (folder.root / ACTIVATIONS).is_file():
        return None
    contrast = read_contrast(folder, None, 5, 0, fit_against_neutral=False)
    if not same_model(contrast.file.info.model, model):
        logger.warning(
            "%s: its activations are of %s, not of %s: not used", folder.trait, contrast.file.info.model, model
        )
        return None
    return contrast


@dataclass(frozen=True)
class _Measured:
    """Zero, scale and figures of a foreign vector; None where nothing is known."""

    baseline: float | None = None
    neutral: NeutralRecord | None = None
    metrics: MetricsRecord | None = None
    against_neutral: AgainstNeutralRecord | None = None
    response_thresholds: ThresholdsRecord | None = None


def _measured(contrast: Contrast | None, layer: int, vector: Tensor) -> _Measured:
    """What the experiment's examples and ordinary text, all new to a foreign vector, say of it."""
    if contrast is None or layer not in contrast.file.info.layers:
        return _Measured()
    pos, neg = contrast.layer(layer)
    baseline = midpoint_baseline(pos, neg, vector)
    neutral = neutral_scale(contrast.file.neutral_tokens(layer), vector)
    scores = projection(torch.cat([pos, neg]), vector).double() - baseline
    metrics = evaluate(scores, contrast.labels, clusters(contrast))
    if metrics.auroc.value < 0.5:
        logger.warning(
            "%s: at layer %d the vector reads negative examples higher (AUROC %.2f): is its sign reversed?",
            contrast.trait, layer, metrics.auroc.value,
        )  # fmt: skip
    unseen = contrast.ordinary.unseen_at(layer)
    ordinary = torch.zeros(0) if unseen is None else projection(unseen, vector).double() - baseline
    thresholds, against_neutral = held_against(contrast, scores, ordinary)
    return _Measured(
        baseline,
        recorded(NeutralRecord, neutral),
        recorded(MetricsRecord, metrics),
        recorded(AgainstNeutralRecord, against_neutral),
        thresholds_record(thresholds),
    )


def _add_to_summary(folder: TraitFolder, vectors: Sequence[TraitVector]) -> None:
    new = {(v.method, v.layer) for v in vectors}
    known = read_summary(folder) if summary_path(folder).is_file() else []
    kept = [row for row in known if (row.method, row.layer) not in new]
    has_best = any(row.best for row in kept)
    added = [SummaryRow.of(v.metadata, best=bool(v.metadata.best) and not has_best) for v in vectors]
    write_summary(folder, [*kept, *added])


def _best_place(folder: TraitFolder) -> tuple[str, int] | None:
    """Method and layer of the first vector of the summary; None where there is no summary."""
    return ranked_places(folder)[0] if summary_path(folder).is_file() else None
