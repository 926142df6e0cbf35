"""Statistics of runs. `analysis/estimates.py` has those of differences between arms."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from headtohead.late import pd, special


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
    half = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2)) * standard_error(values)
    return Interval(mean, mean - half, mean + half)


def is_higher_better(metric: str) -> bool:
    """Return whether the higher value of a metric is the better one; of losses, errors and gaps it is the lower one."""
    better_high = ("accuracy", "macro_f1", "auroc", "exact_match", "decided_99")
    return metric.endswith(better_high) and not metric.startswith("gap_")


def no_better_diverged(values: pd.Series, status: pd.Series) -> pd.Series:
    """Return a metric with that of diverged runs at the worst value of a finished run, where it was better.

    Args:
        values: Metric of some runs, which the series is named after.
        status: Status of these runs.
    """
    finished = values[status == "finished"]
    bounds = {"upper": finished.min()} if is_higher_better(str(values.name)) else {"lower": finished.max()}
    return values.where(status != "diverged", values.clip(**bounds))


def target_accuracy(search: pd.DataFrame, share: float = 0.95) -> float:
    """Return the validation accuracy to reach: a share of the best mean over seeds among all arms and trials.

    Args:
        search: Rows of results.csv for the search or, without one, for all runs.
    """
    return float(share * search.groupby(["arm", "lr", "trial"]).val_accuracy.mean().max())


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


def learning_rate_sensitivity(
    rates: ArrayLike, nll: ArrayLike, num_classes: int, centre: float, half_width: float
) -> np.ndarray:
    """Return the mean of min(NLL, ln K) over a window of learning rates minus its minimum there, in nats.

    It is the cost of a badly chosen learning rate (compare Wortsman et al., 2023). 0 means the same loss at every rate.
    The mean is over the logarithm of the rate, and linear between the rates, so that it does not depend on where the
    grid lies.

    Args:
        rates: Learning rates of the grid, (learning rates,), ascending.
        nll: Normalised validation NLL, (..., learning rates).
        num_classes: K, from which the NLL of a guess follows.
        centre: Middle of the window, a rate of the grid.
        half_width: Decades from the middle to either end of the window, which must lie in the grid.
    """
    places = np.log10(np.asarray(rates, dtype=float))
    capped = np.minimum(nll, math.log(num_classes))
    ends = np.log10(centre) + np.array([-half_width, half_width])
    inside = places[(places > ends[0] + 1e-9) & (places < ends[1] - 1e-9)]
    window = np.concatenate([ends[:1], inside, ends[1:]])
    values = np.apply_along_axis(lambda curve: np.interp(window, places, curve), -1, capped)
    return np.trapezoid(values, window, axis=-1) / (2 * half_width) - values.min(-1)


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of two or more values."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))
