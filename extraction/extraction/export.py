"""Write vectors in the forms of other programs, as one portable file, or as a folder for the Hub.

python -m extraction.export --experiment my_exp --trait refusal --format gguf
"""

from typing import Literal

from extraction.cli import run_command, trait_names


def export_vectors(
    experiment: str,
    trait: str | None = None,
    traits: list[str] | None = None,
    format: Literal["bundle", "gguf", "repeng", "steering_vectors", "hub"] = "bundle",  # noqa: A002 - the flag's name
    output: str | None = None,
    method: str | None = None,
    layers: list[int] | None = None,
    all_layers: bool = False,
    unit: Literal["contrast", "unit"] = "contrast",
    model_hint: str = "",
    license_name: str | None = None,
    experiments_dir: str = "experiments",
) -> None:
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
    import logging
    from pathlib import Path

    from extraction.exchange.exporting import Settings, run

    logging.getLogger("gguf").setLevel(logging.WARNING)  # it announces its temporary file
    settings = Settings(
        experiment=experiment,
        traits=trait_names(trait, traits),
        form=format,
        output=output,
        method=method,
        layers=None if layers is None else tuple(layers),
        all_layers=all_layers,
        unit=unit,
        model_hint=model_hint,
        license_name=license_name,
        experiments_dir=Path(experiments_dir),
    )
    run(settings)


if __name__ == "__main__":
    run_command(export_vectors)
