"""The door to a trait's vectors, wherever they are: in an experiment, in a bundle, or on the Hub."""

from __future__ import annotations

from pathlib import Path

from utils.errors import UserError
from utils.experiment import Experiment, TraitFolder
from utils.formats.bundle import is_portable, load_bundle
from utils.formats.vector_files import choose_place, list_of_vectors, ranked_places, read_vector
from utils.models.compatibility import check_model
from utils.models.load import LoadedModel
from utils.records import TraitVector


def load_vector(
    experiment: str | Path,
    trait: str | None = None,
    *,
    layer: int | None = None,
    method: str | None = None,
    experiments_dir: str | Path = "experiments",
    model: LoadedModel | None = None,
) -> TraitVector:
    """A trait's vector: the one asked for, else the documented layer of the model, else the best by held-out AUROC.

    Args:
        experiment: the experiment's name; or the path of a bundle (``.safetensors``); or a bundle on the Hub, as
            ``hf://org/repo/trait`` or pinned to a commit, branch or tag, ``hf://org/repo@revision/trait``.
        trait: the trait's name; a bundle has only one.
        layer: a layer number; by default the documented one (Gemma 2 2B: 16, Llama 3.1 8B: 20) or the best.
        method: mean_diff, probe, ica or gradient; by default the best at the layer.
        experiments_dir: folder of the experiments.
        model: the model at hand; a vector of another one is refused.

    Raises:
        MissingInputError, DamagedFileError: no such vector, or a damaged one.
        UserError: the vector is not of ``model``; names both.
    """
    if is_portable(experiment):
        vector = load_bundle(experiment, trait).choose(layer, method)
    elif trait is None:
        raise UserError(f"which trait of the experiment {str(experiment)!r}? Give load_vector(experiment, trait)")
    else:
        vector = _load_local(Experiment(Path(experiments_dir), str(experiment)).trait(trait), layer, method)
    if model is not None:
        check_model(vector, model)
    return vector


def _load_local(folder: TraitFolder, layer: int | None, method: str | None) -> TraitVector:
    if layer is not None and method is not None:
        return read_vector(folder, method, layer)
    ranked = ranked_places(folder)
    first = read_vector(folder, *ranked[0])
    place = choose_place(ranked, first.model, layer, method)
    if place is None:
        wanted = f"method {method}" if layer is None else f"layer {layer}"
        raise UserError(
            f"{folder.vectors_dir} has no vector with {wanted}. {list_of_vectors(folder)}{folder.command(3)}"
        )
    return first if place == ranked[0] else read_vector(folder, *place)
