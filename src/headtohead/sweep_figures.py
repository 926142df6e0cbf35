"""The figures of a report over what a study sweeps.

S learning rates, R runs (one per seed).
"""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headtohead.evidence import Evidence, by_arm, loss_scale
from headtohead.plotting import MUTED, lay_out, line, log_axis, style


def learning_rates(evidence: Evidence) -> tuple[Figure, str] | None:
    """Validation accuracy and loss over the grid."""
    rows = evidence.searched
    rows = rows[rows.status != "failed"] if len(rows) else rows
    if len(rows) == 0 or rows.lr.nunique() < 2 or rows.lr.min() <= 0:
        return None
    figure, axes = lay_out(2, "Validation accuracy and loss over the learning rate", evidence.arms)
    scale, loss = loss_scale(evidence)
    for place, (arm, runs) in enumerate(by_arm(evidence, rows)):
        look = style(evidence.arms, arm)
        # Beside each other, lest an arm hide another.
        aside = 10 ** (0.025 * (place - (len(evidence.arms) - 1) / 2))
        for axis, column, factor, log in ((axes[0], "val_accuracy", 100, False), (axes[1], "val_nll", scale, True)):
            values_SR = factor * runs.pivot_table(index="lr", columns="seed", values=column, dropna=False)
            lrs = values_SR.index * aside
            mean = line(axis, lrs, values_SR, look, log)
            chosen = values_SR.index == evidence.best.get(arm)
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": look["color"]}
            axis.plot(lrs[chosen], mean[chosen], linestyle="none", markeredgewidth=1.4, **ring)
    for axis in axes:
        log_axis(axis.xaxis, rows.lr)
        axis.set_xlabel("learning rate")
    axes[0].set(title="Accuracy", ylabel="validation accuracy, %")
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 104))
    axes[1].set(title="Negative log-likelihood", ylabel=f"validation {loss}")
    # What is far worse than a guess would hide the differences among what has learned.
    log_axis(axes[1].yaxis, most=2 if evidence.num_classes else math.inf)
    _guess(axes[1], evidence)
    return figure, (
        "Look at how wide each arm's plateau is, and whether its ring, the rate chosen on validation, "
        "lies inside the grid: on the edge a better rate may lie outside."
    )


def _guess(axis: Axes, evidence: Evidence) -> None:
    if evidence.num_classes:
        axis.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.annotate("a guess", (0.01, 1), xycoords=("axes fraction", "data"), color=MUTED, va="bottom")
