"""Which vectors of an experiment texts are scored with, and the model that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.errors import UserError
from utils.experiment import SUMMARY, Experiment
from utils.formats.vector_files import available_vectors, read_vector
from utils.models.compatibility import same_model
from utils.records import TraitVector
from utils.vectors import load_vector


@dataclass(frozen=True)
class VectorsOfTrait:
    """A trait's vector, and the vectors of its method at every layer where those are scored too."""

    main: TraitVector
    layers: tuple[TraitVector, ...] = ()

    @property
    def all(self) -> tuple[TraitVector, ...]:
        """The main vector, then the others in order of layer."""
        return (self.main, *self.layers)


def choose_vectors(
    experiment: Experiment,
    traits: Sequence[str] = (),
    layer: int | None = None,
    method: str | None = None,
    all_layers: bool = False,
) -> dict[str, VectorsOfTrait]:
    """The vectors to score with, by trait: of the traits named, or of all that have vectors.

    Args:
        experiment: whose vectors.
        traits: names; none means all.
        layer: by default the documented one of the model, or the best.
        method: by default the best at the layer.
        all_layers: also take the method's vectors at all other layers.

    Raises:
        UserError: no such vectors, or vectors of different models.
    """
    chosen = {}
    for folder in experiment.select(traits, SUMMARY, experiment.command(3, traits)):
        main = load_vector(
            experiment.name, folder.trait, layer=layer, method=method, experiments_dir=experiment.experiments_dir
        )
        places = [place for place in available_vectors(folder) if place[0] == main.method] if all_layers else []
        chosen[folder.trait] = VectorsOfTrait(main, tuple(read_vector(folder, *place) for place in places))
    vectors = vectors_in(chosen)
    for vector in vectors:
        if not same_model(vector.model, vectors[0].model):
            names = f"{vectors[0].trait} is of {vectors[0].model}, {vector.trait} of {vector.model}"
            raise UserError(f"the vectors are of different models ({names}): name --traits of one")
    return chosen


def vectors_in(chosen: Mapping[str, VectorsOfTrait]) -> list[TraitVector]:
    """All vectors chosen, the traits' one after the other."""
    return [vector for of_trait in chosen.values() for vector in of_trait.all]
