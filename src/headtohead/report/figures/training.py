"""The figures of a report: the list of all, and here those over steps and of the runs by which arms are compared.

S steps, R runs (one per seed).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headtohead.report.figures.evidence import Evidence, by_arm, histories, loss_scale
from headtohead.report.figures.examples import ambiguous_examples, confusion
from headtohead.report.figures.style import (
    MUTED,
    Drawing,
    band,
    count_axis,
    drawing,
    lay_out,
    line,
    log_axis,
    short,
    style,
)
from headtohead.report.figures.sweeps import learning_rates, settings, shared_rate

MOST_POINTS = 1000  # per panel: more cannot be seen


def draw(evidence: Evidence) -> list[Drawing]:
    """Every figure that the study has the records for."""
    drawings = [drawing(make.__name__, partial(make, evidence)) for make in FIGURES]
    return [drawn for drawn in drawings if drawn is not None]


def training(evidence: Evidence) -> tuple[Figure, str] | None:
    """Training and validation curves at each arm's best rate."""
    scale, loss = loss_scale(evidence)
    classes = evidence.num_classes
    panels = [
        ("train/accuracy", "Training accuracy", "accuracy, %", 100, 1 / classes if classes else None, False),
        ("val/accuracy", "Validation accuracy", "accuracy, %", 100, 1 / classes if classes else None, False),
        ("val/nll", "Validation loss", loss, scale, np.log(classes) if classes else None, True),
    ]
    title = "Training and validation at each arm's own learning rate"
    figure = _over_steps(evidence, title, panels)
    if figure is None:
        return None
    return figure, (
        "Look at how early the curves rise and where they end, a diverged run counting as a guess from there on: "
        "a training accuracy that keeps rising while the validation loss does too is overfitting."
    )


def gradients(evidence: Evidence) -> tuple[Figure, str] | None:
    """Gradient norms at the logits and of the backbone."""
    panels = [
        ("grad_norm/logits", "At the logits", "gradient norm", 1, None, True),
        ("grad_norm/backbone", "Backbone", "gradient norm", 1, None, True),
    ]
    figure = _over_steps(evidence, "Gradient norms during training", panels)
    if figure is None:
        return None
    return figure, (
        "Look at the ratio between arms at the first step, which the loss's scale and the initial bias set, "
        "and whether an arm's gradient dies away while its accuracy has yet to rise."
    )


def seeds(evidence: Evidence) -> tuple[Figure, str] | None:
    """Final test accuracy and loss, one line per seed between the arms."""
    final = evidence.final
    scale, loss = loss_scale(evidence)
    panels = [("test_accuracy", "Accuracy", "test accuracy, %", 100), ("test_nll", "Loss", f"test {loss}", scale)]
    panels = [panel for panel in panels if panel[0] in final and final[panel[0]].notna().any()]
    if not panels:
        return None
    figure, axes = lay_out(len(panels), "Each seed under every arm, on the test set", evidence.arms, below=0.75)
    for axis, (column, title, label, factor) in zip(axes, panels, strict=True):
        table = final.pivot_table(index="seed", columns="arm", values=column)
        table = factor * table.reindex(columns=[arm for arm in evidence.arms if arm in table])
        places = np.arange(len(table.columns))
        axis.plot(places, table.T, color="#b5b5b5", linewidth=0.7, zorder=1)
        for place, arm in zip(places, table, strict=True):
            look = {**style(evidence.arms, arm), "linestyle": "none"}
            axis.plot(np.full(len(table), place), table[arm], alpha=0.75, markeredgewidth=0, **look)
            axis.hlines(table[arm].mean(), place - 0.25, place + 0.25, color="#111111", linewidth=1.8, zorder=3)
            lost = int(((final.arm == arm) & (final.status == "diverged")).sum())
            if lost:
                at = {"xycoords": ("data", "axes fraction"), "ha": "center", "color": "#111111"}
                axis.annotate(f"{lost} diverged", (place, 0.03), **at)
        # Runs that learned set the scale: a guess among them would flatten every other difference.
        learned = factor * final.loc[final.status == "finished", column].dropna()
        if len(learned):
            room = 0.15 * (np.ptp(learned) or abs(learned.iloc[0]) or 1)
            axis.set_ylim(learned.min() - room, learned.max() + room)
        # Of many arms the legend tells which is which.
        names = [short(arm, 24) if len(places) <= 6 else "" for arm in table]
        narrow = max(map(len, names)) * len(places) > 34
        angle = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if narrow else {}
        axis.set_xticks(places, names, **angle)
        axis.grid(False, axis="x")
        axis.set(title=title, ylabel=label, xlim=(-0.5, len(places) - 0.5))
    return figure, (
        "Look at the slopes: lines that nearly all rise or fall show a difference that every seed shares, lines "
        "that cross show luck, and the bars are means over seeds, in which a diverged run counts as a guess."
    )


def reliability(evidence: Evidence) -> tuple[Figure, str] | None:
    """Accuracy over confidence, and its gap per bin."""
    split, found = _curves(evidence, "reliability", "confidence", "accuracy")
    if not found:
        return None
    figure, axes = lay_out(2, f"Reliability of the probabilities ({split} set)", evidence.arms)
    axes[0].plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    axes[1].axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    for arm, (confidence, accuracy) in found.items():
        look = style(evidence.arms, arm)
        axes[0].plot(band(confidence)[0], band(accuracy)[0], **look)
        line(axes[1], np.arange(1, len(confidence) + 1), 100 * (accuracy - confidence), look)
    axes[0].set(title="Accuracy over confidence", xlabel="confidence", ylabel="accuracy")
    axes[1].set(title="Gap per bin", xlabel="bin, least to most confident", ylabel="accuracy - confidence, points")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, (
        "Look at the distance from the dotted line, below which an arm is overconfident and above which it is "
        "underconfident: every bin holds the same number of examples, and probabilities sum to one."
    )


