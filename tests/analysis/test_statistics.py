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
    best_learning_rates,
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
    rates = 0.01 * 3.0 ** np.arange(9)
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
    rows = [("a", 0.1, 0.6), ("a", 0.1, 0.8), ("a", 1.0, 0.1), ("b", 0.1, 0.9), ("b", 0.1, 0.3)]
    table = pd.DataFrame(rows, columns=["arm", "lr", "val_accuracy"])
    assert target_accuracy(table) == pytest.approx(0.95 * 0.7)


def search(values: dict[float, list[tuple[float, float]]], **more: object) -> pd.DataFrame:
    """Return the search of one arm from the accuracy and NLL of each seed at each rate."""
    rows = [(lr, seed, *both) for lr, runs in values.items() for seed, both in enumerate(runs)]
    table = pd.DataFrame(rows, columns=["lr", "seed", "val_accuracy", "val_nll"])
    return table.assign(arm="a", status="finished", **more)


def test_of_rates_within_a_standard_error_of_the_best_accuracy_the_lower_nll_wins():
    # The best mean is 0.9 with a standard error of 0.02, so that 0.885 is near it and 0.875 is not.
    best = [(0.88, 0.5), (0.92, 0.5)]
    table = search({0.1: best, 0.3: [(0.885, 0.4)] * 2, 1.0: [(0.875, 0.1)] * 2})
    assert best_learning_rates(table) == {"a": 0.3}
    # Without spread, as with one seed, the best accuracy alone counts.
    assert best_learning_rates(table[table.seed == 1]) == {"a": 0.1}
    # Equal in both: the lower rate.
    assert best_learning_rates(search({0.3: best, 0.1: best, 1.0: best})) == {"a": 0.1}
    # NLL has no such rule.
    table = search({0.1: [(0.9, 0.1), (0.9, 0.9)], 0.3: [(0.9, 0.49), (0.9, 0.49)], 0.05: [(0.9, 0.49)] * 2})
    assert best_learning_rates(table, "val_nll") == {"a": 0.05}


def test_a_seed_with_several_runs_counts_once():
    # Seed 1 has three runs at 0.1. The mean of runs favours that rate, the mean of seeds the other.
    table = search({0.1: [(0.5, 1.0), (0.9, 0.4)], 0.3: [(0.72, 0.6), (0.72, 0.6)]})
    again = table[(table.lr == 0.1) & (table.seed == 1)]
    table = pd.concat([table, again, again])
    assert table.groupby("lr")[["val_accuracy", "val_nll"]].mean().val_nll.idxmin() == 0.1
    assert best_learning_rates(table, "val_nll") == {"a": 0.3}


def test_diverged_runs_count_as_a_guess_and_failed_ones_not_at_all():
    chance = math.log(10)
    table = search({0.1: [(0.8, 0.6), (0.8, 0.6)], 0.3: [(0.9, 0.3), (0.9, 0.3)]})
    second = (table.lr == 0.3) & (table.seed == 1)
    failed = table.assign(status=np.where(second, "failed", "finished"), val_accuracy=table.val_accuracy.mask(second))
    assert best_learning_rates(failed) == {"a": 0.3}
    diverged = table.assign(
        status=np.where(second, "diverged", "finished"),
        val_accuracy=table.val_accuracy.mask(second, 0.1),
        val_nll=table.val_nll.mask(second, chance),
    )
    for criterion in ("val_accuracy", "val_nll"):
        assert best_learning_rates(diverged, criterion) == {"a": 0.1}
    # Worse than a guess, but trained; and a metric that a guess has not.
    hopeless = search({0.1: [(0.1, 5.0)] * 2, 0.3: [(0.1, chance)] * 2}, val_aurc=[0.5, 0.5, math.nan, math.nan])
    hopeless["status"] = np.where(hopeless.lr == 0.3, "diverged", "finished")
    for criterion in ("val_accuracy", "val_nll", "val_aurc"):
        assert best_learning_rates(hopeless, criterion) == {"a": 0.1}
    assert best_learning_rates(hopeless, "val_charm") == {}


def accuracies(rng: np.random.Generator, pairs: int) -> np.ndarray:
    """Draw differences of two arms' test accuracies: seeds vary, and 360 test examples add noise."""
    chance = np.clip(rng.normal(0.95, 0.01, pairs), 0, 1)
    return (rng.binomial(360, chance) - rng.binomial(360, chance)) / 360


@pytest.mark.parametrize("pairs", [5, 10, 20])
@pytest.mark.parametrize("noise", [np.random.Generator.standard_normal, accuracies])
def test_intervals_cover(rng, noise, pairs):
    intervals = [t_interval(noise(rng, pairs)) for _ in range(3000)]
    assert np.mean([interval.lower <= 0 <= interval.upper for interval in intervals]) == pytest.approx(0.95, abs=0.015)
