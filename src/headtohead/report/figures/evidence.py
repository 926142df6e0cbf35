"""What the figures of a report are drawn from.

S steps, R runs (one per seed).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from headtohead.analysis.predictions import Picked, Predictions


@dataclass(frozen=True)
class Evidence:
    """What a study's figures are drawn from.

    Attributes:
        arms: their labels, in the order of the study.
        searched: rows of results.csv over the grid of learning rates.
        best: the learning rate of each arm.
        final: rows of results.csv that the arms are compared by, one per arm and seed.
        history: a row per logged step of each final run, as in history.csv, and the column `run`.
        curves: of the final runs, by name: `run.json`'s reliability and ambiguity per split.
        num_classes: that all arms tell apart; None where they differ or the study does not tell, and losses are then
            not normalised.
        num_classes_of: each arm, as far as the study tells.
        pairs: arms that differ in the head alone, one of the first arm's head and another.
        overrides: of each arm, as in study.json.
        target: validation accuracy to be reached, for the time to target.
        predictions: of the final runs that were tested, by name.
        picked: test examples to show.
        classes: their names.
    """

    arms: Sequence[str]
    searched: pd.DataFrame
    best: Mapping[str, float]
    final: pd.DataFrame
    history: pd.DataFrame
    curves: Mapping[str, Mapping[str, Any]]
    num_classes: int | None
    num_classes_of: Mapping[str, int]
    pairs: Sequence[tuple[str, str]]
    overrides: Mapping[str, Sequence[str]]
    target: float | None
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    picked: Picked | None = None
    classes: Sequence[str] = ()


def by_arm(evidence: Evidence, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of results.csv for each arm that has any, in the order of the study."""
    return [(arm, rows[rows.arm == arm]) for arm in evidence.arms if len(rows) and (rows.arm == arm).any()]


def histories(evidence: Evidence, tag: str, lost: float | None = None) -> dict[str, pd.DataFrame]:
    """For each arm a tag of its final runs, (S, R); `lost` stands for it after a run has diverged."""
    if tag not in evidence.history:
        return {}
    measured = evidence.history[["run", "step", tag]].dropna().drop_duplicates(["run", "step"])
    values_SR = measured.pivot(index="step", columns="run", values=tag)
    tables = {}
    for arm, runs in by_arm(evidence, evidence.final):
        table = values_SR[[run for run in runs.run if run in values_SR]]
        if lost is not None:
            ended = table.bfill().isna() & table.columns.isin(runs.run[runs.status == "diverged"])
            table = table.mask(ended, lost)
        table = table.dropna(how="all")
        if len(table):
            tables[arm] = table
    return tables


def loss_scale(evidence: Evidence) -> tuple[float, str]:
    """Factor and name of a loss: an NLL of 1 is that of a guess."""
    if evidence.num_classes:
        return 1 / np.log(evidence.num_classes), "NLL / ln K"
    return 1.0, "NLL, nats"
