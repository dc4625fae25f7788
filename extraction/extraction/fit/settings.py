"""What stage 3 is asked for."""

from dataclasses import dataclass
from typing import Literal

from extraction.cli import check_range
from extraction.settings import TraitsSettings
from utils.errors import UserError


@dataclass(frozen=True)
class Settings(TraitsSettings):
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
        negatives: "neg+neutral" fits against the trait's opposite and ordinary text, half each; "neg" against the
            opposite alone.
        seed: for the folds, shuffling, and ICA.
        experiments_dir: folder of the experiments.
    """

    methods: list[str] | None = None
    layers: list[int] | None = None
    threshold: float | None = None
    folds: int = 5
    negatives: Literal["neg+neutral", "neg"] = "neg+neutral"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise UserError("--layers names no layer")
        check_range("threshold", self.threshold, 0, 100)
        check_range("folds", self.folds, 2)
