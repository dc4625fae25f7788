"""Forward hooks that are sure to be removed."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from traitlens.layers import hidden_of, hook_point, submodule

# As torch has them: whatever the module is given, and whatever it returns.
HookInputs: TypeAlias = tuple[Any, ...]
ForwardHook: TypeAlias = Callable[[nn.Module, HookInputs, Any], object]
LayerHook: TypeAlias = Callable[[nn.Module, HookInputs, Tensor], Tensor | None]


class PassEnded(Exception):  # noqa: N818 - a signal, not an error: everything asked for has been computed
    """Ends a forward pass after the deepest layer that is read."""


class HookManager:
    """Adds forward hooks to a model and removes all of them when its ``with`` block ends, also after an exception.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    >>> shapes = []
    >>> with HookManager(model) as hooks:
    ...     hooks.add_forward_hook("0", lambda module, inputs, output: shapes.append(tuple(output.shape)))
    ...     _ = model(torch.zeros(3, 2))
    >>> shapes, len(hooks)
    ([(3, 2)], 0)
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._handles: list[RemovableHandle] = []

    def add_forward_hook(self, path: str, hook: ForwardHook) -> None:
        """Call ``hook(module, inputs, output)`` after the module at ``path`` ran; what it returns replaces the output.

        Raises:
            ValueError: the model has no module at ``path``; names the nearest that exist.
        """
        self._handles.append(self._module(path).register_forward_hook(hook))

    def add_layer_hook(self, layer: int, hook: LayerHook) -> None:
        """Call ``hook(module, inputs, hidden)`` with layer ``layer``'s residual stream [batch, seq, hidden].

        ``hidden`` is always the bare tensor, whatever the block returns. A tensor that the hook returns takes its
        place.

        Raises:
            ValueError: the model has no such layer.
        """
        point = hook_point(self.model, layer)
        module = self._module(point.path)
        if point.side == "input":
            self._handles.append(module.register_forward_pre_hook(_on_input(hook), with_kwargs=True))
        else:
            self._handles.append(module.register_forward_hook(_on_output(hook)))

    def remove_all(self) -> None:
        """Remove every hook that this manager added."""
        while self._handles:
            self._handles.pop().remove()

    def __len__(self) -> int:
        return len(self._handles)

    def __enter__(self) -> HookManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_all()

    def _module(self, path: str) -> nn.Module:
        if (module := submodule(self.model, path)) is not None:
            return module
        near = difflib.get_close_matches(path, dict(self.model.named_modules()), n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"{type(self.model).__name__} has no module {path!r}{hint}")


def _on_output(hook: LayerHook) -> ForwardHook:
    def call(module: nn.Module, inputs: HookInputs, output: object) -> object:
        replacement = hook(module, inputs, output if isinstance(output, Tensor) else hidden_of(output))
        if replacement is None or not isinstance(output, tuple):
            return replacement
        return (replacement, *output[1:])

    return call


def _on_input(
    hook: LayerHook,
) -> Callable[[nn.Module, HookInputs, dict[str, Any]], tuple[HookInputs, dict[str, Any]] | None]:
    def call(module: nn.Module, args: HookInputs, kwargs: dict[str, Any]) -> tuple[HookInputs, dict[str, Any]] | None:
        hidden = args[0] if args else kwargs["hidden_states"]
        replacement = hook(module, args, hidden)
        if replacement is None:
            return None
        if args:
            return (replacement, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": replacement}

    return call
