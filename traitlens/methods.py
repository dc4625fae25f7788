"""Four ways to turn contrastive activations into a trait vector.

Every method returns float32 [hidden] on the CPU, its sign such that positive examples score higher, its norm the
distance between the class means along it. For mean difference that is the identity; for the others it makes norms
comparable.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from traitlens.span import ContrastSpan

_ICA_STEPS = 100  # of each component
_NEWTON_STEPS, _NEWTON_TOLERANCE = 100, 1e-6  # of the probe; the norm of its gradient, relative to the first
_LEAST_CURVATURE = 0.3  # of the contrast, of which two clear peaks have -0.3 and a Gaussian 0


class ExtractionExtras(TypedDict, total=False):
    """What a method has to say of its fit, each where the method has it."""

    train_acc: float
    component: int
    converged: bool
    separation: float
    loss_history: list[float]


class ExtractionResult(ExtractionExtras):
    """What ``extract`` returns: the ``vector``, float32 [hidden], and the method's extras."""

    vector: Tensor


class ExtractionMethod(ABC):
    """A way to find the direction that separates two classes of activations. Hyper-parameters go to the constructor."""

    name: ClassVar[str]

    def extract(self, pos_activations: Tensor, neg_activations: Tensor) -> ExtractionResult:
        """The trait vector of [n, hidden] activations of each class, with the method's own extras.

        Raises:
            ValueError: a class is empty or not finite, hidden sizes differ, or the classes cannot be told apart.
        """
        return self.extract_from(ContrastSpan(pos_activations, neg_activations))

    def extract_from(self, span: ContrastSpan) -> ExtractionResult:
        """As ``extract``, on a span that several methods share."""
        weights, extras = self.fit(span)
        direction = span.to_direction(weights)
        distance = span.mean_difference @ direction / direction.norm()
        if not bool(torch.isfinite(distance)) or distance == 0:
            raise ValueError(
                f"{self.name}: the class means coincide along the direction found; there is nothing to separate"
            )
        # Positive examples on the positive side, the distance of the class means as the norm.
        return {"vector": _finite(self.name, direction / direction.norm() * distance), **extras}

    @abstractmethod
    def fit(self, span: ContrastSpan) -> tuple[Tensor, ExtractionExtras]:
        """The direction as float64 weights [rank] of the span's coordinates, up to sign and length, and the extras."""


def _finite(name: str, vector: Tensor) -> Tensor:
    vector = vector.float()
    if not bool(torch.isfinite(vector).all()):
        raise ValueError(f"{name}: the distance of the class means is beyond float32")
    return vector


class MeanDifferenceMethod(ExtractionMethod):
    """``mean(pos) - mean(neg)``, the direction of contrastive activation addition (arXiv:2312.06681).

    >>> result = MeanDifferenceMethod().extract(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    >>> result["vector"]
    tensor([2., 0.])
    """

    name = "mean_diff"

    def extract_from(self, span: ContrastSpan) -> ExtractionResult:
        """The difference of the class means, free of the span's rounding."""
        if not bool(span.mean_difference.any()):
            raise ValueError(f"{self.name}: the class means coincide; there is nothing to separate")
        return {"vector": _finite(self.name, span.mean_difference)}

    def fit(self, span: ContrastSpan) -> tuple[Tensor, ExtractionExtras]:
        """The same direction in the span's coordinates."""
        return span.mean_difference_weights(), {}


class ProbeMethod(ExtractionMethod):
    """The weights of a logistic regression on standardised features, mapped back to activation space.

    Fitted in the span of the examples, which is exact: the L2 penalty leaves the minimiser no part outside of it. With
    two classes of equal size and nothing else it is scikit-learn's ``LogisticRegression``; classes of unequal size
    weigh the same, and where there is neutral text it has half the weight of the negative side.

    Args:
        C: inverse strength of the L2 penalty, as in scikit-learn. Standardised activations have squared norms near
            ``hidden``, so 0.1 is already a weak penalty; small values move towards the standardised mean difference.
            Held-out AUROC on the starter traits is flat from 0.03 to 1, and falls below 0.01.
    """

    name = "probe"

    def __init__(self, C: float = 0.1) -> None:  # noqa: N803 - scikit-learn's name
        self.C = C

    def fit(self, span: ContrastSpan) -> tuple[Tensor, ExtractionExtras]:
        """The probe's weights; ``train_acc`` is its accuracy on these examples, ``converged`` the solver's word."""
        strength = self.C * float((~span.neutral).sum()) / 2  # as many examples as there are of the two classes
        weights, intercept, converged = _logistic_regression(span.coordinates, span.labels, strength * span.weights)
        right = (span.coordinates @ weights + intercept > 0) == span.labels
        return weights, {"train_acc": round(float(span.weights @ right.double() / 2), 12), "converged": converged}


