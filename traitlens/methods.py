"""Four ways to turn contrastive activations into a trait vector.

Every method returns float32 [hidden] on the CPU, its sign such that positive examples score higher, its norm the distance
between the class means along it. For mean difference that is the identity; for the others it makes norms comparable.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar, TypedDict

import torch
from torch import Tensor

from traitlens.span import ContrastSpan


class ExtractionResult(TypedDict, total=False):
    """What ``extract`` returns: ``vector`` always, the rest where the method has it."""

    vector: Tensor
    train_acc: float
    bias: float
    component: int
    converged: bool
    separation: float
    loss_history: list[float]


class ExtractionMethod(ABC):
    """A way to find the direction that separates two classes of activations. Hyper-parameters go to the constructor."""

    name: ClassVar[str]

    def extract(self, pos_activations: Tensor, neg_activations: Tensor) -> ExtractionResult:
        """The trait vector of [n, hidden] activations of each class, with the method's own extras.

        Raises:
            ValueError: a class is empty or not finite, hidden sizes differ, or the classes cannot be told apart.
        """
        return self.extract_from(ContrastSpan(pos_activations, neg_activations))

    @abstractmethod
    def extract_from(self, span: ContrastSpan) -> ExtractionResult:
        """As ``extract``, on a span that several methods share."""


class MeanDifferenceMethod(ExtractionMethod):
    """``mean(pos) - mean(neg)``, the direction of contrastive activation addition (arXiv:2312.06681).

    >>> result = MeanDifferenceMethod().extract(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    >>> result["vector"]
    tensor([2., 0.])
    """

    name = "mean_diff"

    def extract_from(self, span: ContrastSpan) -> ExtractionResult:
        """The difference of the class means."""
        return {"vector": _oriented(span.mean_difference, span, self.name)}


class ProbeMethod(ExtractionMethod):
    """The weights of a logistic regression on standardised features, mapped back to activation space.

    Fitted in the span of the examples, which is exact: the L2 penalty leaves the minimiser no part outside of it.

    Args:
        C: inverse strength of the L2 penalty, as in scikit-learn. Standardised activations have squared norms near
            ``hidden``, so 1.0 is already a weak penalty; small values move towards the standardised mean difference.
    """

    name = "probe"

    def __init__(self, C: float = 1.0) -> None:  # noqa: N803 - scikit-learn's name
        self.C = C

    def extract_from(self, span: ContrastSpan) -> ExtractionResult:
        """Probe direction with ``train_acc`` (accuracy on the examples it was fitted to) and ``bias`` in logits."""
        from sklearn.linear_model import LogisticRegression

        labels, features = span.labels.numpy(), span.coordinates.numpy()
        # Newton's method converges in a handful of steps, but a step costs rank squared per example.
        solver = "newton-cholesky" if features.shape[1] <= 512 else "lbfgs"
        probe = LogisticRegression(C=self.C, solver=solver, tol=1e-8, max_iter=2000)
        probe.fit(features, labels)
        direction = span.to_direction(torch.from_numpy(probe.coef_[0]))
        return {
            "vector": _oriented(direction, span, self.name),
            "train_acc": float(probe.score(features, labels)),
            "bias": float(probe.intercept_[0]),
        }


class ICAMethod(ExtractionMethod):
    """The independent component that separates the classes best, as a reading direction (its unmixing row).

    FastICA (Hyvarinen & Oja, 2000) of both classes together, on the leading principal components of the standardised
    activations. Component and sign are chosen by separation on the examples.

    Args:
        n_components: how many components to separate; at most the rank of the examples.
        seed: for FastICA's start.
    """

    name = "ica"

    def __init__(self, n_components: int = 10, seed: int = 0) -> None:
        self.n_components = n_components
        self.seed = seed

    def extract_from(self, span: ContrastSpan) -> ExtractionResult:
        """The chosen ``component``'s direction, its ``separation`` (Cohen's d) and whether FastICA ``converged``."""
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        k = min(self.n_components, len(span.singular_values))
        scale = span.singular_values[:k] / len(span.labels) ** 0.5
        whitened = span.coordinates[:, :k] / scale
        ica = FastICA(whiten=False, random_state=self.seed, max_iter=500, tol=1e-3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            ica.fit(whitened.numpy())
        unmixing = torch.from_numpy(ica.components_)  # [k, k]
        separations = standardised_separation(whitened @ unmixing.T, span.labels)
        component = int(separations.abs().argmax())
        weights = torch.zeros(len(span.singular_values), dtype=torch.float64)
        weights[:k] = unmixing[component] / scale
        return {
            "vector": _oriented(span.to_direction(weights), span, self.name),
            "component": component,
            "separation": float(separations[component].abs()),
            "converged": not any(issubclass(w.category, ConvergenceWarning) for w in caught),
        }


class GradientMethod(ExtractionMethod):
    """Adam on the standardised separation: difference of projected means over the pooled standard deviation.

    The plain difference of projected means is maximised by the mean difference itself; dividing by the spread is what
    makes optimising worth while (Fisher's discriminant). Shrinkage adds a share of the average variance to every
    direction's variance, without which n < hidden examples can be separated without bound.

    Args:
        num_steps: steps of Adam.
        lr: its step size, relative to the unit-length direction.
        shrinkage: 0 keeps the sample variance, 1 replaces it by the average variance.
    """

    name = "gradient"

    def __init__(self, num_steps: int = 100, lr: float = 0.01, shrinkage: float = 0.1) -> None:
        self.num_steps = num_steps
        self.lr = lr
        self.shrinkage = shrinkage

    def extract_from(self, span: ContrastSpan) -> ExtractionResult:
        """The optimised direction with ``loss_history`` (negative separation before each step)."""
        coordinates, labels = span.coordinates.float(), span.labels
        difference = coordinates[labels].mean(dim=0) - coordinates[~labels].mean(dim=0)
        within = _pooled_covariance(coordinates, labels)
        average = within.diagonal().mean()
        within = (1 - self.shrinkage) * within + self.shrinkage * average * torch.eye(len(within))
        weights = (difference / difference.norm().clamp_min(1e-12)).requires_grad_()
        optimiser = torch.optim.Adam([weights], lr=self.lr)
        losses = []
        with torch.enable_grad():
            for _ in range(self.num_steps):
                optimiser.zero_grad()
                loss = -(weights @ difference) / (weights @ within @ weights).sqrt().clamp_min(1e-12)
                loss.backward()
                optimiser.step()
                losses.append(float(loss))
        return {"vector": _oriented(span.to_direction(weights.detach()), span, self.name), "loss_history": losses}


def _pooled_covariance(features: Tensor, labels: Tensor) -> Tensor:
    """Covariance [rank, rank] around each class's own mean."""
    centred = torch.cat([features[side] - features[side].mean(dim=0) for side in (labels, ~labels)])
    return centred.T @ centred / max(len(centred) - 2, 1)


def standardised_separation(scores: Tensor, labels: Tensor) -> Tensor:
    """Cohen's d along the first dimension: difference of class means over the pooled standard deviation.

    Args:
        scores: [n, ...].
        labels: bool [n].

    Returns:
        [...]; infinite where the classes differ without any spread, 0 where they do not differ.
    """
    pos, neg = scores[labels].double(), scores[~labels].double()
    squares = ((pos - pos.mean(dim=0)) ** 2).sum(dim=0) + ((neg - neg.mean(dim=0)) ** 2).sum(dim=0)
    spread = (squares / max(len(scores) - 2, 1)).sqrt()
    difference = pos.mean(dim=0) - neg.mean(dim=0)
    return torch.where(difference == 0, torch.zeros_like(difference), difference / spread)


def _oriented(direction: Tensor, span: ContrastSpan, name: str) -> Tensor:
    """``direction`` with positive examples on its positive side and the distance of the class means as its norm."""
    norm = direction.norm()
    distance = span.mean_difference @ direction / norm if norm > 0 else torch.zeros(())
    if not bool(torch.isfinite(distance)) or distance == 0:
        raise ValueError(f"{name}: the class means coincide along the direction found; there is nothing to separate")
    return direction / norm * distance


METHODS: dict[str, type[ExtractionMethod]] = {
    method.name: method for method in (MeanDifferenceMethod, ProbeMethod, ICAMethod, GradientMethod)
}


def get_method(name: str, **hyper_parameters: float) -> ExtractionMethod:
    """The extraction method called ``name``: mean_diff, probe, ica or gradient.

    Raises:
        ValueError: there is no such method.

    >>> get_method("ica", n_components=5).n_components
    5
    """
    if name not in METHODS:
        raise ValueError(f"no extraction method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name](**hyper_parameters)
