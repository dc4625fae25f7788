"""What stage 1 is asked for."""

from dataclasses import dataclass, field

from extraction.cli import check_range
from extraction.judging.settings import JudgeSettings
from extraction.settings import LoadingSettings, TraitsSettings
from utils.models.generation import Sampling


@dataclass(frozen=True)
class GenerationSettings:
    """What decides the text of the responses, besides the model and the definition."""

    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 64
    seed: int = 0
    n_questions: int | None = None
    n_instructions: int | None = None
    enable_thinking: bool | None = None

    def __post_init__(self) -> None:
        check_range("max_new_tokens", self.sampling.max_new_tokens, 1)
        check_range("temperature", self.sampling.temperature, 0)
        check_range("top_p", self.sampling.top_p, 1e-6, 1)
        check_range("batch_size", self.batch_size, 1)
        check_range("n_questions", self.n_questions, 1)
        check_range("n_instructions", self.n_instructions, 1)


@dataclass(frozen=True)
class Settings(JudgeSettings, TraitsSettings, LoadingSettings):
    """Generate responses with and against each trait's instructions, and score them 0-100.

    Needs experiments/EXPERIMENT/TRAIT/trait_definition.json. Writes responses/{pos,neg,neutral}.csv and metadata.json
    beside it. An interrupted run continues where it stopped and ends with the same files.

    Args:
        experiment: name of the experiment; gemma_2b_*, llama_8b_* and smollm2_* name their model.
        trait: one trait.
        traits: several traits, separated by commas; by default every trait with a definition.
        gen_model: Hub id or local folder of the model that answers; with gen_base_url its name there.
        gen_base_url: generate through this OpenAI-compatible server (vLLM, llama.cpp) instead of in this process.
        gen_concurrency: requests to that server at once.
        judge_model: OpenAI or Anthropic model, local, local:MODEL, or none; by default the first at hand.
        judge_base_url: ask the judge model at this OpenAI-compatible server.
        judge_concurrency: requests to the judge at once.
        judge_samples: numeric answers to average where a judge gives no log-probabilities.
        judge_only: score the responses that are there; generate nothing.
        threshold: score that a positive response must reach, and a negative one's mirror (default 50); nothing is
            dropped.
        n_questions: only the first so many questions.
        n_instructions: only the first so many instruction pairs.
        max_new_tokens: longest response, in tokens.
        temperature: of sampling; 0 takes the likeliest token.
        top_p: share of the probability that is sampled from.
        batch_size: prompts at once.
        enable_thinking: true or false, for templates that can turn thinking on and off; by default as the model's own.
        seed: the same seed and settings give the same responses.
        device: cpu, cuda, cuda:1, mps, or auto to spread the model over all GPUs.
        dtype: float32, float16 or bfloat16; by default the checkpoint's own.
        revision: Hub branch, tag or commit of the model.
        trust_remote_code: run code that comes with the model.
        overwrite: begin anew, replacing responses that are there.
        experiments_dir: folder of the experiments.
    """

    gen_model: str | None = None
    gen_base_url: str | None = None
    gen_concurrency: int = 16
    judge_only: bool = False
    n_questions: int | None = None
    n_instructions: int | None = None
    max_new_tokens: int = 200
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 64
    seed: int = 0
    enable_thinking: bool | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gen_concurrency", self.gen_concurrency, 1)

    @property
    def generation(self) -> GenerationSettings:
        """What decides the text of the responses."""
        sampling = Sampling(self.max_new_tokens, self.temperature, self.top_p)
        return GenerationSettings(
            sampling, self.batch_size, self.seed, self.n_questions, self.n_instructions, self.enable_thinking
        )