def ambiguity(evidence: Evidence) -> tuple[Figure, str] | None:
    """Shares of examples with no active class, and with several, over the threshold."""
    split, found = _curves(evidence, "ambiguity", "threshold", "none", "several")
    if not found:
        return None
    figure, axes = lay_out(2, f"Ambiguous outputs over the threshold ({split} set)", evidence.arms)
    for arm, (threshold, *shares) in found.items():
        for axis, share in zip(axes, shares, strict=True):
            line(axis, band(threshold)[0], 100 * share, style(evidence.arms, arm))
    axes[0].set(title="No class active", ylabel="share of examples, %")
    axes[1].set(title="Several classes active", ylabel="share of examples, %")
    for axis in axes:
        axis.set(xlabel="threshold of an active class", xlim=(0, 1))
        axis.set_ylim(bottom=0)
        axis.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    return figure, (
        "Look at the height at the dotted line, the usual threshold of 0.5, and at whether any "
        "threshold keeps both shares low; softmax cannot have several classes above 0.5."
    )


def time_to_target(evidence: Evidence) -> tuple[Figure, str] | None:
    """Share of seeds that have reached the target accuracy, over steps."""
    target = evidence.target
    tables = histories(evidence, "val/accuracy")
    if target is None or not tables:
        return None
    last = max(table.index.max() for table in tables.values())
    if last <= 0:
        return None
    title = f"Steps to a validation accuracy of {100 * target:.1f} %"
    figure, (axis,) = lay_out(1, title, evidence.arms, right=2.3)
    for place, (arm, table) in enumerate(tables.items()):
        reached = (table >= target).to_numpy()
        # A run that never reaches the target stays in the denominator: censored, not dropped.
        first = np.sort(table.index.to_numpy()[reached.argmax(axis=0)][reached.any(axis=0)])
        share = 100 * np.arange(1, len(first) + 1) / table.shape[1]
        look = style(evidence.arms, arm)
        shares = np.r_[0, share, share[-1:] if len(share) else 0]
        axis.step(np.r_[0, first, last], shares, where="post", markevery=[len(shares) - 1], clip_on=False, **look)
        text = f"{short(arm, 20)}: {len(first)} of {table.shape[1]}"
        axis.annotate(text, (1.04, 0.95 - place * min(0.1, 1 / len(tables))), xycoords="axes fraction")
    axis.set(xlabel="step", ylabel="seeds that have reached it, %", ylim=(-3, 103), xlim=(0, last))
    count_axis(axis)
    return figure, (
        "Look at which curve rises first and which stay below 100 %: those seeds never reached the "
        "target and are censored, not dropped."
    )


FIGURES = (
    learning_rates,
    shared_rate,
    training,
    gradients,
    seeds,
    settings,
    reliability,
    ambiguity,
    ambiguous_examples,
    confusion,
    time_to_target,
)


def _over_steps(evidence: Evidence, title: str, panels: Sequence[tuple]) -> Figure | None:
    """Panels (tag, title, label, factor, value after divergence, logarithmic) over the steps of the final runs."""
    tables = [histories(evidence, tag, lost) for tag, _, _, _, lost, _ in panels]
    panels = [(panel, table) for panel, table in zip(panels, tables, strict=True) if table]
    if not panels:
        return None
    figure, axes = lay_out(len(panels), title, evidence.arms)
    for axis, ((_, heading, label, factor, _, log), table) in zip(axes, panels, strict=True):
        for arm, values_SR in table.items():
            points = min(len(values_SR), max(MOST_POINTS // len(table), 20))
            keep = np.linspace(0, len(values_SR) - 1, points).round().astype(int)
            values_SR = values_SR.iloc[keep]
            # Markers begin at other places, lest an arm hide another.
            start = 0.12 * evidence.arms.index(arm) / len(evidence.arms)
            look = {**style(evidence.arms, arm), "markevery": (start, 0.12)}
            line(axis, values_SR.index, factor * values_SR, look, log)
        axis.set(title=heading, xlabel="step", ylabel=label)
        count_axis(axis)
        if log:
            log_axis(axis.yaxis)
        elif factor == 100:
            axis.set_ylim(top=min(axis.get_ylim()[1], 101))
    return figure


def _curves(evidence: Evidence, kind: str, *names: str) -> tuple[str, dict[str, list[np.ndarray]]]:
    """The split and, for each arm, the named curves of its final runs, (S, R) each; empty where there are none."""
    for split in ("test", "val"):
        found = {}
        for arm, runs in by_arm(evidence, evidence.final):
            curves = [((evidence.curves.get(run) or {}).get(split) or {}).get(kind) for run in runs.run]
            curves = [curve for curve in curves if curve and all(curve.get(name) for name in names)]
            if curves:
                found[arm] = [pd.DataFrame([curve[name] for curve in curves]).T.to_numpy(float) for name in names]
        if found:
            return {"val": "validation"}.get(split, split), found
    return "", {}
