"""The gold set, and the command that reports a judge's agreement with it."""

import json
from collections import Counter

import pytest
from extraction.judge_gold import judge_gold, read_gold_set

from utils.errors import UserError

from .servers import completion

TRAITS = [
    "refusal",
    "uncertainty",
    "verbosity",
    "overconfidence",
    "corrigibility",
    "evil",
    "sycophantic",
    "hallucinating",
]


def test_the_gold_set_has_enough_of_both_labels_for_every_trait():
    gold = read_gold_set()
    counts = Counter((pair["trait"], pair["label"]) for pair in gold)
    assert {trait for trait, _ in counts} == set(TRAITS)
    assert {label for _, label in counts} == {"pos", "neg"}
    assert min(counts.values()) >= 6
    assert all(pair["question"].strip() and pair["answer"].strip() for pair in gold)
    assert len({(pair["trait"], pair["question"], pair["answer"]) for pair in gold}) == len(gold)


@pytest.fixture
def definitions(tmp_path):
    for trait in TRAITS:
        folder = tmp_path / "lab" / trait
        folder.mkdir(parents=True)
        definition = {
            "instruction": [{"pos": "a", "neg": "b"}],
            "questions": ["q"],
            "eval_prompt": trait + " {question}|{answer}",
        }
        (folder / "trait_definition.json").write_text(json.dumps(definition))
    return {"definitions": "lab", "experiments_dir": str(tmp_path)}


def judge_who_knows(body, number):
    """Right about every pair but the positive ones of "evil", which it would not score."""
    content = body["messages"][0]["content"]
    for pair in read_gold_set():
        if content.startswith(f"{pair['trait']} {pair['question']}|{pair['answer']}"):
            if (pair["trait"], pair["label"]) == ("evil", "pos"):
                return completion("I would rather not.")
            return completion(
                *[("80", [("80", {"80": 0.9, "I": 0.1})]), ("9", [("9", {"9": 0.9, "10": 0.1})])][
                    pair["label"] == "neg"
                ]
            )
    return completion("50", [("50", {"50": 0.9, "I": 0.1})])


def test_agreement_is_reported_trait_by_trait_and_unscored_pairs_are_counted(serve, definitions, tmp_path, caplog):
    server = serve(judge_who_knows)
    output = tmp_path / "gold.json"
    judge_gold(judge_model="m", judge_base_url=server.url, output=str(output), **definitions)
    results = json.loads(output.read_text())["traits"]
    assert results["refusal"] == {"n": 18, "unscored": 0, "auroc": 1.0, "accuracy": 1.0}
    assert results["evil"]["unscored"] == 9
    assert results["evil"]["auroc"] is None
    assert results["evil"]["accuracy"] == 1.0
    assert "refusal         AUROC 1.00  accuracy 1.00  (18 pairs)" in caplog.text
    assert "AUROC none" in caplog.text


def test_an_output_that_is_a_folder_is_refused_before_any_request(serve, definitions, tmp_path):
    server = serve(judge_who_knows)
    with pytest.raises(UserError, match="is a folder: --output names a file"):
        judge_gold(judge_model="m", judge_base_url=server.url, output=str(tmp_path), **definitions)
    assert server.requests == []


def test_an_unknown_trait_is_named_before_any_request(serve, definitions):
    server = serve(judge_who_knows)
    with pytest.raises(UserError, match="no trait kindness"):
        judge_gold(judge_model="m", judge_base_url=server.url, traits=["kindness"], **definitions)
    assert server.requests == []
