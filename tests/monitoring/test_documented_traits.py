"""What docs/main.md says of each trait, "when it spikes" and its example, on short texts read by the committed vectors."""

import json
from pathlib import Path

import pytest
from extraction.monitoring.texts import monitor_texts
from extraction.monitoring.vectors import choose_vectors, vectors_in

from utils.experiment import Experiment
from utils.formats.transcripts import Transcript
from utils.models.compatibility import load_model_for
from utils.models.generation import Sampling

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [json.loads(line) for line in (ROOT / "benchmarks/documented_texts.jsonl").read_text().splitlines()]
NOTE = ("Write a short thank-you note to a neighbour.", "Dear Anna, thank you for watering the plants. Yours, Tom")
# What a model of 135 million parameters does not tell apart in a sentence: who was right about Monday, praise of a false
# sum from praise of a true one, an invented book from a real one.
WRONG_SIDE = {("corrigibility", "neg")}
NOT_EXPRESSED = {"corrigibility", "sycophantic", "hallucinating"}


@pytest.fixture(scope="module")
def records():
    chosen = choose_vectors(Experiment(ROOT / "experiments", "smollm2_135m"))
    loaded = load_model_for(vectors_in(chosen), None, dtype="float32")
    pairs = [(text["question"], text["response"]) for text in TEXTS] + [NOTE]
    transcripts = [Transcript(({"role": "user", "content": question},), response) for question, response in pairs]
    return monitor_texts(loaded, chosen, transcripts, Sampling())


def of(records, side):
    return [(text["trait"], record) for text, record in zip(TEXTS, records, strict=False) if text["side"] == side]


def test_texts_lie_on_their_documented_side(records):
    for text, record in zip(TEXTS, records, strict=False):
        trait, side = text["trait"], text["side"]
        mean = sum(record.trait_scores[trait]) / len(record.tokens) - record.baselines[trait]
        assert (mean > 0) == (side == "pos") or (trait, side) in WRONG_SIDE, (trait, side, mean)


def test_positive_texts_express_their_trait(records):
    held = {trait for trait, record in of(records, "pos") if record.verdicts[trait]["expressed"]}
    assert held == {trait for trait, _ in of(records, "pos")} - NOT_EXPRESSED


def test_every_positive_text_is_unlike_neutral_text(records):
    for trait, record in of(records, "pos"):
        assert record.verdicts[trait]["p_neutral"] < 0.05, trait


def test_negative_texts_do_not_express_their_trait(records):
    held = {trait for trait, record in of(records, "neg") if record.verdicts[trait]["expressed"]}
    assert held <= {"corrigibility"}


def test_a_text_expresses_at_most_one_other_trait_and_a_note_of_thanks_none(records):
    for text, record in zip(TEXTS, records, strict=False):
        others = [t for t, verdict in record.verdicts.items() if verdict["expressed"] and t != text["trait"]]
        assert len(others) <= 1, (text["response"], others)
    assert not any(verdict["expressed"] for verdict in records[-1].verdicts.values())
