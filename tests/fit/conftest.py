"""A trait's responses and activations on disk, without a model."""

import json

import pytest
import torch
from safetensors.torch import save_file

from utils.experiment import Experiment
from utils.formats.activation_files import TENSOR, activations_path, write_activations_info
from utils.formats.response_files import responses_fingerprint, write_responses
from utils.records import ActivationsInfo, Response

N_LAYERS, HIDDEN = 5, 24
DEFINITION = {
    "instruction": [{"pos": "Show it.", "neg": "Hide it."}, {"pos": "Always show it.", "neg": "Never show it."}],
    "questions": [f"Question {i}?" for i in range(10)],
    "eval_prompt": "Question: {question} Answer: {answer} Score from 0 to 100.",
}


def _rows(side, n_pairs):
    """10 questions x the instruction pairs (two responses each where there is none), scored clearly."""
    scores = {"pos": 90.0, "neg": 5.0, "neutral": 30.0}
    rows = []
    for question in DEFINITION["questions"]:
        for pair in range(2):
            instruction = DEFINITION["instruction"][pair][side] if n_pairs and side != "neutral" else ""
            text = f"Response {pair} about {question.lower()} with common words"
            rows.append(Response(question, instruction, question, text, scores[side], "test"))
    return rows


def write_trait(
    lab,
    trait,
    *,
    signal_layer=2,
    strength=4.0,
    seed=0,
    n_pairs=0,
    rows=None,
    model="tiny",
    neutral_tokens=300,
    texts=None,
):
    """Write a trait whose classes differ along the first feature at one layer; returns its folder."""
    folder = lab.trait(trait)
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.definition_path.write_text(json.dumps(DEFINITION))
    responses = {side: _rows(side, n_pairs) for side in ("pos", "neg", "neutral")} | (rows or {})
    generator = torch.Generator().manual_seed(seed)
    folder.activations_dir.mkdir(parents=True)
    for side, sign in (("pos", 0.5), ("neg", -0.5), ("neutral", 0.0)):
        write_responses(folder, side, responses[side])
        states = torch.randn(len(responses[side]), N_LAYERS, HIDDEN, generator=generator)
        states[:, signal_layer, 0] += sign * strength
        save_file({TENSOR: states.half()}, activations_path(folder, side))
    tokens = torch.randn(neutral_tokens, N_LAYERS, HIDDEN, generator=generator)
    save_file({TENSOR: tokens.half()}, activations_path(folder, "neutral_tokens"))
    hook_points = {"0": {"path": "model.layers.0", "side": "input"}}
    hook_points |= {str(i): {"path": f"model.layers.{i - 1}", "side": "output"} for i in range(1, N_LAYERS)}
    info = ActivationsInfo(
        model=model, revision=None, model_dtype="float32", n_layers=N_LAYERS, hidden_size=HIDDEN,
        layers=list(range(N_LAYERS)), hook_points=hook_points, layer_convention="L", context="question", pooling="mean",
        template_hash="0", dtype="float16", batch_size=8, batch_tokens=100, responses_from=lab.name,
        rows={side: list(range(len(r))) for side, r in responses.items()},
        texts_sha256={side: responses_fingerprint(r) for side, r in responses.items()},
        n_response_tokens={side: [10 + i % 3 for i in range(len(r))] for side, r in responses.items()},
        n_neutral_tokens=neutral_tokens, n_windows=0, versions={},
    )  # fmt: skip
    write_activations_info(folder.activations_dir, info)
    _forget_fingerprints(folder.activations_dir / "metadata.json")
    return folder


def write_everyday(lab, n=40, model="tiny", n_windows=0):
    """Write everyday text, whose states have nothing of any trait; returns its folder."""
    folder = lab.everyday
    responses = [Response(f"Everyday {i}?", "", f"Everyday {i}?", f"Something about {i}") for i in range(n)]
    write_responses(folder, "neutral", responses)
    folder.activations_dir.mkdir(parents=True)
    generator = torch.Generator().manual_seed(99)
    for part, rows in (("neutral", n), ("within", n_windows)):
        states = torch.randn(rows, N_LAYERS, HIDDEN, generator=generator)
        save_file({TENSOR: states.half()}, activations_path(folder, part))
    sides = {"pos": [], "neg": [], "neutral": responses}
    info = ActivationsInfo(
        model=model, revision=None, model_dtype="float32", n_layers=N_LAYERS, hidden_size=HIDDEN,
        layers=list(range(N_LAYERS)), hook_points={}, layer_convention="L", context="question", pooling="mean",
        template_hash="0", dtype="float16", batch_size=8, batch_tokens=100, responses_from=lab.name,
        rows={side: list(range(len(r))) for side, r in sides.items()},
        texts_sha256={side: responses_fingerprint(r) for side, r in sides.items()},
        n_response_tokens={side: [5 + i % 20 for i in range(len(r))] for side, r in sides.items()},
        n_neutral_tokens=0, n_windows=n_windows, versions={},
    )  # fmt: skip
    write_activations_info(folder.activations_dir, info)
    return folder


def _forget_fingerprints(side_car):
    """So that tests can put other tensors into the trait's files."""
    described = json.loads(side_car.read_text())
    del described["files_sha256"]
    side_car.write_text(json.dumps(described))


@pytest.fixture
def lab(tmp_path):
    return Experiment(tmp_path / "experiments", "exp")
