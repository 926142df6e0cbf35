"""Figures over what a study sweeps.

S values of what is swept, R runs (one per seed).
"""

import math
from contextlib import suppress

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from headtohead.analysis.statistics import t_interval
from headtohead.analysis.study import Study
from headtohead.analysis.text import short_override, split_shared
from headtohead.report.figures.style import (
    DOTTED,
    MUTED,
    Drawn,
    about_zero,
    arm_style,
    band,
    lay_out,
    line,
    log_axis,
    loss_scale,
    short,
    small_multiples,
)

MOST_PAIRS = 12  # of arms, each with a panel


def learning_rates(study: Study) -> Drawn:
    """Draw the validation accuracy and loss over the grid of learning rates."""
    rows = _over_grid(study)
    if rows is None:
        return None
    figure, axes = lay_out(2, "Validation accuracy and loss over the learning rate", study.arms)
    scale, loss = loss_scale(study.common_num_classes)
    losses = []
    for place, (arm, runs) in enumerate(study.by_arm(rows)):
        look = arm_style(study.arms, arm)
        # Arms stand beside each other, so that none hides another.
        aside = 10 ** (0.025 * (place - (len(study.arms) - 1) / 2))
        for axis, metric, factor, log in ((axes[0], "val_accuracy", 100, False), (axes[1], "val_nll", scale, True)):
            values_SR = factor * runs.pivot_table(index="lr", columns="seed", values=metric, dropna=False)
            rates = values_SR.index.to_numpy()
            mean = line(axis, rates * aside, values_SR, look, log)
            if log:
                losses += [*mean[np.isfinite(mean)]]
            # The loss has a ring of its own where claims are judged at its best rate.
            criterion = metric if metric in study.record.criteria else study.record.protocol.selected_by
            chosen = study.best_by(criterion).get(arm)
            best = np.isclose(rates, chosen.lr if chosen else math.nan)
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": look["color"]}
            axis.plot(rates[best] * aside, mean[best], linestyle="none", markeredgewidth=1.4, **ring)
    for axis in axes:
        log_axis(axis.xaxis, rows.lr)
        axis.set_xlabel("learning rate")
    axes[0].set(title="Accuracy", ylabel="validation accuracy, %")
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 104))
    axes[1].set(title="Negative log-likelihood", ylabel=f"validation {loss}")
    # Losses far above chance level, and bands far below all means, would hide the differences among what has learned.
    most = 2 if study.common_num_classes else math.inf
    log_axis(axes[1].yaxis, least=min(losses, default=0) / 2, most=most)
    if study.common_num_classes:
        axes[1].axhline(1, **DOTTED)
        axes[1].annotate("chance level", (0.01, 1), xycoords=("axes fraction", "data"), color=MUTED, va="bottom")
    return figure, (
        "Look at the width of each arm's plateau, and at its ring, the rate chosen on validation. Where a ring is on "
        "the edge of the grid, a better rate may lie outside."
    )


def shared_rate(study: Study) -> Drawn:
    """Draw differences in validation accuracy with one learning rate for both arms, and with each arm's own."""
    pairs = _differences(study)
    if not pairs:
        return None
    shown = pairs[:MOST_PAIRS]
    dot = {"linestyle": "none", "marker": "s", "markersize": 2}
    legend = [
        Line2D([], [], color=MUTED, label="one seed, both at this rate", **dot),
        Line2D([], [], color=MUTED, marker="o", label="mean over seeds"),
        Patch(color=MUTED, alpha=0.3, label="each at its best rate, 95 %"),
    ]
    figure, axes = small_multiples(len(shown), "Differences at one shared learning rate", legend)
    for axis, pair in zip(axes, shown, strict=True):
        _draw_pair(axis, study, *pair)
    largest = [np.abs(table.to_numpy()) for *_, shared_SR, own in shown for table in (shared_SR, own)]
    about_zero(axes[0], max(float(np.nanmax(table)) for table in largest))
    for axis in axes[::3]:
        axis.set_ylabel("difference, points")
    for axis in axes[-3:]:
        axis.set_xlabel("learning rate")
    rest = f" The figure shows the first {len(shown)} of {len(pairs)} pairs of arms." if len(shown) < len(pairs) else ""
    return figure, (
        "Look at where the line, both arms at the same learning rate, leaves the band, each arm at its own best rate. "
        "A study at that one rate would blame the head for the rate. Accuracies are those of validation, as the search "
        f"does not read the test set. A diverged run counts at chance level.{rest}"
    )


