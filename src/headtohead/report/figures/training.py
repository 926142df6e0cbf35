"""Figures over the steps of training, and of the runs by which arms are compared.

S steps, R runs (one per seed), A arms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headtohead.analysis.study import Study
from headtohead.report.figures.style import (
    DOTTED,
    Drawn,
    arm_style,
    band,
    count_axis,
    lay_out,
    line,
    log_axis,
    loss_scale,
    short,
)

MOST_POINTS = 1000  # per panel: more cannot be seen


@dataclass(frozen=True)
class Panel:
    """A panel of curves over the steps.

    Attributes:
        metric: Metric of the histories.
        title: Title of the panel.
        label: Label of the y axis.
        factor: Factor of the values.
        diverged: Value after a run has diverged; None leaves it out.
        log: Whether the y axis is logarithmic.
    """

    metric: str
    title: str
    label: str
    factor: float = 1
    diverged: float | None = None
    log: bool = False


def training(study: Study) -> Drawn:
    """Draw the training and validation curves at each arm's best rate."""
    classes = study.common_num_classes
    scale, loss = loss_scale(classes)
    chance, chance_nll = (1 / classes, math.log(classes)) if classes else (None, None)
    panels = [
        Panel("train_accuracy", "Training accuracy", "accuracy, %", 100, chance),
        Panel("val_accuracy", "Validation accuracy", "accuracy, %", 100, chance),
        Panel("val_nll", "Validation loss", loss, scale, chance_nll, log=True),
    ]
    figure = _over_steps(study, f"Training and validation at each arm's own {study.choice}", panels)
    if figure is None:
        return None
    return figure, (
        "Look at how early the curves rise and where they end. A training accuracy that keeps rising while the "
        "validation loss rises too is overfitting. A diverged run counts at chance level from there on."
    )


def gradients(study: Study) -> Drawn:
    """Draw the gradient norms at the logits and of the backbone."""
    panels = [
        Panel("grad_norm_logits", "At the logits", "gradient norm", log=True),
        Panel("grad_norm_backbone", "Backbone", "gradient norm", log=True),
    ]
    figure = _over_steps(study, "Gradient norms during training", panels)
    if figure is None:
        return None
    return figure, (
        "Look at the ratio between arms at the first step, which the scale of the loss and the initial bias set. Look "
        "also for a gradient that vanishes before its arm's accuracy has risen."
    )


def seeds(study: Study) -> Drawn:
    """Draw the final test accuracy and loss, a line per seed between the arms."""
    scale, loss = loss_scale(study.common_num_classes)
    panels = [
        Panel("test_accuracy", "Accuracy", "test accuracy, %", 100),
        Panel("test_nll", "Loss", f"test {loss}", scale),
    ]
    panels = [panel for panel in panels if study.is_measured(panel.metric)]
    if not panels:
        return None
    figure, axes = lay_out(len(panels), "Each seed under every arm, on the test set", study.arms, below=0.75)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_seeds(axis, study, panel)
    return figure, (
        "Look at the slopes: lines that nearly all rise or fall show a difference in every seed, lines that cross show "
        "chance. Bars are means over seeds. A diverged run counts at chance level."
    )


def _draw_seeds(axis: Axes, study: Study, panel: Panel) -> None:
    final = study.final
    table = final.pivot_table(index="seed", columns="arm", values=panel.metric)
    arms = [arm for arm in study.arms if arm in table]
    values_RA = panel.factor * table[arms].to_numpy()
    mean_A, places = np.nanmean(values_RA, axis=0), np.arange(len(arms))
    axis.plot(places, values_RA.T, color="#b5b5b5", linewidth=0.7, zorder=1)
    for place, arm in enumerate(arms):
        look = {**arm_style(study.arms, arm), "linestyle": "none"}
        axis.plot(np.full(len(values_RA), place), values_RA[:, place], alpha=0.75, markeredgewidth=0, **look)
        axis.hlines(mean_A[place], place - 0.25, place + 0.25, color="#111111", linewidth=1.8, zorder=3)
        diverged = int(((final.arm == arm) & (final.status == "diverged")).sum())
        if diverged:
            at = {"xycoords": ("data", "axes fraction"), "ha": "center", "color": "#111111"}
            axis.annotate(f"{diverged} diverged", (place, 0.03), **at)
    # Runs that learned set the scale: one at chance level would flatten every other difference.
    learned = panel.factor * final.loc[final.status == "finished", panel.metric].dropna().to_numpy()
    if len(learned):
        room = 0.15 * (float(np.ptp(learned)) or abs(float(learned[0])) or 1)
        axis.set_ylim(learned.min() - room, learned.max() + room)
    # With many arms the legend alone names them.
    names = [short(arm, 24) if len(places) <= 6 else "" for arm in arms]
    narrow = max(map(len, names)) * len(places) > 34
    angle = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if narrow else {}
    axis.set_xticks(places, names, **angle)
    axis.grid(False, axis="x")
    axis.set(title=panel.title, ylabel=panel.label, xlim=(-0.5, len(places) - 0.5))


