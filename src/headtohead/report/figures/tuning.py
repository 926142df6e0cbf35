"""Figures of the tuning of a study over a space.

N sizes of a budget.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headtohead.analysis.statistics import is_higher_better
from headtohead.analysis.study import Study
from headtohead.analysis.tuning import METRICS, expected_best, settings_of, trials_of
from headtohead.record.study import Range
from headtohead.report.figures.style import (
    DOTTED,
    MUTED,
    SMALL_PANEL,
    WIDTH,
    Drawn,
    arm_style,
    lay_out,
    log_axis,
    loss_scale,
    short,
    titled,
)

ACROSS = 5  # panels side by side
MOST_TRIALS = 200  # with a point each


def budget(study: Study) -> Drawn:
    """Draw the expected best validation metrics of n trials."""
    curves = {
        metric: {
            arm: expected_best(trials.value.to_numpy(float), is_higher_better(metric))
            for arm in study.arms
            if len(trials := trials_of(study, arm, metric)) > 1
        }
        for metric in METRICS
    }
    if not study.record.space or not all(curves.values()):
        return None
    figure, axes = lay_out(2, "Expected best of n trials", study.arms)
    scale, loss = loss_scale(study.common_num_classes)
    for axis, (metric, factor) in zip(axes, (("val_accuracy", 100), ("val_nll", scale)), strict=True):
        for arm, curve_N in curves[metric].items():
            look = arm_style(study.arms, arm)
            sizes = curve_N.index.to_numpy(float)
            marked = [place for place, size in enumerate(curve_N.index) if size & (size - 1) == 0]
            axis.plot(sizes, factor * curve_N["mean"], markevery=marked, **look)
            lower, upper = (factor * curve_N[name].to_numpy() for name in ("lower", "upper"))
            axis.fill_between(sizes, lower, upper, color=look["color"], alpha=0.18, linewidth=0)
        most = max(int(curve_N.index[-1]) for curve_N in curves[metric].values())
        log_axis(axis.xaxis, [2**power for power in range(most.bit_length())])
        axis.set_xlabel("trials, n")
    # Single trials reach down to chance level: a scale for them would hide how the best ones differ.
    means = [100 * curve_N["mean"].iloc[min(3, len(curve_N) // 4) :] for curve_N in curves["val_accuracy"].values()]
    lowest, highest = (float(pick([pick(mean) for mean in means])) for pick in (min, max))
    axes[0].set(title="Accuracy", ylabel="best validation accuracy, %")
    room = 0.08 * (highest - lowest) or 1
    axes[0].set_ylim(lowest - room, highest + room)
    axes[1].set(title="Negative log-likelihood", ylabel=f"best validation {loss}")
    if study.common_num_classes:
        axes[1].axhline(1, **DOTTED)
    _loss_axis(axes[1], study, np.concatenate([scale * curve_N["mean"] for curve_N in curves["val_nll"].values()]))
    return figure, (
        "Look at which arm is ahead at the number of trials that you can afford, and at where the lines level off. A "
        "line is the mean of the best of n trials, drawn at random from those of the study, and may begin below its "
        "panel. This band holds 80 % of the draws, which are the same where n is all trials."
    )


def tuned_settings(study: Study) -> Drawn:
    """Draw the validation metrics of all trials against each tuned setting."""
    trials = {(arm, metric): trials_of(study, arm, metric) for arm in study.arms for metric in METRICS}
    space = {key: of for key, of in study.record.space.items() if any(key in table for table in trials.values())}
    if not space or all(table.empty for table in trials.values()):
        return None
    scale, loss = loss_scale(study.common_num_classes)
    figure, panels = _panels(study, list(space))
    rows = (("val_accuracy", 100, "validation accuracy, %"), ("val_nll", scale, f"validation {loss}"))
    for key, of_metrics in panels.items():
        for axis, (metric, factor, _) in zip(of_metrics, rows, strict=True):
            for arm in study.arms:
                if key in settings_of(study, arm):
                    _draw_trials(axis, study, arm, metric, trials[arm, metric], key, factor)
            _range_axis(axis, space[key])
        of_metrics[1].set_xlabel(key, fontsize=7.5)
        if study.common_num_classes:
            of_metrics[1].axhline(1, **DOTTED)
        of_metrics[0].tick_params(labelbottom=False)
    firsts = list(panels.values())[::ACROSS]
    for of_metrics in firsts:
        for axis, (_, _, name) in zip(of_metrics, rows, strict=True):
            axis.set_ylabel(name, fontsize=8)
    # All panels of a row share their axis.
    firsts[0][0].set_ylim(top=min(firsts[0][0].get_ylim()[1], 104))
    losses = [scale * trials[arm, "val_nll"].value.to_numpy(float) for arm in study.arms]
    _loss_axis(firsts[0][1], study, np.concatenate(losses))
    most = max(len(table) for table in trials.values())
    rest = f" Of {most:,} trials of an arm the first {MOST_TRIALS} are shown." if most > MOST_TRIALS else ""
    return figure, (
        "Look for slopes and bends: a setting that matters shows one, and a ring, the trial chosen on validation, at "
        "an end of its range says that a better value may lie outside. A point is a trial, its "
        f"mean over seeds.{rest}"
    )


def _draw_trials(
    axis: Axes, study: Study, arm: str, metric: str, trials: pd.DataFrame, key: str, factor: float
) -> None:
    look = arm_style(study.arms, arm)
    shown = trials.loc[trials.trial <= MOST_TRIALS]
    axis.plot(
        shown[key], factor * shown.value, linestyle="none", marker=look["marker"], color=look["color"],
        markersize=2.4, markeredgewidth=0,
    )  # fmt: skip
    criterion = metric if metric in study.record.criteria else study.record.protocol.selected_by
    best = study.best_by(criterion).get(arm)
    if best is not None:
        chosen = trials.loc[(trials.trial == best.number) & np.isclose(trials.lr, best.lr, rtol=1e-6, atol=0)]
        ring = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "markeredgecolor": look["color"]}
        axis.plot(chosen[key], factor * chosen.value, linestyle="none", markeredgewidth=1.4, **ring)


def _panels(study: Study, keys: Sequence[str]) -> tuple[Figure, dict[str, tuple[Axes, Axes]]]:
    """Place two panels for each setting, accuracy above loss, in rows of up to ACROSS settings."""
    across = min(len(keys), ACROSS)
    blocks, left, gap, below, apart = -(-len(keys) // across), 0.68, 0.28, 0.62, 0.12
    points: dict[str, Any] = {"linestyle": "none"}
    legend = [Line2D([], [], label=short(arm, 36), **arm_style(study.arms, arm) | points) for arm in study.arms]
    tall = 2 * SMALL_PANEL + apart + below
    figure = titled("Validation against each tuned setting", legend, blocks * tall)
    height, width = figure.get_figheight(), (WIDTH - left - 0.1 - (across - 1) * gap) / across
    panels: dict[str, tuple[Axes, Axes]] = {}
    shared: list[Axes] = []
    for place, key in enumerate(keys):
        block, column = divmod(place, across)
        y = (blocks - 1 - block) * tall + below
        pair = []
        for row, bottom in enumerate((y + SMALL_PANEL + apart, y)):
            frame = ((left + column * (width + gap)) / WIDTH, bottom / height, width / WIDTH, SMALL_PANEL / height)
            axis = figure.add_axes(frame, sharey=shared[row] if len(shared) > 1 else None)
            axis.tick_params(labelleft=column == 0, labelsize=7.5)
            pair.append(axis)
        shared = shared or pair
        panels[key] = (pair[0], pair[1])
    return figure, panels


def _range_axis(axis: Axes, of: Range) -> None:
    """Show a whole range on the x axis."""
    room = 0.04
    if of.log:
        wider = (of.high / of.low) ** room
        axis.set_xlim(of.low / wider, of.high * wider)
        powers = range(math.ceil(math.log10(of.low) - 1e-9), math.floor(math.log10(of.high) + 1e-9) + 1)
        ticks = [10.0**power for power in powers]
        log_axis(axis.xaxis, ticks[:: -(-len(ticks) // 4)] if len(ticks) > 1 else [of.low, of.high])
    else:
        wider = room * (of.high - of.low)
        axis.set_xlim(of.low - wider, of.high + wider)
        axis.locator_params(axis="x", nbins=4)


def _loss_axis(axis: Axes, study: Study, losses: np.ndarray) -> None:
    """Make the y axis logarithmic, and name chance level where the number of classes is the same for all arms."""
    finite = losses[np.isfinite(losses)]
    log_axis(axis.yaxis, least=min(finite, default=0) / 1.3, most=2 if study.common_num_classes else math.inf)
    if study.common_num_classes:
        axis.annotate(
            "chance level", (0.01, 1), xycoords=("axes fraction", "data"), color=MUTED, va="bottom", fontsize=8
        )
