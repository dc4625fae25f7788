"""How a trait's score moves over one response: commitment, velocity, persistence, onset.

Pure functions on one trajectory of centred scores (raw projection minus the vector's baseline), one value per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from traitlens.compute import compute_derivative, compute_second_derivative
from traitlens.settling import settling_p_value

_LARGEST = 1e37  # so that differences of differences stay within float32

Trajectory = Sequence[float] | Tensor | NDArray[np.floating]


@dataclass(frozen=True)
class Dynamics:
    """What a trajectory of n tokens does; None where it is undefined. ``dataclasses.asdict`` gives the JSON form.

    Attributes:
        commitment_point: first token at which the acceleration has dropped off.
        commitment_p_value: chance that noise looks as settled at such a point; None where too few tokens are on either
            side of it to tell. The point says nothing unless this is small, as it seldom is: see ``settling_p_value``.
        peak_velocity: largest absolute change between neighbouring tokens.
        avg_velocity: mean absolute change between neighbouring tokens.
        persistence: how many tokens right after the peak stay above half height.
        velocity_profile: changes, n - 1 values.
        acceleration_profile: changes of the changes, n - 2 values; value i is centred on token i + 1.
        peak: token with the highest score.
        onset: first token from which the score stays above the threshold.
        smoothing: how many tokens were averaged before anything was computed; 1 is none.
    """

    commitment_point: int | None
    commitment_p_value: float | None
    peak_velocity: float | None
    avg_velocity: float | None
    persistence: int | None
    velocity_profile: list[float]
    acceleration_profile: list[float]
    peak: int | None
    onset: int | None
    smoothing: int


def analyze_dynamics(
    scores: Trajectory,
    *,
    baseline: float = 0.0,
    threshold: float | None = None,
    smoothing: int = 1,
    drop: float = 0.1,
    permutations: int = 999,
    seed: int = 0,
) -> Dynamics:
    """All dynamics of one trajectory.

    Args:
        scores: raw scores, one per token.
        baseline: the vector's, subtracted first, so that an offset costs the float32 differences no digits.
        threshold: raw score that ``onset`` looks for; of single tokens, so it decides nothing about the response.
        smoothing: window of a centred moving average, an odd number of tokens.
        drop: share of the largest acceleration under which acceleration counts as dropped off.
        permutations: how many trajectories with steps of random sign the p-value is from; 0 leaves it out.
        seed: of the signs.

    Raises:
        ValueError: scores that are not one finite value per token, or a window that is not odd and positive.

    >>> found = analyze_dynamics([0.5, 2.3, 2.1, 1.8, 1.5, 1.2, 0.8])
    >>> found.commitment_point, round(found.peak_velocity, 4), found.persistence
    (2, 1.8, 3)
    """
    raw = _checked(scores) - baseline
    centred = smoothed(raw, smoothing)
    limit = None if threshold is None else threshold - baseline
    velocity, acceleration = _differences(centred)
    point = commitment_point(centred, drop)
    speeds = [abs(v) for v in velocity]
    return Dynamics(
        commitment_point=point,
        commitment_p_value=settling_p_value(raw, point, flips=permutations, seed=seed)
        if point and permutations
        else None,
        peak_velocity=max(speeds, default=None),
        avg_velocity=sum(speeds) / len(speeds) if speeds else None,
        persistence=persistence(centred),
        velocity_profile=velocity,
        acceleration_profile=acceleration,
        peak=int(np.argmax(centred)) if len(centred) else None,
        onset=None if limit is None else onset(centred, limit),
        smoothing=smoothing,
    )


def commitment_point(scores: Trajectory, drop: float = 0.1) -> int | None:
    """The first token whose absolute acceleration falls below ``drop`` of the trajectory's own maximum.

    Relative to the maximum because scores are in units of activation, which differ a hundredfold between models. None
    for fewer than three tokens, and where the acceleration never falls off (a straight line has nothing to drop from).

    >>> commitment_point([0.0, 4.0, 5.0, 6.0, 7.0])
    2
    """
    _, acceleration = _differences(_checked(scores))
    size = np.abs(acceleration)
    calm = np.flatnonzero(size < drop * size.max(initial=0.0))
    return int(calm[0]) + 1 if len(calm) else None


def persistence(scores: Trajectory) -> int | None:
    """How many consecutive tokens right after the peak stay above half height, the middle of minimum and peak.

    >>> persistence([0.0, 10.0, 8.0, 6.0, 4.0, 9.0])
    2
    """
    values = _checked(scores)
    if not len(values):
        return None
    peak = int(np.argmax(values))
    below = np.flatnonzero(values[peak + 1 :] <= (values.min() + values[peak]) / 2)
    return int(below[0]) if len(below) else len(values) - peak - 1


def onset(scores: Trajectory, threshold: float) -> int | None:
    """The first token from which the score stays above ``threshold`` to the end, None where it ends below.

    >>> onset([0.0, 3.0, 1.0, 3.0, 4.0], 2.0)
    3
    """
    values = _checked(scores)
    if not len(values) or values[-1] <= threshold:
        return None
    below = np.flatnonzero(values <= threshold)
    return int(below[-1]) + 1 if len(below) else 0


def smoothed(scores: Trajectory, window: int) -> NDArray[np.float64]:
    """Centred moving average over ``window`` tokens, over what there is of them at the ends; as long as ``scores``.

    >>> smoothed([0.0, 3.0, 6.0, 0.0], 3).tolist()
    [1.5, 3.0, 3.0, 3.0]
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"smoothing must be an odd number of tokens from 1, got {window}")
    values, half = _checked(scores), window // 2
    if half == 0:  # exactly as they are: sums would round
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    start = np.clip(np.arange(len(values)) - half, 0, len(values))
    stop = np.clip(np.arange(len(values)) + half + 1, 0, len(values))
    averages: NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return averages


def _differences(centred: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    trajectory = torch.from_numpy(centred.astype(np.float32))
    velocity: list[float] = compute_derivative(trajectory).tolist()
    acceleration: list[float] = compute_second_derivative(trajectory).tolist()
    return velocity, acceleration


def _checked(scores: Trajectory) -> NDArray[np.float64]:
    # numpy does not know bfloat16.
    values = np.asarray(scores.detach().cpu().double() if isinstance(scores, Tensor) else scores, dtype=np.float64)
    if values.ndim != 1 or not (np.abs(values) < _LARGEST).all():
        found = "NaN, infinity or a number beyond float32" if values.ndim == 1 else f"shape {list(values.shape)}"
        raise ValueError(f"a trajectory is one finite score per token, found {found}")
    return values
