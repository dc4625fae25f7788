"""Small random models of many architectures, and the embedded model for real input."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch
import transformers

from utils.errors import UserError
from utils.models import EMBEDDED_MODEL, LoadedModel, load_model

hypothesis.settings.register_profile("project", deadline=None)  # shared machines pause at any moment
hypothesis.settings.load_profile("project")

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
