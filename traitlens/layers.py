"""Layer numbers and the modules behind them, for any decoder-only language model.

The convention everywhere in this project: layer ``L`` is ``hidden_states[L]``, the raw residual stream. Layer 0 is what
enters the first block (after any embedding scaling), layer ``L >= 1`` is what leaves block ``L - 1``, always before the
model's final norm. A model with 26 blocks therefore has 27 layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

LAYER_CONVENTION = (
    "layer L is hidden_states[L]: 0 enters the first block, L >= 1 leaves block L-1, before the final norm"
)

# Where the decoder blocks live, most specific first: multimodal wrappers hold a vision tower with blocks of its own.
_KNOWN_PATHS = (
    "model.language_model.layers",  # Gemma 3, Llava and other multimodal wrappers
    "language_model.model.layers",
    "model.layers",  # Llama, Gemma, Qwen, Mistral, Phi
    "transformer.h",  # GPT-2, Falcon, BLOOM
    "gpt_neox.layers",  # GPT-NeoX, Pythia
    "model.decoder.layers",  # OPT
)


@dataclass(frozen=True)
class HookPoint:
    """Where a layer can be read: a module's path from the model, and which side of that module."""

    path: str
    side: Literal["input", "output"]


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and list of the model's decoder blocks.

    Known architectures are looked up by name. Any other model is searched for its one outermost ``nn.ModuleList`` of
    ``config.num_hidden_layers`` blocks (of any length where the model has no config).

    Raises:
        ValueError: no list or several lists fit; names what was found.
    """
    expected = _n_hidden_layers(model)
    prefixes = ("", "base_model.model.")  # the second: a model wrapped by peft
    for path in (prefix + known for prefix in prefixes for known in _KNOWN_PATHS):
        blocks = submodule(model, path)
        if isinstance(blocks, nn.ModuleList) and len(blocks) > 0 and expected in (None, len(blocks)):
            return path, blocks
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 0}
    fitting = [name for name, m in lists.items() if expected in (None, len(m))]
    outermost = [n for n in fitting if not any(n != other and n.startswith(other + ".") for other in fitting)]
    if len(outermost) == 1:
        return outermost[0], lists[outermost[0]]
    wanted = "a ModuleList" if expected is None else f"a ModuleList of {expected} blocks (config.num_hidden_layers)"
    found = ", ".join(f"{name} ({len(m)})" for name, m in lists.items()) or "none"
    raise ValueError(f"cannot tell the decoder blocks of {type(model).__name__}: wanted one {wanted}, found {found}")


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """The module at ``path``, None where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _n_hidden_layers(model: nn.Module) -> int | None:
    config = getattr(model, "config", None)
    text_config = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    value = getattr(text_config, "num_hidden_layers", None)
    return value if isinstance(value, int) else None


def n_layers(model: nn.Module) -> int:
    """Number of layers that can be read: blocks + 1 (27 for Gemma 2 2B, 33 for Llama 3.1 8B)."""
    return len(find_blocks(model)[1]) + 1


def hook_point(model: nn.Module, layer: int) -> HookPoint:
    """Where layer ``layer`` is read: the input of the first block for 0, the output of block ``layer - 1`` above.

    Raises:
        ValueError: the model has no such layer.
    """
    path, blocks = find_blocks(model)
    if not 0 <= layer <= len(blocks):
        raise ValueError(f"layer {layer} is outside 0..{len(blocks)} of {type(model).__name__} ({len(blocks)} blocks)")
    return HookPoint(f"{path}.0", "input") if layer == 0 else HookPoint(f"{path}.{layer - 1}", "output")


def layer_path(model: nn.Module, layer: int) -> str:
    """Path of the module whose output is ``layer``, for hooks that name modules: layer 16 is ``model.layers.15``.

    Raises:
        ValueError: there is no such layer, or it is layer 0, which is an input (use ``HookManager.add_layer_hook``).
    """
    point = hook_point(model, layer)
    if point.side == "input":
        raise ValueError(f"layer 0 is the input of {point.path}, no module's output: use HookManager.add_layer_hook")
    return point.path


def middle_layer(model_layers: int) -> int:
    """The layer to look at first in a model of ``model_layers`` layers, where nothing better is known.

    Five eighths of the depth: layer 16 of Gemma 2 2B's 27 and layer 20 of Llama 3.1 8B's 33, the documented defaults.

    >>> middle_layer(27), middle_layer(33)
    (16, 20)
    """
    return round(0.625 * (model_layers - 1))


def hidden_of(output: object) -> Tensor:
    """The residual stream [batch, seq, hidden] in what a block returned: a bare tensor, or a tuple that begins with it.

    Raises:
        TypeError: neither of the two.
    """
    hidden = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(hidden, torch.Tensor):
        raise TypeError(
            f"expected a tensor or a tuple that begins with one from the hooked module, got {type(output).__name__}"
        )
    return hidden
