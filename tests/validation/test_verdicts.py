"""A verdict's rate of false alarms is what it says, for responses of every length."""

import math

import pytest
import torch

from traitlens.validation.verdicts import (
    LengthScale,
    Reference,
    ResponseThresholds,
    fit_length_scale,
    holm,
    measure_against_neutral,
)


def means_of(lengths, generator, *, centre=-1.0, between=0.3, within=4.0):
    """Mean scores of neutral responses of these lengths: [n]."""
    spread = (between + within / lengths).sqrt()
    return centre + spread * torch.randn(len(lengths), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("n", "rate", "rank"), [(19, 0.05, 1), (40, 0.05, 2), (99, 0.01, 1), (250, 0.01, 2)])
def test_a_threshold_is_the_order_statistic_that_makes_the_rate_exact(n, rate, rank):
    values = torch.randperm(n, generator=torch.Generator().manual_seed(0)).double()
    assert Reference.of(values).threshold(rate) == n - rank


@pytest.mark.parametrize(("n", "rate"), [(18, 0.05), (98, 0.01), (0, 0.05)])
def test_too_few_responses_have_no_threshold(n, rate):
    assert Reference.of(torch.arange(n).double()).threshold(rate) is None


def test_p_values_and_thresholds_are_one_thing_said_twice():
    reference = Reference.of(torch.randn(240, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    for rate in (0.01, 0.05, 0.1):
        threshold = reference.threshold(rate)
        assert reference.p_value(threshold + 1e-9) <= rate < reference.p_value(threshold)


def test_p_values_among_the_lower_nine_tenths_err_on_the_safe_side():
    values = torch.randn(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reference = Reference.of(values)
    for x in torch.linspace(-3, 3, 50, dtype=torch.float64):
        exact = (1 + int((values >= x).sum())) / 201
        assert exact - 0.006 <= reference.p_value(float(x)) <= exact + 0.11


def test_one_in_twenty_new_neutral_responses_is_flagged_whatever_their_length():
    generator = torch.Generator().manual_seed(3)
    flagged = dict.fromkeys((6, 40, 300), 0.0)
    plain = dict.fromkeys(flagged, 0.0)
    for _ in range(200):
        lengths = torch.randint(4, 400, (200,), generator=generator).double()
        means = means_of(lengths, generator)
        scale = fit_length_scale(means, lengths)
        threshold = Reference.of(scale.statistic(means, lengths)).threshold(0.05)
        plain_threshold = Reference.of(means).threshold(0.05)
        for length in flagged:
            new = torch.full((50,), float(length), dtype=torch.float64)
            fresh = means_of(new, generator)
            flagged[length] += float((scale.statistic(fresh, new) > threshold).double().mean()) / 200
            plain[length] += float((fresh > plain_threshold).double().mean()) / 200
    assert all(0.035 < rate < 0.065 for rate in flagged.values()), flagged
    assert plain[6] > 0.1 > 2 * plain[300]  # what length does to a threshold on the plain mean


def test_the_length_scale_finds_what_the_scores_were_made_with():
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(4, 300, (4000,), generator=generator).double()
    found = fit_length_scale(means_of(lengths, generator, between=0.5, within=8.0), lengths)
    assert found.centre == pytest.approx(-1.0, abs=0.05)
    assert found.between == pytest.approx(0.5, rel=0.15)
    assert found.within / found.between == 16.0


def test_a_scale_of_other_units_gives_the_same_statistics():
    scale = LengthScale(0.2, 0.3, 2.0)
    means, lengths = torch.tensor([0.1, 1.0]), torch.tensor([5.0, 50.0])
    assert torch.allclose(scale.per_unit(7.0).statistic(7 * means, lengths), scale.statistic(means, lengths))


def thresholds(everyday=200, negative=120, shift=0.0, seed=5):
    generator = torch.Generator().manual_seed(seed)
    kinds = {
        "everyday": Reference.of(torch.randn(everyday, generator=generator, dtype=torch.float64)),
        "negative": Reference.of(torch.randn(negative, generator=generator, dtype=torch.float64) + shift),
    }
    return ResponseThresholds(LengthScale(0.0, 1.0, 0.0), kinds, ("everyday",))


def test_expressed_is_unlike_every_kind_and_unlike_neutral_text_is_told_apart():
    verdict = thresholds(shift=5.0).verdict(torch.full((20,), 4.0))
    assert verdict.p_neutral == pytest.approx(1 / 201)
    assert verdict.p_value > 0.5
    assert (verdict.expressed, verdict.expressed_1) == (False, False)
    verdict = thresholds(shift=-5.0).verdict(torch.full((20,), 4.0))
    assert (verdict.expressed, verdict.expressed_1) == (True, True)
    assert verdict.p_value == pytest.approx(1 / 121)


def test_what_cannot_be_said_is_none():
    verdict = thresholds(negative=50).verdict(torch.full((20,), 9.0))
    assert (verdict.expressed, verdict.expressed_1) == (True, None)
    verdict = thresholds(negative=10).verdict(torch.full((20,), 9.0))
    assert (verdict.expressed, verdict.expressed_1) == (None, None)
    assert thresholds().verdict(torch.tensor([])) is None
    assert thresholds().verdict(torch.tensor([1.0, math.nan])) is None


def test_neutral_kinds_count_together():
    reference = Reference.of(torch.arange(99.0))
    both = ResponseThresholds(
        LengthScale(0.0, 1.0, 0.0), {"everyday": reference, "neutral": reference}, ("everyday", "neutral")
    )
    assert both.verdict(torch.tensor([98.5])).p_neutral == pytest.approx(1 / 199)


def test_figures_against_neutral_text_are_what_counting_says():
    neutral = torch.arange(200.0, dtype=torch.float64) / 100  # 0 to 1.99
    positive = torch.tensor([1.0, 1.95, 1.985, 3.0], dtype=torch.float64)
    held = ResponseThresholds(LengthScale(0.0, 1.0, 0.0), {"everyday": Reference.of(neutral)}, ("everyday",))
    found = measure_against_neutral(held, positive, neutral, torch.arange(4))
    assert (found.recall_5, found.recall_1) == (0.75, 0.5)  # above 1.90, above 1.98
    assert (found.expressed_5, found.expressed_1) == (0.75, 0.5)
    assert found.auroc.value == pytest.approx((100.5 + 195.5 + 199 + 200) / 800)
    assert found.n_neutral == 200


def test_holm_keeps_the_family_at_its_rate():
    generator = torch.Generator().manual_seed(6)
    false = alone = 0
    for _ in range(2000):
        p_values = {str(i): float(p) for i, p in enumerate(torch.rand(8, generator=generator))}
        false += bool(holm(p_values))
        alone += any(p <= 0.05 for p in p_values.values())
    assert false / 2000 < 0.065
    assert 0.3 < alone / 2000 < 0.38  # eight verdicts at 5 % each
