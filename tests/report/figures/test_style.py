"""Style that all figures share."""

import numpy as np
import pytest
from scipy import stats

from headtohead.report.figures.style import arm_style, band


def test_many_arms_differ_by_more_than_colour():
    arms = [str(i) for i in range(60)]
    looks = [arm_style(arms, arm) for arm in arms]
    assert len({tuple(map(str, look.values())) for look in looks}) == len(arms)
    first = looks[:4]
    assert len({str(look["linestyle"]) for look in first}) == len({look["marker"] for look in first}) == 4


def test_a_band_is_the_t_interval_of_the_mean():
    values = np.array([[1.0, 2.0, 4.0], [np.nan, 3.0, 5.0], [np.nan, np.nan, 7.0]])
    mean, lower, upper = band(values)
    np.testing.assert_allclose(mean, [7 / 3, 4, 7])
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[0]))
    np.testing.assert_allclose((lower[0], upper[0]), expected)
    assert np.isnan(lower[2])
    mean, _, upper = band(np.array([[1.0, 100.0]]), log=True)
    assert mean[0] == pytest.approx(10) and upper[0] > 100
