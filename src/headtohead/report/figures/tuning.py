"""Figures of the tuning of a study over a space.

N sizes of a budget.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from headtohead.analysis.statistics import is_higher_better
from headtohead.analysis.study import Study
from headtohead.analysis.tuning import METRICS, expected_best, settings_of, trials_of
from headtohead.record.study import Range
from headtohead.report.figures.layers import arm_look, at, axis, chance_level, curves, digits, log_axis, near, panel
from headtohead.report.figures.style import SMALL_PANEL, Drawn, Figure, Key, Row, View, keys, loss_scale, short

ACROSS = 3  # settings side by side
MOST_TRIALS = 200  # with a point each


def budget(study: Study) -> Drawn:
    """Draw the expected best validation metrics of n trials."""
    curves_by = {
        metric: {
            arm: expected_best(trials.value.to_numpy(float), is_higher_better(metric))
            for arm in study.arms
            if len(trials := trials_of(study, arm, metric)) > 1
        }
        for metric in METRICS
    }
    if not study.record.space or not all(curves_by.values()):
        return None
    scale, loss = loss_scale(study.common_num_classes)
    most = max(int(curve_N.index[-1]) for of_metric in curves_by.values() for curve_N in of_metric.values())
    sizes = [2**power for power in range(most.bit_length())]
    x = log_axis("trials, n", [1, most], sizes)
    accuracy = _best_rows(study, curves_by["val_accuracy"], 100)
    losses = _best_rows(study, curves_by["val_nll"], scale)
    # Single trials reach down to chance level: a scale for them would hide how the best ones differ.
    means = [100 * curve_N["mean"].iloc[min(3, len(curve_N) // 4) :] for curve_N in curves_by["val_accuracy"].values()]
    lowest, highest = (float(pick([pick(mean) for mean in means])) for pick in (min, max))
    room = 0.08 * (highest - lowest) or 1
    y = axis("best validation accuracy, %", (lowest - room, highest + room))
    of_losses = _loss_axis(study, f"best validation {loss}", np.array([row["y"] for row in losses]))
    of, count = {"trials": "x", "mean": "y", "from": "low", "to": "high"}, len(study.arms)
    return Figure(
        "Expected best of n trials",
        "Look at which arm is ahead at the number of trials that you can afford, and at where the lines level off. A "
        "line is the mean of the best of n trials, drawn at random from those of the study, and may begin below its "
        "panel. This band holds 80 % of the draws, which are the same where n is all trials.",
        [
            panel("Accuracy", curves(accuracy, count, x, y, of)),
            panel("Negative log-likelihood", [*_chance(study, of_losses), *curves(losses, count, x, of_losses, of)]),
        ],
        keys(study.arms),
        names=study.arms,
    )


def _best_rows(study: Study, by_arm: Mapping[str, pd.DataFrame], factor: float) -> list[Row]:
    """Return the rows of the expected best of each number of trials, marked at the powers of two."""
    return [
        {
            "arm": study.arms.index(arm),
            "x": int(size),
            **{name: digits(factor * value) for name, value in (("y", mean), ("low", low), ("high", high))},
            **({} if size & (size - 1) == 0 else {"bare": True}),
        }
        for arm, curve_N in by_arm.items()
        for size, mean, low, high in curve_N[["mean", "lower", "upper"]].itertuples()
        if all(map(math.isfinite, (mean, low, high)))
    ]


def tuned_settings(study: Study) -> Drawn:
    """Draw the validation metrics of all trials against each tuned setting."""
    trials = {(arm, metric): trials_of(study, arm, metric) for arm in study.arms for metric in METRICS}
    space = {key: of for key, of in study.record.space.items() if any(key in table for table in trials.values())}
    if not space or all(table.empty for table in trials.values()):
        return None
    scale, loss = loss_scale(study.common_num_classes)
    losses = np.concatenate([scale * trials[arm, "val_nll"].value.to_numpy(float) for arm in study.arms])
    accuracies = np.concatenate([100 * trials[arm, "val_accuracy"].value.to_numpy(float) for arm in study.arms])
    accuracies = accuracies[np.isfinite(accuracies)]
    ends = (float(accuracies.min()) - 3, min(float(accuracies.max()) + 3, 104)) if len(accuracies) else None
    y = {
        "val_accuracy": axis("validation accuracy, %", ends),
        "val_nll": _loss_axis(study, f"validation {loss}", losses),
    }
    factors = {"val_accuracy": 100, "val_nll": scale}
    panels = [
        panel(
            short(key, 40),
            [
                *(_chance(study, y[metric]) if metric == "val_nll" else []),
                *_trials_panel(
                    study,
                    key,
                    _trial_rows(study, trials, key, metric, factors[metric]),
                    _range_axis(key, of),
                    y[metric],
                ),
            ],
            SMALL_PANEL,
        )
        for keys_of_row in _in_rows([*space])
        for metric in METRICS
        for key, of in ((key, space[key]) for key in keys_of_row)
    ]
    most = max(len(table) for table in trials.values())
    rest = f" Of {most:,} trials of an arm the first {MOST_TRIALS} are shown." if most > MOST_TRIALS else ""
    points = [replace(key, dash=None) for key in keys(study.arms)]
    return Figure(
        "Validation against each tuned setting",
        "Look for slopes and bends: a setting that matters shows one, and a ring, the trial chosen on validation, at "
        "an end of its range says that a better value may lie outside. A point is a trial, its "
        f"mean over seeds.{rest}",
        panels,
        [*points, Key("chosen", shape="circle", hollow=True)],
        across=min(len(space), ACROSS),
        names=study.arms,
    )


def _in_rows(keys: Sequence[str]) -> list[Sequence[str]]:
    """Return settings in rows of ACROSS, of which the last may be shorter."""
    return [keys[start : start + ACROSS] for start in range(0, len(keys), ACROSS)]


def _trial_rows(
    study: Study, trials: Mapping[tuple[str, str], pd.DataFrame], key: str, metric: str, factor: float
) -> list[Row]:
    """Return the rows of the first trials of the arms that have a setting; the chosen ones have a ring."""
    rows: list[Row] = []
    criterion = metric if metric in study.record.criteria else study.record.protocol.selected_by
    for place, arm in enumerate(study.arms):
        if key not in settings_of(study, arm):
            continue
        table, best = trials[arm, metric], study.best_by(criterion).get(arm)
        chosen = best is not None and (table.trial == best.number) & np.isclose(table.lr, best.lr, rtol=1e-6, atol=0)
        rows += [
            {
                "arm": place,
                "x": digits(x),
                "y": digits(factor * value),
                "trial": int(trial),
                **({"ring": True} if ring else {}),
            }
            for x, value, trial, ring in zip(
                table[key], table.value, table.trial, np.broadcast_to(chosen, len(table)), strict=True
            )
            if (trial <= MOST_TRIALS or ring) and math.isfinite(x) and math.isfinite(value)
        ]
    return rows


def _trials_panel(study: Study, key: str, rows: list[Row], x: View, y: View) -> list[View]:
    encoding, count = {"x": at(x, "x"), "y": at(y, "y")}, len(study.arms)
    ring = {"type": "point", "shape": "circle", "size": 110, "strokeWidth": 1.6, "clip": True}
    few = [row for row in rows if row["trial"] <= MOST_TRIALS]
    return [
        {"data": {"values": few}, "mark": {"type": "point", "filled": True, "size": 14, "clip": True},
         "encoding": {**encoding, **arm_look(count, shapes=True)}},
        {"data": {"values": [row for row in rows if "ring" in row]}, "mark": ring,
         "encoding": {**encoding, **arm_look(count)}},
        {"data": {"values": rows}, **near(encoding, {"trial": "trial", "setting": "x", "value": "y"})},
    ]  # fmt: skip


def _range_axis(key: str, of: Range) -> View:
    """Return the axis of a whole range."""
    if of.log:
        powers = range(math.ceil(math.log10(of.low) - 1e-9), math.floor(math.log10(of.high) + 1e-9) + 1)
        ticks = [10.0**power for power in powers]
        return log_axis(
            short(key, 30), [of.low, of.high], ticks[:: -(-len(ticks) // 4)] if len(ticks) > 1 else [of.low, of.high]
        )
    room = 0.04 * (of.high - of.low)
    return axis(short(key, 30), (of.low - room, of.high + room), tickCount=4)


def _loss_axis(study: Study, title: str, losses: np.ndarray) -> View:
    """Return the logarithmic axis of losses; where chance level is known, those far above it are out of sight."""
    finite = losses[np.isfinite(losses)]
    room = [1.3] if study.common_num_classes and max(finite, default=0) > 0.9 else []
    most = 2 if study.common_num_classes else math.inf
    return log_axis(title, [*losses, *room], least=min(finite, default=0) / 1.3, most=most)


def _chance(study: Study, of: View) -> list[View]:
    return chance_level(of) if study.common_num_classes else []
