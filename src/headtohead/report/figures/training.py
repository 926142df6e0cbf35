"""Figures over the steps of training, and of the runs by which arms are compared.

S steps, R runs (one per seed), A arms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headtohead.analysis.study import Study
from headtohead.report.figures.layers import (
    MEAN,
    SATURATED,
    arm_look,
    at,
    axis,
    curve,
    curves,
    digits,
    error_axis,
    line_at,
    log_axis,
    named_axis,
    near,
    note,
    panel,
)
from headtohead.report.figures.style import INK, LINE, SOFT, Drawn, Figure, Row, View, band, keys, loss_scale, short

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
    return _over_steps(
        study,
        f"Training and validation at each arm's own {study.choice}",
        panels,
        "Look at how early the curves fall or rise and where they end. A training accuracy that keeps rising while the "
        "validation loss rises too is overfitting. A diverged run counts at chance level from there on. Accuracies "
        f"that end above {SATURATED} % are shown as errors, so that their differences can be seen.",
    )


def gradients(study: Study) -> Drawn:
    """Draw the gradient norms at the logits and of the backbone."""
    panels = [
        Panel("grad_norm_logits", "At the logits", "gradient norm", log=True),
        Panel("grad_norm_backbone", "Backbone", "gradient norm", log=True),
    ]
    return _over_steps(
        study,
        "Gradient norms during training",
        panels,
        "Look at the ratio between arms at the first step, which the scale of the loss and the initial bias set. Look "
        "also for a gradient that vanishes before its arm's accuracy has risen.",
    )


def seeds(study: Study) -> Drawn:
    """Draw the final test accuracy and loss, a line per seed between the arms."""
    scale, loss = loss_scale(study.common_num_classes)
    panels = [
        Panel("test_accuracy", "Accuracy", "test accuracy, %", 100),
        Panel("test_nll", "Loss", f"test {loss}", scale),
    ]
    panels = [panel for panel in panels if study.is_measured(panel.metric)]
    # One run has nothing to be seen beside.
    if not panels or len(study.final) < 2:
        return None
    return Figure(
        "Each seed under every arm, on the test set",
        "Look at the slopes: lines that nearly all rise or fall show a difference in every seed, lines that cross show "
        "chance. Bars are means over seeds. A diverged run counts at chance level.",
        [_seeds(study, panel) for panel in panels],
        keys(study.arms),
        names=study.arms,
    )


def _seeds(study: Study, of: Panel) -> View:
    final = study.final
    table = of.factor * final.pivot_table(index="seed", columns="arm", values=of.metric)
    arms = [arm for arm in study.arms if arm in table]
    places = {arm: study.arms.index(arm) for arm in arms}
    rows: list[Row] = [
        {"arm": places[arm], "x": place, "y": digits(value), "seed": seed, "place": seed}
        for place, arm in enumerate(arms)
        for seed, value in zip(table.index.tolist(), table[arm].to_numpy(float).tolist(), strict=True)
        if math.isfinite(value)
    ]
    means = [
        {"arm": places[arm], "x": place, "mean": digits(float(table[arm].to_numpy(float).mean()))}
        for place, arm in enumerate(arms)
    ]
    means = [row for row in means if math.isfinite(row["mean"])]
    # Runs that learned set the scale: one at chance level would flatten every other difference.
    finished = final.loc[final.status == "finished"].pivot_table(index="seed", columns="arm", values=of.metric)
    learned = of.factor * finished.to_numpy().ravel()
    learned = learned[np.isfinite(learned)]
    domain = None
    if len(learned):
        room = 0.15 * (float(np.ptp(learned)) or abs(float(learned[0])) or 1)
        domain = (float(learned.min() - room), float(learned.max() + room))
    # With many arms the legend alone names them.
    names = [short(arm, 24) if len(arms) <= 6 else "" for arm in arms]
    narrow = max(map(len, names)) * len(arms) > 40
    x = named_axis(None, names, **({"labelAngle": -20, "labelAlign": "right"} if narrow else {}))
    y, size = axis(of.label, domain), {"size": 160 // max(len(arms), 2), "thickness": 2.2}
    lost = final.loc[final.status == "diverged", "arm"].value_counts()
    notes = [
        note(f"{lost[arm]} diverged", at(x, "v"), "height", v=place, dy=-5, align="center", baseline="bottom")
        for place, arm in enumerate(arms)
        if arm in lost
    ]
    values = {"data": {"values": rows}}
    layers: list[View] = [
        {**values, "mark": {"type": "line", "color": LINE, "strokeWidth": 0.9, "clip": True},
         "encoding": {"x": at(x, "x"), "y": at(y, "y"), "detail": {"field": "seed"}}},
        {**values, "mark": {"type": "point", "filled": True, "size": 26, "clip": True},
         "encoding": {"x": at(x, "x"), "y": at(y, "y"), **arm_look(len(study.arms), shapes=True, opacity=0.8)}},
        {"data": {"values": means}, "mark": {"type": "tick", "color": INK, "clip": True, "opacity": 1, **size},
         "encoding": {"x": at(x, "x"), "y": at(y, "mean")}},
        {**values, **near({"x": at(x, "x"), "y": at(y, "y")}, {"value": "y", "seed": "seed"})},
        *notes,
    ]  # fmt: skip
    return panel(of.title, layers)


def reliability(study: Study) -> Drawn:
    """Draw accuracy over confidence, and their gap per bin."""
    split, by_arm = _curves_by_arm(study, "reliability", "confidence", "accuracy")
    if not by_arm:
        return None
    over: list[Row] = []
    gaps: list[Row] = []
    for arm, (confidence_SR, accuracy_SR) in by_arm.items():
        place = study.arms.index(arm)
        over += curve(place, band(confidence_SR)[0], np.nanmean(accuracy_SR, axis=1, keepdims=True))
        gaps += curve(place, np.arange(1, len(confidence_SR) + 1), 100 * (accuracy_SR - confidence_SR))
    over = [row for row in over if math.isfinite(row["x"])]
    bins = axis("bin, least to most confident", tickMinStep=1)
    gap = axis("accuracy − confidence, points")
    confidence, accuracy = axis("confidence"), axis("accuracy")
    count = len(study.arms)
    ends = [row[name] for row in over for name in ("x", "y")] or [0.0, 1.0]
    diagonal = [{"x": end, "y": end} for end in (min(ends), max(ends))]
    dotted = {"type": "line", "color": SOFT, "strokeDash": [2, 2], "strokeWidth": 1}
    panels = [
        panel(
            "Accuracy over confidence",
            [
                {
                    "data": {"values": diagonal},
                    "mark": dotted,
                    "encoding": {"x": at(confidence, "x"), "y": at(accuracy, "y")},
                },
                *curves(over, count, confidence, accuracy, {"confidence": "x", "accuracy": "y"}),
            ],
        ),
        panel("Gap per bin", [line_at("y", 0, gap), *curves(gaps, count, bins, gap, {"bin": "x", **MEAN})]),
    ]
    return Figure(
        f"Reliability of the probabilities ({split} set)",
        "Look at the distance from the dotted line: below it an arm is overconfident, above it underconfident. Every "
        "bin holds the same number of examples, and probabilities sum to one.",
        panels,
        keys(study.arms),
        names=study.arms,
    )


def ambiguity(study: Study) -> Drawn:
    """Draw the shares of examples with no active class, and with several, over the threshold."""
    split, by_arm = _curves_by_arm(study, "ambiguity", "threshold", "none", "several")
    if not by_arm:
        return None
    panels = []
    for measure, title in enumerate(("No class active", "Several classes active")):
        rows: list[Row] = []
        for arm, (threshold_SR, *shares) in by_arm.items():
            rows += curve(study.arms.index(arm), band(threshold_SR)[0], 100 * shares[measure], marked=range(0, 999, 5))
        x = axis("threshold of an active class", (0, 1))
        y = axis("share of examples, %", scale={"domainMin": 0})
        of = {"threshold": "x", **MEAN}
        panels.append(panel(title, [line_at("x", 0.5, x), *curves(rows, len(study.arms), x, y, of)]))
    return Figure(
        f"Ambiguous outputs over the threshold ({split} set)",
        "Look at the height at the dotted line, the usual threshold of 0.5, and whether any threshold keeps both "
        "shares low. Softmax cannot have several classes above 0.5.",
        panels,
        keys(study.arms),
        names=study.arms,
    )


def time_to_target(study: Study) -> Drawn:
    """Draw the share of seeds that have reached the target accuracy, over steps."""
    target, tables = study.target, study.over_steps("val_accuracy")
    if target is None or not tables:
        return None
    last = max(int(table.index.to_numpy().max()) for table in tables.values())
    if last <= 0:
        return None
    rows: list[Row] = []
    labels = dict.fromkeys(study.arms, "")
    for arm, table in tables.items():
        reached_SR = (table >= target).to_numpy()
        # A run that never reaches the target stays in the denominator: censored, not dropped.
        first = np.sort(table.index.to_numpy()[reached_SR.argmax(axis=0)][reached_SR.any(axis=0)])
        runs = table.shape[1]
        steps = [0, *first.tolist(), last]
        counts = [0, *range(1, len(first) + 1), len(first)]
        rows += [
            {"arm": study.arms.index(arm), "x": step, "y": digits(100 * count / runs), "of": f"{count} of {runs}"}
            for step, count in zip(steps, counts, strict=True)
        ]
        labels[arm] = f": {len(first)} of {runs}"
    x, y, count = (
        axis("step", (0, last), tickMinStep=1),
        axis("seeds that have reached it, %", (0, 103)),
        len(study.arms),
    )
    encoding = {"x": at(x, "x"), "y": at(y, "y")}
    values = {"data": {"values": rows}}
    layers = [
        {**values, "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.7},
         "encoding": {**encoding, **arm_look(count, dashes=True)}},
        {**values, **near(encoding, {"step": "x", "seeds that have reached it": "of"})},
    ]  # fmt: skip
    return Figure(
        f"Steps to a validation accuracy of {100 * target:.1f} %",
        "Look at which curve rises first and which stay below 100 %. The legend counts the seeds that reach the "
        "target. Seeds that never do are censored, not dropped.",
        [panel("", layers)],
        keys(study.arms, [f"{short(arm, 28)}{text}" for arm, text in labels.items()]),
        names=study.arms,
    )


def _over_steps(study: Study, title: str, panels: Sequence[Panel], caption: str) -> Drawn:
    """Draw panels over the steps of the final runs; those without a measured value are left out."""
    tables = [(of, study.over_steps(of.metric, of.diverged)) for of in panels]
    drawn = [_curves_over_steps(study, of, by_arm) for of, by_arm in tables if by_arm]
    return Figure(title, caption, drawn, keys(study.arms), names=study.arms, zoom=True) if drawn else None


def _curves_over_steps(study: Study, of: Panel, by_arm: Mapping[str, pd.DataFrame]) -> View:
    """Return a panel over the steps; accuracies that end near 100 % are drawn as errors."""
    last = [of.factor * float(np.nanmean(table.to_numpy()[-1])) for table in by_arm.values()]
    as_errors = of.factor == 100 and max(last) > SATURATED
    rows: list[Row] = []
    for arm, values_SR in by_arm.items():
        points = min(len(values_SR), max(MOST_POINTS // len(by_arm), 20))
        values_SR = of.factor * values_SR.iloc[np.linspace(0, len(values_SR) - 1, points).round().astype(int)]
        # Markers begin at different places, so that no arm hides another.
        apart, place = max(points // 8, 1), study.arms.index(arm)
        marked = range(place * apart // len(study.arms) % apart, points, apart)
        values_SR = 100 - values_SR if as_errors else values_SR
        rows += curve(place, values_SR.index, values_SR, of.log, marked)
    x, label, title = axis("step", tickMinStep=1), of.label, of.title
    bounds = [row[name] for row in rows for name in ("y", "low", "high") if name in row]
    if as_errors:
        label, title = label.replace("accuracy", "error"), title.replace("accuracy", "error")
        rows = [
            {**row, **({"low": max(row["low"], 0), "high": min(row["high"], 100)} if "low" in row else {})}
            for row in rows
        ]
        y = error_axis(label, [row["y"] for row in rows])
    elif of.log:
        y = log_axis(label, bounds)
    else:
        y = axis(label, (min(bounds), min(max(bounds), 101)) if bounds and of.factor == 100 else None)
    return panel(title, curves(rows, len(study.arms), x, y, {"step": "x", **MEAN}, zoom=True))


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