def _differences(study: Study) -> list[tuple[str, str, pd.DataFrame, pd.Series]]:
    """Return pairs of arms with the first's validation accuracy minus the other's, in points, paired by seed.

    The first difference is that at the same learning rate for both, (S, R), the second that at each arm's own rate in
    the final runs, (R,).
    """
    rows = _over_grid(study)
    if rows is None or study.final.empty:
        return []
    tables = [
        100 * runs.pivot_table(index=index, columns="arm", values="val_accuracy")
        for runs, index in ((rows, ["lr", "seed"]), (study.final, ["seed"]))
    ]
    pairs = []
    for first, other in study.pairs_of(study.head_of(study.arms[0])):
        if all({first, other} <= {*table} for table in tables):
            shared, own = ((table[first] - table[other]).dropna() for table in tables)
            if len(shared) and len(own):
                pairs.append((first, other, shared.unstack("seed"), own))
    return pairs


def _draw_pair(axis: Axes, study: Study, first: str, other: str, shared_SR: pd.DataFrame, own: pd.Series) -> None:
    look = arm_style(study.arms, other)
    colour = look["color"]
    rates = shared_SR.index.to_numpy()
    # Seeds stand beside each other, so that none hides another.
    rates_SR = np.outer(rates, 10 ** np.linspace(-0.08, 0.08, shared_SR.shape[1]))
    # One path of short dashes: markers would take four times the room.
    dashes_SR3 = rates_SR[..., None] * [10**-0.02, 10**0.02, np.nan]
    axis.plot(dashes_SR3.ravel(), np.repeat(shared_SR, 3), color=colour, alpha=0.5, linewidth=2, solid_capstyle="butt")
    axis.plot(rates, band(shared_SR)[0], **look)
    mean, lower, upper = t_interval(own)
    axis.axhspan(lower, upper, color=colour, alpha=0.18, linewidth=0)
    axis.axhline(mean, color=colour, linewidth=0.9)
    axis.axhline(0, **DOTTED | {"color": arm_style(study.arms, first)["color"]})
    axis.set_title(short(other, 32), fontsize=8)
    log_axis(axis.xaxis, rates[:: -(-len(rates) // 4)])
    _, heads = split_shared([first, other])
    for arm, head, y, side in zip((first, other), heads, (0.97, 0.03), ("top", "bottom"), strict=True):
        place = {"transform": axis.transAxes, "va": side, "color": arm_style(study.arms, arm)["color"]}
        axis.text(0.03, y, f"{short(head, 24)} ahead", **place)


def swept_number(study: Study) -> Drawn:
    """Draw test accuracy and loss over the one number that is swept beside the learning rate, a line for all else."""
    swept, final = _swept_number(study), study.final
    if swept is None or not {"test_accuracy", "test_nll"} <= {*final} or final.test_accuracy.isna().all():
        return None
    key, values = swept
    # What an arm is besides: `sigmoid,prior_bias=none`.
    kinds = {
        arm: ",".join(short_override(item) for item in overrides if _key(item) != key)
        for arm, overrides in study.record.arms.items()
    }
    names = list(dict.fromkeys(kinds.values()))
    if len(names) < 2:
        return None
    rows = final.assign(
        kind=final.arm.map(kinds),
        value=final.arm.map(values),
        accuracy=100 * final.test_accuracy,
        loss=final.test_nll / np.log(final.arm.map(study.record.num_classes)),
    )
    figure, axes = lay_out(2, f"Test accuracy and loss over {key}", names)
    ticks = sorted({*values.values()})
    for axis, measure in zip(axes, ("accuracy", "loss"), strict=True):
        for name in names:
            values_SR = rows[rows.kind == name].pivot_table(index="value", columns="seed", values=measure)
            line(axis, values_SR.index, values_SR, arm_style(names, name))
        if 0 < 10 * ticks[0] <= ticks[-1]:
            log_axis(axis.xaxis, ticks)
        else:
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xlabel(key)
    axes[0].set(title="Accuracy", ylabel="test accuracy, %")
    axes[1].set(title="Loss", ylabel="test NLL / ln K")
    return figure, (
        f"Look at where lines part or cross: there the difference between arms depends on {key}. A line joins the arms "
        "that are alike in all else."
    )


def _swept_number(study: Study) -> tuple[str, dict[str, float]] | None:
    """Return the only key whose values in all arms are numbers that differ, with each arm's value; else None."""
    overrides = {
        arm: {_key(item): item.partition("=")[2] for item in items} for arm, items in study.record.arms.items()
    }
    swept = []
    for key in dict.fromkeys(key for given in overrides.values() for key in given):
        with suppress(ValueError):
            values = {arm: float(given.get(key, "")) for arm, given in overrides.items()}
            if len({*values.values()}) > 1 and np.isfinite([*values.values()]).all():
                swept.append((key, values))
    return swept[0] if len(swept) == 1 else None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _over_grid(study: Study) -> pd.DataFrame | None:
    """Return the runs over the grid; None where there are not two rates, or one that has no logarithm.

    Trials of a space differ in more than the rate.
    """
    if study.record.space:
        return None
    rows = study.searched.loc[study.searched.status != "failed"]
    return rows if len(rows) and rows.lr.nunique() > 1 and rows.lr.min() > 0 else None
