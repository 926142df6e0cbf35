"""Statistics against closed forms, other people's implementations, enumeration by hand, and simulation."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import run
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight

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
    chance, rates = math.log(10), [0.01, 0.1, 1.0]
    nll = np.array([[0.2, 0.1, 0.3], [0.1, 50.0, chance], [0.4, 0.4, 0.4], [0.4, math.nan, 0.4]])
    # Trapezoids between the rates: the middle one counts twice as much as either end.
    expected = [(0.2 + 2 * 0.1 + 0.3) / 4 - 0.1, (0.1 + 3 * chance) / 4 - 0.1, 0, math.nan]
    np.testing.assert_allclose(learning_rate_sensitivity(rates, nll, 10, 0.1, 1.0), expected, atol=1e-12)
    # Half a decade on each side ends between the rates.
    narrow = learning_rate_sensitivity(rates, nll[0], 10, 0.1, 0.5)
    assert narrow == pytest.approx((0.15 + 2 * 0.1 + 0.2) / 4 - 0.1)


def test_arms_that_are_the_same_but_for_a_scale_are_as_sensitive(config):
    """By SGD the mean over K classes is the sum at K times the rate."""
    rates = 0.01 * 3.0 ** np.arange(11)
    nll = {}
    for head in ("sigmoid", "sigmoid_mean"):
        made = config("dataset=iris", "model=linear", f"head={head}", "training.epochs=8", "precision=float64")
        runs = [replace(made, optimizer=replace(made.optimizer, lr=float(rate))) for rate in rates]
        nll[head] = np.array([outcome.metrics["val_nll"] for outcome in run(runs)[1]])
    place = int(nll["sigmoid"].argmin())
    assert nll["sigmoid_mean"].argmin() == place + 1
    half_width = min(place, len(rates) - 2 - place) * math.log10(3)
    assert half_width > 0
    ours = [
        learning_rate_sensitivity(rates, nll[head], 3, rates[centre], half_width)
        for head, centre in (("sigmoid", place), ("sigmoid_mean", place + 1))
    ]
    assert ours[0] == pytest.approx(ours[1]) and ours[0] > 0.01


def test_the_target_is_that_of_the_best_arm():
    rows = [("a", 0.1, 0, 0.6), ("a", 0.1, 0, 0.8), ("a", 1.0, 0, 0.1), ("b", 0.1, 1, 0.9), ("b", 0.1, 1, 0.3)]
    rows += [("b", 0.1, 2, 0.65)]
    table = pd.DataFrame(rows, columns=["arm", "lr", "trial", "val_accuracy"])
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
