"""The four methods: exact where exactness is claimed, comparable in sign and norm, and loud when they fail."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.vectors.planted import planted
from traitlens import (
    METHODS,
    ContrastSpan,
    GradientMethod,
    ICAMethod,
    MeanDifferenceMethod,
    ProbeMethod,
    cosine_similarity,
    get_method,
    projection,
)

# FastICA's fixed point depends on the last digits where the other components are noise.
_REPEATABLE = {"mean_diff": 0.999, "probe": 0.999, "gradient": 0.999, "ica": 0.9}


@pytest.fixture
def examples():
    return planted(n=60, hidden=200)


@pytest.fixture
def clear():
    """Two far groups along one direction, which every method must find."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(12, generator=generator), dim=0)
    noise = torch.randn(2, 300, 12, generator=generator)
    return noise[0] + 4 * direction, noise[1] - 4 * direction


@pytest.mark.parametrize("name", METHODS)
def test_positive_examples_score_higher_and_the_norm_is_the_distance_of_the_class_means(name, examples):
    vector = get_method(name).extract(examples.pos, examples.neg)["vector"]
    assert vector.dtype == torch.float32
    assert vector.shape == (200,)
    distance = (projection(examples.pos, vector).mean() - projection(examples.neg, vector).mean()).item()
    assert distance > 0
    assert distance == pytest.approx(vector.norm().item(), rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_swapped_classes_turn_the_vector_around(name, clear):
    forward = get_method(name).extract(*clear)["vector"]
    backward = get_method(name).extract(*clear[::-1])["vector"]
    assert cosine_similarity(forward, backward).item() < -_REPEATABLE[name]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_examples_give_the_same_bytes(name, examples):
    first, second = (get_method(name).extract(examples.pos, examples.neg)["vector"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_activations_give_nearly_the_same_vector(name, clear):
    full = get_method(name).extract(*clear)["vector"]
    half = get_method(name).extract(*(side.half() for side in clear))["vector"]
    assert cosine_similarity(full, half).item() > _REPEATABLE[name]


@pytest.mark.parametrize("name", ["mean_diff", "probe", "gradient"])
def test_a_clear_direction_in_round_noise_is_recovered(name):
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(40, generator=generator), dim=0)
    noise = torch.randn(2, 2000, 40, generator=generator)
    vector = get_method(name).extract(noise[0] + 2 * direction, noise[1] - 2 * direction)["vector"]
    assert cosine_similarity(vector, direction).item() > 0.97


def test_ica_recovers_a_direction_whose_scores_have_two_peaks():
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(8, generator=generator), dim=0)
    noise = torch.randn(2, 1000, 8, generator=generator)
    result = ICAMethod(n_components=8).extract(noise[0] + 3 * direction, noise[1] - 3 * direction)
    assert cosine_similarity(result["vector"], direction).item() > 0.97
    assert result["separation"] > 5


def test_mean_difference_is_exact_beside_a_massive_dimension():
    generator = torch.Generator().manual_seed(0)
    pos, neg = torch.randn(2, 50, 300, generator=generator) * 0.01
    pos[:, 4], neg[:, 4] = 1e5 + torch.arange(50.0), 1e5 - torch.arange(50.0)
    vector = MeanDifferenceMethod().extract(pos, neg)["vector"]
    expected = (pos.double().mean(dim=0) - neg.double().mean(dim=0)).float()
    assert torch.equal(vector, expected)


@pytest.mark.parametrize(("n", "hidden"), [(40, 300), (150, 60)])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_the_probe_in_the_span_is_the_probe_in_full_dimensions(n, hidden, C):  # noqa: N803
    examples = planted(n=n, hidden=hidden)
    ours = ProbeMethod(C=C).extract(examples.pos, examples.neg)["vector"].double()
    data = torch.cat([examples.pos, examples.neg]).double().numpy()
    scaler = StandardScaler().fit(data)
    full = LogisticRegression(C=C, tol=1e-10, max_iter=20_000).fit(scaler.transform(data), np.arange(2 * n) < n)
    theirs = torch.from_numpy(full.coef_[0] / scaler.scale_)
    distance = (ours / ours.norm() - theirs / theirs.norm()).norm().item()
    assert distance < 1e-4


def test_gradient_steps_approach_the_optimum_of_their_own_objective():
    examples = planted(n=100, hidden=300)
    span = ContrastSpan(examples.pos, examples.neg)
    method = GradientMethod()
    weights, extras = method.fit(span)
    coordinates, labels = span.coordinates, span.labels
    centred = torch.cat([coordinates[s] - coordinates[s].mean(dim=0) for s in (labels, ~labels)])
    within = centred.T @ centred / (len(centred) - 2)
    shrunk = (1 - method.shrinkage) * within + method.shrinkage * within.diagonal().mean() * torch.eye(len(within))
    optimum = torch.linalg.solve(shrunk, span.difference)
    reached, best = ((w @ span.difference / (w @ shrunk @ w).sqrt()).item() for w in (weights, optimum))
    losses = extras["loss_history"]
    assert len(losses) == 100
    assert -losses[0] < 0.9 * best  # there was something to gain
    assert 0.99 * best < reached <= best * (1 + 1e-9)
    assert reached >= -losses[0]


def test_ica_says_when_it_did_not_converge():
    generator = torch.Generator().manual_seed(0)
    pos, neg = torch.randn(2, 60, 100, generator=generator)  # round noise has no components to find
    assert ICAMethod().extract(pos, neg)["converged"] is False


def test_a_constant_feature_gets_no_weight(examples):
    pos, neg = examples.pos.clone(), examples.neg.clone()
    pos[:, 3] = neg[:, 3] = 5.0
    for name in METHODS:
        assert get_method(name).extract(pos, neg)["vector"][3].item() == 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("pos", "neg", "message"),
    [
        (torch.zeros(0, 4), torch.ones(2, 4), "pos has no examples"),
        (torch.ones(2, 4), torch.ones(2, 5), "one hidden size"),
        (torch.tensor([[0.0, float("nan")]]), torch.ones(1, 2), "NaN or infinity"),
        (torch.ones(3, 4), torch.ones(2, 4), "nothing to separate"),
    ],
)
def test_examples_that_cannot_be_separated_are_refused(name, pos, neg, message):
    with pytest.raises(ValueError, match=message):
        get_method(name).extract(pos, neg)


