"""The primitives: projection, derivatives, mean difference, cosine."""

from __future__ import annotations

import torch
from torch import Tensor


def projection(activations: Tensor, vector: Tensor) -> Tensor:
    """Scalar projection ``(h . v) / ||v||`` of every state on a vector, in float32.

    Args:
        activations: [..., hidden], any floating dtype; upcast to float32 first.
        vector: [hidden].

    Returns:
        [...], in units of activation, on the device of ``activations``.

    Raises:
        ValueError: sizes differ, or the vector is zero or not finite.

    >>> projection(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([0.0, 10.0]))
    tensor([4., 2.])
    """
    if vector.ndim != 1 or activations.ndim == 0 or activations.shape[-1] != vector.shape[0]:
        raise ValueError(
            f"vector has shape {list(vector.shape)} but activations have shape {list(activations.shape)}: "
            "wanted [hidden] and [..., hidden]"
        )
    direction = normalize_vectors(vector.detach().to(activations.device))
    scores: Tensor = activations.float() @ direction
    return scores


def mean_difference(pos: Tensor, neg: Tensor) -> Tensor:
    """``mean(pos) - mean(neg)`` over the first dimension, in float32: [hidden] from [n, hidden] each.

    Raises:
        ValueError: a class is empty or the hidden sizes differ.

    >>> mean_difference(torch.tensor([[2.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([ 2., -1.])
    """
    check_classes(pos, neg)
    return pos.float().mean(dim=0) - neg.float().mean(dim=0)


def check_classes(pos: Tensor, neg: Tensor) -> None:
    """Raise ValueError unless both classes are finite [n, hidden] with n >= 1 and one hidden size."""
    if pos.ndim != 2 or neg.ndim != 2 or pos.shape[1] != neg.shape[1] or pos.shape[1] == 0:
        raise ValueError(
            f"pos is {list(pos.shape)} and neg is {list(neg.shape)}: wanted [n, hidden] with one hidden size"
        )
    for name, activations in (("pos", pos), ("neg", neg)):
        if activations.shape[0] == 0:
            raise ValueError(f"{name} has no examples: {list(activations.shape)}")
        if not bool(torch.isfinite(activations).all()):
            raise ValueError(f"{name} activations hold NaN or infinity")


def has_both_classes(labels: Tensor) -> bool:
    """Whether there are positive and negative examples among bool labels [n]."""
    return bool(labels.any()) and not bool(labels.all())


def compute_derivative(trajectory: Tensor, dim: int = 0) -> Tensor:
    """First difference along the tokens, x[t+1] - x[t]: one value fewer than tokens, per token as the unit of time.

    Args:
        trajectory: [n_tokens, ...], upcast to float32.
        dim: the dimension of the tokens.

    Raises:
        ValueError: there is no such dimension.

    >>> compute_derivative(torch.tensor([0.0, 2.0, 3.0]))
    tensor([2., 1.])
    """
    return _differences(trajectory, dim, 1)


def compute_second_derivative(trajectory: Tensor, dim: int = 0) -> Tensor:
    """Second difference along the tokens: two values fewer than tokens; value i is centred on token i + 1.

    >>> compute_second_derivative(torch.tensor([0.0, 2.0, 3.0]))
    tensor([-1.])
    """
    return _differences(trajectory, dim, 2)


def _differences(trajectory: Tensor, dim: int, order: int) -> Tensor:
    if not -trajectory.ndim <= dim < trajectory.ndim:
        raise ValueError(f"a trajectory {list(trajectory.shape)} has no dimension {dim}")
    return torch.diff(trajectory.float(), n=min(order, trajectory.shape[dim]), dim=dim)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between ``a`` and ``b`` along the last dimension, in float32; shapes broadcast.

    Raises:
        ValueError: hidden sizes differ, or a vector is zero (its angle is undefined) or not finite.

    >>> cosine_similarity(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    tensor(0.7071)
    """
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"vectors have shapes {list(a.shape)} and {list(b.shape)}: wanted [..., hidden] twice")
    return (normalize_vectors(a) * normalize_vectors(b)).sum(dim=-1)


def fault_of_vector(vector: Tensor) -> str | None:
    """What keeps a tensor from being a finite vector [hidden], in words; None where nothing does."""
    if vector.ndim != 1:
        return f"shape {list(vector.shape)}"
    return None if bool(vector.isfinite().all()) else "NaN or infinity"


def normalize_vectors(vectors: Tensor) -> Tensor:
    """Vectors of length one in the same directions, float32 [..., hidden].

    Raises:
        ValueError: a vector is zero or not finite.

    >>> normalize_vectors(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    if vectors.ndim == 0 or vectors.shape[-1] == 0:
        raise ValueError(f"wanted vectors [..., hidden], got {list(vectors.shape)}")
    vectors = vectors.float()
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError(f"vectors {list(vectors.shape)} hold NaN or infinity")
    # Scaled by the largest entry first: squares of entries over 1e19 overflow float32.
    largest = vectors.abs().amax(dim=-1, keepdim=True)
    if not bool((largest > 0).all()):
        raise ValueError(f"cannot normalise a zero vector among {list(vectors.shape)}")
    scaled = vectors / largest
    unit: Tensor = scaled / scaled.norm(dim=-1, keepdim=True)
    return unit
