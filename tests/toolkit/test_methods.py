"""The four methods: exact where exactness is claimed, comparable in sign and norm, and loud when they fail."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.validation.planted import planted
from traitlens import (
    METHODS,
    ContrastSpan,
    ExtractionMethod,
    GradientMethod,
    ICAMethod,
    MeanDifferenceMethod,
    ProbeMethod,
    cosine_similarity,
    get_method,
    mean_difference,
    projection,
)
from traitlens.methods import _whitening, standardised_separation


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
    assert cosine_similarity(forward, backward).item() < -0.999


@pytest.mark.parametrize("name", METHODS)
def test_the_same_examples_give_the_same_bytes(name, examples):
    first, second = (get_method(name).extract(examples.pos, examples.neg)["vector"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_activations_give_nearly_the_same_vector(name, clear):
    full = get_method(name).extract(*clear)["vector"]
    half = get_method(name).extract(*(side.half() for side in clear))["vector"]
    assert cosine_similarity(full, half).item() > 0.999


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


def test_ica_says_when_it_did_not_converge(clear, monkeypatch):
    method = ICAMethod(n_components=1)
    assert method.extract(*clear)["converged"] is True
    monkeypatch.setattr("traitlens.methods._ICA_STEPS", 1)
    assert method.extract(*clear)["converged"] is False


_SHAPES = [
    {"n": 60, "hidden": 200},
    {"n": 150, "hidden": 60, "massive": False},
    {"n": 40, "hidden": 576, "auroc": 0.999},
    {"n": 18, "hidden": 300, "auroc": 0.6},
]


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_ica_ends_in_one_vector_whichever_class_comes_first_and_however_numbers_are_rounded(shape, seed):
    examples = planted(**shape, seed=seed)
    sides = (examples.pos, examples.neg)
    vector = ICAMethod().extract(*sides)["vector"]
    swapped = ICAMethod().extract(*sides[::-1])["vector"]
    generator = torch.Generator().manual_seed(seed)
    rounded = [side * (1 + 1e-6 * torch.randn(side.shape, generator=generator)) for side in sides]
    order = torch.randperm(len(sides[0]), generator=generator)
    assert cosine_similarity(vector, -swapped).item() > 1 - 1e-5
    assert cosine_similarity(vector, ICAMethod().extract(*rounded)["vector"]).item() > 1 - 1e-3
    assert cosine_similarity(vector, ICAMethod().extract(sides[0][order], sides[1])["vector"]).item() > 1 - 1e-5


def test_ica_does_not_depend_on_the_signs_of_the_axes(examples):
    span = ContrastSpan(examples.pos, examples.neg)
    vector = ICAMethod().extract_from(span)["vector"]
    signs = torch.tensor([1.0, -1.0]).repeat(len(span.coordinates.T))[: len(span.coordinates.T)]
    span.coordinates, span._to_features = span.coordinates * signs, span._to_features * signs
    span._from_features = span._from_features * signs[:, None]
    assert cosine_similarity(vector, ICAMethod().extract_from(span)["vector"]).item() > 1 - 1e-5


def test_ica_begins_elsewhere_where_the_class_means_coincide_in_its_components():
    same = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
    weights, _ = ICAMethod().fit(ContrastSpan(same, same))
    assert weights.isfinite().all()
    assert weights.any()


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


@pytest.mark.parametrize("name", METHODS)
def test_classes_with_equal_means_are_refused(name):
    same = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    with pytest.raises(ValueError, match=f"{name}: .*class means coincide"):
        get_method(name).extract(same, same)


class _Planned(ExtractionMethod):
    """Gives the weights that a test plans."""

    name = "planned"

    def __init__(self, weights):
        self.weights = weights

    def fit(self, span):
        return self.weights(span), {}


@pytest.mark.parametrize("length", [1.0, -1.0, 1e-3, -1e6])
def test_a_direction_of_any_sign_and_length_becomes_the_same_vector(length):
    pos, neg = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    method = _Planned(lambda span: length * span.mean_difference_weights())
    torch.testing.assert_close(method.extract(pos, neg)["vector"], torch.tensor([1.0, 0.0]))


def test_a_direction_that_is_not_finite_or_zero_is_refused_by_name():
    pos, neg = torch.tensor([[2.0, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [-1.0, 0.0]])
    for value in (0.0, float("nan")):
        with pytest.raises(ValueError, match=r"^planned: .*coincide"):
            _Planned(lambda span, v=value: torch.full_like(span.difference, v)).extract(pos, neg)


def test_the_documented_hyper_parameters_are_the_defaults():
    assert {name: vars(get_method(name)) for name in METHODS} == {
        "mean_diff": {},
        "probe": {"C": 0.1},
        "ica": {"n_components": 10, "seed": 0},
        "gradient": {"num_steps": 100, "lr": 0.01, "shrinkage": 0.3},
    }


def test_extras_are_the_documented_ones_in_plain_numbers(clear):
    extras = {name: get_method(name).extract(*clear) for name in METHODS}
    for result in extras.values():
        del result["vector"]
    assert {name: {key: type(value) for key, value in result.items()} for name, result in extras.items()} == {
        "mean_diff": {},
        "probe": {"train_acc": float, "converged": bool},
        "ica": {"component": int, "separation": float, "converged": bool},
        "gradient": {"loss_history": list},
    }
    assert extras["probe"] == {"train_acc": 1.0, "converged": True}
    assert {type(loss) for loss in extras["gradient"]["loss_history"]} == {float}


def test_the_probe_says_how_many_of_its_own_examples_it_gets_right():
    pos, neg = torch.tensor([[1.0], [2.0], [3.0], [-2.0]]), torch.tensor([[-1.0], [-2.0], [-3.0], [-1.5]])
    assert ProbeMethod().extract(pos, neg)["train_acc"] == 7 / 8


def test_the_probe_says_each_time_that_its_solver_did_not_converge(monkeypatch):
    monkeypatch.setattr("traitlens.methods._NEWTON_STEPS", 1)
    examples = planted(n=60, hidden=40)
    assert [ProbeMethod().extract(examples.pos, examples.neg)["converged"] for _ in range(2)] == [False, False]


def test_the_probe_in_more_coordinates_than_newton_steps_are_worth_is_the_same():
    examples = planted(n=300, hidden=540)
    ours = ProbeMethod(C=0.01).extract(examples.pos, examples.neg)["vector"].double()
    data = torch.cat([examples.pos, examples.neg]).double().numpy()
    scaler = StandardScaler().fit(data)
    features, labels = scaler.transform(data), np.arange(600) < 300
    theirs = LogisticRegression(C=0.01, tol=1e-8, solver="newton-cholesky").fit(features, labels)
    assert cosine_similarity(ours, torch.from_numpy(theirs.coef_[0] / scaler.scale_)).item() > 1 - 1e-6


def test_ica_separation_is_that_of_its_scores_whichever_class_comes_first(clear):
    for pos, neg in (clear, clear[::-1]):
        result = ICAMethod(n_components=3).extract(pos, neg)
        scores = projection(torch.cat([pos, neg]), result["vector"])
        expected = standardised_separation(scores, torch.arange(600) < 300).item()
        assert result["separation"] == pytest.approx(expected, rel=1e-3)
        assert result["separation"] > 0
        assert 0 <= result["component"] < 3


def test_ica_reads_only_as_many_axes_as_it_has_components(clear):
    weights, _ = ICAMethod(n_components=3).fit(ContrastSpan(*clear))
    assert weights.dtype == torch.float64
    assert weights.shape == (12,)
    assert weights[:3].any()
    assert not weights[3:].any()


def test_ica_of_a_part_does_not_depend_on_where_the_rest_lies(clear):
    pos, neg = clear
    far = torch.full((12,), 50.0)
    moved = (pos.clone(), neg.clone())
    for side in moved:
        side[:100] += far
    rows = torch.arange(600) % 300 >= 100
    span = ContrastSpan(*moved)
    weights, _ = ICAMethod(n_components=12).fit(span.select(rows))
    result = span.to_direction(weights).float()
    expected = mean_difference(pos[100:], neg[100:])
    assert abs(cosine_similarity(result, expected).item()) > 0.85  # not centred, FastICA diverges


def _clear():
    examples = planted(n=30, hidden=20, massive=False)
    return examples.pos, examples.neg


def _nearly_alike():
    return torch.randn(400, 5, generator=torch.Generator().manual_seed(0)).chunk(2)


def _three():
    return torch.tensor([[1.0, 2.0, 0.0], [2.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 3.0]])


@pytest.mark.parametrize("classes", [_clear, _nearly_alike, _three])
def test_gradient_steps_are_those_of_adam_on_the_shrunk_separation(classes):
    span = ContrastSpan(*classes())
    weights, extras = GradientMethod(num_steps=7, lr=0.05, shrinkage=0.2).fit(span)
    coordinates, labels = span.coordinates, span.labels
    centred = [coordinates[side] - coordinates[side].mean(dim=0) for side in (labels, ~labels)]
    n = len(coordinates)
    within = sum(side.T @ side / len(side) for side in centred) / 2 * n / (n - 2)  # classes weigh the same
    shrunk = 0.8 * within + 0.2 * within.diagonal().mean() * torch.eye(len(within), dtype=torch.float64)
    theirs = (span.difference / span.difference.norm()).requires_grad_()
    adam, losses = torch.optim.Adam([theirs], lr=0.05), []
    for _ in range(7):
        adam.zero_grad()
        loss = -(theirs @ span.difference) / (theirs @ shrunk @ theirs).sqrt()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    torch.testing.assert_close(weights, theirs.detach(), rtol=1e-9, atol=1e-12)
    assert extras["loss_history"] == pytest.approx(losses)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([5.0, 3.0, 2.0, 0.0], 3 / 2**0.5),
        ([2.0, 0.0, 5.0, 3.0], -3 / 2**0.5),
        ([2.0, 2.0, 1.0, 1.0], float("inf")),
        ([1.0, 1.0, 2.0, 2.0], float("-inf")),
        ([1.0, 1.0, 1.0, 1.0], 0.0),
        ([3.0, 1.0, 1.0, 3.0], 0.0),
    ],
)
def test_the_standardised_separation_of_hand_made_scores(scores, expected):
    column = torch.tensor(scores, dtype=torch.float16)
    labels = torch.arange(4) < 2
    found = standardised_separation(torch.stack([column, torch.tensor([9.0, 7.0, 8.0, 6.0])], dim=1), labels)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([expected, 1 / 2**0.5])


def test_one_example_of_each_class_has_a_separation_without_spread():
    assert standardised_separation(torch.tensor([1.0, 0.0]), torch.tensor([True, False])).item() == float("inf")


def test_the_spread_of_three_examples_has_one_degree_of_freedom():
    labels = torch.tensor([True, True, False])
    assert standardised_separation(torch.tensor([4.0, 2.0, 1.0]), labels).item() == pytest.approx(2 / 2**0.5)


def test_what_ica_is_given_has_unit_variance_and_no_correlation():
    features = planted(n=30, hidden=8, massive=False).pos.double()
    whitened = features @ _whitening(features)
    covariance = torch.cov(whitened.T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_method_must_say_how_it_fits():
    with pytest.raises(TypeError, match="fit"):
        type("Nothing", (ExtractionMethod,), {"name": "nothing"})()


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
