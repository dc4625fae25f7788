"""Zero, scale and probability of scores."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from traitlens import Calibration, calibrate, midpoint_baseline, neutral_scale, projection


def test_class_means_lie_symmetrically_around_the_baseline():
    generator = torch.Generator().manual_seed(0)
    pos, neg = torch.randn(2, 30, 8, generator=generator) + 50
    vector = torch.randn(8, generator=generator)
    baseline = midpoint_baseline(pos, neg, vector)
    above, below = (float(projection(side, vector).mean()) - baseline for side in (pos, neg))
    assert above == pytest.approx(-below, abs=1e-4)


def test_thresholds_are_exceeded_by_their_share_of_neutral_tokens():
    tokens = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0)) + 3
    vector = torch.tensor([1.0, 0, 0, 0, 0, 2.0])
    scale = neutral_scale(tokens, vector)
    scores = projection(tokens, vector)
    assert scale.n_tokens == 2000
    assert (scores > scale.fpr_1).float().mean().item() == pytest.approx(0.01, abs=0.001)
    assert (scores > scale.fpr_5).float().mean().item() == pytest.approx(0.05, abs=0.001)
    assert scale.mean == pytest.approx(scores.mean().item(), rel=1e-4)
    assert scale.std == pytest.approx(scores.std().item(), rel=1e-4)


def test_too_few_neutral_tokens_give_no_scale():
    assert neutral_scale(torch.randn(99, 4), torch.ones(4)) is None
    assert neutral_scale(torch.zeros(0, 4), torch.ones(4)) is None


def _scores(n=400, separation=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(2 * n) < n
    return torch.randn(2 * n, generator=generator) + separation * (labels.double() - 0.5), labels


def test_probabilities_agree_with_an_unpenalised_logistic_regression():
    scores, labels = _scores()
    ours = calibrate(scores, labels, torch.arange(800) % 5)
    theirs = LogisticRegression(C=1e10, tol=1e-10).fit(scores[:, None].numpy(), labels.numpy())
    assert ours.slope == pytest.approx(theirs.coef_[0, 0], rel=0.05)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=0.05)


def test_probabilities_come_true_as_often_as_they_say():
    scores, labels = _scores(n=4000)
    probability = calibrate(scores, labels, torch.arange(8000) % 5).probability(scores)
    for low in (0.1, 0.3, 0.5, 0.7):
        bucket = (probability >= low) & (probability < low + 0.2)
        assert labels[bucket].double().mean().item() == pytest.approx(low + 0.1, abs=0.06)


def test_the_brier_score_is_low_for_clear_scores_and_a_coins_for_noise():
    clear, labels = _scores(separation=8.0)
    noise, _ = _scores(separation=0.0)
    groups = torch.arange(800) % 5
    assert calibrate(clear, labels, groups).brier < 0.01
    assert calibrate(noise, labels, groups).brier == pytest.approx(0.25, abs=0.01)


def test_separable_scores_keep_a_finite_slope():
    labels = torch.arange(20) < 10
    result = calibrate(torch.where(labels, 1.0, -1.0), labels, torch.arange(20) % 5)
    assert math.isfinite(result.slope)
    assert 0.8 < float(result.probability(torch.tensor(1.0))) < 1


def test_clear_scores_of_many_examples_are_not_held_within_what_ten_could_say():
    scores, labels = _scores(n=10, separation=12.0)
    probability = calibrate(scores, labels, torch.arange(20) % 5).probability(torch.tensor([6.0, -6.0]))
    assert probability[0] > 1 - 1 / 12 + 0.05  # smoothed targets: at most about 11 / 12
    assert probability[1] < 1 / 12 - 0.05


def test_the_ridge_leaves_new_examples_no_worse_than_the_best_slope_would():
    new, truth = _scores(n=4000, separation=3.0, seed=99)
    best = torch.nn.functional.binary_cross_entropy_with_logits(3.0 * new, truth.double())
    losses = []
    for seed in range(20):
        scores, labels = _scores(n=30, separation=3.0, seed=seed)
        found = calibrate(scores, labels, torch.arange(60) % 5)
        logits = found.slope * new + found.intercept
        losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.double()))
    assert torch.stack(losses).mean() < 1.08 * best


@pytest.mark.parametrize("n_neg", [40, 160])
def test_brier_skill_is_the_share_of_the_base_rates_error_that_is_saved(n_neg):
    labels = torch.arange(40 + n_neg) < 40
    groups = torch.arange(40 + n_neg) % 5
    rate = 40 / (40 + n_neg)
    noise = torch.randn(40 + n_neg, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    empty, clear = calibrate(noise, labels, groups), calibrate(noise + 20 * labels, labels, groups)
    assert empty.brier_skill == pytest.approx(1 - empty.brier / (rate * (1 - rate)))
    assert -0.1 < empty.brier_skill < 0.05
    assert clear.brier_skill > 0.97


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e12])
def test_an_offset_of_all_scores_leaves_the_probabilities(offset):
    scores, labels = _scores(n=50)
    groups = torch.arange(100) % 5
    near, far = calibrate(scores, labels, groups), calibrate(scores + offset, labels, groups)
    assert torch.allclose(near.probability(scores), far.probability(scores + offset), atol=1e-3)


def test_a_calibration_moves_to_other_units():
    calibration = Calibration(slope=3.0, intercept=-1.0, brier=0.1, brier_skill=0.6)
    raw = torch.tensor([-4.0, 0.0, 10.0])
    assert torch.allclose(calibration.per_unit(5.0).probability(raw), calibration.probability(raw / 5.0))


def test_a_single_group_has_nothing_to_hold_out_and_gives_the_error_of_the_fit():
    scores, labels = _scores(separation=2.0)
    result = calibrate(scores, labels, torch.zeros(len(scores), dtype=torch.long))
    error = ((result.probability(scores.double()) - labels.double()) ** 2).mean()
    assert result.brier == pytest.approx(float(error), abs=1e-6)


def test_one_class_cannot_be_calibrated():
    with pytest.raises(ValueError, match="both classes"):
        calibrate(torch.ones(4), torch.ones(4, dtype=torch.bool), torch.arange(4))
