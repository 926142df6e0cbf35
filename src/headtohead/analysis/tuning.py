"""Tuning of a study over ranges: chosen trials, what a budget of trials buys, which settings mattered, ends of ranges.

T trials of an arm, sorted by goodness; N sizes of a budget.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from scipy import special

from headtohead.analysis.choice import with_guesses
from headtohead.analysis.statistics import Interval, is_higher_better, t_interval
from headtohead.analysis.study import Study, by_seed
from headtohead.analysis.text import listed, plural
from headtohead.record.study import Range, Trial

# The metrics of the search that the report shows.
METRICS = ("val_accuracy", "val_nll")
# The share of a range at either end in which a best trial is suspect.
OUTER = 0.1
# The percentiles of the band about an expected best value.
PERCENTILES = (0.1, 0.9)
# The most sizes of a budget that a curve has.
MOST_SIZES = 256
# Fewer trials say nothing of a setting.
LEAST_TRIALS = 8


def place(space: Range, values: np.ndarray | float) -> np.ndarray:
    """Return the places of values in a range, from 0 to 1; those in a log range are places of the logarithm."""
    values = np.clip(np.asarray(values, dtype=float), space.low, space.high)
    if space.log:
        return np.log(values / space.low) / math.log(space.high / space.low)
    return (values - space.low) / (space.high - space.low)


def settings_of(study: Study, arm: str) -> list[str]:
    """Return the settings of the study's space that an arm's runs have, in the order of the space."""
    rows = study.results.loc[study.results.arm == arm]
    return [key for key in study.record.space if key in rows and rows[key].notna().any()]


def trials_of(study: Study, arm: str, metric: str) -> pd.DataFrame:
    """Return an arm's trials, a row each: `lr`, `trial`, its settings, and the metric's mean over seeds as `value`.

    The seeds are those of the search; under halving the first, which all trials have. Diverged runs count as a guess,
    and never as better than a finished run. Trials without a value are left out.
    """
    runs = study.searched.loc[(study.searched.arm == arm) & (study.searched.status != "failed")]
    if study.record.protocol.search == "halving":
        runs = runs.loc[runs.seed.isin(study.record.protocol.search_seeds[:1])]
    settings = settings_of(study, arm)
    if metric not in runs or runs.empty:
        return pd.DataFrame(columns=pd.Index(["lr", "trial", *settings, "value"]))
    diverged = (runs.status == "diverged").to_numpy()
    values = with_guesses(runs[metric].to_numpy(float), diverged, is_higher_better(metric))
    trials = runs.assign(value=np.where(np.isfinite(values), values, np.nan)).groupby(["lr", "trial"])
    means = trials[[*settings, "value"]].mean().replace([math.inf, -math.inf], math.nan).reset_index()
    return means.dropna(subset="value", ignore_index=True)


@dataclass(frozen=True)
class ChosenTrial:
    """The best trial of an arm by some criteria. Intervals are over the seeds of the search.

    Attributes:
        arm: Label of the arm.
        criteria: Criteria that choose it.
        trial: The trial.
        settings: Values of the arm's tuned settings, by dotted key.
        val_accuracy: Mean and interval of the validation accuracy.
        val_nll: Mean and interval of the validation NLL.
    """

    arm: str
    criteria: tuple[str, ...]
    trial: Trial
    settings: dict[str, float]
    val_accuracy: Interval
    val_nll: Interval


def chosen_trials(study: Study) -> list[ChosenTrial]:
    """Return the trials that the study's criteria choose for each arm; none without a space."""
    rows = []
    for arm in study.arms if study.record.space else ():
        chosen: dict[Trial, list[str]] = {}
        for criterion in study.record.criteria:
            trial = study.best_by(criterion).get(arm)
            if trial is not None:
                chosen.setdefault(trial, []).append(criterion)
        rows += [_chosen(study, arm, trial, criteria) for trial, criteria in chosen.items()]
    return rows


def _chosen(study: Study, arm: str, trial: Trial, criteria: Collection[str]) -> ChosenTrial:
    runs = _runs_at(study, arm, trial)
    intervals = {metric: t_interval(by_seed(runs, metric)) for metric in METRICS}
    return ChosenTrial(arm, tuple(criteria), trial, _settings_at(study, arm, trial), **intervals)


def _runs_at(study: Study, arm: str, trial: Trial) -> pd.DataFrame:
    searched = study.finite.loc[study.searched.index]
    runs = searched.loc[(searched.arm == arm) & (searched.status != "failed")]
    return runs.loc[(runs.trial == trial.number) & np.isclose(runs.lr, trial.lr, rtol=1e-6, atol=0)]


