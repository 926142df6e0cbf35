"""The figures of a report over what a study sweeps.

S learning rates, R runs (one per seed).
"""

import math
from contextlib import suppress

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from headtohead.analysis.statistics import t_interval
from headtohead.analysis.text import apart, setting
from headtohead.report.figures.evidence import Evidence, by_arm, loss_scale
from headtohead.report.figures.style import (
    MUTED,
    about_zero,
    band,
    lay_out,
    line,
    log_axis,
    short,
    small_multiples,
    style,
)

MOST_PAIRS = 12  # of arms, each with a panel


def learning_rates(evidence: Evidence) -> tuple[Figure, str] | None:
    """Validation accuracy and loss over the grid."""
    rows = _over_grid(evidence)
    if rows is None:
        return None
    figure, axes = lay_out(2, "Validation accuracy and loss over the learning rate", evidence.arms)
    scale, loss = loss_scale(evidence)
    losses = []
    for place, (arm, runs) in enumerate(by_arm(evidence, rows)):
        look = style(evidence.arms, arm)
        # Beside each other, lest an arm hide another.
        aside = 10 ** (0.025 * (place - (len(evidence.arms) - 1) / 2))
        for axis, column, factor, log in ((axes[0], "val_accuracy", 100, False), (axes[1], "val_nll", scale, True)):
            values_SR = factor * runs.pivot_table(index="lr", columns="seed", values=column, dropna=False)
            lrs = values_SR.index * aside
            mean = line(axis, lrs, values_SR, look, log)
            if log:
                losses += [*mean[np.isfinite(mean)]]
            chosen = values_SR.index == evidence.best.get(arm)
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": look["color"]}
            axis.plot(lrs[chosen], mean[chosen], linestyle="none", markeredgewidth=1.4, **ring)
    for axis in axes:
        log_axis(axis.xaxis, rows.lr)
        axis.set_xlabel("learning rate")
    axes[0].set(title="Accuracy", ylabel="validation accuracy, %")
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 104))
    axes[1].set(title="Negative log-likelihood", ylabel=f"validation {loss}")
    # What is far worse than a guess, and a band far below all means, would hide the differences among what has learned.
    log_axis(axes[1].yaxis, least=min(losses, default=0) / 2, most=2 if evidence.num_classes else math.inf)
    _guess(axes[1], evidence)
    return figure, (
        "Look at how wide each arm's plateau is, and whether its ring, the rate chosen on validation, "
        "lies inside the grid: on the edge a better rate may lie outside."
    )


def shared_rate(evidence: Evidence) -> tuple[Figure, str] | None:
    """Differences in validation accuracy with one learning rate for both arms, and with each arm's own."""
    pairs = _differences(evidence)
    if not pairs:
        return None
    shown = pairs[:MOST_PAIRS]
    dot = {"linestyle": "none", "marker": "s", "markersize": 2}
    legend = [
        Line2D([], [], color=MUTED, label="one seed, both at this rate", **dot),
        Line2D([], [], color=MUTED, marker="o", label="mean over seeds"),
        Patch(color=MUTED, alpha=0.3, label="each at its best rate, 95 %"),
    ]
    figure, axes = small_multiples(len(shown), "What one shared learning rate would have said", legend)
    for axis, pair in zip(axes, shown, strict=True):
        _draw_pair(axis, evidence, *pair)
    about_zero(axes[0], max(table.abs().max(axis=None) for *_, shared_SR, own in shown for table in (shared_SR, own)))
    for axis in axes[::3]:
        axis.set_ylabel("difference, points")
    for axis in axes[-3:]:
        axis.set_xlabel("learning rate")
    rest = f"; these are the first {len(shown)} of {len(pairs)} pairs of arms" if len(shown) < len(pairs) else ""
    return figure, (
        "Look at where the line, both arms at the same learning rate, leaves the band, each arm at its own best rate: "
        "a study of that one rate would have blamed the head for the rate; the accuracy is that of validation, as the "
        f"search never sees the test set, and a diverged run counts as a guess{rest}."
    )


def _differences(evidence: Evidence) -> list[tuple[str, str, pd.DataFrame, pd.Series]]:
    """Pairs of arms with the first's validation accuracy minus the other's, in points, paired by seed.

    First with the same learning rate for both, (S, R), then with each arm's own in the final runs, (R,).
    """
    rows = _over_grid(evidence)
    if rows is None or evidence.final.empty:
        return []
    tables = [
        100 * runs.pivot_table(index=index, columns="arm", values="val_accuracy")
        for runs, index in ((rows, ["lr", "seed"]), (evidence.final, "seed"))
    ]
    found = []
    for first, other in evidence.pairs:
        if all({first, other} <= {*table} for table in tables):
            shared, own = ((table[first] - table[other]).dropna() for table in tables)
            if len(shared) and len(own):
                found.append((first, other, shared.unstack("seed"), own))
    return found