def reliability(study: Study) -> Drawn:
    """Draw accuracy over confidence, and their gap per bin."""
    split, curves = _curves_by_arm(study, "reliability", "confidence", "accuracy")
    if not curves:
        return None
    figure, axes = lay_out(2, f"Reliability of the probabilities ({split} set)", study.arms)
    axes[0].plot([0, 1], [0, 1], **DOTTED)
    axes[1].axhline(0, **DOTTED)
    for arm, (confidence_SR, accuracy_SR) in curves.items():
        look = arm_style(study.arms, arm)
        axes[0].plot(band(confidence_SR)[0], band(accuracy_SR)[0], **look)
        line(axes[1], np.arange(1, len(confidence_SR) + 1), 100 * (accuracy_SR - confidence_SR), look)
    axes[0].set(title="Accuracy over confidence", xlabel="confidence", ylabel="accuracy")
    axes[1].set(title="Gap per bin", xlabel="bin, least to most confident", ylabel="accuracy - confidence, points")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, (
        "Look at the distance from the dotted line: below it an arm is overconfident, above it underconfident. Every "
        "bin holds the same number of examples, and probabilities sum to one."
    )


def ambiguity(study: Study) -> Drawn:
    """Draw the shares of examples with no active class, and with several, over the threshold."""
    split, curves = _curves_by_arm(study, "ambiguity", "threshold", "none", "several")
    if not curves:
        return None
    figure, axes = lay_out(2, f"Ambiguous outputs over the threshold ({split} set)", study.arms)
    for arm, (threshold_SR, *shares) in curves.items():
        for axis, share_SR in zip(axes, shares, strict=True):
            line(axis, band(threshold_SR)[0], 100 * share_SR, arm_style(study.arms, arm))
    axes[0].set(title="No class active", ylabel="share of examples, %")
    axes[1].set(title="Several classes active", ylabel="share of examples, %")
    for axis in axes:
        axis.set(xlabel="threshold of an active class", xlim=(0, 1))
        axis.set_ylim(bottom=0)
        axis.axvline(0.5, **DOTTED)
    return figure, (
        "Look at the height at the dotted line, the usual threshold of 0.5, and whether any threshold keeps both "
        "shares low. Softmax cannot have several classes above 0.5."
    )


def time_to_target(study: Study) -> Drawn:
    """Draw the share of seeds that have reached the target accuracy, over steps."""
    target, tables = study.target, study.over_steps("val_accuracy")
    if target is None or not tables:
        return None
    last = max(int(table.index.to_numpy().max()) for table in tables.values())
    if last <= 0:
        return None
    title = f"Steps to a validation accuracy of {100 * target:.1f} %"
    figure, (axis,) = lay_out(1, title, study.arms, right=2.3)
    for place, (arm, table) in enumerate(tables.items()):
        reached_SR = (table >= target).to_numpy()
        # A run that never reaches the target stays in the denominator: censored, not dropped.
        first = np.sort(table.index.to_numpy()[reached_SR.argmax(axis=0)][reached_SR.any(axis=0)])
        share = 100 * np.arange(1, len(first) + 1) / table.shape[1]
        look = arm_style(study.arms, arm)
        shares = np.r_[0, share, share[-1:] if len(share) else 0]
        axis.step(np.r_[0, first, last], shares, where="post", markevery=[len(shares) - 1], clip_on=False, **look)
        text = f"{short(arm, 20)}: {len(first)} of {table.shape[1]}"
        axis.annotate(text, (1.04, 0.95 - place * min(0.1, 1 / len(tables))), xycoords="axes fraction")
    axis.set(xlabel="step", ylabel="seeds that have reached it, %", ylim=(-3, 103), xlim=(0, last))
    count_axis(axis)
    return figure, (
        "Look at which curve rises first and which stay below 100 %. Seeds that never reach the target are censored, "
        "not dropped."
    )


def _over_steps(study: Study, title: str, panels: Sequence[Panel]) -> Figure | None:
    """Draw panels over the steps of the final runs; those without a measured value are left out."""
    tables = [(panel, study.over_steps(panel.metric, panel.diverged)) for panel in panels]
    drawn = [(panel, by_arm) for panel, by_arm in tables if by_arm]
    if not drawn:
        return None
    figure, axes = lay_out(len(drawn), title, study.arms)
    for axis, (panel, by_arm) in zip(axes, drawn, strict=True):
        for arm, values_SR in by_arm.items():
            points = min(len(values_SR), max(MOST_POINTS // len(by_arm), 20))
            keep = np.linspace(0, len(values_SR) - 1, points).round().astype(int)
            values_SR = values_SR.iloc[keep]
            # Markers begin at different places, so that no arm hides another.
            start = 0.12 * study.arms.index(arm) / len(study.arms)
            look = {**arm_style(study.arms, arm), "markevery": (start, 0.12)}
            line(axis, values_SR.index, panel.factor * values_SR, look, panel.log)
        axis.set(title=panel.title, xlabel="step", ylabel=panel.label)
        count_axis(axis)
        if panel.log:
            log_axis(axis.yaxis)
        elif panel.factor == 100:
            axis.set_ylim(top=min(axis.get_ylim()[1], 101))
    return figure


def _curves_by_arm(study: Study, kind: str, *names: str) -> tuple[str, dict[str, list[np.ndarray]]]:
    """Return the split and, for each arm, the named curves of its final runs, (S, R) each; none where no run has any.

    S is the number of points of a curve.
    """
    for split in ("test", "val"):
        by_arm = {}
        for arm, runs in study.by_arm(study.final):
            records = [study.records[run] for run in runs.run if run in study.records]
            curves = [(run.curves or {}).get(split, {}).get(kind, {}) for run in records]
            curves = [curve for curve in curves if all(curve.get(name) for name in names)]
            if curves:
                by_arm[arm] = [pd.DataFrame([curve[name] for curve in curves]).T.to_numpy(float) for name in names]
        if by_arm:
            return {"val": "validation"}.get(split, split), by_arm
    return "", {}
