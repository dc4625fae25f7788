"""Steering: adding a vector to the residual stream while the model runs, and what a series of doses did.

Adding a direction changes behaviour where the model uses it (Turner et al., 2023, https://arxiv.org/abs/2308.10248;
Panickssery et al., 2023, https://arxiv.org/abs/2312.06681), which reading it cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit  # type: ignore[import-untyped]
from torch import Tensor, nn

from traitlens.compute import fault_of_vector
from traitlens.hooks import HookInputs, HookManager


def add_steering_hook(hooks: HookManager, vector: Tensor, layer: int, coefficient: float = 1.0) -> None:
    """Add ``coefficient * vector`` to layer ``layer`` at every token, until ``hooks`` removes it.

    The sum is computed in at least float32 and rounded once, to the model's dtype. Hooks that are added to the same
    layer afterwards see the steered states. Several vectors may be added, also to one layer.

    Args:
        hooks: manager of the model's hooks; the end of its ``with`` block ends the steering.
        vector: [hidden]; it is added with its length, so divide by its norm to give a dose in units of activation.
        layer: layer number (see ``traitlens.layers``); 0 steers what enters the first block.
        coefficient: the dose; negative pushes away from the trait, 0 changes no bit.

    Raises:
        ValueError: the model has no such layer, or the vector is not a finite [hidden].

    Example::

        with HookManager(model) as hooks:
            add_steering_hook(hooks, vector, layer=16, coefficient=2.0)
            model.generate(**inputs)
    """
    if (found := fault_of_vector(vector)) is not None:
        raise ValueError(f"cannot steer with this vector: wanted finite [hidden], found {found}")
    added = vector.detach().float() * coefficient
    on_device: dict[torch.device, Tensor] = {}

    def hook(module: nn.Module, inputs: HookInputs, hidden: Tensor) -> Tensor | None:  # noqa: ARG001 - torch's signature
        if hidden.shape[-1] != len(added):
            raise ValueError(f"vector has hidden size {len(added)} but layer {layer} has {hidden.shape[-1]}")
        if coefficient == 0:
            return None
        if hidden.device not in on_device:
            on_device[hidden.device] = added.to(hidden.device)
        return (hidden + on_device[hidden.device]).to(hidden.dtype)  # torch promotes half precision to float32 here

    hooks.add_layer_hook(layer, hook)


@dataclass(frozen=True)
class DoseResponse:
    """How a readout follows the dose.

    Attributes:
        slope: mean over prompts of each prompt's least-squares slope, readout per unit of dose.
        low: lower end of its 95 % t interval over prompts; None for a single prompt.
        high: upper end.
        share_right: share of prompts whose slope is positive.
        n_prompts: how many prompts this rests on.
    """

    slope: float
    low: float | None
    high: float | None
    share_right: float
    n_prompts: int


def dose_response(doses: Sequence[float], readouts: Tensor) -> DoseResponse:
    """Slope of the readout over the dose, with an interval over prompts.

    Readouts of one prompt belong together, so prompts are what is counted: the interval is that of Student's t for the
    mean of as many slopes. A bootstrap of a dozen prompts is too narrow.

    Args:
        doses: [n_doses], at least two different ones.
        readouts: [n_prompts, n_doses]; NaN where a prompt has no readout at a dose. Prompts with fewer than two are
            left out.

    Raises:
        ValueError: shapes differ, or no prompt has two readouts at different doses.

    >>> found = dose_response([-1.0, 0.0, 1.0], torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 6.0]]))
    >>> found.slope, found.share_right, found.n_prompts
    (2.0, 1.0, 2)
    """
    if readouts.ndim != 2 or readouts.shape[1] != len(doses):
        raise ValueError(f"{len(doses)} doses but readouts {list(readouts.shape)}: wanted [n_prompts, n_doses]")
    slopes = _slopes(torch.tensor(doses, dtype=torch.float64), readouts.double())
    n = len(slopes)
    if n == 0:
        raise ValueError("no prompt has readouts at two different doses")
    slope, low, high = float(slopes.mean()), None, None
    if n > 1:
        reach = float(stdtrit(n - 1, 0.975)) * float(slopes.std()) / math.sqrt(n)
        low, high = slope - reach, slope + reach
    return DoseResponse(slope, low, high, float((slopes > 0).double().mean()), n)


def _slopes(doses: Tensor, readouts: Tensor) -> Tensor:
    """Least-squares slopes of the rows over their known points, without the rows that do not determine one."""
    known = ~readouts.isnan()
    lowest = doses.expand_as(readouts).masked_fill(~known, torch.inf).amin(dim=1)
    highest = doses.expand_as(readouts).masked_fill(~known, -torch.inf).amax(dim=1)
    determined = lowest < highest
    known, y = known[determined], readouts[determined].nan_to_num()
    count = known.sum(dim=1, keepdim=True)
    x = torch.where(known, doses - (known * doses).sum(dim=1, keepdim=True) / count, 0.0)
    return (x * y).sum(dim=1) / (x * x).sum(dim=1)
