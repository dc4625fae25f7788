"""What an export and an import are asked for."""

from dataclasses import dataclass
from typing import Literal

from extraction.settings import TraitsSettings

ExportForm = Literal["bundle", "gguf", "repeng", "steering_vectors", "hub"]
ImportForm = Literal["auto", "bundle", "gguf", "steering_vectors"]


@dataclass(frozen=True)
class ExportSettings(TraitsSettings):
    """Write the vectors of an experiment for use elsewhere.

    gguf is a control vector for llama.cpp (layers 2 and above), repeng the same for repeng (layers 1 and above),
    steering_vectors a file for the package of that name (layers 1 and above). bundle is one safetensors file with all
    vectors of a trait and their metadata; hub is a folder of bundles with a model card, ready for hf upload.

    Args:
        experiment: name of the experiment.
        trait: one trait.
        traits: several traits, separated by commas; by default every trait that has vectors.
        format: bundle, gguf, repeng, steering_vectors or hub.
        output: the file, or the folder for hub and for several traits; by default in experiments/EXPERIMENT/exports.
        method: vectors of this method; by default the best (in bundles: of all methods).
        layers: vectors of these layers, separated by commas; by default the best (in bundles: of all layers).
        all_layers: a control vector that acts at every layer that the form can express; effects add up.
        unit: what strength 1 adds in the forms of other programs: the vector as it is, whose length is the distance of
            the class means (contrast), or a direction of length one (unit).
        model_hint: model name in GGUF files; by default the vector's.
        license_name: licence on the model card, such as apache-2.0.
        experiments_dir: folder of the experiments.
    """

    format: ExportForm = "bundle"
    output: str | None = None
    method: str | None = None
    layers: list[int] | None = None
    all_layers: bool = False
    unit: Literal["contrast", "unit"] = "contrast"
    model_hint: str = ""
    license_name: str | None = None


@dataclass(frozen=True)
class ImportSettings:
    """Read vectors from a file or from the Hub into an experiment, where monitoring and steering find them.

    Layers are converted to ours. Where the experiment has activations of the trait, vectors of other programs are given
    a zero, a scale and held-out figures on them; otherwise their scores have no zero.

    Args:
        experiment: name of the experiment that gets them.
        trait: name of the trait.
        source: a bundle (.safetensors or hf://org/repo@revision/trait), a GGUF control vector of llama.cpp, repeng or
            this project (.gguf), or a saved steering vector (.pt).
        format: bundle, gguf or steering_vectors; auto goes by the name.
        model: the model that the vectors are of; by default as the file says, else the experiment's.
        method: name to keep vectors of other programs under.
        overwrite: replace vectors of the same method and layer.
        experiments_dir: folder of the experiments.
    """

    experiment: str
    trait: str
    source: str
    format: ImportForm = "auto"
    model: str | None = None
    method: str = "imported"
    overwrite: bool = False
    experiments_dir: str = "experiments"
