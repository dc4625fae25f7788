import pytest
import torch

from traitlens import (
    compute_derivative,
    compute_second_derivative,
    cosine_similarity,
    mean_difference,
    normalize_vectors,
    projection,
)


def test_projection_is_the_documented_formula():
    activations, vector = torch.randn(3, 5, 8), torch.randn(8)
    expected = (activations * vector).sum(dim=-1) / vector.norm()
    torch.testing.assert_close(projection(activations, vector), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_projection_upcasts_before_it_computes(dtype):
    activations = torch.full((4, 512), 200.0, dtype=dtype)  # the sum of products overflows float16
    scores = projection(activations, torch.ones(512, dtype=dtype))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.full((4,), 200.0 * 512**0.5), rtol=1e-3, atol=0)


def test_projection_does_not_depend_on_the_vectors_length():
    activations, vector = torch.randn(5, 8), torch.randn(8)
    torch.testing.assert_close(projection(activations, vector), projection(activations, 37 * vector))


@pytest.mark.parametrize(("shape", "size"), [((4, 576), 768), ((4,), 5), ((), 1)])
def test_a_size_mismatch_names_both_shapes(shape, size):
    with pytest.raises(ValueError, match="wanted") as error:
        projection(torch.zeros(shape), torch.ones(size))
    assert f"[{size}]" in str(error.value)
    assert str(list(shape)) in str(error.value)


def test_a_zero_vector_cannot_be_projected_on():
    with pytest.raises(ValueError, match="zero vector"):
        projection(torch.randn(2, 4), torch.zeros(4))


def test_projection_accepts_a_vector_that_requires_grad_and_is_not_contiguous():
    vector = torch.randn(8, 2, requires_grad=True)[:, 0]
    assert not projection(torch.randn(3, 8), vector).requires_grad


def test_mean_difference_recovers_a_planted_shift():
    noise, shift = torch.randn(4000, 16), torch.zeros(16)
    shift[3] = 2.0
    found = mean_difference(noise[:2000] + shift, noise[2000:])
    assert cosine_similarity(found, shift) > 0.99


@pytest.mark.parametrize(
    ("pos", "neg", "said"),
    [
        (torch.zeros(0, 4), torch.ones(2, 4), "pos has no examples"),
        (torch.ones(2, 4), torch.ones(2, 5), r"\[2, 4\] and neg is \[2, 5\]"),
        (torch.ones(2, 4), torch.full((2, 4), float("nan")), "neg activations hold NaN"),
    ],
)
def test_classes_that_cannot_be_compared_are_refused(pos, neg, said):
    with pytest.raises(ValueError, match=said):
        mean_difference(pos, neg)


def test_derivatives_run_along_the_tokens_of_a_column_as_documented():
    scores = torch.tensor([0.5, 2.3, 2.1, 1.8, 1.5, 1.2, 0.8])
    velocity = compute_derivative(scores.unsqueeze(-1))
    acceleration = compute_second_derivative(scores.unsqueeze(-1))
    torch.testing.assert_close(velocity.flatten(), torch.tensor([1.8, -0.2, -0.3, -0.3, -0.3, -0.4]))
    torch.testing.assert_close(acceleration.flatten(), torch.tensor([-2.0, -0.1, 0.0, 0.0, -0.1]), atol=1e-6, rtol=0)


def test_cosine_is_one_for_parallel_vectors_of_any_size():
    vector = torch.randn(64)
    for scale in (1e-12, 1.0, 1e18):
        torch.testing.assert_close(cosine_similarity(vector, scale * vector), torch.tensor(1.0))


def test_normalised_vectors_have_length_one():
    torch.testing.assert_close(normalize_vectors(torch.randn(7, 33) * 1e20).norm(dim=-1), torch.ones(7))
    with pytest.raises(ValueError, match="zero vector"):
        normalize_vectors(torch.zeros(2, 3))