def _logistic_regression(features: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, float, bool]:
    """The minimiser of ``sum(weights * log loss) + |w|^2 / 2``, its intercept (unpenalised), and whether it was found.

    Newton's method, its steps by conjugate gradients (Steihaug 1983): in principal axes the Hessian is nearly diagonal,
    so that some matrix-vector products do what a factorisation of [rank, rank] would.

    Args:
        features: float64 [n, rank].
        labels: bool [n].
        weights: float64 [n], of the examples' losses.
    """
    design = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    penalty = torch.ones(design.shape[1], dtype=torch.float64)
    penalty[-1] = 0
    targets, squares = labels.double(), design.square()
    solution = torch.zeros_like(penalty)
    first = loss = math.inf
    for _ in range(_NEWTON_STEPS):
        logits = design @ solution
        share = torch.sigmoid(logits)
        gradient = design.T @ (weights * (share - targets)) + penalty * solution
        size = float(gradient.norm())
        first = min(first, size) if math.isinf(first) else first
        if size <= _NEWTON_TOLERANCE * max(first, 1e-30):
            return solution[:-1], float(solution[-1]), True
        curvature = weights * share * (1 - share)
        diagonal = squares.T @ curvature + penalty
        step = _conjugate_gradients(design, curvature, penalty, diagonal, gradient, min(0.1, size / first))
        loss = _penalised_loss(logits, targets, weights, penalty, solution)
        length = 1.0
        while length > 1e-6:
            tried = solution - length * step
            if _penalised_loss(design @ tried, targets, weights, penalty, tried) <= loss:
                break
            length /= 2
        solution = solution - length * step
    return solution[:-1], float(solution[-1]), False


def _penalised_loss(logits: Tensor, targets: Tensor, weights: Tensor, penalty: Tensor, solution: Tensor) -> float:
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return float(weights @ losses + penalty @ solution.square() / 2)


def _conjugate_gradients(
    design: Tensor, curvature: Tensor, penalty: Tensor, diagonal: Tensor, gradient: Tensor, tolerance: float
) -> Tensor:
    """The Newton step ``H^-1 gradient`` to a relative residual of ``tolerance``, preconditioned by H's diagonal."""
    step, residual = torch.zeros_like(gradient), gradient.clone()
    preconditioned = residual / diagonal
    search, energy = preconditioned, float(residual @ preconditioned)
    goal = tolerance * float(gradient.norm())
    for _ in range(2 * len(gradient)):
        image = design.T @ (curvature * (design @ search)) + penalty * search
        length = energy / max(float(search @ image), 1e-300)
        step = step + length * search
        residual = residual - length * image
        if float(residual.norm()) <= goal:
            break
        preconditioned = residual / diagonal
        previous, energy = energy, float(residual @ preconditioned)
        search = preconditioned + energy / previous * search
    return step


class ICAMethod(ExtractionMethod):
    """The independent component that separates the classes best, as a reading direction (its unmixing row).

    FastICA (Hyvarinen & Oja, 2000) of both classes together, on the leading principal components of the standardised
    activations, one component after the other. The first starts at the difference of the class means and the others at
    random points of activation space, so neither the order of the classes nor an axis's sign can change the result.
    Component and sign are chosen by separation on the examples.

    Args:
        n_components: how many components to separate; at most the rank of the examples.
        seed: for the random starts.
    """

    name = "ica"

    def __init__(self, n_components: int = 10, seed: int = 0) -> None:
        self.n_components = n_components
        self.seed = seed

    def fit(self, span: ContrastSpan) -> tuple[Tensor, ExtractionExtras]:
        """The chosen ``component``'s weights, its ``separation`` (Cohen's d) and whether FastICA ``converged``."""
        from sklearn.decomposition import FastICA

        features = span.coordinates[:, : self.n_components]
        whitening = _whitening(features)  # [k, at most k]
        whitened = (features - features.mean(dim=0)) @ whitening
        generator = torch.Generator().manual_seed(self.seed)
        points = torch.randn(len(span.mean_difference), whitening.shape[1], generator=generator, dtype=torch.float64)
        starts = torch.cat([span.difference[:, None], span.to_weights(points)], dim=1)[: len(whitening)]
        starts = starts[:, starts.any(dim=0)][:, : whitening.shape[1]]  # class means that coincide are no start
        ica = FastICA(
            algorithm="deflation",
            whiten=False,
            fun=_damped_tanh,
            w_init=(starts.T @ whitening).numpy(),
            max_iter=_ICA_STEPS,
            tol=1e-6,
        )
        ica.fit(whitened.numpy())
        unmixing = torch.from_numpy(ica.components_).double()
        separations = _weighted_separation(whitened @ unmixing.T, span)
        component = int(separations.abs().argmax())
        weights = torch.zeros(span.coordinates.shape[1], dtype=torch.float64)
        weights[: len(whitening)] = whitening @ unmixing[component]
        return weights, {
            "component": component,
            "separation": float(separations[component].abs()),
            "converged": ica.n_iter_ < _ICA_STEPS,  # deflation gives no ConvergenceWarning
        }


