"""Stage 1: generate positive, negative and neutral responses for traits, and judge them."""

from extraction.cli import run_command


def generate_responses(
    experiment: str,
    trait: str | None = None,
    traits: list[str] | None = None,
    gen_model: str | None = None,
    gen_base_url: str | None = None,
    gen_concurrency: int = 16,
    judge_model: str | None = None,
    judge_base_url: str | None = None,
    judge_concurrency: int = 20,
    judge_samples: int = 1,
    judge_only: bool = False,
    threshold: float | None = None,
    n_questions: int | None = None,
    n_instructions: int | None = None,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    experiments_dir: str = "experiments",
) -> None:
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
        seed: the same seed and settings give the same responses.
        device: cpu, cuda, cuda:1, mps, or auto to spread the model over all GPUs.
        dtype: float32, float16 or bfloat16; by default the checkpoint's own.
        revision: Hub branch, tag or commit of the model.
        trust_remote_code: run code that comes with the model.
        overwrite: begin anew, replacing responses that are there.
        experiments_dir: folder of the experiments.
    """
    from extraction.generate.plan import GenerationSettings
    from extraction.generate.stage import Stage1Settings, run
    from extraction.judging.scoring import JudgeSettings

    from utils.models.generation import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p)
    settings = Stage1Settings(
        experiment=experiment, trait=trait, traits=traits,
        gen_model=gen_model, gen_base_url=gen_base_url, gen_concurrency=gen_concurrency,
        generation=GenerationSettings(sampling, batch_size, seed, n_questions, n_instructions),
        judge=JudgeSettings(judge_model, judge_base_url, judge_concurrency, judge_samples, threshold),
        judge_only=judge_only, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code,
        overwrite=overwrite, experiments_dir=experiments_dir,
    )  # fmt: skip
    run(settings)


if __name__ == "__main__":
    run_command(generate_responses, splits=True)
