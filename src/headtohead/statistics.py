"""Statistics of runs. The unit is the training run, never the test example."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Interval(NamedTuple):
    """A mean with the bounds of its confidence interval."""

    mean: float
    lower: float
    upper: float

    @property
    def half_width(self) -> float:
        return self.upper - self.mean


def t_interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of `values`, (seeds,); NaN bounds for fewer than two."""
    values = np.asarray(values, dtype=float)
    mean = values.mean() if len(values) else np.nan
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
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
