"""Statistics against closed forms, other people's implementations, enumeration by hand, and simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from headtohead.analysis.statistics import (
    first_reach,
    learning_rate_sensitivity,
    restricted_times,
    t_interval,
    target_accuracy,
)

# Of the size and the resolution that metrics have.
DIFFERENCES = arrays(float, st.integers(2, 12), elements=st.integers(-1000, 1000).map(lambda number: number / 1000))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_interval_of_differences_is_that_of_the_paired_t_test(rng):
    first, second = rng.normal(size=(2, 10))
    interval = t_interval(first - second)
    oracle = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert interval == pytest.approx((np.mean(first - second), oracle.low, oracle.high))


def test_time_to_target_counts_those_who_never_arrive(rng):
    steps, accuracy = np.array([0, 10, 20, 30]), np.array([0.1, math.nan, 0.8, 0.9])
    assert first_reach(steps, accuracy, 0.1) == 0
    assert first_reach(steps, accuracy, 0.75) == 20
    assert first_reach(steps, accuracy, 0.95) == math.inf
    times = np.array([3.0, 8.0, math.inf, 5.0, math.inf])
    restricted = restricted_times(times, 10.0)
    assert restricted.tolist() == [3, 8, 10, 5, 10]
    # The mean is the area under the Kaplan-Meier curve up to the horizon.
    curve = SurvfuncRight(restricted, np.isfinite(times))
    area = np.sum(np.diff([0, *curve.surv_times, 10.0]) * [1, *curve.surv_prob])
    assert restricted.mean() == pytest.approx(area)


def test_learning_rate_sensitivity():
    chance = math.log(10)
    nll = np.array([[0.2, 0.1, 0.3], [0.1, 50.0, chance], [0.4, 0.4, 0.4]])
    expected = [0.1, (2 * chance + 0.1) / 3 - 0.1, 0]
    np.testing.assert_allclose(learning_rate_sensitivity(nll, 10), expected, atol=1e-12)


def test_the_target_is_that_of_the_best_arm():
    rows = [("a", 0.1, 0.6), ("a", 0.1, 0.8), ("a", 1.0, 0.1), ("b", 0.1, 0.9), ("b", 0.1, 0.3)]
    table = pd.DataFrame(rows, columns=["arm", "lr", "val_accuracy"])
    assert target_accuracy(table) == pytest.approx(0.95 * 0.7)


def accuracies(rng: np.random.Generator, pairs: int) -> np.ndarray:
    """Draw differences of two arms' test accuracies: seeds vary, and 360 test examples add noise."""
    chance = np.clip(rng.normal(0.95, 0.01, pairs), 0, 1)
    return (rng.binomial(360, chance) - rng.binomial(360, chance)) / 360


@pytest.mark.parametrize("pairs", [5, 10, 20])
@pytest.mark.parametrize("noise", [np.random.Generator.standard_normal, accuracies])
def test_intervals_cover(rng, noise, pairs):
    intervals = [t_interval(noise(rng, pairs)) for _ in range(3000)]
    assert np.mean([interval.lower <= 0 <= interval.upper for interval in intervals]) == pytest.approx(0.95, abs=0.015)
