"""An experiment for the tests of faults: fixtures' makings, and what its files hold."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

from tests.conftest import small_model
from tests.hardening.nursery import shared_nursery
from tests.tiny_tokenizer import tiny_tokenizer
from utils.experiment import Experiment

DEFINITION = {
    "instruction": [{"pos": "Refuse.", "neg": "Answer."}, {"pos": "Say no to all.", "neg": "Say yes to all."}],
    "questions": ["Why?", "How is rain made?", "Who are you?", "What is it worth to you, all told?"],
    "eval_prompt": "Question: {question} Answer: {answer} Score from 0 to 100.",
}


def make_model(folder):
    """A tiny chat model on disk."""
    model = small_model("llama", max_position_embeddings=512)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def make_lab(folder, experiment="exp", trait="alpha"):
    """An experiment with one trait, and its folder."""
    lab = Experiment(folder / "experiments", experiment)
    path = lab.trait(trait).definition_path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(DEFINITION), encoding="utf-8")
    return lab


def arguments(stage, lab, model, *more):
    """The flags of a stage; stage 1 has the tiny model judge itself, whose scores are arbitrary but always the same."""
    own = {
        1: ["--gen_model", model, "--judge_model", "local", "--max_new_tokens", 24, "--batch_size", 2, "--device", "cpu"],
        2: ["--batch_size", 1, "--device", "cpu"],
        3: ["--threshold", 0, "--layers", "1,3"],
    }[stage]  # fmt: skip
    trait = next(path.parent.name for path in sorted(lab.root.glob("*/trait_definition.json")))
    return ["--experiment", lab.name, "--trait", trait, "--experiments_dir", lab.experiments_dir, *own, *more]


def files(folder):
    """The bytes of all files but the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def refused(ended, *words):
    """Check that a run ended in one line that says the words."""
    assert ended.status == 1, ended.said
    assert "Traceback" not in ended.said
    assert ended.last_line.startswith("error: "), ended.said
    assert all(word in ended.last_line for word in words), ended.last_line


@functools.cache
def finished_place():
    """A nursery, an experiment with all stages done, and its model, made once for all modules.

    A test that changes the experiment's files puts them back.
    """
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    lab, model = make_lab(folder), make_model(folder / "model")
    nursery = shared_nursery()
    atexit.register(shutil.rmtree, folder)
    for stage in (1, 2, 3):
        ended = nursery.run(stage, *arguments(stage, lab, model))
        assert ended.status == 0, ended.said
    return nursery, lab, model