def _settings_at(study: Study, arm: str, trial: Trial) -> dict[str, float]:
    """Return the tuned settings of an arm at a trial; empty where no run tells."""
    runs = _runs_at(study, arm, trial)
    return {key: float(runs[key].iloc[0]) for key in settings_of(study, arm)} if len(runs) else {}


def unequal_spaces(study: Study) -> str:
    """Return sentences on arms that tune more settings than others with as many trials; empty where none does."""
    settings = {arm: settings_of(study, arm) for arm in study.arms}
    settings = {arm: keys for arm, keys in settings.items() if keys}
    shared = set(study.record.space).intersection(*settings.values()) if settings else set()
    arms_of: dict[tuple[str, ...], list[str]] = {}
    for arm, keys in settings.items():
        more = tuple(key for key in keys if key not in shared)
        if more:
            arms_of.setdefault(more, []).append(arm)
    counts = {1: "one", 2: "two", 3: "three"}
    return " ".join(
        f"{listed(arms)} {'has' if len(arms) == 1 else 'have'} {counts.get(len(more), len(more))} "
        f"setting{'s' if len(more) > 1 else ''} more than the others ({listed(more)}) for the same number of trials."
        for more, arms in arms_of.items()
    )


def expected_best(values: np.ndarray, higher: bool) -> pd.DataFrame:
    """Return what the best of n trials is worth, a row per n from 1 to all: `mean`, `lower` and `upper` percentiles.

    The n trials are drawn without replacement from the T that were tried: with values sorted, the best of them is at
    most the i-th with probability C(i, n) / C(T, n). Dodge et al. (2019) draw with replacement, which is biased.
    Of many trials not every n has a row.

    Args:
        values: Values of the trials, (T,), all finite.
        higher: Whether the higher value is better.
    """
    sign = 1 if higher else -1
    values_T = np.sort(sign * np.asarray(values, dtype=float))
    count = len(values_T)
    sizes_N = np.unique(np.geomspace(1, count, MOST_SIZES).round().astype(int))
    sizes_N = sizes_N if count > MOST_SIZES else np.arange(1, count + 1)
    i_T1, n_1N = np.arange(1, count + 1)[:, None], sizes_N[None, :]
    log_choose = special.gammaln(i_T1 + 1) - special.gammaln(np.maximum(i_T1 - n_1N, 0) + 1)
    cdf_TN = np.where(i_T1 >= n_1N, np.exp(log_choose - log_choose[-1]), 0.0)
    mean_N = np.diff(cdf_TN, axis=0, prepend=0).T @ values_T
    # A percentile is the least value that is reached with its probability.
    bounds = [values_T[(cdf_TN >= share - 1e-12).argmax(0)] for share in PERCENTILES]
    lower_N, upper_N = bounds[::sign]
    return pd.DataFrame({"mean": sign * mean_N, "lower": sign * lower_N, "upper": sign * upper_N}, index=sizes_N)


@dataclass(frozen=True)
class Importance:
    """Importance of a tuned setting for an arm: what it alone explains of the metrics of the trials.

    Attributes:
        arm: Label of the arm.
        setting: Dotted key.
        shares: For each metric the share of the variance of the trials' ranks that the setting explains; NaN for few
            trials.
        directions: For each metric Spearman's correlation of the setting with how good the trials are: above 0 where
            higher settings are better.
    """

    arm: str
    setting: str
    shares: Mapping[str, float]
    directions: Mapping[str, float]


def importances(study: Study) -> list[Importance]:
    """Return what each tuned setting explains, a row per setting and arm; none without a space."""
    trials = {(arm, metric): trials_of(study, arm, metric) for arm in study.arms for metric in METRICS}
    rows = []
    for setting, space in study.record.space.items():
        for arm in study.arms:
            if setting in settings_of(study, arm):
                of_metrics = {metric: _explained(trials[arm, metric], setting, space, metric) for metric in METRICS}
                shares, directions = ({metric: pair[which] for metric, pair in of_metrics.items()} for which in (0, 1))
                rows.append(Importance(arm, setting, shares, directions))
    return rows


def _explained(trials: pd.DataFrame, setting: str, space: Range, metric: str) -> tuple[float, float]:
    trials = trials.dropna(subset=setting)
    goodness = trials.value.to_numpy(float) * (1 if is_higher_better(metric) else -1)
    return explained(place(space, trials[setting].to_numpy(float)), goodness)


