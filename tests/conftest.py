"""Small random models of many architectures, the embedded model for real input, and quiet for tests that measure time."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # a worker for each core, and models so small that threads cost more than they give

import contextlib
import fcntl
import gc
from pathlib import Path

import hypothesis
import pytest
import torch
import transformers

from utils.errors import UserError
from utils.models import EMBEDDED_MODEL, LoadedModel, load_model

hypothesis.settings.register_profile("project", deadline=None)  # shared machines pause at any moment
hypothesis.settings.load_profile("project")


def pytest_configure(config):
    config.addinivalue_line("markers", "alone: measures time, so no worker runs another test meanwhile")


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: it need not be gone through again at every collection


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with _turn(item.get_closest_marker("alone")) if "PYTEST_XDIST_WORKER" in os.environ else contextlib.nullcontext():
        return (yield)


@contextlib.contextmanager
def _turn(alone):
    """Locks on two files that are here anyway: tests share the second, a test that wants to be alone has it for itself.

    Everybody queues at the first, so that tests which come later do not overtake the one that waits to be alone.
    """
    here = Path(__file__)
    with here.open() as queue, here.with_name("tiny_tokenizer.py").open() as running:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(running, fcntl.LOCK_UN)  # a child that a test has forked may keep the file open


_SHARED = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {**_SHARED, "num_key_value_heads": 2}
ARCHITECTURES = {
    "llama": ("LlamaConfig", _GROUPED),
    "gemma2": ("Gemma2Config", {**_GROUPED, "head_dim": 8, "sliding_window": 16}),
    "gemma3": ("Gemma3TextConfig", {**_GROUPED, "head_dim": 8, "sliding_window": 16}),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 8}),
    "mistral": ("MistralConfig", _GROUPED),
    "phi": ("PhiConfig", _SHARED),
    "phi3": ("Phi3Config", _GROUPED),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 300, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt_neox": ("GPTNeoXConfig", _SHARED),
}  # fmt: skip


def small_model(architecture, **changes):
    """A random model of a few layers, in float32 and evaluation mode; the same weights each time."""
    name, arguments = ARCHITECTURES[architecture]
    config = getattr(transformers, name)(**{**arguments, **changes})
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=sorted(ARCHITECTURES))
def any_model(request):
    return small_model(request.param)


@pytest.fixture(scope="session")
def embedded() -> LoadedModel:
    """The embedded instruct model: real weights, real tokenizer."""
    try:
        return load_model(EMBEDDED_MODEL, device="cpu")
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
