"""The choice of each arm's learning rate in a search, by a validation metric.

Shape suffixes: R runs of an arm, L learning rates, S seeds, G blocks of examples.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headtohead.analysis.statistics import is_higher_better, standard_error

# Decides between rates that are as good by a criterion of which the higher value is better.
SECOND = "val_nll"


def best_learning_rates(search: pd.DataFrame, criterion: str = "val_accuracy") -> dict[str, float]:
    """Return each arm's best learning rate in a search, by the mean of a validation metric over seeds.

    Where the higher value is better, all rates within one standard error of the highest mean are as good, and the lower
    mean NLL decides, then the lower rate: accuracy counts examples, and its best is often shared. Of other metrics the
    lowest mean is best, then the lower rate. Failed runs do not count. Diverged runs count as a guess, and never as
    better than a finished run of the arm.

    Args:
        search: Rows of results.csv; a seed may have several.
        criterion: Column of `search`.

    Returns:
        Rates by arm; empty where no run has the criterion and the NLL.
    """
    return {arm: search.best() for arm, search in searches(search, criterion).items()}


def searches(search: pd.DataFrame, criterion: str, blocks: pd.DataFrame | None = None) -> dict[str, "ArmSearch"]:
    """Return the search of each arm that has an ended run; empty where no run has the criterion and the NLL.

    Args:
        search: Rows of results.csv.
        criterion: Column of `search`.
        blocks: `Study.blocks`, with the validation metrics of these runs on blocks of examples.
    """
    metrics = list(dict.fromkeys([criterion, SECOND]))
    ended = search.loc[search.status != "failed"]
    if ended.empty or not {*metrics} <= {*ended}:
        return {}
    by_run = None
    if blocks is not None and {*metrics} <= {*blocks}:
        by_run = blocks.set_index(["run", "block"])[["size", *metrics]].unstack("block")
    result = {}
    for arm, runs in ended.groupby("arm"):
        of_arm = None
        if by_run is not None and runs.run.isin(by_run.index).all():
            of_arm = {name: by_run.loc[runs.run, name].to_numpy(float) for name in ("size", *metrics)}
        result[str(arm)] = ArmSearch(runs, criterion, of_arm)
    return result


@dataclass(frozen=True)
class ArmSearch:
    """The search of one arm by one criterion.

    Attributes:
        runs: Rows of results.csv for its ended runs.
        criterion: Validation metric.
        blocks: Metrics of these runs on blocks, and `size`, (R, G) each; None where they were not recorded.
    """

    runs: pd.DataFrame
    criterion: str
    blocks: Mapping[str, np.ndarray] | None = None

    def best(self) -> float:
        """Return the best learning rate by all validation examples."""
        return self._best({name: self.runs[name].to_numpy(float) for name in (self.criterion, SECOND)})

    def best_outside(self, tested: Collection[int]) -> float:
        """Return the best learning rate by the validation examples outside some blocks; by all where there are none."""
        if self.blocks is None:
            return self.best()
        size_RG = self.blocks["size"].copy()
        size_RG[:, sorted(tested)] = 0
        total_R = np.nansum(size_RG, axis=1)
        if not (total_R > 0).all():
            return self.best()
        values = {}
        for name in (self.criterion, SECOND):
            weighted_RG = np.where(size_RG > 0, self.blocks[name] * size_RG, 0.0)
            values[name] = weighted_RG.sum(1) / total_R
        return self._best(values)

    def _best(self, values: Mapping[str, np.ndarray]) -> float:
        """Return the best learning rate by metrics of the runs, (R,) each."""
        rates_L, rate_R = np.unique(self.runs.lr.to_numpy(float), return_inverse=True)
        seeds_S, seed_R = np.unique(self.runs.seed.to_numpy(), return_inverse=True)
        diverged_R = (self.runs.status == "diverged").to_numpy()
        by_seed = {}
        for name, value_R in values.items():
            guessed_R = _with_guesses(value_R, diverged_R, is_higher_better(name))
            by_seed[name] = _cell_means(guessed_R, rate_R, seed_R, (len(rates_L), len(seeds_S)))
        return float(rates_L[_best_rate(by_seed[self.criterion], by_seed[SECOND], is_higher_better(self.criterion))])


def _with_guesses(value_R: np.ndarray, diverged_R: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Return a metric of runs in which diverged ones have the worst value of a finished one, unless theirs is worse."""
    finished = value_R[~diverged_R & ~np.isnan(value_R)]
    if not len(finished):
        return value_R
    bounded_R = np.fmin(value_R, finished.min()) if higher_is_better else np.fmax(value_R, finished.max())
    return np.where(diverged_R, bounded_R, value_R)


def _cell_means(value_R: np.ndarray, row_R: np.ndarray, column_R: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the means of the values of each cell of a table, without NaN; NaN for a cell without a value."""
    known_R = ~np.isnan(value_R)
    cell_R = np.ravel_multi_index((row_R[known_R], column_R[known_R]), shape)
    sums = np.bincount(cell_R, value_R[known_R], minlength=math.prod(shape))
    counts = np.bincount(cell_R, minlength=math.prod(shape))
    return np.divide(sums, counts, out=np.full(len(sums), math.nan), where=counts > 0).reshape(shape)


def _best_rate(criterion_LS: np.ndarray, nll_LS: np.ndarray, higher_is_better: bool) -> int:
    """Return the index of the best learning rate."""
    mean_L, nll_L = (_row_means(table_LS) for table_LS in (criterion_LS, nll_LS))
    if not higher_is_better:
        return int(np.argsort(mean_L, kind="stable")[0])  # NaN comes last
    highest = np.lexsort((nll_L, -mean_L))[0]
    values_S = criterion_LS[highest][~np.isnan(criterion_LS[highest])]
    error = standard_error(values_S) if len(values_S) > 1 else 0.0
    near_L = mean_L >= mean_L[highest] - error - 1e-12
    return int(np.lexsort((nll_L, ~near_L))[0]) if near_L.any() else int(highest)


def _row_means(table_LS: np.ndarray) -> np.ndarray:
    lengths = np.arange(len(table_LS)).repeat(table_LS.shape[1])
    return _cell_means(table_LS.ravel(), lengths, np.zeros_like(lengths), (len(table_LS), 1))[:, 0]
