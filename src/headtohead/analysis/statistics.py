"""Statistics of runs. The unit is the training run, never the test example.

`differences`, (seeds,), are those of two arms that share their seeds, in the metric's own unit.
"""

import math
from bisect import bisect_left
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

# Up to this number of pairs every pattern of signs is tried; with more, 2**EXACT_PAIRS patterns are drawn at random.
EXACT_PAIRS = 16
# The most further seeds that the report advises.
MOST_SEEDS = 1000


class Interval(NamedTuple):
    """A mean with the bounds of its confidence interval; NaN bounds where there is none."""

    mean: float
    lower: float
    upper: float

    @property
    def half_width(self) -> float:
        return self.upper - self.mean


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return Student's t interval for the mean of `values`, (seeds,); NaN bounds for fewer than two values.

    For paired differences it is the paired t interval.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * _standard_error(values)
    return Interval(mean, mean - half, mean + half)


def best_learning_rates(search: pd.DataFrame) -> dict[str, float]:
    """Return each arm's learning rate of the highest mean validation accuracy over the seeds of the search.

    Ties go to the lower validation NLL, then to the lower rate. Failed runs do not count. Diverged runs count at
    chance level.

    Args:
        search: Rows of results.csv.
    """
    finished = search.loc[search.status != "failed"]
    if finished.empty:
        return {}
    means = finished.groupby(["arm", "lr"])[["val_accuracy", "val_nll"]].mean().reset_index()
    ranked = means.sort_values(["val_accuracy", "val_nll", "lr"], ascending=[False, True, True])
    return ranked.groupby("arm").lr.first().to_dict()


def target_accuracy(search: pd.DataFrame, share: float = 0.95) -> float:
    """Return the validation accuracy to reach: a share of the best mean over seeds among all arms and rates.

    Args:
        search: Rows of results.csv for the search or, without one, for all runs.
    """
    return float(share * search.groupby(["arm", "lr"]).val_accuracy.mean().max())


def sign_flip_p(differences: ArrayLike) -> float:
    """Return the two-sided p-value of a mean difference of zero, by flipping the signs of pairs (Fisher, 1935).

    If the arms do not differ, each difference is as likely as its negative. p is the share of sign patterns whose
    mean is at least as far from zero as the observed one. Up to EXACT_PAIRS pairs it counts all patterns and is
    exact. With more pairs it counts 2**EXACT_PAIRS patterns drawn with a fixed seed; the observed pattern is one of
    them, which keeps the test valid (Phipson and Smyth, 2010).
    """
    differences = np.asarray(differences, dtype=float)
    # Sums that differ by rounding alone are ties.
    slack = 1e-12 * np.abs(differences).sum()
    return float(np.mean(np.abs(_signs(len(differences)) @ differences) >= np.abs(differences.sum()) - slack))


def smallest_sign_flip_p(pairs: int) -> float:
    """Return the lowest p-value that `pairs` pairs can reach: 2 / 2**pairs, as all signs agree or all disagree."""
    return min(1.0, 2.0 ** (1 - min(pairs, EXACT_PAIRS + 1)))


@cache
def _signs(pairs: int) -> np.ndarray:
    """Return sign patterns, (patterns, pairs); the first one flips nothing."""
    if pairs <= EXACT_PAIRS:
        return (1 - 2 * ((np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1)).astype(np.int8)
    signs = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(2**EXACT_PAIRS, pairs))
    signs[0] = 1
    return signs


def equivalence_p(differences: ArrayLike, margin: float) -> float:
    """Return the p-value of a mean difference outside (-margin, margin): two one-sided paired t tests.

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


def holm(p_values: ArrayLike) -> np.ndarray:
    """Correct the p-values of a family of tests by Holm (1979); NaN are no tests and stay NaN."""
    corrected = np.array(p_values, dtype=float)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = multipletests(corrected[tested], method="holm")[1]
    return corrected


def minimum_detectable_difference(differences: ArrayLike, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the true difference that a two-sided paired t test at level `alpha` detects with probability `power`.

    Spread and number are those of the observed differences. NaN for fewer than two pairs.
    """
    differences = np.asarray(differences, dtype=float)
    if len(differences) < 2:
        return math.nan
    return float(_detectable_effect(len(differences), alpha, power) * differences.std(ddof=1))


@cache
def _detectable_effect(pairs: int, alpha: float, power: float) -> float:
    # The far tail adds nothing at usual powers, and makes the solver fail for large effects.
    return float(TTestPower().solve_power(nobs=pairs, alpha=alpha / 2, power=power, alternative="larger"))


def more_seeds(differences: ArrayLike, margin: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Estimate how many more pairs would decide, if the observed mean and spread are the true ones.

    A pair of arms is decided when the difference is detected, or the arms are shown equivalent within `margin`, with
    probability `power` at level `alpha`. None where more than MOST_SEEDS would be needed, or where fewer than two
    pairs give no spread.
    """
    differences = np.asarray(differences, dtype=float)
    have = len(differences)
    if have < 2:
        return None
    mean, deviation = abs(differences.mean()), max(differences.std(ddof=1), 1e-9 * margin)
    # Larger effects are as certain, and the noncentral t distribution fails for them.
    effect = min(mean / deviation, 10.0)

    def decided(pairs: int) -> float:
        probability = _power_of_equivalence(mean, deviation, margin, pairs, alpha)
        if smallest_sign_flip_p(pairs) <= alpha:
            detection = TTestPower().power(effect, pairs, alpha / 2, alternative="larger")
            probability = max(probability, float(detection))
        return probability

    candidates = range(have + 1, have + MOST_SEEDS + 1)
    index = bisect_left(candidates, power, key=decided)
    return index + 1 if index < len(candidates) else None


def _power_of_equivalence(mean: float, deviation: float, margin: float, pairs: int, alpha: float) -> float:
    """Return the power of the two one-sided tests where the true difference is `mean`, by shifted central t."""
    error = deviation / math.sqrt(pairs)
    critical = stats.t.isf(alpha, pairs - 1)
    near, far = stats.t.cdf([(margin - mean) / error - critical, (margin + mean) / error - critical], pairs - 1)
    return max(near + far - 1, 0.0)


def first_reach(times: ArrayLike, values: ArrayLike, target: float) -> float:
    """Return the time at which a run's values first reach `target`; infinity if they never do.

    Args:
        times: Times of the logged points, (points,), in steps or epochs, ascending.
        values: Values at these points, (points,); NaN where not measured.
    """
    reached = np.asarray(times)[np.asarray(values) >= target]
    return float(reached[0]) if len(reached) else math.inf


def restricted_times(times: ArrayLike, horizon: float) -> np.ndarray:
    """Return times to an event, (runs,), with those beyond the horizon at the horizon.

    Every run is watched up to the same horizon. The mean of these times is then the restricted mean survival time,
    the area under the Kaplan-Meier curve up to the horizon (Royston and Parmar, 2013).
    """
    return np.minimum(times, horizon)


def learning_rate_sensitivity(nll: ArrayLike, num_classes: int) -> np.ndarray:
    """Return the mean over the grid of min(NLL, ln K) minus its minimum, in nats (Wortsman et al., 2023).

    It is the cost of a badly chosen learning rate. 0 means the same loss at every rate.

    Args:
        nll: Normalised validation NLL, (..., learning rates).
    """
    capped = np.minimum(nll, math.log(num_classes))
    return capped.mean(-1) - capped.min(-1)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
