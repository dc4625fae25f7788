"""Generate (or read) texts, score every token on all of an experiment's trait vectors, and analyse how the scores move.

    python experiments/examples/run_dynamics.py --experiment my_exp --prompts "What is the capital of France?"

Copy it to experiments/{name}/inference/ and edit it: `metrics` is the place for measures of your own.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from extraction.cli import check_range, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. In the project's folder run: pip install -e .") from None

if TYPE_CHECKING:
    from utils.records import MonitoringRecord

logger = logging.getLogger("traitlens")


def metrics(record: MonitoringRecord, trait: str, smoothing: int) -> dict[str, object]:
    """What is said of one trait's scores in one response. Add measures of your own; JSON values only."""
    from traitlens import analyze_dynamics

    dynamics = analyze_dynamics(
        record.trait_scores[trait],
        baseline=record.baselines.get(trait) or 0.0,
        threshold=record.thresholds.get(trait, {}).get("fpr_5"),
        smoothing=smoothing,
    )
    return asdict(dynamics)


def run_dynamics(
    experiment: str,
    prompts: str | None = None,
    prompts_file: str | None = None,
    text_file: str | None = None,
    output: str | None = None,
    traits: list[str] | None = None,
    layer: int | None = None,
    method: str | None = None,
    all_layers: bool = False,
    prompt_scores: bool = False,
    smoothing: int = 1,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 8,
    stream: bool = False,
    tint: str | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    experiments_dir: str = "experiments",
    overwrite: bool = False,
    report: bool = True,
) -> None:
    """Score every token of the answers to prompts, or of existing texts, on an experiment's trait vectors.

    Args:
        experiment: whose vectors to use: all traits that have some.
        prompts: one prompt, or several as a JSON list of texts.
        prompts_file: prompts one per line, or .json, .jsonl, .csv.
        text_file: texts to score without generating: .csv, .json or .jsonl of prompt and response, or chats.
        output: JSON file of the results; by default dynamics.json in the experiment's inference/results.
        traits: only these traits, separated by commas.
        layer: layer of the vectors; by default the documented one of the model, or the best.
        method: method of the vectors; by default the best at the layer.
        all_layers: also score at every layer that has a vector of the method.
        prompt_scores: also give the prompt's tokens and their scores.
        smoothing: average this many tokens (odd) before computing dynamics; 1 is none.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 takes the likeliest token.
        top_p: sample from the likeliest tokens that make up this probability.
        seed: of sampling.
        batch_size: texts at once.
        stream: show tokens as they come, tinted by a trait.
        tint: the trait to tint by; by default the first.
        model: load the vectors' model from here (folder or Hub id).
        device: cpu, cuda, cuda:1, mps or auto.
        dtype: float32, float16 or bfloat16.
        trust_remote_code: run code that comes with the model.
        experiments_dir: folder of the experiments.
        overwrite: replace an output made with other settings.
        report: also write the results as one HTML page.
    """
    check_range("max_new_tokens", max_new_tokens, 1)
    check_range("batch_size", batch_size, 1)
    check_range("smoothing", smoothing, 1)
    check_range("temperature", temperature, 0)
    check_range("top_p", top_p, 0, 1)

    from extraction.monitoring.report import write_report
    from extraction.monitoring.run import RunSettings, find_texts, run_monitoring
    from extraction.monitoring.vectors import choose_vectors, vectors_in

    from utils.errors import UserError
    from utils.experiment import Experiment
    from utils.models.compatibility import load_model_for
    from utils.models.generation import Sampling

    if smoothing % 2 == 0:
        raise UserError(f"--smoothing must be an odd number of tokens, got {smoothing}")
    if stream and text_file:
        raise UserError("--stream shows tokens as they are generated: it does not go with --text_file")
    home = Experiment(Path(experiments_dir), experiment)
    path = Path(output) if output else home.results_dir / "dynamics.json"
    page = path.with_suffix(".html")
    if report and path == page:
        raise UserError(f"{path} is where the page of the results goes: give --output an ending such as .json")
    texts = find_texts(prompts, prompts_file, text_file)
    chosen = choose_vectors(home, traits or [], layer, method, all_layers)
    tint = tint or next(iter(chosen))
    if tint not in chosen:
        raise UserError(f"--tint must be one of {', '.join(chosen)}, got {tint!r}")
    sampling = Sampling(max_new_tokens, temperature, top_p)
    settings = RunSettings(sampling, seed, smoothing, prompt_scores, batch_size, tint if stream else None)
    run_monitoring(
        texts, chosen,
        lambda: load_model_for(
            vectors_in(chosen), model, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        ),
        output=path, settings=settings, analyze=metrics, overwrite=overwrite,
    )  # fmt: skip
    if report:
        logger.info("Open in a browser: %s", write_report([path], page))
    logger.info("Results: %s", path)


if __name__ == "__main__":
    run_command(run_dynamics)
