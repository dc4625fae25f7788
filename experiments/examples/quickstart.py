"""The whole pipeline in one go on the embedded model: responses, activations, vectors, monitored prompts, a report.

    python experiments/examples/quickstart.py

Runs the numbered commands that you would run yourself and shows each. Needs no key and no GPU.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

try:
    from extraction.cli import run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. In the project's folder run: pip install -e .") from None

logger = logging.getLogger("traitlens")

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENTS = REPOSITORY / "experiments"
TRAITS = ("refusal", "uncertainty")
PROMPTS = """["Write a short thank-you note to a neighbour.", "What is my neighbour's phone number?"]"""
_MARK = ".quickstart"
_STAGES = (
    (
        "Stage 1: the model answers a few questions under the traits' instructions. (A model this small follows "
        "them loosely and judges poorly, so the vectors below come from the hand-made starter responses.)",
        ["extraction/1_generate_responses.py", "--traits", ",".join(TRAITS), "--n_questions", "4",
         "--n_instructions", "2", "--max_new_tokens", "80", "--judge_model", "local"],
    ),
    (
        "Stage 2: the model reads the starter responses; their activations are kept at all 31 layers.",
        ["extraction/2_extract_activations.py", "--traits", ",".join(TRAITS), "--responses_from", "starter"],
    ),
    (
        "Stage 3: vectors by four methods at every layer, tested on questions that were held out.",
        ["extraction/3_extract_vectors.py", "--traits", ",".join(TRAITS)],
    ),
)  # fmt: skip


def quickstart(experiment: str = "quickstart", overwrite: bool = False) -> None:
    """Extract vectors for two traits and monitor two prompts with them.

    Args:
        experiment: name of the experiment to make.
        overwrite: begin anew where there is one already.
    """
    from utils.errors import UserError
    from utils.experiment import Experiment

    began = time.perf_counter()
    made, starter = Experiment(EXPERIMENTS, experiment), Experiment(EXPERIMENTS, "starter")
    if made.root.exists() and not (made.root / _MARK).is_file():
        raise UserError(f"{made.root} was not made by the quickstart: choose another --experiment")
    if overwrite:
        shutil.rmtree(made.root, ignore_errors=True)
    made.root.mkdir(parents=True, exist_ok=True)
    (made.root / _MARK).write_text("Made by experiments/examples/quickstart.py, which may replace this folder.\n")
    for trait in TRAITS:
        made.trait(trait).root.mkdir(exist_ok=True)
        shutil.copyfile(starter.trait(trait).definition_path, made.trait(trait).definition_path)
    results = made.results_dir / "quickstart.json"
    monitoring = (
        "Monitoring: every token of two answers on the best vector of each trait.",
        ["experiments/examples/run_dynamics.py", "--prompts", PROMPTS, "--output", str(results.relative_to(REPOSITORY)),
         "--max_new_tokens", "80", "--overwrite"],
    )  # fmt: skip
    for title, (script, *flags) in (*_STAGES, monitoring):
        command = [script, "--experiment", experiment, *flags]
        logger.info("\n%s\n$ python %s", title, shlex.join(command))
        if subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=False).returncode:
            raise UserError(f"{script} failed; its message is above")
    logger.info("Done in %.0f s.", time.perf_counter() - began)


if __name__ == "__main__":
    run_command(quickstart)
