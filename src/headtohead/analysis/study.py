"""A study's folder as typed records and tables. What is broken or missing is named, never dropped.

S steps, R seeds.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from headtohead.analysis.choice import best_trials
from headtohead.analysis.predictions import Predictions, ShownExamples
from headtohead.analysis.statistics import target_accuracy
from headtohead.analysis.text import listed
from headtohead.late import pd
from headtohead.options import ConfigError, one_line, printable
from headtohead.record.files import flat, read_arrays, read_bytes, write_atomically
from headtohead.record.run import (
    COLUMNS,
    NOT_OF_A_RUN,
    Phase,
    RunRecord,
    Status,
    blocks,
    is_changed,
    read_histories,
    read_results,
    read_runs,
    read_table,
    results,
)
from headtohead.record.study import StudyRecord, Trial, read_study_record

# Keys of a run's config that differ between the runs of one arm by design.
NOT_OF_AN_ARM = NOT_OF_A_RUN | {"seed", "fold", "optimizer.lr", "pack_size"}
CHANGED = "its checksum differs: it was changed after it had been written"
REMEDY = "delete it: the report writes it again from the records of the runs"

# The rows of a comparison: all trials, each arm at its best trial, or `Study.final`.
Scope = Literal["search", "confirm", "final"]


class Histories:
    """Histories of the runs in a study's folder, each read once."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._known: dict[str, pd.DataFrame] = {}
        self._unreadable: dict[str, str] = {}

    def read(self, runs: Iterable[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
        """Return the histories of runs, by name, and why others cannot be read."""
        runs = list(runs)
        known, unreadable = read_histories(self._folder, [run for run in runs if run not in self])
        self._known |= known
        self._unreadable |= unreadable
        read = {run: self._known[run] for run in runs if run in self._known}
        return read, {run: self._unreadable[run] for run in runs if run in self._unreadable}

    def __contains__(self, run: str) -> bool:
        return run in self._known or run in self._unreadable


@dataclass(frozen=True)
class Study:
    """A study's folder, as it was read.

    Attributes:
        folder: Folder of the study.
        record: Contents of study.json.
        results: Rows of results.csv for the runs of the study's last command.
        records: Records of these runs, by name; runs without a readable record are missing.
        broken: Names of the runs whose run.json cannot be read, each with the reason.
        others: Number of runs in the folder that belong to earlier commands.
    """

    folder: Path
    record: StudyRecord
    results: pd.DataFrame
    records: Mapping[str, RunRecord]
    broken: Mapping[str, str]
    others: int

    @cached_property
    def arms(self) -> list[str]:
        """Labels of the arms, in the order of the study."""
        return list(self.record.arms)

    @cached_property
    def common_num_classes(self) -> int | None:
        """Number of classes of every arm; None where arms differ in it."""
        counts = {self.record.num_classes[arm] for arm in self.arms}
        return counts.pop() if len(counts) == 1 else None

    @cached_property
    def finite(self) -> pd.DataFrame:
        """The results, with NaN in place of infinities."""
        return self.results.replace([math.inf, -math.inf], math.nan)

    @cached_property
    def grid(self) -> tuple[float, ...]:
        """The swept learning rates, ascending; empty where none were swept."""
        return self.record.grid.get("optimizer.lr", ())

    @cached_property
    def choice(self) -> str:
        """Word for what the search chooses for each arm."""
        return "trial" if self.record.space else "learning rate"

    def label(self, trial: Trial) -> str:
        """Return a trial for a table: `0.1` of a grid, `17` of a space, `17 (lr 0.1)` of both."""
        if not self.record.space:
            return f"{trial.lr:g}"
        return f"{trial.number} (lr {trial.lr:g})" if len(self.grid) > 1 else str(trial.number)

    def named(self, trial: Trial) -> str:
        """Name a trial in a sentence: `learning rate 0.1` of a grid, `trial 17` of a space."""
        return f"{self.choice} {self.label(trial)}"

    @cached_property
    def tuned(self) -> bool:
        """Whether the study has a search, which chooses each arm's trial."""
        return "search" in self.record.runs

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The runs from which each arm's trial is chosen."""
        return self.results.loc[self.results.phase == "search"] if self.tuned else self.results

    @cached_property
    def best(self) -> dict[str, Trial]:
        """The best trial of each arm by the primary criterion; arms without an ended run are missing."""
        return self.best_by(self.record.protocol.selected_by)

    def best_by(self, criterion: str) -> dict[str, Trial]:
        """Return the best trial of each arm by a validation metric; arms without an ended run are missing.

        The confirm phase records them. Before it, they follow from the search. A study of an older release records
        none: there an arm has been confirmed at one rate.
        """
        recorded = self.record.protocol.best
        if criterion in recorded:
            return recorded[criterion]
        confirmed = self.results.loc[self.results.phase == "confirm"]
        rates = {} if recorded else confirmed.groupby("arm").lr.first().to_dict()
        return best_trials(self.searched, criterion) | {str(arm): Trial(rate) for arm, rate in rates.items()}

    def best_of_folds(self, criterion: str) -> dict[tuple[str, int, int], Trial]:
        """Return the best trials of arms in single folds of seeds, where they are not those of the whole."""
        return {choice.of: choice.trial for choice in self.record.protocol.of_folds if choice.criterion == criterion}

    def at_best(self, rows: pd.DataFrame, criterion: str | None = None) -> pd.DataFrame:
        """Return those of some rows of results.csv that have their arm's best trial by a criterion.

        A confirmed fold has the best trial by the validation examples that it does not test.

        Args:
            criterion: Validation metric; None takes the primary criterion.
        """
        criterion = criterion or self.record.protocol.selected_by
        best, of_folds = self.best_by(criterion), self.best_of_folds(criterion)
        none = Trial(sys.float_info.max)  # the rate of no run
        of_runs = zip(rows.arm, rows.seed, rows.fold, strict=True)
        chosen = [of_folds.get(of) or best.get(of[0], none) for of in of_runs]
        # A table in text may have lost the last digit of a rate.
        same_rate = np.isclose(rows.lr.astype(float), [trial.lr for trial in chosen], rtol=1e-6, atol=0)
        return rows.loc[same_rate & (rows.trial == [trial.number for trial in chosen])]

    @cached_property
    def final(self) -> pd.DataFrame:
        """The runs by which the arms are compared, without failed ones.

        They are each arm's runs at its best trial by the primary criterion: those of the confirm phase or,
        before it has begun and in a study without one, all.
        """
        at_best = self.at_best(self.results)
        confirmed = at_best.loc[at_best.phase == "confirm"]
        rows = confirmed if len(confirmed) else at_best
        return rows.loc[rows.status != "failed"]

    def compared(
        self, phase: Scope, selected_by: str | None = None, arms: tuple[str, ...] | None = None
    ) -> pd.DataFrame:
        """Return the runs of a phase, those of the phase confirm at the best trials by a criterion.

        In a study without a search all runs are of the phase run, and count as confirm. Infinities are NaN.

        Args:
            selected_by: Validation metric; None takes the primary criterion.
            arms: Arms to take the runs of; None takes all.
        """
        key = phase, selected_by, arms
        if key not in self._compared:
            if arms is not None:
                rows = self.compared(phase, selected_by)
                rows = rows.loc[rows.arm.isin(arms)]
            elif phase == "final":
                rows = self.finite.loc[self.final.index]
            elif phase == "search":
                rows = self.finite.loc[self.finite.phase == "search"]
            else:
                rows = self.finite.loc[self.finite.phase.isin(["confirm", "run"])]
                rows = self.at_best(rows, selected_by) if self.tuned else rows
            self._compared[key] = rows
        return self._compared[key]

    @cached_property
    def _compared(self) -> dict[tuple[Scope, str | None, tuple[str, ...] | None], pd.DataFrame]:
        return {}

    @cached_property
    def histories(self) -> Histories:
        """Histories of the runs, read when they are asked for."""
        return Histories(self.folder)

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row per logged step of each final run, with the column `run`."""
        return self._histories[0]

    @cached_property
    def unreadable_histories(self) -> dict[str, str]:
        """Names of the final runs whose history cannot be read, each with the reason."""
        return self._histories[1]

    @cached_property
    def _histories(self) -> tuple[pd.DataFrame, dict[str, str]]:
        changed = {run: CHANGED for run in self.final.run if self._is_changed(run, "history.csv")}
        histories, unreadable = self.histories.read(run for run in self.final.run if run not in changed)
        return joined(histories), changed | unreadable

    def _is_changed(self, run: str, file: str) -> bool:
        """Return whether a file of a run that has a record was changed since it was written."""
        with suppress(OSError, ValueError):  # a file that cannot be read is told when it is read
            return run in self.records and is_changed(self.folder / "runs" / run, file, self.records[run])
        return False

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """Metrics of each run for each of its blocks of examples: `run`, `block`, `size` and the metrics.

        These are test metrics, or validation metrics of a run that has tested nothing.
        """
        if any(run.blocks for run in self.records.values()):
            return blocks(self.records.values())
        path = self.folder / "blocks.csv"
        return _read_blocks(path) if os.path.lexists(path) else blocks([])

    @cached_property
    def places_of_blocks(self) -> dict[str, np.ndarray]:
        """The positions of each run's rows in `blocks`."""
        return {str(run): places for run, places in self.blocks.groupby("run").indices.items()}

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """Predictions of the final runs that were tested, by name."""
        return self._predictions[0]

    @cached_property
    def unreadable_predictions(self) -> dict[str, str]:
        """Names of the final runs whose predictions cannot be read, each with the reason."""
        return self._predictions[1]

    @cached_property
    def _predictions(self) -> tuple[dict[str, Predictions], dict[str, str]]:
        predictions, unreadable = {}, {}
        for run, arm in zip(self.final.run, self.final.arm, strict=True):
            path = self.folder / "runs" / run / "predictions.npz"
            if not os.path.lexists(path):
                continue  # not tested, or diverged
            if self._is_changed(run, path.name):
                unreadable[run] = CHANGED
                continue
            try:
                read = Predictions.of(read_arrays(path))
                classes, planned = read.activations.shape[1], self.record.num_classes[arm]
                if classes != planned:
                    raise ValueError(f"has {classes} classes, and not {planned} as study.json")
            except (OSError, ValueError) as error:
                unreadable[run] = one_line(error)
            else:
                predictions[run] = read
        return predictions, unreadable

    @cached_property
    def examples(self) -> ShownExamples | None:
        """The test examples that the report shows; None where the study has chosen none."""
        return self._examples[0]

    @cached_property
    def unreadable_examples(self) -> str | None:
        """The reason why these examples cannot be read; None where they can, or there are none."""
        return self._examples[1]

    @cached_property
    def _examples(self) -> tuple[ShownExamples | None, str | None]:
        path = self.folder / "examples.npz"
        if not os.path.lexists(path):
            return None, None
        try:
            return ShownExamples.of(read_arrays(path)), None
        except (OSError, ValueError) as error:
            return None, one_line(error)

    @cached_property
    def target(self) -> float | None:
        """The validation accuracy of the claims about the time to a target; None before a run has one."""
        if "val_accuracy" not in self.searched or self.searched.empty:
            return None
        target = target_accuracy(self.searched)
        return target if math.isfinite(target) else None

    @cached_property
    def missing(self) -> dict[str, list[str]]:
        """Planned runs that have no record, not even a broken one, by phase."""
        known = {*self.results.run, *self.broken}
        missing = {phase: [run for run in runs if run not in known] for phase, runs in self.record.runs.items()}
        return {phase: runs for phase, runs in missing.items() if runs}

    def context(self, arm: str) -> tuple[str, ...]:
        """Return the overrides of an arm but for its head."""
        return tuple(item for item in self.record.arms[arm] if not item.startswith("head="))

    def head_of(self, arm: str) -> str:
        """Return the name of an arm's head; the arm's label where its overrides name none."""
        heads = [item.partition("=")[2] for item in self.record.arms[arm] if item.startswith("head=")]
        return heads[-1] if heads else arm

    def pairs_of(self, head: str) -> list[tuple[str, str]]:
        """Return the pairs of arms that differ in the head alone: one of `head`, then one of another head."""
        favoured = [arm for arm in self.arms if self.head_of(arm) == head]
        others = [arm for arm in self.arms if self.head_of(arm) != head]
        return [(arm, other) for arm in favoured for other in others if self.context(arm) == self.context(other)]

    def class_counts(self, arm: str, split: str) -> list[int] | None:
        """Return the number of examples of each class in an arm's split "train", "val" or "test"; None if unknown.

        Without them in study.json, the labels beside an arm's predictions are counted.
        """
        for data in self.record.data:
            if arm in data.arms and sum(data.counts.get(split, ())) > 0:
                return [*data.counts[split]]
        names = self.final.run[self.final.arm == arm]
        labels = [self.predictions[run].label for run in names if run in self.predictions]
        return np.bincount(labels[0]).tolist() if split == "test" and labels else None

    def is_measured(self, metric: str) -> bool:
        """Return whether a final run has the metric."""
        return metric in self.final and not self.final[metric].isna().to_numpy().all()

    def by_arm(self, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
        """Split rows of results.csv by arm, in the order of the study; arms without rows are left out."""
        return [(arm, rows.loc[rows.arm == arm]) for arm in self.arms if len(rows) and (rows.arm == arm).any()]

    def over_steps(self, metric: str, diverged: float | None = None) -> dict[str, pd.DataFrame]:
        """Return for each arm a metric of the seeds of its final runs over the steps, (S, R); see `over_steps`."""
        return over_steps(self.by_arm(self.final), self.history, metric, diverged)

    def part(self, names: Mapping[str, str]) -> Study:
        """Return the study of the arms in `names` alone, each under its name there."""
        record = replace(
            self.record,
            arms={name: self.record.arms[arm] for arm, name in names.items()},
            num_classes={name: self.record.num_classes[arm] for arm, name in names.items()},
            protocol=replace(
                self.record.protocol,
                ladder=(),
                best={
                    criterion: {names[arm]: trial for arm, trial in trials.items() if arm in names}
                    for criterion, trials in self.record.protocol.best.items()
                },
                of_folds=tuple(
                    replace(choice, arm=names[choice.arm])
                    for choice in self.record.protocol.of_folds
                    if choice.arm in names
                ),
            ),
            data=tuple(
                replace(data, arms=tuple(names[arm] for arm in data.arms if arm in names)) for data in self.record.data
            ),
        )
        rows = self.results.loc[self.results.arm.isin([*names])]
        records = {name: run for name, run in self.records.items() if run.arm in names}
        return replace(self, record=record, results=rows.assign(arm=rows.arm.map(dict(names))), records=records)


def read_study(folder: Path) -> Study:
    """Read a study's folder, as far as it belongs to the study's last command.

    results.csv is written again where it lacks a run that has a record, as after an interrupted study.

    Raises:
        ConfigError: the folder holds no study, or study.json or results.csv is broken.
    """
    record = read_study_record(folder)
    records, broken = read_runs(folder)
    for name, run in [*records.items()]:
        if run.arm not in record.arms and any(name in runs for runs in record.runs.values()):
            broken[name] = f"arm={printable(run.arm)}: no arm of the study"
            del records[name]
    table = _results(folder, records.values())
    names = {run for runs in record.runs.values() for run in runs}
    return Study(
        folder=folder,
        record=record,
        results=table.loc[table.run.isin(names)].reset_index(drop=True),
        records={name: run for name, run in records.items() if name in names},
        broken={name: reason for name, reason in broken.items() if name in names},
        others=len({*table.run, *broken} - names),
    )


def joined(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the histories of runs as one table: a row per logged step, with the column `run`."""
    if not histories:
        return pd.DataFrame(columns=pd.Index(["run", "step"]))
    runs = np.repeat([*histories], [len(history) for history in histories.values()])
    return pd.concat(histories.values(), ignore_index=True).assign(run=runs)


def by_seed(runs: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric of an arm's runs for each seed that has it: the mean over its folds; none where no run has it."""
    if metric not in runs:
        return pd.Series(dtype=float)
    means = {seed: rows[metric].to_numpy(float).mean() for seed, rows in runs.groupby("seed")}
    return pd.Series(means, dtype=float).dropna()


def over_steps(
    arms: Iterable[tuple[str, pd.DataFrame]], history: pd.DataFrame, metric: str, diverged: float | None = None
) -> dict[str, pd.DataFrame]:
    """Return for each arm a metric of its seeds over the steps, (S, R); arms that lack it are left out.

    The value of a seed, which is the name of its column, is the mean over its folds.

    Args:
        arms: Rows of results.csv for each arm.
        history: A row per logged step of these runs, with the column `run`.
        metric: Column of `history`.
        diverged: Value after a run has diverged; None leaves it NaN.
    """
    if metric not in history:
        return {}
    measured = history.loc[history[metric].notna(), ["run", "step", metric]]
    values_SR = measured.drop_duplicates(["run", "step"]).pivot(index="step", columns="run", values=metric)
    tables = {}
    for arm, runs in arms:
        table = values_SR[[run for run in runs.run if run in values_SR]]
        if diverged is not None:
            ended = table.bfill().isna() & table.columns.isin(runs.run[runs.status == "diverged"])
            table = table.mask(ended, diverged)
        table = table.T.groupby(runs.set_index("run").seed).mean().T.dropna(how="all")
        if len(table):
            tables[arm] = table
    return tables


def arm_config(run: RunRecord) -> dict[str, str]:
    """Return a run's config as flat text, without the keys that may differ between the runs of an arm."""
    overrides = (override.lstrip("+").partition("=") for override in run.overrides)
    referring = {key for key, _, value in overrides if "${" in value}  # such as to the learning rate
    others = NOT_OF_AN_ARM | {*run.tuned} | referring
    config = flat_text(run.config)
    return {key: value for key, value in config.items() if key not in others and not key.startswith("claims.")}


def flat_text(node: Mapping[str, Any]) -> dict[str, str]:
    """Flatten a nested config to dotted keys with text values."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat(node).items()}


def _results(folder: Path, records: Collection[RunRecord]) -> pd.DataFrame:
    """Return results.csv, brought up to date with the records.

    A run whose record is broken keeps its row, so that what was measured is not lost.
    """
    path = folder / "results.csv"
    table = results(records)
    if path.exists():
        written = _read_results(path)
        kept = written.loc[~written.run.isin(table.run)]
        parts = [part for part in (table, kept) if len(part)]
        table = pd.concat(parts, ignore_index=True) if parts else written
        # Kept rows alone are no reason to write: reading and writing may change a number's last digit.
        same_runs = {*table.run} == {*written.run}
        if same_runs and (len(kept) or table.to_csv(index=False) == read_bytes(path).decode("utf-8", "replace")):
            return table
    with suppress(OSError):  # a study that cannot be written can still be read
        write_atomically(path, table.to_csv(index=False))
    return table


def _read_blocks(path: Path) -> pd.DataFrame:
    """Read blocks.csv, which a published study has in place of records.

    Raises:
        ConfigError: it is broken.
    """
    try:
        table = read_table(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: broken ({one_line(error)})") from error
    lacking = [name for name in ("run", "block", "size") if name not in table]
    words = [name for name in table if name != "run" and not pd.api.types.is_numeric_dtype(table[name])]
    if lacking or words:
        raise ConfigError(
            f"{path}: broken (no column {listed(lacking)})" if lacking else f"{path}: {listed(words)}: words"
        )
    return table


def _read_results(path: Path) -> pd.DataFrame:
    """Read results.csv.

    Raises:
        ConfigError: it is broken.
    """
    try:
        table = read_results(path.parent)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: broken ({one_line(error)}); {REMEDY}") from error
    flaw = _flaw(table)
    if flaw:
        raise ConfigError(f"{path}: broken ({printable(flaw)}); {REMEDY}")
    return table


def _flaw(table: pd.DataFrame) -> str | None:
    """Return what is wrong with a table of results; None where nothing is."""
    lacking = [column for column in COLUMNS if column not in table]
    if lacking:
        return f"no column {listed(lacking)}"
    if table.empty:
        return None
    words: Sequence[str] = ["run", "phase", "arm", "head", "status"]
    numbers = [column for column in table if column not in words]
    kinds = [table[column].dtype.kind for column in numbers]
    if any(kind not in "iuf" for kind in kinds) or table[["run", "phase", "arm", "status"]].isna().to_numpy().any():
        return "cells that are empty or hold no number"
    whole = table[["seed", "fold", "trial"]].to_numpy(float)
    if not np.isfinite(whole).all() or (whole % 1 != 0).any() or not np.isfinite(table.lr.to_numpy(float)).all():
        return "seeds, folds or trials that are no integers, or learning rates that are not finite"
    for column, accepted in (("phase", get_args(Phase)), ("status", get_args(Status))):
        others = [value for value in table[column] if value not in accepted]
        if others:
            return f"{column}={others[0]}; accepted: {listed(accepted, last='or')}"
    repeated = table.run[table.run.duplicated()]
    return f"more than one row of {listed(repeated)}" if len(repeated) else None