def _draw_pair(axis: Axes, evidence: Evidence, first: str, other: str, shared_SR: pd.DataFrame, own: pd.Series) -> None:
    look = style(evidence.arms, other)
    colour = look["color"]
    # Beside each other, lest a seed hide another.
    lrs_SR = np.outer(shared_SR.index, 10 ** np.linspace(-0.08, 0.08, shared_SR.shape[1]))
    # One path of short dashes: as markers they would take four times the room.
    dashes_SR3 = lrs_SR[..., None] * [10**-0.02, 10**0.02, np.nan]
    axis.plot(dashes_SR3.ravel(), np.repeat(shared_SR, 3), color=colour, alpha=0.5, linewidth=2, solid_capstyle="butt")
    axis.plot(shared_SR.index, band(shared_SR)[0], **look)
    mean, lower, upper = t_interval(own)
    axis.axhspan(lower, upper, color=colour, alpha=0.18, linewidth=0)
    axis.axhline(mean, color=colour, linewidth=0.9)
    axis.axhline(0, color=style(evidence.arms, first)["color"], linewidth=0.9, linestyle=(0, (2, 2)))
    axis.set_title(short(other, 32), fontsize=8)
    log_axis(axis.xaxis, shared_SR.index[:: -(-len(shared_SR) // 4)])
    _, heads = apart([first, other])
    for arm, head, y, side in zip((first, other), heads, (0.97, 0.03), ("top", "bottom"), strict=True):
        place = {"transform": axis.transAxes, "va": side, "color": style(evidence.arms, arm)["color"]}
        axis.text(0.03, y, f"{short(head, 24)} ahead", **place)


def settings(evidence: Evidence) -> tuple[Figure, str] | None:
    """Test accuracy and loss over the one number that is swept beside the learning rate, a line for all else."""
    swept = _swept_number(evidence)
    final = evidence.final
    if swept is None or not {"test_accuracy", "test_nll"} <= {*final} or final.test_accuracy.isna().all():
        return None
    key, values = swept
    # What an arm is besides: `sigmoid,prior_bias=none`.
    kinds = {
        arm: ",".join(setting(item) for item in items if _key(item) != key) for arm, items in evidence.overrides.items()
    }
    names = list(dict.fromkeys(kinds.values()))
    if len(names) < 2:
        return None
    known = {*evidence.num_classes_of} >= {*evidence.arms}
    guess = final.arm.map({arm: np.log(count) for arm, count in evidence.num_classes_of.items()}) if known else 1.0
    rows = final.assign(
        kind=final.arm.map(kinds),
        value=final.arm.map(values),
        accuracy=100 * final.test_accuracy,
        loss=final.test_nll / guess,
    )
    figure, axes = lay_out(2, f"Test accuracy and loss over {key}", names)
    for axis, column in zip(axes, ("accuracy", "loss"), strict=True):
        for name in names:
            values_SR = rows[rows.kind == name].pivot_table(index="value", columns="seed", values=column)
            line(axis, values_SR.index, values_SR, style(names, name))
        ticks = sorted({*values.values()})
        if 0 < 10 * ticks[0] <= ticks[-1]:
            log_axis(axis.xaxis, ticks)
        else:
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xlabel(key)
    axes[0].set(title="Accuracy", ylabel="test accuracy, %")
    axes[1].set(title="Loss", ylabel=f"test {'NLL / ln K' if known else 'NLL, nats'}")
    return figure, (
        f"Look at where the lines part or cross: there the difference between arms depends on {key}; a line joins the "
        "arms that are alike in all else."
    )


def _swept_number(evidence: Evidence) -> tuple[str, dict[str, float]] | None:
    """The key whose values in all arms are numbers that differ, with each arm's; None where no key or several are."""
    items = {arm: {_key(item): item.partition("=")[2] for item in given} for arm, given in evidence.overrides.items()}
    found = []
    for key in dict.fromkeys(key for given in items.values() for key in given):
        with suppress(ValueError):
            values = {arm: float(given.get(key, "")) for arm, given in items.items()}
            if len({*values.values()}) > 1 and np.isfinite([*values.values()]).all():
                found.append((key, values))
    return found[0] if len(found) == 1 else None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _over_grid(evidence: Evidence) -> pd.DataFrame | None:
    """The runs over the learning rates; None where there are not two rates, or none that a logarithm takes."""
    rows = evidence.searched
    rows = rows[rows.status != "failed"] if len(rows) else rows
    return rows if len(rows) and rows.lr.nunique() > 1 and rows.lr.min() > 0 else None


def _guess(axis: Axes, evidence: Evidence) -> None:
    if evidence.num_classes:
        axis.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.annotate("a guess", (0.01, 1), xycoords=("axes fraction", "data"), color=MUTED, va="bottom")
