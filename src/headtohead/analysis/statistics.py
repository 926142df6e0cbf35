"""Statistics of runs. The unit is the training run, never the test example.

Differences, (seeds,), are of two arms that share their seeds, in the metric's own unit.
"""

import math
from bisect import bisect_left
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

# Up to so many pairs every pattern of signs is tried; beyond, as many patterns are drawn at random.
EXACT_PAIRS = 16
# More seeds than this are no advice.
HOPELESS = 1000


class Interval(NamedTuple):
    """A mean with the bounds of its confidence interval."""

    mean: float
    lower: float
    upper: float

    @property
    def half_width(self) -> float:
        return self.upper - self.mean


def t_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of `values`, (seeds,); NaN bounds for fewer than two.

    Of differences it is the paired t interval of two arms.
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean() if len(values) else np.nan
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * _standard_error(values)
    return Interval(mean, mean - half, mean + half)


def best_learning_rates(search: pd.DataFrame) -> dict[str, float]:
    """Each arm's learning rate of the highest mean validation accuracy over the seeds of the search.

    Ties go to the lower validation NLL, then to the lower rate. Failed runs do not count; diverged runs
    count as a guess.

    Args:
        search: rows of results.csv.
    """
    finished = search[search.status != "failed"]
    if finished.empty:
        return {}
    means = finished.groupby(["arm", "lr"])[["val_accuracy", "val_nll"]].mean().reset_index()
    ranked = means.sort_values(["val_accuracy", "val_nll", "lr"], ascending=[False, True, True])
    return ranked.groupby("arm").lr.first().to_dict()


def target_accuracy(search: pd.DataFrame, share: float = 0.95) -> float:
    """The validation accuracy that runs race to: a share of the best mean over seeds of any arm at any rate.

    Args:
        search: rows of results.csv, of the search or, without one, of all runs.
    """
    return float(share * search.groupby(["arm", "lr"]).val_accuracy.mean().max())


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p-value that the mean difference is zero, by flipping the signs of pairs (Fisher, 1935).

    If the arms do not differ, each difference is as likely as its negative. p is the share of sign patterns
    whose mean lies at least as far from zero as the observed one: of all patterns up to EXACT_PAIRS pairs,
    so that it is exact, and beyond of 2**EXACT_PAIRS patterns drawn with a fixed seed, the observed one
    included, which keeps the test valid (Phipson and Smyth, 2010).
    """
    differences = np.asarray(differences, dtype=float)
    # Sums that differ by rounding alone are ties.
    slack = 1e-12 * np.abs(differences).sum()
    return float(np.mean(np.abs(_signs(len(differences)) @ differences) >= np.abs(differences.sum()) - slack))


def smallest_sign_flip_p(pairs: int) -> float:
    """The lowest p-value that so many pairs can reach: 2 / 2**pairs, as all signs agree or all disagree."""
    return min(1.0, 2.0 ** (1 - min(pairs, EXACT_PAIRS + 1)))


@cache
def _signs(pairs: int) -> np.ndarray:
    """Sign patterns, (patterns, pairs); the first is that of the data."""
    if pairs <= EXACT_PAIRS:
        return (1 - 2 * ((np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1)).astype(np.int8)
    signs = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(2**EXACT_PAIRS, pairs))
    signs[0] = 1
    return signs


def equivalence_p(differences: np.ndarray, margin: float) -> float:
    """p-value that the mean difference lies outside (-margin, margin): two one-sided paired t tests.

    Below 0.05 the arms are equivalent (Schuirmann, 1987). NaN for fewer than two pairs.
    """
    differences = np.asarray(differences, dtype=float)
    if len(differences) < 2:
        return math.nan
    room, error = margin - abs(differences.mean()), _standard_error(differences)
    if error == 0:
        return float(room <= 0)
    # The larger of the two p-values is that of the nearer bound.
    return float(stats.t.sf(room / error, len(differences) - 1))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) corrected p-values of a family of tests; NaN are no tests and stay NaN."""
    corrected = np.array(p_values, dtype=float)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = multipletests(corrected[tested], method="holm")[1]
    return corrected


