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
from traitlens.compute import fault_of_vector


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


@pytest.mark.parametrize("length", [1e-3, 0.5, 1.0])
def test_a_short_vector_is_no_zero_vector(length):
    torch.testing.assert_close(projection(torch.tensor([3.0, 4.0]), torch.tensor([0.0, length])), torch.tensor(4.0))


def test_several_vectors_at_once_or_a_single_number_are_refused():
    with pytest.raises(ValueError, match=r"shape \[\] .* wanted \[hidden\]"):
        projection(torch.ones(3, 1), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"shape \[2, 2\] .* wanted \[hidden\]"):
        projection(torch.ones(3, 2), torch.ones(2, 2))


@pytest.mark.parametrize(("shape", "size"), [((4, 576), 768), ((4, 768), 576), ((4,), 5), ((), 1)])
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


def test_mean_difference_is_of_each_class_mean_and_in_float32():
    pos = torch.tensor([[60000.0, 1.0], [60000.0, 3.0], [60000.0, 5.0]], dtype=torch.float16)
    neg = torch.tensor([[-60000.0, 5.0], [-60000.0, 2.0]], dtype=torch.float16)  # the difference overflows float16
    found = mean_difference(pos, neg)
    assert found.dtype == torch.float32
    assert found.tolist() == [120_000.0, -0.5]
    between = torch.tensor([[2048.0], [2050.0]], dtype=torch.float16)  # whose mean float16 has no number for
    zero = torch.zeros(1, 1, dtype=torch.float16)
    assert (mean_difference(between, zero).item(), mean_difference(zero, between).item()) == (2049.0, -2049.0)


@pytest.mark.parametrize(
    ("pos", "neg", "said"),
    [
        (torch.zeros(0, 4), torch.ones(2, 4), "^pos has no examples"),
        (torch.ones(2, 4), torch.zeros(0, 4), "^neg has no examples"),
        (torch.ones(4, 4, 4), torch.ones(2, 4), "^pos is .*wanted"),
        (torch.ones(2, 0), torch.ones(2, 0), "^pos is .*wanted"),
        (torch.ones(4), torch.ones(2, 4), "^pos is .*wanted"),
        (torch.ones(2, 4), torch.ones(4), "^pos is .*wanted"),
        (torch.ones(2, 5), torch.ones(2, 4), "^pos is .*wanted"),
        (torch.ones(2, 4), torch.ones(4, 4, 4), "^pos is .*wanted"),
        (torch.tensor([[1.0, float("inf")]]), torch.ones(1, 2), "^pos activations hold NaN"),
        (torch.ones(2, 4), torch.ones(2, 5), r"\[2, 4\] and neg is \[2, 5\]"),
        (torch.ones(2, 4), torch.full((2, 4), float("nan")), "^neg activations hold NaN"),
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


@pytest.mark.parametrize("derivative", [compute_derivative, compute_second_derivative])
def test_derivatives_upcast_before_they_subtract(derivative):
    found = derivative(torch.tensor([60000.0, -60000.0, 60000.0], dtype=torch.float16))
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_derivatives_run_along_the_dimension_asked_for():
    rows = torch.tensor([[0.0, 1.0, 4.0], [5.0, 5.0, 5.0]])
    assert compute_derivative(rows, dim=1).tolist() == [[1.0, 3.0], [0.0, 0.0]]
    assert compute_second_derivative(rows, dim=1).tolist() == [[2.0], [0.0]]


def test_cosines_are_taken_pair_by_pair_and_against_one_vector():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 3, generator=generator)
    expected = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine_similarity(a, b), expected(a, b, dim=-1))
    torch.testing.assert_close(cosine_similarity(a, b[0]), expected(a, b[0], dim=-1))


@pytest.mark.parametrize(("a", "b"), [((2, 3), (2, 4)), ((1,), (5,)), ((5,), (2, 1)), ((), (5,)), ((5,), ()), ((), ())])
def test_the_cosine_of_vectors_of_different_sizes_is_refused(a, b):
    with pytest.raises(ValueError, match=r"vectors have shapes .* wanted \[\.\.\., hidden\] twice"):
        cosine_similarity(torch.ones(a), torch.ones(b))


def test_each_vector_is_normalised_by_its_own_size():
    rows = torch.tensor([[-3e30, -4e30], [3e-30, 4e-30]])
    torch.testing.assert_close(normalize_vectors(rows), torch.tensor([[-0.6, -0.8], [0.6, 0.8]]))
    assert normalize_vectors(torch.tensor([3.0, 4.0], dtype=torch.float16)).dtype == torch.float32
    with pytest.raises(ValueError, match="zero vector"):
        normalize_vectors(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("dim", [2, 3, -3, -4])
def test_a_trajectory_without_the_dimension_asked_for_is_refused(dim):
    with pytest.raises(ValueError, match=rf"\[2, 3\] has no dimension {dim}"):
        compute_derivative(torch.ones(2, 3), dim=dim)


def test_dimensions_of_a_trajectory_count_from_either_end():
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for from_start, from_end in ((0, -2), (1, -1)):
        assert torch.equal(compute_derivative(rows, dim=from_start), compute_derivative(rows, dim=from_end))
    assert not torch.equal(compute_derivative(rows, dim=0)[:2, :3], compute_derivative(rows, dim=1)[:2, :3])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_there_is_nothing_to_normalise_without_a_hidden_dimension(shape):
    with pytest.raises(ValueError, match=r"wanted vectors \[\.\.\., hidden\]"):
        normalize_vectors(torch.ones(shape))


def test_a_vector_of_one_feature_and_no_vectors_at_all_are_normalised():
    assert normalize_vectors(torch.tensor([[-7.0]])).tolist() == [[-1.0]]
    assert normalize_vectors(torch.ones(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("vector", "fault"),
    [(torch.ones(3), None), (torch.tensor(1.0), "shape []"), (torch.ones(1, 3), "shape [1, 3]"),
     (torch.tensor([1.0, float("nan")]), "NaN or infinity"), (torch.tensor([1.0, -float("inf")]), "NaN or infinity")],
)  # fmt: skip
def test_what_is_wrong_with_a_vector_is_said_in_words(vector, fault):
    assert fault_of_vector(vector) == fault
