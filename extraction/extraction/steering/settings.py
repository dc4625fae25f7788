"""What a causal check is asked for."""

from dataclasses import dataclass

from extraction.cli import check_range
from utils.models.generation import Sampling


@dataclass(frozen=True)
class Settings:
    """Check causally what a vector does: whether the trait in the answers follows its dose more than chance would.

    The vector is added and subtracted at its layer while the model answers the trait's questions. The answers are then
    read by the unsteered model, at another layer, and scored by a judge where one is named. Random directions go the
    same way at the largest dose that leaves their text whole; the verdict says how many do as much. Writes a JSON file
    with the answers and a picture beside the vector.

    Args:
        experiment: name of the experiment.
        trait: the trait.
        coefficients: doses, separated by commas, in typical activation norms of the layer; each is both added and
            subtracted, and 0 is always measured. By default 0.15,0.3.
        layer: steer at this layer; by default the documented one of the model, or the best.
        method: of the vector; by default the best at the layer.
        read_layer: read the answers at this layer; by default the best of the others.
        n_prompts: how many of the trait's questions are answered.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 takes the likeliest token.
        seed: of sampling and of the random directions.
        n_controls: random directions of the same length to compare with; under 19 no vector can be called causal.
        judge_model: judge that scores the answers, as in stage 1; none reads them only.
        judge_base_url: OpenAI-compatible server of the judge.
        output: JSON file; by default vectors/steering_METHOD_layerL.json of the trait.
        model: load the vector's model from here (folder or Hub id).
        device: cpu, cuda, cuda:1, mps or auto.
        dtype: float32, float16 or bfloat16.
        trust_remote_code: run code that comes with the model.
        experiments_dir: folder of the experiments.
    """

    experiment: str
    trait: str
    coefficients: list[float] | None = None
    layer: int | None = None
    method: str | None = None
    read_layer: int | None = None
    n_prompts: int = 16
    max_new_tokens: int = 80
    temperature: float = 0.0
    seed: int = 0
    n_controls: int = 19
    judge_model: str = "none"
    judge_base_url: str | None = None
    output: str | None = None
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    experiments_dir: str = "experiments"

    def __post_init__(self) -> None:
        check_range("n_prompts", self.n_prompts, 1)
        check_range("n_controls", self.n_controls, 0)
        check_range("max_new_tokens", self.max_new_tokens, 1)
        check_range("temperature", self.temperature, 0)

    @property
    def doses(self) -> tuple[float, ...]:
        """Sizes of the coefficients that are not 0, in order."""
        chosen = (0.15, 0.3) if self.coefficients is None else self.coefficients
        return tuple(sorted({abs(dose) for dose in chosen if dose != 0}))

    @property
    def sampling(self) -> Sampling:
        """How the answers are drawn."""
        return Sampling(self.max_new_tokens, self.temperature)
