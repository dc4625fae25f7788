"""How each trait's vector reads every trait's responses: a vector that reads them all reads none in particular."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from extraction.fit.charts import matrix_picture
from extraction.fit.contrast import Contrast, read_contrast
from traitlens.compute import cosine_similarity, projection
from traitlens.validation.evaluation import auroc
from utils.experiment import ACTIVATIONS, SUMMARY, Experiment, TraitFolder
from utils.formats.files import remove_leftovers_of, replacing
from utils.formats.vector_files import ranked_places, read_vector, vector_path
from utils.models.compatibility import same_model
from utils.records import TraitVector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Matrix:
    """Square tables over the traits of an experiment; NaN where something cannot be read.

    Attributes:
        traits: names of rows and columns.
        vectors: each row's vector, the best of its trait.
        auroc: row's vector on column's responses; on the diagonal, the held-out figure of the nested choice.
        auroc_neutral: row's vector on column's positive responses against ordinary text; on the diagonal held out.
        cosine: between the row's vector and the column's of the same method at the same layer.
    """

    traits: list[str]
    vectors: list[TraitVector]
    auroc: list[list[float]]
    auroc_neutral: list[list[float]]
    cosine: list[list[float]]

    def confusions(self) -> list[str]:
        """Where a vector reads another trait's responses as well as a diagonal reads its own, in words."""
        found = []
        for i, row in enumerate(self.auroc):
            for j, value in enumerate(row):
                strength = max(value, 1 - value)  # a vector that reads backwards reads too
                own = self.auroc[i][i], self.auroc[j][j]
                known = [figure for figure in own if not math.isnan(figure)]
                if i != j and known and strength >= min(known):
                    backwards = ", backwards" if value < 0.5 else ""
                    found.append(
                        f"the {self.traits[i]} vector reads {self.traits[j]} responses at {strength:.2f}{backwards} "
                        f"(own responses {_figure(own[0])}; {self.traits[j]}'s own vector {_figure(own[1])})"
                    )
        return found


def _figure(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.2f}"


def matrix_is_due(experiment: Experiment) -> bool:
    """Whether a new vector calls for a new matrix: there is one, or a run that was to renew it has not done so yet."""
    return experiment.matrix_path.exists() or experiment.matrix_due_path.exists()


def write_matrix(experiment: Experiment) -> Matrix | None:
    """Read every trait's responses with every trait's best vector; writes the CSV and the picture.

    None, and no matrix left, where fewer than two traits have vectors and activations of one model. An earlier matrix
    goes first, as it is of earlier vectors: it must not stay where this one cannot be measured. A mark stays in its
    place until this one is there, so that an interruption does not end the matrix for good.

    Raises:
        MissingInputError, DamagedFileError: a vector or activations cannot be read.
    """
    with experiment.locked_for_matrix():
        experiment.matrix_due_path.touch()
        for path in _paths(experiment):
            path.unlink(missing_ok=True)
            remove_leftovers_of(path)
        matrix = _made_anew(experiment)
        experiment.matrix_due_path.unlink(missing_ok=True)
    return matrix


def _made_anew(experiment: Experiment) -> Matrix | None:
    fitted = experiment.traits_with(SUMMARY)
    folders = [f for f in fitted if (f.root / ACTIVATIONS).exists()]
    for folder in fitted:
        if folder not in folders:
            logger.warning("%s has vectors but no activations here: left out of the matrix", folder.trait)
    vectors = [read_vector(folder, *ranked_places(folder)[0]) for folder in folders]
    kept = [i for i, v in enumerate(vectors) if same_model(v.model, vectors[0].model)]
    for i in set(range(len(vectors))) - set(kept):
        logger.warning("%s is of another model (%s): left out of the matrix", vectors[i].trait, vectors[i].model)
    if len(kept) < 2:
        logger.info("no matrix: it needs two traits with vectors and activations of one model")
        return None
    matrix = _measure([folders[i] for i in kept], [vectors[i] for i in kept])
    _write(experiment, matrix)
    for confusion in matrix.confusions():
        logger.warning("warning: %s", confusion)
    logger.info("matrix of %d traits in %s", len(kept), experiment.matrix_path)
    return matrix


def _measure(folders: Sequence[TraitFolder], vectors: Sequence[TraitVector]) -> Matrix:
    contrasts = [
        read_contrast(f, v.metadata.threshold, 2, 0, fit_against_neutral=False)
        for f, v in zip(folders, vectors, strict=True)
    ]
    aurocs = [[_auroc(vector, contrast) for contrast in contrasts] for vector in vectors]
    against = [[_auroc_neutral(vector, contrast) for contrast in contrasts] for vector in vectors]
    cosines = [[_cosine(vector, folder) for folder in folders] for vector in vectors]
    return Matrix([f.trait for f in folders], list(vectors), aurocs, against, cosines)


def _auroc(vector: TraitVector, contrast: Contrast) -> float:
    if vector.trait == contrast.trait:
        own = vector.metadata.choice.auroc if vector.metadata.choice else None  # an imported vector was not chosen
        return own.value if own else math.nan
    if vector.layer not in contrast.file.info.layers:
        return math.nan
    return auroc(projection(torch.cat(contrast.layer(vector.layer)), vector.vector), contrast.labels)


def _auroc_neutral(vector: TraitVector, contrast: Contrast) -> float:
    if vector.trait == contrast.trait:
        own = vector.metadata.against_neutral
        return own.auroc.value if own and own.auroc else math.nan
    if vector.layer not in contrast.file.info.layers or (unseen := contrast.ordinary.unseen_at(vector.layer)) is None:
        return math.nan
    positive, _ = contrast.layer(vector.layer)
    scores = projection(torch.cat([positive, unseen]), vector.vector)
    return auroc(scores, torch.arange(len(scores)) < len(positive))


def _cosine(vector: TraitVector, folder: TraitFolder) -> float:
    if not vector_path(folder, vector.method, vector.layer).is_file():
        return math.nan
    other = read_vector(folder, vector.method, vector.layer)
    return float(cosine_similarity(vector.vector, other.vector))


def _write(experiment: Experiment, matrix: Matrix) -> None:
    import pandas as pd

    vectors = {
        "vector": [v.trait for v in matrix.vectors],
        "method": [v.method for v in matrix.vectors],
        "layer": [v.layer for v in matrix.vectors],
    }
    aurocs = pd.DataFrame(matrix.auroc, columns=matrix.traits).add_prefix("auroc_")
    against = pd.DataFrame(matrix.auroc_neutral, columns=matrix.traits).add_prefix("auroc_neutral_")
    cosines = pd.DataFrame(matrix.cosine, columns=matrix.traits).add_prefix("cosine_")
    table, picture = _paths(experiment)
    with replacing(table) as temporary:
        pd.concat([pd.DataFrame(vectors), aurocs, against, cosines], axis=1).to_csv(
            temporary, index=False, lineterminator="\n"
        )
    tables = {
        "AUROC on the responses of": matrix.auroc,
        "AUROC on the positive responses of, against ordinary text": matrix.auroc_neutral,
        "cosine with the vector of, same layer and method": matrix.cosine,
    }
    matrix_picture(picture, tables, matrix.traits)


def _paths(experiment: Experiment) -> tuple[Path, Path]:
    return experiment.matrix_path, experiment.matrix_path.with_suffix(".png")
