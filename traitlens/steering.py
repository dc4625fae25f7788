"""Steering: adding a vector to the residual stream while the model runs, and what a series of doses did.

Adding a direction changes behaviour where the model uses it (Turner et al., 2023, https://arxiv.org/abs/2308.10248;
Panickssery et al., 2023, https://arxiv.org/abs/2312.06681), which reading it cannot show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from traitlens.compute import fault_of_vector
from traitlens.hooks import HookInputs, HookManager
from traitlens.validation.evaluation import TAILS


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
        low: lower end of its 95 % bootstrap interval over prompts.
        high: upper end.
        share_right: share of prompts whose slope is positive.
        n_prompts: how many prompts this rests on.
    """

    slope: float
    low: float
    high: float
    share_right: float
    n_prompts: int


def dose_response(doses: Sequence[float], readouts: Tensor, *, resamples: int = 2000, seed: int = 0) -> DoseResponse:
    """Slope of the readout over the dose, with an interval over prompts.

    Args:
        doses: [n_doses], at least two different ones.
        readouts: [n_prompts, n_doses]; NaN where a prompt has no readout at a dose. Prompts with fewer than two are
            left out.
        resamples: bootstrap resamples of prompts.
        seed: of the resampling.

    Raises:
        ValueError: shapes differ, or no prompt has two readouts at different doses.

    >>> found = dose_response([-1.0, 0.0, 1.0], torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 6.0]]))
    >>> found.slope, found.share_right, found.n_prompts
    (2.0, 1.0, 2)
    """
    if readouts.ndim != 2 or readouts.shape[1] != len(doses):
        raise ValueError(f"{len(doses)} doses but readouts {list(readouts.shape)}: wanted [n_prompts, n_doses]")
    x = torch.tensor(doses, dtype=torch.float64)
    slopes = torch.stack([_slope(x, y) for y in readouts.double()]) if len(readouts) else torch.zeros(0)
    slopes = slopes[~slopes.isnan()]
    if len(slopes) == 0:
        raise ValueError("no prompt has readouts at two different doses")
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(slopes), (resamples, len(slopes)), generator=generator)
    low, high = torch.quantile(slopes[picks].mean(dim=1), TAILS).tolist()
    share = float((slopes > 0).double().mean())
    return DoseResponse(float(slopes.mean()), low, high, share, len(slopes))


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """Least-squares slope over the points that are known; NaN where they do not determine one."""
    known = ~y.isnan()
    x, y = x[known], y[known]
    if len(x) < 2 or bool((x == x[0]).all()):
        return torch.tensor(torch.nan, dtype=torch.float64)
    centred = x - x.mean()
    return (centred @ (y - y.mean())) / (centred @ centred)
