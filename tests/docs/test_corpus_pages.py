"""What is said of definitions and of the starter corpus is what the files hold."""

import csv
import json
import re
import shutil
from statistics import fmean

import pytest

from utils.errors import DefinitionError
from utils.formats.definition import parse_definition

from . import pages

TEMPLATES = pages.ROOT / "extraction" / "extraction" / "templates"
STARTER = pages.ROOT / "experiments" / "starter"
GEMMA = pages.ROOT / "experiments" / "gemma_2b_it_nov12"
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


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(trait, side):
    with (STARTER / trait / "responses" / f"{side}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def follow_the_guide(definition):
    prompt = definition.eval_prompt
    assert (len(definition.instruction), len(definition.questions)) == (5, 20)
    assert prompt.count("{question}") == prompt.count("{answer}") == 1
    assert re.search(r"a single integer from 0 to 100,? and nothing else\.$", prompt.rstrip())


@pytest.mark.parametrize("trait", TRAITS)
def test_the_gemma_experiment_shares_the_starters_definitions(trait):
    link, source = GEMMA / trait / "trait_definition.json", STARTER / trait / "trait_definition.json"
    assert link.read_bytes() == source.read_bytes()
    assert link.is_symlink(), "a copy would drift"
    assert not link.readlink().is_absolute()


def test_the_gemma_experiment_has_no_vectors_as_its_readme_says():
    assert "vectors are not here" in (GEMMA / "README.md").read_text(encoding="utf-8")
    assert not list(GEMMA.glob("*/vectors"))


@pytest.mark.parametrize("trait", TRAITS)
def test_the_starter_definitions_follow_the_guide(trait):
    path = STARTER / trait / "trait_definition.json"
    follow_the_guide(parse_definition(read(path), path, trait))


def test_the_example_definition_follows_the_guide():
    path = TEMPLATES / "trait_definition_example.json"
    definition = parse_definition(read(path), path, "formality")
    follow_the_guide(definition)
    for pair in definition.instruction:
        assert abs(len(pair.pos.split()) - len(pair.neg.split())) <= 3, "mirrored sides have about the same length"


def test_the_template_is_refused_until_its_texts_are_filled_in(tmp_path):
    path = tmp_path / "trait_definition.json"
    shutil.copy(TEMPLATES / "trait_definition_template.json", path)
    with pytest.raises(DefinitionError, match=r"'instruction'\[0\] needs a non-empty text under 'pos'"):
        parse_definition(read(path), path, "my_trait")
    value = read(path)
    for i, pair in enumerate(value["instruction"]):
        pair.update(pos=f"Do {i}.", neg=f"Do not {i}.")
    value["questions"] = [f"Question {i}?" for i, _ in enumerate(value["questions"])]
    follow_the_guide(parse_definition(value, path, "my_trait"))


def test_the_templates_comments_name_every_key():
    value = read(TEMPLATES / "trait_definition_template.json")
    for key in ("instruction", "questions", "eval_prompt"):
        assert value[f"_{key}"]


def test_the_starter_readmes_table_counts_what_is_there():
    text = (STARTER / "README.md").read_text(encoding="utf-8")
    table = {
        row[0]: [int(n) for n in row[1:]] for row in re.findall(r"^\| (\w+) " + r"\| (\d+) " * 10 + r"\|$", text, re.M)
    }
    assert sorted(table) == sorted(TRAITS)
    for trait, figures in table.items():
        sides = [rows_of(trait, side) for side in ("pos", "neg", "neutral")]
        n_questions = len({row["question"] for rows in sides for row in rows})
        words = [round(fmean(len(row["response"].split()) for row in rows)) for rows in sides]
        scores = [round(fmean(float(row["trait_score"]) for row in rows)) for rows in sides]
        assert figures == [n_questions, *map(len, sides), *words, *scores], trait


@pytest.mark.parametrize("trait", TRAITS)
def test_the_starter_corpus_is_as_its_readme_says(trait):
    definition = read(STARTER / trait / "trait_definition.json")
    pos, neg = rows_of(trait, "pos"), rows_of(trait, "neg")
    assert {row["judge_method"] for row in pos + neg} == {"author"}
    assert sorted(row["question"] for row in pos) == sorted(row["question"] for row in neg)
    assert list(dict.fromkeys(row["question"] for row in pos))[:20] == definition["questions"]
    if trait != "verbosity":
        means = [fmean(len(row["response"]) for row in rows) for rows in (pos, neg)]
        assert max(means) < 1.06 * min(means)
