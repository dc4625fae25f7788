"""The proof of exported control vectors: llama.cpp does with them what our steering hook does."""

import ctypes
import importlib
import importlib.util
import os
from unittest import mock

import gguf
import numpy as np
import pytest
import torch

from tests.exchange.conftest import sidecar
from traitlens import ActivationCapture, HookManager, add_steering_hook
from utils.formats.gguf_vectors import write_control_vector
from utils.models import EMBEDDED_MODEL, load_model
from utils.models.embedded import embedded_gguf
from utils.records import TraitVector

if importlib.util.find_spec("llama_cpp") is None and not os.environ.get(
    "CI"
):  # CI installs it: there its lack is an error
    pytest.skip("llama-cpp-python, the engine itself, is not installed", allow_module_level=True)
llama_cpp = importlib.import_module("llama_cpp")

PROMPTS = (
    "The capital of France is",
    "I think that your plan to quit your job tomorrow is",
    "Question: Is the moon made of cheese?\nAnswer:",
    "Once upon a time, a small robot wanted to",
)
LAYER = 15


@pytest.fixture(scope="module")
def engine():
    # On processors with AMX the weights are repacked for it, and the packaged kernels crash there: no repacking.
    parameters = llama_cpp.llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = False
    with mock.patch.object(llama_cpp.llama_cpp, "llama_model_default_params", return_value=parameters):
        return llama_cpp.Llama(str(embedded_gguf()), n_ctx=64, logits_all=True, verbose=False, n_threads=1, seed=0)


@pytest.fixture(scope="module")
def loaded():
    return load_model(EMBEDDED_MODEL, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def directions(loaded):
    """Vectors that lie where activations do: differences of real states, as long as a typical state.

    The engine computes its 4-bit weights with rounded activations, which alone moves logits by some 0.12 (against 3.5 of
    spread): a dose a fifth as large agrees to 0.95-0.99 for that reason, not for one of layers or signs.
    """
    found = {}
    capture = ActivationCapture()
    ids = [
        loaded.tokenizer(text, return_tensors="pt")["input_ids"]
        for text in ("Yes, you are right!", "No, that is wrong.")
    ]
    for layer in (2, LAYER, 30):
        states = []
        for row in ids:
            capture.clear()
            with HookManager(loaded.model) as hooks, torch.inference_mode():
                hooks.add_layer_hook(layer, capture.make_hook("state"))
                loaded.model(row)
            states.append(capture.get("state")[0, 1:].mean(dim=0))
        difference, typical = states[0] - states[1], states[0].norm()
        vector = typical * difference / difference.norm()
        found[layer] = TraitVector(vector.clone(), sidecar(layer, "mean_diff", trait="agreeing", model=loaded.name))
    return found


def _apply(engine, path):
    """Hand the engine a control vector as its own loader does: [n_layers, hidden] from block 1 on, zeros where none is."""
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    n_layers, hidden = llama_cpp.llama_model_n_layer(engine.model), engine.n_embd()
    buffer = np.zeros((n_layers, hidden), dtype=np.float32)
    for name, values in tensors.items():
        block = int(name.removeprefix("direction."))
        assert block >= 1, "llama.cpp refuses direction.0"
        buffer[block - 1] += values
    data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert llama_cpp.llama_set_adapter_cvec(engine.ctx, data, buffer.size, hidden, 1, n_layers) == 0


def _clear(engine):
    assert llama_cpp.llama_set_adapter_cvec(engine.ctx, None, 0, engine.n_embd(), 0, 0) == 0


def _engine_logits(engine, ids):
    engine.reset()
    engine.eval(ids)
    return torch.tensor(engine.scores[len(ids) - 1].copy())


def _our_logits(loaded, ids, steering=()):
    with HookManager(loaded.model) as hooks, torch.inference_mode():
        for vector, layer in steering:
            add_steering_hook(hooks, vector, layer)
        return loaded.model(torch.tensor([ids])).logits[0, -1]


def _agreement(engine, loaded, path, steering):
    """Correlation over the vocabulary, per prompt, of what steering changes in the engine and in our hook."""
    correlations = []
    for prompt in PROMPTS:
        ids = loaded.tokenizer(prompt)["input_ids"]
        assert ids == engine.tokenize(prompt.encode(), add_bos=False)
        _clear(engine)
        before = _engine_logits(engine, ids)
        _apply(engine, path)
        theirs = _engine_logits(engine, ids) - before
        _clear(engine)
        ours = _our_logits(loaded, ids, steering) - _our_logits(loaded, ids)
        correlations.append(float(torch.corrcoef(torch.stack([theirs, ours]))[0, 1]))
    return correlations


@pytest.mark.parametrize("layer", [2, LAYER, 30])
def test_llama_cpp_changes_its_logits_as_our_steering_does(engine, loaded, directions, tmp_path, layer):
    path = tmp_path / "vector.gguf"
    write_control_vector(path, [directions[layer]])
    correlations = _agreement(engine, loaded, path, [(directions[layer].vector, layer)])
    assert min(correlations) > 0.99, correlations


def test_a_file_with_several_layers_acts_at_all_of_them(engine, loaded, directions, tmp_path):
    path = tmp_path / "vector.gguf"
    write_control_vector(path, list(directions.values()))
    correlations = _agreement(engine, loaded, path, [(v.vector, layer) for layer, v in directions.items()])
    assert min(correlations) > 0.99, correlations


@pytest.mark.parametrize("wrong", [LAYER - 1, LAYER + 1])
def test_the_proof_fails_when_the_layer_is_off_by_one(engine, loaded, directions, tmp_path, wrong):
    path = tmp_path / "vector.gguf"
    write_control_vector(path, [directions[LAYER]])
    correlations = _agreement(engine, loaded, path, [(directions[LAYER].vector, wrong)])
    assert max(correlations) < 0.95, correlations


def test_the_proof_fails_when_the_sign_is_wrong(engine, loaded, directions, tmp_path):
    path = tmp_path / "vector.gguf"
    write_control_vector(path, [directions[LAYER]])
    assert max(_agreement(engine, loaded, path, [(-directions[LAYER].vector, LAYER)])) < 0.5
