"""From a name to a loaded model."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.config import get_credential
from utils.errors import UserError
from utils.hub import hub_errors
from utils.models.checkpoint import put_aside_generation_defaults, set_template_beside
from utils.models.embedded import EMBEDDED_MODEL, embedded_model_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Experiments are named after their model.
_MODEL_OF_PREFIX = {
    "gemma_2b_": "google/gemma-2-2b-it",
    "llama_8b_": "meta-llama/Llama-3.1-8B-Instruct",
    "smollm2_": EMBEDDED_MODEL,
}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with its tokenizer.

    Attributes:
        name: what it was asked for by; vectors remember it.
        path: the Hub id or folder that it was loaded from.
        revision: the Hub commit, None for a folder.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    path: str
    revision: str | None

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a turn."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)


def model_of_experiment(experiment: str) -> str:
    """The model that an experiment's name stands for; the embedded model, and a line in the log, for any other name."""
    for prefix, model in _MODEL_OF_PREFIX.items():
        if experiment.startswith(prefix):
            return model
    known = ", ".join(f"{prefix}*" for prefix in _MODEL_OF_PREFIX)
    logger.info("experiment %r names no model (%s): using the embedded %s", experiment, known, EMBEDDED_MODEL)
    return EMBEDDED_MODEL


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model and its tokenizer for reading and generating.

    Args:
        name: the embedded model's name, a Hub id, or a local folder in the transformers format.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread the model over all GPUs (accelerate's device map);
            by default the first GPU where there is one.
        dtype: "float32", "float16" or "bfloat16"; by default the checkpoint's own, or float32 on a CPU without bfloat16
            arithmetic.
        revision: Hub branch, tag or commit.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: the model cannot be found or loaded; says what to do.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()

    device = device or _default_device()
    wanted = _torch_dtype(dtype, device)
    path = model_path(name)
    shared = {"revision": revision, "token": get_credential("HF_TOKEN"), "trust_remote_code": trust_remote_code}
    placement = {"device_map": "auto"} if device == "auto" else {}
    try:
        if not placement:
            torch.empty(1, device=device)  # before minutes go into reading weights
        tokenizer = AutoTokenizer.from_pretrained(path, **shared)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=wanted, **placement, **shared)
        if not placement:
            model = model.to(torch.device(device))
    except hub_errors() as error:
        raise UserError(f"cannot load the model {name!r}: {_reason(error)}. {_remedy(name)}") from error
    except (RuntimeError, AssertionError) as error:  # torch's answers to a device that is full, or not there
        raise UserError(f"cannot put {name!r} on device {device!r}: {_reason(error)}") from error
    set_template_beside(tokenizer, path, revision)
    put_aside_generation_defaults(model, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    logger.info("loaded %s (%s, %s)", name, device, str(model.dtype).removeprefix("torch."))
    return LoadedModel(model.eval(), tokenizer, name, path, getattr(model.config, "_commit_hash", None))


def model_path(name: str) -> str:
    """What transformers loads for a model's name: the embedded model's folder, or the name itself."""
    return str(embedded_model_folder()) if name == EMBEDDED_MODEL else name


def _default_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _torch_dtype(dtype: str | None, device: str) -> torch.dtype | str:
    import torch

    names = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype is not None:
        if dtype not in names:
            raise UserError(f"--dtype must be {', '.join(names)}, got {dtype!r}")
        return names[dtype]
    # Without bfloat16 instructions a CPU emulates them, several times slower than float32.
    if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return "auto"


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _remedy(name: str) -> str:
    if Path(name).is_dir():
        return "The folder must hold a model in the transformers format (config.json, weights, tokenizer)"
    return (
        "Give a Hub id or a local folder; for a gated model accept its licence on the Hub and set HF_TOKEN in .env; "
        "without a network only models in the local cache load"
    )
