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
_MARK = ".quickstart"
TRAITS = ("refusal", "uncertainty")
PROMPTS = """["Write a short thank-you note to a neighbour.", "What is my neighbour's phone number?"]"""


def quickstart(experiment: str = "quickstart", overwrite: bool = False) -> None:
    """Extract vectors for two traits and monitor two prompts with them.

    Args:
        experiment: name of the experiment to make.
        overwrite: begin anew where there is one already.
    """
    from utils.errors import UserError
    from utils.experiment import Experiment

    began = time.perf_counter()
    lab = Experiment(REPOSITORY / "experiments", experiment)
    starter = Experiment(REPOSITORY / "experiments", "starter")
    if lab.root.exists() and not (lab.root / _MARK).is_file():
        raise UserError(f"{lab.root} was not made by the quickstart: choose another --experiment")
    if overwrite:
        shutil.rmtree(lab.root, ignore_errors=True)
    lab.root.mkdir(parents=True, exist_ok=True)
    (lab.root / _MARK).write_text("Made by experiments/examples/quickstart.py, which may replace this folder.\n")
    for trait in TRAITS:
        definition = lab.trait(trait).definition_path
        definition.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(starter.trait(trait).definition_path, definition)
    traits = ",".join(TRAITS)
    results = lab.results_dir / "quickstart.json"
    steps = [
        (
            "Stage 1: the model answers a few questions under the traits' instructions. (A model this small follows "
            "them loosely and judges poorly, so the vectors below come from the hand-made starter responses.)",
            ["extraction/1_generate_responses.py", "--traits", traits, "--n_questions", "4", "--n_instructions", "2",
             "--max_new_tokens", "80", "--judge_model", "local"],
        ),
        (
            "Stage 2: the model reads the starter responses; their activations are kept at all 31 layers.",
            ["extraction/2_extract_activations.py", "--traits", traits, "--responses_from", "starter"],
        ),
        (
            "Stage 3: vectors by four methods at every layer, tested on questions that were held out.",
            ["extraction/3_extract_vectors.py", "--traits", traits],
        ),
        (
            "Monitoring: every token of two answers on the best vector of each trait.",
            ["experiments/examples/run_dynamics.py", "--prompts", PROMPTS,
             "--output", str(results.relative_to(REPOSITORY)),
             "--max_new_tokens", "80", "--overwrite"],
        ),
    ]  # fmt: skip
    for title, (script, *flags) in steps:
        command = [script, "--experiment", experiment, *flags]
        logger.info("\n%s\n$ python %s", title, shlex.join(command))
        if subprocess.run([sys.executable, *command], cwd=REPOSITORY, check=False).returncode:
            raise UserError(f"{script} failed; its message is above")
    _summarise(experiment, results)
    logger.info("Done in %.0f s.", time.perf_counter() - began)


def _summarise(experiment: str, results: Path) -> None:
    from utils.experiment import Experiment
    from utils.formats.files import read_json
    from utils.formats.vector_files import read_summary
    from utils.vectors import load_vector

    logger.info("\nMade:")
    lab = Experiment(REPOSITORY / "experiments", experiment)
    for trait in TRAITS:
        best = read_summary(lab.trait(trait))[0]
        n_vectors = len(read_summary(lab.trait(trait)))
        vector = load_vector(experiment, trait, experiments_dir=lab.experiments_dir)
        logger.info(
            "  %-12s %d vectors in %s; best: %s at layer %d, held-out AUROC %.2f (%.2f to %.2f), norm %.1f",
            trait, n_vectors, lab.trait(trait).vectors_dir.relative_to(REPOSITORY), best.method, best.layer,
            best.auroc, best.auroc_low, best.auroc_high, vector.vector.norm(),
        )  # fmt: skip
    for record in read_json(results, "Run the quickstart again"):
        means = ", ".join(
            f"{trait} {sum(scores) / len(scores) - record['baselines'][trait]:+.1f}"
            for trait, scores in record["trait_scores"].items()
        )
        logger.info("  %r: mean centred score %s", record["prompt"], means)
    shown = results.relative_to(REPOSITORY)
    logger.info("  %s\n  %s (open it in a browser)", shown, shown.with_suffix(".html"))


if __name__ == "__main__":
    run_command(quickstart)
