"""Estimates against scipy, statsmodels, closed forms and simulations whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from headtohead.analysis.estimates import Crossed, Shares, floor_of_shares, matched_pairs_variance, weighted_holm


def test_over_seeds_it_is_the_paired_t_test():
    differences = np.random.default_rng(0).normal(0.3, 1, 9)
    ours, scipy = Crossed.over_seeds(differences), stats.ttest_1samp(differences, 0)
    assert ours.p() == pytest.approx(scipy.pvalue)
    assert ours.interval(0.9)[1:] == pytest.approx(tuple(scipy.confidence_interval(0.9)))
    margin = 0.9
    sides = [stats.ttest_1samp(differences, bound, alternative=side).pvalue
             for bound, side in ((-margin, "greater"), (margin, "less"))]  # fmt: skip
    assert ours.equivalence_p(margin) == pytest.approx(max(sides))


def made(generator, seeds, blocks, of_seeds, of_blocks, residual, mean=0.0):
    table = mean + residual * generator.normal(size=(seeds, blocks))
    return table + of_seeds * generator.normal(size=(seeds, 1)) + of_blocks * generator.normal(size=(1, blocks))


def test_variance_components_are_those_of_the_two_way_layout():
    table = made(np.random.default_rng(1), 6, 20, 1.0, 2.0, 0.5)
    ours = Crossed.over_seeds_and_blocks(table.mean(), table)
    rows, columns = table.mean(1), table.mean(0)
    within = table - rows[:, None] - columns + table.mean()
    assert ours.seed_variance == pytest.approx(rows.var(ddof=1) / 6)
    assert ours.block_variance == pytest.approx(columns.var(ddof=1) / 20)
    assert ours.residual_variance == pytest.approx((within**2).sum() / (5 * 19) / 120)
    total = ours.seed_variance + ours.block_variance - ours.residual_variance
    assert ours.variance == pytest.approx(total)
    assert ours.degrees == pytest.approx(total**2 / (ours.seed_variance**2 / 5 + ours.block_variance**2 / 19))


@pytest.mark.parametrize(
    ("of_seeds", "of_blocks", "residual"), [(1, 0, 1), (0, 1, 1), (1, 1, 1), (0, 0, 1), (0.2, 1, 0)]
)
@pytest.mark.parametrize("seeds", [3, 10, 40])
def test_crossed_intervals_cover_the_truth(seeds, of_seeds, of_blocks, residual):
    generator = np.random.default_rng(seeds)
    covered, alone = 0, 0
    for _ in range(400):
        table = made(generator, seeds, 20, of_seeds, of_blocks, residual)
        interval = Crossed.over_seeds_and_blocks(table.mean(), table).interval(0.95)
        covered += interval.lower <= 0 <= interval.upper
        interval = Crossed.over_seeds(table.mean(1)).interval(0.95)
        alone += interval.lower <= 0 <= interval.upper
    # Four standard errors below the nominal share.
    assert covered / 400 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400)
    if of_blocks and seeds == 40:
        assert alone / 400 < 0.8, "seeds alone would have done: the simulation shows nothing"


def test_power_is_that_of_the_t_test_and_of_a_simulation():
    differences = np.random.default_rng(2).normal(0.5, 1, 12)
    ours = Crossed.over_seeds(differences)
    effect = abs(differences.mean()) / differences.std(ddof=1)
    # Ours shifts the central t distribution, which is a little off the noncentral one.
    assert ours.power(0.05) == pytest.approx(TTestPower().power(effect, 12, 0.05), abs=0.03)
    assert ours.with_seeds(48).power(0.05) == pytest.approx(TTestPower().power(effect, 48, 0.05), abs=0.03)
    generator = np.random.default_rng(3)
    truth = Crossed(0.0, 20, 1, 1 / 20, 0.0, 0.0)
    shown = [Crossed.over_seeds(generator.normal(0, 1, 20)).equivalence_p(0.7) < 0.05 for _ in range(2000)]
    assert truth.power(0.05, 0.7) == pytest.approx(np.mean(shown), abs=0.05)


def test_more_seeds_and_more_examples_shrink_their_own_part_of_the_error():
    generator = np.random.default_rng(4)
    tables = [made(generator, 10, 20, 1.0, 2.0, 3.0) for _ in range(300)]
    now = [Crossed.over_seeds_and_blocks(table.mean(), table) for table in tables]
    later = [Crossed.over_seeds_and_blocks(0, made(generator, 40, 20, 1.0, 2.0, 3.0)) for _ in range(300)]
    foretold = np.mean([one.with_seeds(40).variance for one in now])
    assert foretold == pytest.approx(np.mean([one.variance for one in later]), rel=0.1)
    endless = now[0].with_seeds(10**9)
    assert endless.variance == pytest.approx(max(now[0].block_variance - now[0].residual_variance, 0), rel=1e-3)
    assert endless.with_examples(10).variance == pytest.approx(endless.variance / 10, rel=1e-3)


def test_no_variance_shows_no_equivalence():
    same = Crossed.over_seeds(np.zeros(40))
    assert same.p() == 1
    assert same.equivalence_p(0.005) == 1
    assert Crossed.over_seeds(np.full(4, 0.1)).p() == 0


def test_examples_without_discordance_have_the_error_of_agresti_and_min():
    sizes = np.full(20, 18.0)
    assert floor_of_shares(np.zeros((10, 20)), sizes) == pytest.approx(1 / 362**2)
    few = np.zeros((10, 20))
    few[:, 0], few[:, 1] = 2 / 18, -1 / 18
    assert floor_of_shares(few, sizes) == pytest.approx(matched_pairs_variance(2, 1, 360))
    assert matched_pairs_variance(2, 1, 360) == pytest.approx((4 - 1 / 362) / 362**2)
    many = np.tile([1 / 18, -1 / 18], (10, 10))
    assert floor_of_shares(many, sizes) == 0


def test_shares_of_runs_have_exact_bounds():
    none = Shares(0, 0, 40)
    assert none.p() == 1
    # One-sided, with half of the level for each of both shares.
    assert none.interval(0.95).upper == pytest.approx(1 - 0.0125 ** (1 / 40))
    assert none.equivalence_p(0.05) > 0.05
    assert Shares(0, 0, 400).equivalence_p(0.05) < 0.001
    # Where no pair is discordant, each bound is 1 - tail ** (1 / pairs).
    assert Shares(0, 0, 40).equivalence_p(0.1) == pytest.approx(2 * 0.9**40, rel=1e-9)
    some = Shares(9, 1, 40)
    assert some.mean == pytest.approx(0.2)
    assert some.p() == pytest.approx(stats.binomtest(9, 10).pvalue)
    for first, second in ((0, 0), (1, 1), (3, 20), (40, 41), (900, 1100)):
        expected = stats.binomtest(first, first + second).pvalue if first else 1
        assert Shares(first, second, 3000).p() == pytest.approx(expected)
    assert Shares(40, 0, 40).interval(0.95).upper == 1
    generator = np.random.default_rng(5)
    draws = generator.multinomial(30, [0.2, 0.1, 0.7], size=1000)
    inside = [
        (low <= 0.1 <= high) for _, low, high in (Shares(*map(int, draw[:2]), 30).interval(0.95) for draw in draws)
    ]
    assert np.mean(inside) >= 0.95
    false = [Shares(*map(int, draw[:2]), 30).equivalence_p(0.1) < 0.05 for draw in draws]
    assert np.mean(false) <= 0.05


@pytest.mark.parametrize("count", [1, 2, 7])
def test_weighted_holm_of_equal_weights_is_holm(count):
    p = np.random.default_rng(count).uniform(0, 0.1, count)
    np.testing.assert_allclose(weighted_holm(p, np.full(count, 0.3)), multipletests(p, method="holm")[1])


def test_weighted_holm_gives_a_test_its_share_and_skips_what_was_not_tested():
    corrected = weighted_holm([0.01, math.nan, 0.02, 0.5], [0.25, 0.25, 0.5, 0.25])
    # 0.02 / 0.5 is the lowest of those weighted, as is 0.01 / 0.25: both are held against the level in turn.
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.04)
    assert corrected[3] == pytest.approx(0.5)


def test_weighted_holm_keeps_its_error_rate():
    generator = np.random.default_rng(6)
    weights = [0.25, 0.25, *[0.05] * 10]
    false = [(weighted_holm(generator.uniform(size=12), weights) < 0.05).any() for _ in range(4000)]
    assert np.mean(false) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