def _damped_tanh(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The contrast of FastICA with steps of bounded length: tanh of the scores [n], and the mean of its derivative.

    FastICA's step is Newton's: it divides by the curvature ``E[tanh'(s)] - E[s tanh(s)]``, which is nearly 0 where a
    component is nearly Gaussian. There its steps are as good as random and never settle, and rounding decides where
    they end. A curvature kept away from 0 leaves the fixed points where they are.
    """
    values = np.tanh(scores)
    slope, expected = (1 - values**2).mean(), (scores * values).mean()
    curvature = slope - expected
    bounded = np.copysign(max(abs(curvature), _LEAST_CURVATURE), curvature)
    return values, np.asarray(expected + bounded)


class GradientMethod(ExtractionMethod):
    """Adam on the standardised separation: difference of projected means over the pooled standard deviation.

    The plain difference of projected means is maximised by the mean difference itself; dividing by the spread is what
    makes optimising worth while (Fisher's discriminant). Shrinkage adds a share of the average variance to every
    direction's variance, without which n < hidden examples can be separated without bound.

    Args:
        num_steps: steps of Adam.
        lr: its step size, relative to the unit-length direction.
        shrinkage: 0 keeps the sample variance, 1 replaces it by the average variance. Held-out AUROC on the starter
            traits is flat from 0.2 to 0.5.
    """

    name = "gradient"

    def __init__(self, num_steps: int = 100, lr: float = 0.01, shrinkage: float = 0.3) -> None:
        self.num_steps = num_steps
        self.lr = lr
        self.shrinkage = shrinkage

    def fit(self, span: ContrastSpan) -> tuple[Tensor, ExtractionExtras]:
        """The optimised weights with ``loss_history`` (negative separation before each step)."""
        difference, within = span.difference.numpy(), _pooled_covariance(span)
        floor = self.shrinkage * float(within.diagonal().mean())
        spread_matrix = (1 - self.shrinkage) * within.numpy()
        weights = difference / max(np.linalg.norm(difference), 1e-30)
        first, second = np.zeros_like(weights), np.zeros_like(weights)
        losses = []
        # By hand, as each step is a few microseconds of arithmetic and an autograd step twenty times that.
        for step in range(1, self.num_steps + 1):
            spread_gradient = spread_matrix @ weights + floor * weights
            spread = max(math.sqrt(weights @ spread_gradient), 1e-30)
            separation = float(weights @ difference) / spread
            gradient = (separation * spread_gradient / spread - difference) / spread
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            weights = weights - self.lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            losses.append(-separation)
        return torch.from_numpy(weights), {"loss_history": losses}


def _pooled_covariance(span: ContrastSpan) -> Tensor:
    """Covariance [rank, rank] around each class's own mean, of examples that weigh what they do in the span."""
    centred = span.coordinates - _class_means(span.coordinates, span)
    return (centred.T * span.weights) @ centred * _unbiased(span)


def _unbiased(span: ContrastSpan) -> float:
    """What makes a sum of squares, each with its example's weight, the variance within two classes of equal size."""
    count = int((~span.neutral).sum())
    return count / 2 / max(count - 2, 1)


def _class_means(rows: Tensor, span: ContrastSpan) -> Tensor:
    """The mean of its class for every row [n, ...]: of positive examples, or of the negative side with its weights."""
    weighted = span.weights[:, None] * rows
    return torch.where(span.labels[:, None], weighted[span.labels].sum(dim=0), weighted[~span.labels].sum(dim=0))


def _weighted_separation(scores: Tensor, span: ContrastSpan) -> Tensor:
    """Cohen's d of every column of scores [n, k], with the span's weights: [k]."""
    spread = ((span.weights @ (scores - _class_means(scores, span)).square()) * _unbiased(span)).sqrt()
    difference = (torch.where(span.labels, span.weights, -span.weights)[:, None] * scores).sum(dim=0)
    return torch.where(difference == 0, torch.zeros_like(difference), difference / spread)


def _whitening(features: Tensor) -> Tensor:
    """Linear map [k, rank] after which the features have unit variance and no correlation."""
    values, vectors = torch.linalg.eigh(torch.cov(features.T, correction=0).reshape(features.shape[1], -1))
    keep = values > 1e-12 * values[-1]
    whitening: Tensor = vectors[:, keep] / values[keep].sqrt()
    return whitening


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
