"""The choice of each arm's trial in a search, by a validation metric.

Shape suffixes: R runs of an arm, T trials, S seeds, G blocks of examples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from headtohead.analysis.statistics import is_higher_better, standard_error
from headtohead.late import pd
from headtohead.record.study import Trial

# Decides between trials that are as good by a criterion of which the higher value is better.
SECOND = "val_nll"


def best_trials(search: pd.DataFrame, criterion: str = "val_accuracy") -> dict[str, Trial]:
    """Return each arm's best trial in a search, by the mean of a validation metric over seeds.

    Where the higher value is better, all trials within one standard error of the highest mean are as good, and the
    lower mean NLL decides, then the lower rate: accuracy counts examples, and its best is often shared. Of other
    metrics the lowest mean is best, then the lower rate. Of an arm only the trials with most seeds take part, as a
    search by halving gives bad trials fewer. Failed runs do not count. Diverged runs count as a guess, and never as
    better than a finished run of the arm.

    Args:
        search: Rows of results.csv; a seed may have several.
        criterion: Column of `search`.

    Returns:
        Trials by arm; empty where no run has the criterion and the NLL.
    """
    return {arm: search.best() for arm, search in searches(search, criterion).items()}


def searches(search: pd.DataFrame, criterion: str, blocks: pd.DataFrame | None = None) -> dict[str, ArmSearch]:
    """Return the search of each arm that has an ended run; empty where no run has the criterion and the NLL.

    Args:
        search: Rows of results.csv.
        criterion: Column of `search`.
        blocks: `Study.blocks`, with the validation metrics of these runs on blocks of examples.
    """
    metrics = list(dict.fromkeys([criterion, SECOND]))
    seeds = search.groupby(["arm", "lr", "trial"]).seed.transform("nunique")
    most = seeds == seeds.groupby(search.arm).transform("max")
    ended = search.loc[most & (search.status != "failed")]
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

    def best(self) -> Trial:
        """Return the best trial by all validation examples."""
        return self._best({name: self.runs[name].to_numpy(float) for name in (self.criterion, SECOND)})

    def best_outside(self, tested: Collection[int]) -> Trial:
        """Return the best trial by the validation examples outside some blocks; by all where there are none."""
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

    def ranking(self) -> list[Trial]:
        """Return the trials, the best first, by the mean of the criterion over seeds, then by that of the NLL."""
        by_seed = self._by_seed({name: self.runs[name].to_numpy(float) for name in (self.criterion, SECOND)})
        mean_T, nll_T = (_row_means(by_seed[name]) for name in (self.criterion, SECOND))
        order = np.lexsort((nll_T, -mean_T if is_higher_better(self.criterion) else mean_T))
        return [self._trials[0][place] for place in order]

    def _best(self, values: Mapping[str, np.ndarray]) -> Trial:
        """Return the best trial by metrics of the runs, (R,) each."""
        by_seed = self._by_seed(values)
        place = _best_row(by_seed[self.criterion], by_seed[SECOND], is_higher_better(self.criterion))
        return self._trials[0][place]

    def _by_seed(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return metrics of the runs, (R,) each, as tables (T, S)."""
        trials, trial_R = self._trials
        seeds_S, seed_R = np.unique(self.runs.seed.to_numpy(), return_inverse=True)
        diverged_R = (self.runs.status == "diverged").to_numpy()
        by_seed = {}
        for name, value_R in values.items():
            guessed_R = with_guesses(value_R, diverged_R, is_higher_better(name))
            by_seed[name] = _cell_means(guessed_R, trial_R, seed_R, (len(trials), len(seeds_S)))
        return by_seed

    @cached_property
    def _trials(self) -> tuple[list[Trial], np.ndarray]:
        """The trials, ascending, and the place of each run's among them, (R,)."""
        pairs_T2, place_R = np.unique(self.runs[["lr", "trial"]].to_numpy(float), axis=0, return_inverse=True)
        return [Trial(lr, int(number)) for lr, number in pairs_T2.tolist()], place_R.ravel()


def better_half(search: pd.DataFrame, criteria: Sequence[str]) -> dict[str, set[Trial]]:
    """Return the better half of each arm's trials with most seeds, rounded up.

    A trial's rank is its best one over the criteria, so that a trial that is good by one of them stays. Of trials with
    one rank the first criterion decides.

    Args:
        search: Rows of results.csv.
        criteria: Validation metrics, the primary one first.
    """
    by_criterion = [searches(search, criterion) for criterion in criteria]
    kept = {}
    for arm in by_criterion[0]:
        rankings = [of_arms[arm].ranking() for of_arms in by_criterion]
        ranks = {trial: [ranking.index(trial) for ranking in rankings] for trial in rankings[0]}
        best = sorted(ranks, key=lambda trial: (min(ranks[trial]), ranks[trial][0]))
        kept[arm] = {*best[: math.ceil(len(best) / 2)]}
    return kept


def with_guesses(value_R: np.ndarray, diverged_R: np.ndarray, higher_is_better: bool) -> np.ndarray:
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


def _best_row(criterion_TS: np.ndarray, nll_TS: np.ndarray, higher_is_better: bool) -> int:
    """Return the index of the best trial."""
    mean_T, nll_T = (_row_means(table_TS) for table_TS in (criterion_TS, nll_TS))
    if not higher_is_better:
        return int(np.argsort(mean_T, kind="stable")[0])  # NaN comes last
    highest = np.lexsort((nll_T, -mean_T))[0]
    values_S = criterion_TS[highest][~np.isnan(criterion_TS[highest])]
    error = standard_error(values_S) if len(values_S) > 1 else 0.0
    near_T = mean_T >= mean_T[highest] - error - 1e-12
    return int(np.lexsort((nll_T, ~near_T))[0]) if near_T.any() else int(highest)


def _row_means(table_TS: np.ndarray) -> np.ndarray:
    rows = np.arange(len(table_TS)).repeat(table_TS.shape[1])
    return _cell_means(table_TS.ravel(), rows, np.zeros_like(rows), (len(table_TS), 1))[:, 0]
