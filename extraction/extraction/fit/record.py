"""What is written of a vector beside it: how it was fitted, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from extraction.fit.contrast import Contrast
from extraction.fit.results import Measured, Sweep, doubts_about
from traitlens.validation.verdicts import ResponseThresholds
from utils.formats.json_records import recorded
from utils.formats.vector_metadata import (
    AgainstNeutralRecord,
    CalibrationRecord,
    ChoiceRecord,
    ControlRecord,
    FitRecord,
    IntervalRecord,
    MetricsRecord,
    NeutralRecord,
    ReferenceRecord,
    ThresholdsRecord,
    VectorMetadata,
)
from utils.versions import package_versions


def metadata_of(
    measured: Measured,
    contrast: Contrast,
    result: Sweep,
    *,
    hyper_parameters: Mapping[str, object],
    seed: int,
) -> VectorMetadata:
    """The side-car of a vector.

    Args:
        measured: the vector.
        contrast: the examples that it was fitted to.
        result: of the whole trait.
        hyper_parameters: of the method.
        seed: for folds, shuffling and ICA's start.
    """
    folder, info = contrast.file.folder, contrast.file.info
    return VectorMetadata(
        method=measured.method,
        layer=measured.layer,
        best=measured is result.best,
        hook_point=info.hook_points[str(measured.layer)],
        norm=float(measured.vector.norm()),
        baseline=measured.baseline,
        neutral=recorded(NeutralRecord, measured.neutral),
        metrics=recorded(MetricsRecord, measured.metrics),
        calibration=recorded(CalibrationRecord, measured.calibration),
        against_neutral=recorded(AgainstNeutralRecord, measured.against_neutral),
        response_thresholds=thresholds_record(measured.thresholds),
        fit=FitRecord.from_json(measured.extras),
        hyper_parameters=hyper_parameters,
        trait=folder.trait,
        experiment=folder.experiment.name,
        model=info.model,
        revision=info.revision,
        n_layers=info.n_layers,
        hidden_size=info.hidden_size,
        layer_convention=info.layer_convention,
        context=info.context,
        pooling=info.pooling,
        template_hash=info.template_hash,
        responses_from=info.responses_from,
        texts_sha256=info.texts_sha256,
        counts=contrast.counts,
        threshold=contrast.threshold,
        held_out=contrast.folds.describe(),
        seed=seed,
        controls=_controls(result),
        choice=_choice(result),
        versions=package_versions(),
    )


def thresholds_record(thresholds: ResponseThresholds | None) -> ThresholdsRecord | None:
    """What responses are held against, as a side-car has it."""
    if thresholds is None:
        return None
    kinds = {kind: ReferenceRecord(r.n, _rounded(r.tail), _rounded(r.deciles)) for kind, r in thresholds.kinds.items()}
    return ThresholdsRecord(**asdict(thresholds.scale), kinds=kinds, neutral=tuple(thresholds.neutral))


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    """To six digits, which keeps side-cars short and their order."""
    return tuple(float(f"{value:.6g}") for value in values)


def _controls(result: Sweep) -> dict[str, ControlRecord | None]:
    features = {
        control.name: ControlRecord(control.auroc, recorded(IntervalRecord, control.advantage))
        for control in result.controls
    }
    chance = {"shuffled labels": result.shuffled, "random direction": result.random}
    return {**features, **{name: recorded(ControlRecord, tried) for name, tried in chance.items()}}


def _choice(result: Sweep) -> ChoiceRecord:
    choice = result.choice
    return ChoiceRecord(
        method=choice.method,
        layer=choice.layer,
        auroc=recorded(IntervalRecord, result.nested),
        chosen_without_each_cell=tuple(sorted({f"{m} layer {layer}" for m, layer in choice.by_cell.values()})),
        warnings=tuple(doubts_about(result)),
    )
