"""Read vectors that were made elsewhere into an experiment.

python -m extraction.import_vectors --experiment my_exp --trait refusal --source refusal.gguf
"""

from typing import Literal

from extraction.cli import run_command


def import_vectors(
    experiment: str,
    trait: str,
    source: str,
    format: Literal["auto", "bundle", "gguf", "steering_vectors"] = "auto",  # noqa: A002 - the flag's name
    model: str | None = None,
    method: str = "imported",
    overwrite: bool = False,
    experiments_dir: str = "experiments",
) -> None:
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
    from extraction.exchange.importing import import_into

    import_into(experiment, trait, source, format, model, method, overwrite, experiments_dir)


if __name__ == "__main__":
    run_command(import_vectors)
