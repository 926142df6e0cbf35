"""Values of a metric for arms that share their seeds, also of metrics derived from several runs."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from headtohead.analysis import statistics
from headtohead.analysis.study import Study
from headtohead.options import nearest
from headtohead.record.run import COLUMNS, read_history

# The rows of a comparison: the whole grid, each arm at its best learning rate, or `Study.final`.
Scope = Literal["search", "confirm", "final"]


class Unjudged(Exception):
    """The runs lack what a comparison needs. The message says what is missing."""


def by_seed(study: Study, metric: str, phase: Scope, arms: Sequence[str]) -> tuple[pd.DataFrame, str | None]:
    """Return a metric with a row per seed that all `arms` share and a column per arm, and a note on it.

    In the search a seed's value is the mean over the learning rates at which all arms have one.

    Args:
        metric: Column of results.csv, or key of DERIVED.

    Raises:
        Unjudged: fewer than two seeds have it.
    """
    runs = _rows(study, phase)
    if runs.empty:
        raise Unjudged(f"the study has no runs of the phase {phase}")
    runs = runs.loc[runs.arm.isin(arms)]
    if runs.empty:
        raise Unjudged(f"no arm has a run of the phase {phase}")
    values, note = DERIVED[metric](study, runs) if metric in DERIVED else (_recorded(runs, metric), None)
    runs = runs.assign(value=values.where(runs.status != "failed"))
    # In the other phases each arm has a learning rate of its own.
    cell = ["seed", "lr"] if phase == "search" else ["seed"]
    table = runs.groupby([*cell, "arm"]).value.mean().unstack("arm").reindex(columns=list(arms))
    measured = table.dropna()
    notes = [note] if note else []
    if len(measured) < len(table):
        lacking = runs.status[runs.value.isna() & (runs.status != "finished")].value_counts()
        reasons = "".join(f", {count} {status}" for status, count in lacking.items())
        notes.append(f"{len(table) - len(measured)} of {len(table)} pairs of runs lack {metric}{reasons}")
    pairs = measured.groupby("seed").mean()
    if len(pairs) < 2:
        raise Unjudged("; ".join([f"{len(pairs)} pairs of seeds have {metric}, at least 2 are needed", *notes]))
    return pairs, "; ".join(notes) or None


def _rows(study: Study, phase: Scope) -> pd.DataFrame:
    """Return the runs of a phase. In a study without a search all runs are of the phase run, and count as confirm."""
    if phase == "final":
        return study.finite.loc[study.final.index]
    phases = ["confirm", "run"] if phase == "confirm" else ["search"]
    return study.finite.loc[study.finite.phase.isin(phases)]


def _recorded(runs: pd.DataFrame, metric: str) -> pd.Series:
    if metric not in runs:
        known = [*(name for name in runs if name not in COLUMNS), *DERIVED]
        raise Unjudged(f"no run has the metric {metric}; {nearest(metric, known)}")
    return pd.Series(runs[metric])


# A derived metric maps a study and the runs of some arms in one phase to a value per run, NaN where there is none,
# and a note. A value that belongs to a whole grid is repeated for each of its runs.
Derived = Callable[[Study, pd.DataFrame], tuple[pd.Series, str | None]]


def _diverged_share(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    return (runs.status == "diverged").astype(float), None


def _lr_sensitivity(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Sensitivity of each arm and seed over the grid of learning rates; NaN where a run of the grid is missing."""
    rates = runs.lr.nunique()
    if rates < 2:
        raise Unjudged("lr_sensitivity needs a grid of learning rates: its phase must be search")
    num_classes = runs.arm.map(study.record.num_classes)

    def sensitivity(nll: pd.Series) -> float:
        if nll.count() < rates:
            return math.nan
        return float(statistics.learning_rate_sensitivity(nll.to_numpy(), num_classes[nll.index[0]]))

    return _recorded(runs, "val_nll").groupby([runs.arm, runs.seed]).transform(sensitivity), None


def _stalled(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Whether a run has gone less than a tenth of the way from chance level to certainty, as diverged runs do."""
    nll = _recorded(runs, "val_nll")
    stalled = nll > 0.9 * np.log(runs.arm.map(study.record.num_classes))
    return stalled.astype(float).where(nll.notna()), None


def _seed_spread(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Distance of the validation accuracy from its median over seeds (Brown and Forsythe, 1974)."""
    accuracy = _recorded(runs, "val_accuracy")
    return (accuracy - accuracy.groupby([runs.arm, runs.lr]).transform("median")).abs(), None


def _time_to_target(unit: Literal["step", "epoch"], study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Time at which a run first reaches a share of the best arm's accuracy."""
    arms = [arm for arm in study.arms if study.context(arm) == study.context(runs.arm.iloc[0])]
    tuning = study.results.loc[study.results.arm.isin(arms) & (study.results.phase != "confirm")]
    _recorded(tuning, "val_accuracy")
    target = statistics.target_accuracy(tuning)
    times, horizon, unread = pd.Series(math.nan, index=runs.index), 0.0, 0
    for index, name in runs.run[runs.status != "failed"].items():
        try:
            history = read_history(study.folder / "runs" / name)
            time, accuracy = (history[name].to_numpy(float) for name in (unit, "val_accuracy"))
        except (OSError, ValueError, KeyError):
            unread += 1
            continue
        times[index] = statistics.first_reach(time, accuracy, target)
        horizon = max([horizon, *time.tolist()])
    unreached = int(np.isinf(times).sum())
    note = f"target: {target:.3g} validation accuracy"
    if unreached:
        note += f"; {unreached} of {times.count()} runs never reach it and count at the horizon, {horizon:g} {unit}s"
    if unread:
        note += f"; {unread} runs have no readable history.csv with {unit} and val/accuracy"
    return pd.Series(statistics.restricted_times(times.to_numpy(), horizon), index=runs.index), note


DERIVED: dict[str, Derived] = {
    "diverged_share": _diverged_share,
    "lr_sensitivity": _lr_sensitivity,
    "stalled": _stalled,
    "seed_spread": _seed_spread,
    "steps_to_target": partial(_time_to_target, "step"),
    "epochs_to_target": partial(_time_to_target, "epoch"),
}