def minimum_detectable_difference(differences: np.ndarray, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided paired t test at level `alpha` finds with probability `power`.

    It takes the spread and the number of the observed differences; NaN for fewer than two pairs.
    """
    differences = np.asarray(differences, dtype=float)
    if len(differences) < 2:
        return math.nan
    return float(_detectable_effect(len(differences), alpha, power) * differences.std(ddof=1))


@cache
def _detectable_effect(pairs: int, alpha: float, power: float) -> float:
    # The far tail adds nothing at a power that anyone asks for, and makes the solver fail for large effects.
    return float(TTestPower().solve_power(nobs=pairs, alpha=alpha / 2, power=power, alternative="larger"))


def more_seeds(differences: np.ndarray, margin: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """About how many more pairs would decide, if the observed mean and spread are the true ones.

    That is, until the difference is found, or the arms are shown equivalent within `margin`, with probability
    `power` at level `alpha`, whichever comes first. None where more than HOPELESS would be needed, or where
    fewer than two pairs say nothing of the spread.
    """
    differences = np.asarray(differences, dtype=float)
    have = len(differences)
    if have < 2:
        return None
    mean, deviation = abs(differences.mean()), max(differences.std(ddof=1), 1e-9 * margin)
    # A larger effect is as certain, and beyond the reach of the noncentral t distribution.
    effect = min(mean / deviation, 10.0)

    def decided(pairs: int) -> float:
        reach = _power_of_equivalence(mean, deviation, margin, pairs, alpha)
        if smallest_sign_flip_p(pairs) <= alpha:
            detection = TTestPower().power(effect, pairs, alpha / 2, alternative="larger")
            reach = max(reach, float(detection))
        return reach

    candidates = range(have + 1, have + HOPELESS + 1)
    index = bisect_left(candidates, power, key=decided)
    return index + 1 if index < len(candidates) else None


def _power_of_equivalence(mean: float, deviation: float, margin: float, pairs: int, alpha: float) -> float:
    """Power of the two one-sided tests where the true difference is `mean`, by shifted central t."""
    error = deviation / math.sqrt(pairs)
    critical = stats.t.isf(alpha, pairs - 1)
    near, far = stats.t.cdf([(margin - mean) / error - critical, (margin + mean) / error - critical], pairs - 1)
    return max(near + far - 1, 0.0)


def first_reach(times: np.ndarray, values: np.ndarray, target: float) -> float:
    """When a run's logged `values`, (points,), first reach `target`; infinity if they never do.

    Args:
        times: of the points, (points,), in steps or epochs, ascending.
        values: NaN where not measured.
    """
    reached = np.asarray(times)[np.asarray(values) >= target]
    return float(reached[0]) if len(reached) else math.inf


def restricted_times(times: np.ndarray, horizon: float) -> np.ndarray:
    """Times to an event, (runs,), of which those beyond the horizon count at the horizon, not as missing.

    As every run is watched up to the same horizon, their mean is the restricted mean survival time, the area
    under the Kaplan-Meier curve up to the horizon (Royston and Parmar, 2013).
    """
    return np.minimum(times, horizon)


def learning_rate_sensitivity(nll: np.ndarray, num_classes: int) -> np.ndarray:
    """Mean over the grid of min(NLL, ln K) minus the best: what a badly chosen learning rate costs, in nats.

    0 is an arm that does as well at every learning rate (compare Wortsman et al., 2023, whose measure it is).

    Args:
        nll: normalised validation NLL, (..., learning rates).
    """
    capped = np.minimum(nll, math.log(num_classes))
    return capped.mean(-1) - capped.min(-1)


def _standard_error(values: np.ndarray) -> float:
    return values.std(ddof=1) / math.sqrt(len(values))
