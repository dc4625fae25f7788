"""Stage 3: fit trait vectors and measure them on responses that they have not seen."""

from extraction.cli import run_command, trait_names


def extract_vectors(
    experiment: str,
    trait: str | None = None,
    traits: list[str] | None = None,
    methods: list[str] | None = None,
    layers: list[int] | None = None,
    threshold: float | None = None,
    folds: int = 5,
    seed: int = 0,
    experiments_dir: str = "experiments",
) -> None:
    """Fit vectors by every method at every layer, with held-out figures, controls, and a choice of the best.

    Needs the activations of stage 2. Writes one vector file per method and layer, summary.csv and card.html into
    experiments/EXPERIMENT/TRAIT/vectors/; for several traits also experiments/EXPERIMENT/vectors_matrix.csv and .png.

    Args:
        experiment: name of the experiment.
        trait: one trait.
        traits: several traits, separated by commas; by default every trait that has activations.
        methods: of mean_diff, probe, ica and gradient, separated by commas; by default all.
        layers: layer numbers, separated by commas; by default all that were captured.
        threshold: use positive responses that score at least this and negative ones at most its mirror (100 minus it);
            by default stage 1's.
        folds: how many groups of questions to hold out in turn.
        seed: for the folds, the intervals, shuffling, and ICA.
        experiments_dir: folder of the experiments.
    """
    from pathlib import Path

    from extraction.fit.stage import Settings, run

    from traitlens.methods import METHODS

    settings = Settings(
        experiment=experiment,
        traits=trait_names(trait, traits),
        methods=tuple(METHODS if methods is None else methods),
        layers=None if layers is None else tuple(layers),
        threshold=threshold,
        folds=folds,
        seed=seed,
        experiments_dir=Path(experiments_dir),
    )
    run(settings)


if __name__ == "__main__":
    run_command(extract_vectors)
