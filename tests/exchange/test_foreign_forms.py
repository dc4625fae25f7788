"""repeng and steering-vectors: their files read here, ours read there."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from tests.exchange.conftest import changed, random_vector, sidecar
from traitlens import HookManager, add_steering_hook
from utils.errors import DamagedFileError, MissingInputError, UserError
from utils.formats.exchange.gguf_vectors import read_control_vector, write_control_vector
from utils.formats.exchange.steering_vectors import read_steering_vector, write_steering_vector
from utils.models import EMBEDDED_MODEL, load_model
from utils.models.embedded import embedded_model_folder
from utils.records import TraitVector

FIXTURES = Path(__file__).parent / "fixtures"
N_BLOCKS = 30


def _beginnings(name):
    return {
        int(block): values for block, values in json.loads((FIXTURES / "beginnings.json").read_text())[name].items()
    }


def test_a_file_that_steering_vectors_wrote_is_read_one_layer_up_with_its_values_and_signs():
    read = read_steering_vector(FIXTURES / "steering_vectors.pt", N_BLOCKS)
    assert sorted(read) == [5, 15]
    for block, values in _beginnings("steering_vectors").items():
        assert read[block + 1][:4].tolist() == pytest.approx(values)


def test_a_file_that_repeng_wrote_is_read_one_layer_up_with_its_values_and_signs():
    read = read_control_vector(FIXTURES / "repeng.gguf")
    assert sorted(read.directions) == [5, 15]
    assert (read.model_hint, read.unit, read.ours) == ("llama", None, ())
    for block, values in _beginnings("repeng").items():
        assert read.directions[block + 1][:4].tolist() == pytest.approx(values)


def test_steering_vectors_form_round_trips_to_the_last_bit(vectors, tmp_path):
    path = tmp_path / "vector.pt"
    write_steering_vector(path, vectors)
    read = read_steering_vector(path, N_BLOCKS)
    assert sorted(read) == [10, 18, 30]
    assert all(torch.equal(read[v.layer], v.vector) for v in vectors)
    assert sorted(torch.load(path)["layer_activations"]) == [9, 17, 29]


def test_blocks_counted_from_the_end_and_bare_layer_activations_are_understood(tmp_path):
    path = tmp_path / "vector.pt"
    torch.save({-1: torch.ones(1, 1, 8), 2: torch.ones(8).half()}, path)
    read = read_steering_vector(path, N_BLOCKS)
    assert {layer: (len(v), v.dtype) for layer, v in read.items()} == {3: (8, torch.float32), 30: (8, torch.float32)}


def test_a_vector_for_the_inside_of_a_block_is_refused(tmp_path):
    path = tmp_path / "vector.pt"
    torch.save({"layer_activations": {3: torch.ones(8)}, "layer_type": "mlp"}, path)
    with pytest.raises(UserError, match="'mlp'"):
        read_steering_vector(path, N_BLOCKS)


class _Trap:
    def __reduce__(self):
        return (Path.touch, (Path(self.target),))


def test_pickled_code_is_refused_and_not_run(tmp_path):
    trap = _Trap()
    trap.target = str(tmp_path / "was-run")
    for name, save in (("torch.pt", torch.save), ("pickle.pt", lambda v, p: p.write_bytes(pickle.dumps(v)))):
        path = tmp_path / name
        save({"layer_activations": trap}, path)
        with pytest.raises(DamagedFileError, match="not a file of tensors"):
            read_steering_vector(path, N_BLOCKS)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds no vectors"),
        ({"layer_activations": {"a": torch.ones(8)}}, "entry 'a'"),
        ({1: torch.full((8,), float("nan"))}, "entry 1"),
        ({1: torch.full((8,), 1e30)}, "entry 1"),
        ({1: torch.ones(8), 2: torch.ones(9)}, "several sizes"),
    ],
)
def test_other_torch_files_are_told_from_steering_vectors(tmp_path, value, message):
    path = tmp_path / "vector.pt"
    torch.save(value, path)
    with pytest.raises(DamagedFileError, match=message):
        read_steering_vector(path, N_BLOCKS)


def test_a_block_that_the_model_does_not_have_is_refused(tmp_path):
    path = tmp_path / "vector.pt"
    torch.save({30: torch.ones(8)}, path)
    with pytest.raises(UserError, match=r"block 30, but the model has blocks 0\.\.29"):
        read_steering_vector(path, N_BLOCKS)


def test_vectors_that_do_not_belong_together_make_no_steering_vector(vectors, tmp_path):
    for chosen in ([], [vectors[0], vectors[0]], [vectors[0], changed(vectors[1], trait="evil")]):
        with pytest.raises(UserError, match="one trait, method and model"):
            write_steering_vector(tmp_path / "v.pt", chosen)
    with pytest.raises(MissingInputError, match="Give the path of a saved steering vector"):
        read_steering_vector(tmp_path / "v.pt", 30)


def test_layer_0_cannot_be_written_for_steering_vectors(vectors, tmp_path):
    with pytest.raises(UserError, match="layer 0"):
        write_steering_vector(tmp_path / "vector.pt", [changed(vectors[0], layer=0)])


@pytest.fixture(scope="module")
def packages():
    """A Python that has repeng and steering-vectors, which need an older transformers than this project."""
    python = os.environ.get("TRAITLENS_FOREIGN_PYTHON")
    if not python:
        pytest.skip("TRAITLENS_FOREIGN_PYTHON does not name a Python that has repeng and steering-vectors")

    def run(action, path):
        script = Path(__file__).parent / "foreign.py"
        command = [python, str(script), action, str(embedded_model_folder()), str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return torch.tensor(json.loads(done.stdout)["logits"])

    return run


def _our_logits(directions):
    loaded = load_model(EMBEDDED_MODEL, device="cpu", dtype="float32")
    with HookManager(loaded.model) as hooks, torch.inference_mode():
        for layer, vector in directions.items():
            add_steering_hook(hooks, vector, layer)
        return loaded.model(torch.tensor([[1, 17, 42, 99, 7]])).logits[0, -1]


@pytest.mark.parametrize(
    ("write", "action"),
    [(write_steering_vector, "steer-steering-vectors"), (write_control_vector, "steer-repeng")],
)
def test_the_real_packages_steer_with_our_files_as_we_do(packages, tmp_path, write, action):
    vectors = [TraitVector(random_vector(n, 6.0), sidecar(n, trait="agreeing", model=EMBEDDED_MODEL)) for n in (2, 15)]
    write(tmp_path / "vector", vectors)
    theirs = packages(action, tmp_path / "vector")
    torch.testing.assert_close(theirs, _our_logits({v.layer: v.vector for v in vectors}), atol=1e-3, rtol=1e-3)
    assert (theirs - _our_logits({v.layer + 1: v.vector for v in vectors[:1]})).abs().max() > 0.1


@pytest.mark.parametrize("action", ["save-steering-vectors", "save-repeng"])
def test_files_of_the_real_packages_steer_here_as_they_do_there(packages, tmp_path, action):
    path = tmp_path / "vector"
    theirs = packages(action, path)
    read = read_control_vector(path).directions if "repeng" in action else read_steering_vector(path, N_BLOCKS)
    torch.testing.assert_close(theirs, _our_logits(read), atol=1e-3, rtol=1e-3)
    assert (theirs - _our_logits({layer - 1: vector for layer, vector in read.items()})).abs().max() > 0.01


def test_a_vector_of_zeros_in_a_steering_vector_is_left_out_and_said(tmp_path, caplog):
    path = tmp_path / "vector.pt"
    torch.save({1: torch.zeros(8), 2: torch.ones(8)}, path)
    assert sorted(read_steering_vector(path, N_BLOCKS)) == [3]
    assert "entries 1 hold zeros alone" in caplog.text
    torch.save({1: torch.zeros(8)}, path)
    with pytest.raises(DamagedFileError, match="holds no vectors"):
        read_steering_vector(path, N_BLOCKS)


@pytest.mark.parametrize("value", [torch.ones(5, 8), torch.ones(8), {"2": torch.ones(8)}])
def test_what_does_not_say_its_layers_is_refused_with_the_form_that_does(tmp_path, value):
    path = tmp_path / "stack.pt"
    torch.save(value, path)
    with pytest.raises(DamagedFileError, match=r"torch\.save\({15: vector}, PATH\).* is our layer i \+ 1"):
        read_steering_vector(path, N_BLOCKS)
