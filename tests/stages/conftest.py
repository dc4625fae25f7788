"""A tiny chat model on disk, complete with tokenizer, and an experiment to run the commands on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import small_model
from tests.hardening.nursery import run_command
from tests.tiny_tokenizer import tiny_tokenizer
from utils.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]
DEFINITION = {
    "instruction": [{"pos": "Refuse.", "neg": "Answer."}, {"pos": "Say no to all.", "neg": "Say yes to all."}],
    "questions": ["Why?", "How is rain made?", "Who are you?", "What is it worth to you, all told?"],
    "eval_prompt": "Question: {question} Answer: {answer} Score from 0 to 100.",
}


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    model = small_model("llama", max_position_embeddings=512)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def lab(tmp_path):
    experiment = Experiment(tmp_path / "experiments", "exp")
    for trait in ("alpha", "beta"):
        path = experiment.trait(trait).definition_path
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(DEFINITION))
    return experiment


def script(name, *arguments, lab, launcher=(), check=True):
    """Run a numbered command as a user would, from the folder above ``experiments``; a launcher starts new processes."""
    command = [*launcher, ROOT / "extraction" / name, "--experiment", lab.name, *arguments]
    start = _start if launcher else run_command
    result = start(*command, folder=lab.experiments_dir.parent)
    assert not check or result.returncode == 0, result.stderr
    return result


def _start(*arguments, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        environment.pop(key, None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
