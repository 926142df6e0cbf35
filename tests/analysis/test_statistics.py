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
    MOST_SEEDS,
    equivalence_p,
    first_reach,
    holm,
    learning_rate_sensitivity,
    minimum_detectable_difference,
    more_seeds,
    restricted_times,
    sign_flip_p,
    smallest_sign_flip_p,
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


@pytest.mark.parametrize("pairs", [1, 2, 5, 8, 10])
def test_sign_flips_agree_with_scipy_and_with_enumeration(rng, pairs):
    differences = rng.normal(0.5, 1, pairs)
    means = [np.mean(np.multiply(signs, differences)) for signs in itertools.product([1, -1], repeat=pairs)]
    by_hand = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert sign_flip_p(differences) == pytest.approx(by_hand)
    if pairs > 1:
        oracle = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip_p(differences) == pytest.approx(oracle.pvalue)


def test_what_few_pairs_can_reach():
    """5 paired seeds cannot reach p < 0.05 by permutation, 8 can."""
    for pairs, smallest in {1: 1.0, 5: 0.0625, 6: 0.03125, 8: 0.0078125, 10: 0.001953125}.items():
        assert sign_flip_p(np.arange(1.0, pairs + 1)) == smallest_sign_flip_p(pairs) == smallest
    assert sign_flip_p(np.arange(1.0, 31)) == smallest_sign_flip_p(30) == 2.0**-16


def test_many_pairs_are_flipped_at_random_but_the_same_way_each_time(rng):
    differences = rng.normal(0.6, 1, 20)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    exact = np.zeros(1)
    for difference in differences:
        exact = np.concatenate([exact + difference, exact - difference])
    assert p == pytest.approx(np.mean(np.abs(exact) >= abs(differences.sum()) - 1e-9), rel=0.1)


@pytest.mark.parametrize("pairs", [0, 1, 7, 16, 17, 40])
def test_differences_of_zero_are_no_evidence(pairs):
    assert sign_flip_p(np.zeros(pairs)) == 1


def test_ties_are_ties_whatever_their_rounding():
    """0.1 + 0.2 - 0.3 is not 0 in floating point, yet every pattern lies at least as far from zero."""
    assert sign_flip_p(np.array([0.1, 0.2, -0.3])) == 1
    # |+-0.3 +-0.2 +-0.1| is 0.6, 0.4, 0.2 or 0, each twice; the observed 0.4 is also 0.3 + (0.2 - 0.1).
    assert sign_flip_p(np.array([0.3, 0.2, -0.1])) == 0.5


@settings(deadline=None, max_examples=60)
@given(DIFFERENCES, st.sampled_from([0.001, 0.3, 7.0]))
def test_swapping_arms_and_changing_units_changes_nothing(differences, unit):
    interval, swapped = t_interval(differences), t_interval(-differences)
    assert (swapped.mean, swapped.lower, swapped.upper) == pytest.approx(
        (-interval.mean, -interval.upper, -interval.lower)
    )
    assert t_interval(differences + 1).mean == pytest.approx(interval.mean + 1)
    assert t_interval(unit * differences).half_width == pytest.approx(unit * interval.half_width)
    assert sign_flip_p(differences) == sign_flip_p(-differences) == sign_flip_p(unit * differences)
    assert equivalence_p(differences, 0.2) == pytest.approx(equivalence_p(-differences, 0.2))
    assert equivalence_p(unit * differences, unit * 0.2) == pytest.approx(equivalence_p(differences, 0.2), abs=1e-9)
    detectable = minimum_detectable_difference(differences)
    assert minimum_detectable_difference(unit * differences) == pytest.approx(unit * detectable)


@settings(deadline=None, max_examples=60)
@given(DIFFERENCES)
def test_the_order_of_seeds_and_pairs_without_a_difference_do_not_matter_to_sign_flips(differences):
    assert sign_flip_p(differences[::-1]) == sign_flip_p(differences)
    assert sign_flip_p(np.append(differences, 0)) == sign_flip_p(differences)


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.1, 2.0])
def test_equivalence_agrees_with_statsmodels_and_scipy(rng, shift):
    first, second = rng.normal(size=(2, 12))
    first += shift
    ours = equivalence_p(first - second, 0.8)
    assert ours == pytest.approx(ttost_paired(first, second, -0.8, 0.8)[0])
    lower = stats.ttest_1samp(first - second, -0.8, alternative="greater").pvalue
    upper = stats.ttest_1samp(first - second, 0.8, alternative="less").pvalue
    assert ours == pytest.approx(max(lower, upper))


