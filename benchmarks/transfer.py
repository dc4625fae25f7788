"""Do vectors trained on the starter corpus read another writer's texts?

    python benchmarks/transfer.py

Projects the gold set (utils/gold_set.jsonl, written apart from the corpus) on each trait's best vector and prints the
AUROC with a 95 % interval, and the share of answers on the right side of the vector's own zero.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from extraction.capture.examples import Example
from extraction.capture.reading import read_batch
from extraction.cli import run_command
from extraction.judge_gold import read_gold_set

from traitlens import projection
from traitlens.validation.evaluation import auroc_interval
from utils.models import LoadedModel, load_model
from utils.prompts import encode_prompt, encode_response, format_prompt
from utils.records import TraitVector
from utils.vectors import load_vector

ROOT = Path(__file__).resolve().parents[1]


def benchmark(experiment: str = "smollm2_135m") -> None:
    """Print one line per trait.

    Args:
        experiment: whose vectors to read with.
    """
    gold = read_gold_set()
    for trait in sorted({pair["trait"] for pair in gold}):
        vector = load_vector(experiment, trait, experiments_dir=ROOT / "experiments")
        pairs = [pair for pair in gold if pair["trait"] == trait]
        states = _states(pairs, vector)
        scores = projection(states, vector.vector)
        labels = torch.tensor([pair["label"] == "pos" for pair in pairs])
        questions = [pair["question"] for pair in pairs]
        interval = auroc_interval(scores, labels, [torch.tensor([questions.index(q) for q in questions])])
        right = ((scores > (vector.baseline or 0.0)) == labels).float().mean()
        print(
            f"{trait:15s} {vector.method:9s} layer {vector.layer:2d}: AUROC {interval.value:.2f} "
            f"({interval.low:.2f} to {interval.high:.2f}), right side of zero {right:.2f}, n {len(pairs)}"
        )


def _states(pairs: list[dict[str, str]], vector: TraitVector) -> torch.Tensor:
    """Mean activations [n, hidden] over each answer's tokens at the vector's layer."""
    loaded = _load(vector.model)
    examples = []
    for row, pair in enumerate(pairs):
        prompt = encode_prompt(loaded.tokenizer, format_prompt(loaded.tokenizer, pair["question"]))
        ids = prompt + encode_response(loaded.tokenizer, pair["answer"])
        examples.append(Example("pos", row, ids, len(prompt)))
    return read_batch(examples, loaded, [vector.layer]).means[:, 0]


@functools.cache
def _load(model: str) -> LoadedModel:
    return load_model(model)


if __name__ == "__main__":
    run_command(benchmark)