def explained(places: np.ndarray, goodness: np.ndarray) -> tuple[float, float]:
    """Return the share of the variance of ranks that a setting explains, and its rank correlation; NaN for few trials.

    The share is the adjusted R^2 of a quadratic in the setting's place, so that a best value in the middle counts too.

    Args:
        places: Places of the trials in the setting's range, (T,).
        goodness: How good the trials are, (T,).
    """
    count = len(goodness)
    if count < LEAST_TRIALS or np.ptp(goodness) == 0 or np.ptp(places) == 0:
        return math.nan, math.nan
    ranks = pd.Series(goodness).rank().to_numpy()
    design = np.vander(places - places.mean(), 3)
    residuals = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    unexplained = (residuals**2).sum() / ((ranks - ranks.mean()) ** 2).sum()
    share = 1 - unexplained * (count - 1) / (count - 3)
    return float(max(share, 0.0)), float(np.corrcoef(pd.Series(places).rank(), ranks)[0, 1])


@dataclass(frozen=True)
class AtEnd:
    """A setting whose best values lie at an end of its range.

    Attributes:
        setting: Dotted key.
        best: The best values there, with their arms.
        space: The range.
        wider: A wider range to try.
    """

    setting: str
    best: tuple[tuple[str, float], ...]
    space: Range
    wider: Range

    @property
    def text(self) -> str:
        """A sentence on the arms, and the override of the wider range."""
        arms = [*dict.fromkeys(arm for arm, _ in self.best)]
        values = [*dict.fromkeys(f"{value:.3g}" for _, value in self.best)]
        whose, verb = "its" if len(arms) == 1 else "their", "lies" if len(values) == 1 else "lie"
        low, high = (float(f"{end:.4g}") for end in (self.wider.low, self.wider.high))
        wider = Range(low, high, self.wider.log).override
        return (
            f"{listed(arms)} may not be tuned: {whose} best {self.setting}, {listed(values)}, {verb} in the outer "
            f"tenth of {self.space.low:g} to {self.space.high:g}; try {self.setting}='{wider}'."
        )


def at_ends(study: Study) -> list[AtEnd]:
    """Return the settings for which a best trial lies in an outer tenth of the range, but for natural ends."""
    found = []
    for setting, space in study.record.space.items():
        best: dict[tuple[str, float], int] = {}
        for arm, criterion in product(study.arms, study.record.criteria):
            trial = study.best_by(criterion).get(arm)
            value = _settings_at(study, arm, trial).get(setting) if trial else None
            if value is not None and side_of(space, value):
                best[arm, value] = side_of(space, value)
        if best:
            found.append(AtEnd(setting, tuple(best), space, wider(space, {*best.values()})))
    return found


def is_at_end(study: Study, arm: str, trial: Trial) -> bool:
    """Return whether a setting of an arm's trial lies in an outer tenth of its range."""
    return any(side_of(study.record.space[key], value) for key, value in _settings_at(study, arm, trial).items())


def side_of(space: Range, value: float) -> int:
    """Return -1 where a value lies in the lower tenth of a range, 1 in the upper, else 0. An end of 0 is natural."""
    where = float(place(space, value))
    if where < OUTER and space.low != 0:
        return -1
    return 1 if where > 1 - OUTER else 0


def wider(space: Range, sides: Collection[float]) -> Range:
    """Return a range that is half its width longer on some sides.

    It keeps the sign of its lower end, and it stays below 1 where the range does: most such settings are shares.
    """
    low, high = (math.log(space.low), math.log(space.high)) if space.log else (space.low, space.high)
    half = (high - low) / 2
    low, high = low - half * (-1 in sides), high + half * (1 in sides)
    if space.log:
        return Range(math.exp(low), math.exp(high), True)
    if space.low >= 0:
        low = max(low, 0.0)
        high = min(high, (1 + space.high) / 2) if space.high < 1 else high
    return Range(low, high, False)


def halving(study: Study) -> str:
    """Return a sentence on how many trials had how many seeds in a search by halving; empty without one."""
    if study.record.protocol.search != "halving" or study.searched.empty:
        return ""
    seeds = study.searched.groupby(["arm", "lr", "trial"]).seed.nunique()
    arms_of: dict[str, list[str]] = {}
    for arm, counts in seeds.groupby("arm"):
        steps = [f"{(counts == count).sum()} had {plural(count, 'seed')}" for count in sorted({*counts})]
        arms_of.setdefault(f"of {len(counts)} trials {listed(steps, most=20)}", []).append(str(arm))
    each = [text if len(arms_of) == 1 else f"{listed(arms)}: {text}" for text, arms in arms_of.items()]
    return (
        f"The search dropped the worse half of each arm's trials whenever the seeds had doubled: {'; '.join(each)}. "
        "The best trial is chosen among those with most seeds."
    )