def test_equivalence_of_constant_differences():
    assert equivalence_p(np.full(5, 0.1), 0.2) == pytest.approx(0)
    assert equivalence_p(np.full(5, 0.25), 0.2) == pytest.approx(1)
    assert equivalence_p(np.zeros(5), 0.2) == 0
    assert math.isnan(equivalence_p(np.array([0.1]), 0.2))


def test_holm_by_hand():
    """Of four tests: 4 x 0.01, 3 x 0.015, 2 x 0.02 (raised to its predecessor), 0.3."""
    nan = math.nan
    corrected = holm([0.02, nan, 0.01, 0.3, 0.015])
    np.testing.assert_allclose(corrected, [0.045, nan, 0.04, 0.3, 0.045])
    np.testing.assert_array_equal(holm([nan, nan]), [nan, nan])
    assert len(holm([])) == 0
    assert holm([0.6, 0.9]).tolist() == [1, 1]


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 54])
@pytest.mark.parametrize("pairs", [2, 5, 10, 20])
def test_a_minimum_detectable_difference_has_its_power(rng, pairs, alpha):
    differences = rng.normal(size=pairs)
    effect = minimum_detectable_difference(differences, alpha) / differences.std(ddof=1)
    # scipy's noncentral t, of which statsmodels makes its own formula.
    critical = stats.t.isf(alpha / 2, pairs - 1)
    assert stats.nct.sf(critical, pairs - 1, effect * math.sqrt(pairs)) == pytest.approx(0.8, abs=1e-4)


def test_more_seeds_for_a_difference_is_the_power_formula(rng):
    differences = rng.normal(size=8)
    differences = 0.5 + (differences - differences.mean()) / differences.std(ddof=1)
    needed = math.ceil(TTestPower().solve_power(effect_size=0.5, alpha=0.05, power=0.8))
    assert needed == 34
    assert more_seeds(differences, margin=0.1) == needed - 8


def test_more_seeds_for_equivalence_are_few_where_the_margin_is_wide(rng):
    differences = rng.normal(size=8)
    differences = 0.1 + (differences - differences.mean()) / differences.std(ddof=1)
    more = more_seeds(differences, margin=0.8)
    # Where the number is reached, four of five repetitions show equivalence.
    draws = rng.normal(0.1, 1, size=(3000, 8 + more))
    assert np.mean([equivalence_p(draw, 0.8) < 0.05 for draw in draws]) == pytest.approx(0.8, abs=0.06)


def test_more_seeds_knows_what_sign_flips_can_reach():
    """However clear a difference, 54 tests need 12 pairs: 2 / 2**12 < 0.05 / 54."""
    assert more_seeds(np.full(10, 1.0), margin=0.1, alpha=0.05 / 54) == 2
    assert more_seeds(np.linspace(0.9, 1.1, 10), margin=0.1, alpha=0.05 / 54) == 2


def test_more_seeds_gives_up():
    assert more_seeds(np.array([1.0]), margin=0.1) is None
    assert more_seeds(np.array([1.0, -1.0, 1.0, -0.99]), margin=1e-6) is None
    just = np.array([1.0, -1.0] * 5) + 0.1
    assert more_seeds(just, margin=1e-6) < MOST_SEEDS


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


@pytest.mark.parametrize("pairs", [8, 10, 20])
def test_sign_flips_find_a_known_effect_as_often_as_the_power_formula_says(rng, pairs):
    effect = 1.0
    detected = np.mean([sign_flip_p(rng.normal(effect, 1, pairs)) < 0.05 for _ in range(800 if pairs <= 10 else 200)])
    assert detected == pytest.approx(TTestPower().power(effect, pairs, 0.05), abs=0.05)


@pytest.mark.parametrize("pairs", [8, 10])
def test_sign_flips_keep_their_level(rng, pairs):
    false = np.mean([sign_flip_p(accuracies(rng, pairs)) < 0.05 for _ in range(2000)])
    assert false <= 0.05 + 0.01