def test_classes_with_equal_means_are_refused():
    same = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(ValueError, match="class means coincide"):
        MeanDifferenceMethod().extract(same, same)


def test_an_unknown_method_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'pca'.*mean_diff, probe, ica, gradient"):
        get_method("pca")


def test_a_part_of_the_span_is_fitted_like_its_examples_alone():
    examples = planted(n=60, hidden=40, massive=False)
    span = ContrastSpan(examples.pos, examples.neg)
    rows = torch.arange(120) % 3 > 0
    part = span.select(rows)
    expected = examples.pos[rows[:60]].double().mean(dim=0) - examples.neg[rows[60:]].double().mean(dim=0)
    weights, _ = MeanDifferenceMethod().fit(part)
    assert torch.allclose(part.mean_difference, expected, atol=1e-6)
    assert cosine_similarity(span.to_direction(weights), expected).item() > 1 - 1e-6


def test_weights_of_a_direction_order_examples_as_its_projection_does(examples):
    span = ContrastSpan(examples.pos, examples.neg)
    direction = torch.randn(200, generator=torch.Generator().manual_seed(1))
    scores = span.coordinates @ span.to_weights(direction)
    expected = torch.cat([examples.pos, examples.neg]).double() @ direction.double()
    assert torch.allclose(scores - scores.mean(), expected - expected.mean(), rtol=1e-4, atol=1e-4 * expected.std())
