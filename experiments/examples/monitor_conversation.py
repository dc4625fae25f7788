"""Talk with a model and see after every answer what each turn of the conversation scores on the traits.

python experiments/examples/monitor_conversation.py --experiment my_exp
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from extraction.cli import check_range, run_command
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}. In the project's folder run: pip install -e .") from None

if TYPE_CHECKING:
    from utils.records import MonitoringRecord

logger = logging.getLogger("traitlens")


def monitor_conversation(
    experiment: str,
    messages: str | None = None,
    system: str = "",
    output: str | None = None,
    traits: list[str] | None = None,
    layer: int | None = None,
    method: str | None = None,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    model: str | None = None,
    device: str | None = None,
    experiments_dir: str = "experiments",
) -> None:
    """Hold a conversation; every answer becomes a result with the scores of the whole conversation so far.

    Args:
        experiment: whose vectors to use.
        messages: what the user says, as a JSON list of texts; by default lines typed in, until an empty one.
        system: system message.
        output: JSON file of the results; by default conversation.json in the experiment's inference/results.
        traits: only these traits, separated by commas.
        layer: layer of the vectors; by default the documented one of the model, or the best.
        method: method of the vectors; by default the best at the layer.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 takes the likeliest token.
        seed: of sampling.
        model: load the vectors' model from here (folder or Hub id).
        device: cpu, cuda, cuda:1 or mps.
        experiments_dir: folder of the experiments.
    """
    check_range("max_new_tokens", max_new_tokens, 1)
    check_range("temperature", temperature, 0)

    from extraction.monitoring.texts import monitor_texts
    from extraction.monitoring.vectors import choose_vectors, vectors_in
    from extraction.monitoring.verdicts import in_words

    from utils.experiment import Experiment
    from utils.formats.files import check_output
    from utils.formats.results import to_json, write_results
    from utils.formats.transcripts import Transcript
    from utils.models.compatibility import load_model_for
    from utils.models.generation import Sampling, derived_seed
    from utils.terminal import without_controls

    home = Experiment(Path(experiments_dir), experiment)
    chosen = choose_vectors(home, traits or [], layer, method)
    path = Path(output) if output else home.results_dir / "conversation.json"
    check_output(path)
    loaded = load_model_for(vectors_in(chosen), model, device=device)
    sampling, results = Sampling(max_new_tokens, temperature), []
    history = [{"role": "system", "content": system}] if system else []
    for message in user_messages(messages):
        history.append({"role": "user", "content": message})
        turn_seed = derived_seed(seed, len(history))
        text = Transcript(tuple(history))
        (record,) = monitor_texts(loaded, chosen, [text], sampling, seed=turn_seed, prompt_scores=True)
        history.append({"role": "assistant", "content": record.response})
        results.append(to_json(record))
        write_results(path, results)
        said = f"{record.response}\n\n{turn_table(record)}\n{in_words(record.verdicts)}\n"
        sys.stdout.write(without_controls(said))
    logger.info("Results: %s", path)


def user_messages(messages: str | None) -> Iterator[str]:
    """What the user says: the given messages, or typed lines until an empty one."""
    from utils.formats.transcripts import prompts_of

    if messages is not None:
        yield from (transcript.prompt for transcript in prompts_of(messages))
        return
    with contextlib.suppress(EOFError):
        while line := input("> ").strip():
            yield line


def turn_table(record: MonitoringRecord) -> str:
    """Mean centred score of every segment of the conversation, a line each: over 0 is nearer the positive examples."""
    lines = [f"{'turn':<24}" + "".join(f"{trait:>16}" for trait in record.trait_scores)]
    for segment in record.segments:
        scores = record.prompt_trait_scores if segment["where"] == "prompt" else record.trait_scores
        cells = ""
        for trait, values in scores.items():
            part = values[segment["start"] : segment["end"]]
            cells += f"{sum(part) / len(part) - (record.baselines.get(trait) or 0.0):>16.2f}"
        name = f"{segment['turn']} {segment['role']} {segment['part'] or ''}"
        lines.append(f"{name:<24}{cells}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(monitor_conversation)
