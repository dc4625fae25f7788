import math

import pytest

from traitlens.validation.student_t import t_quantile


# Printed tables of the distribution.
@pytest.mark.parametrize(
    ("probability", "df", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 3, 3.1824), (0.95, 10, 1.8125), (0.995, 15, 2.9467), (0.975, 120, 1.9799)],
)  # fmt: skip
def test_quantiles_are_those_of_printed_tables(probability, df, value):
    assert t_quantile(probability, df) == pytest.approx(value, abs=5e-5)
    assert t_quantile(1 - probability, df) == pytest.approx(-value, abs=5e-5)


def test_two_degrees_of_freedom_have_the_closed_form():
    for p in (0.01, 0.3, 0.6, 0.999):
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) / math.sqrt(2 * p * (1 - p)), rel=1e-10)
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("probability", "df"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_what_has_no_quantile_is_refused(probability, df):
    with pytest.raises(ValueError, match="wanted 0 < probability < 1"):
        t_quantile(probability, df)
