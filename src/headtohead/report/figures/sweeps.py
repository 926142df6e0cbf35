"""Figures over what a study sweeps.

S values of what is swept, R runs (one per seed).
"""

import math
from contextlib import suppress

import numpy as np
import pandas as pd

from headtohead.analysis.statistics import t_interval
from headtohead.analysis.study import Study
from headtohead.analysis.text import short_override, split_shared
from headtohead.report.figures.layers import (
    MEAN,
    SATURATED,
    arm_look,
    at,
    axis,
    chance_level,
    curve,
    curves,
    digits,
    error_axis,
    line_at,
    log_axis,
    near,
    note,
    panel,
)
from headtohead.report.figures.style import (
    LINES,
    MARKERS,
    SMALL_PANEL,
    Drawn,
    Figure,
    Key,
    Row,
    View,
    colour_of,
    keys,
    loss_scale,
    short,
)

# A tick with its sign; zero has none.
SIGNED = "datum.value ? format(datum.value, '+.6~g') : '0'"
MOST_PAIRS = 12  # of arms, each with a panel


def learning_rates(study: Study) -> Drawn:
    """Draw the validation accuracy and loss over the grid of learning rates."""
    rows = _over_grid(study)
    if rows is None:
        return None
    scale, loss = loss_scale(study.common_num_classes)
    accuracy = study.by_arm(rows.assign(shown=100 * rows.val_accuracy))
    means = [runs.groupby("lr").shown.mean().max() for _, runs in accuracy]
    as_errors = max(means) > SATURATED
    if as_errors:
        accuracy = study.by_arm(rows.assign(shown=100 - 100 * rows.val_accuracy))
    of_accuracy, name = _over_rates(study, accuracy, "val_accuracy"), "error" if as_errors else "accuracy"
    of_loss = _over_rates(study, study.by_arm(rows.assign(shown=scale * rows.val_nll)), "val_nll", log=True)
    bounds = _bounds(of_accuracy)
    label = f"validation {name}, %"
    y = error_axis(label, bounds) if as_errors else axis(label, (min(bounds), min(max(bounds), 104)))
    losses = [row["y"] for row in of_loss]
    # Losses far above chance level, and bands far below all means, would hide the differences among what has learned.
    most = 2 if study.common_num_classes else math.inf
    room = [1.3] if study.common_num_classes and max(losses, default=0) > 0.9 else []
    of_losses = log_axis(f"validation {loss}", [*_bounds(of_loss), *room], least=min(losses, default=0) / 2, most=most)
    x = log_axis("learning rate", [row["x"] for row in of_accuracy], rows.lr)
    chance = chance_level(of_losses) if study.common_num_classes else []
    panels = [
        panel("Error" if as_errors else "Accuracy", _rates_panel(study, of_accuracy, x, y)),
        panel("Negative log-likelihood", [*chance, *_rates_panel(study, of_loss, x, of_losses)]),
    ]
    rest = " Accuracy is shown as the error, 100 % minus it, so that differences near 100 % can be seen."
    return Figure(
        "Validation accuracy and loss over the learning rate",
        "Look at the width of each arm's plateau, and at its ring, the rate chosen on validation. Where a ring is on "
        f"the edge of the grid, a better rate may lie outside.{rest if as_errors else ''}",
        panels,
        [*keys(study.arms), Key("chosen", shape="circle", hollow=True)],
        names=study.arms,
    )


def _over_rates(study: Study, by_arm: list[tuple[str, pd.DataFrame]], metric: str, log: bool = False) -> list[Row]:
    """Return the rows of the column "shown" over the learning rates, those at chosen rates with a ring."""
    rows: list[Row] = []
    # The loss has a ring of its own where claims are judged at its best rate.
    criterion = metric if metric in study.record.criteria else study.record.protocol.selected_by
    best = study.best_by(criterion)
    for position, (arm, runs) in enumerate(by_arm):
        # Arms stand beside each other, so that none hides another.
        aside = 10 ** (0.025 * (position - (len(study.arms) - 1) / 2))
        values_SR = runs.pivot_table(index="lr", columns="seed", values="shown", dropna=False)
        place, chosen = study.arms.index(arm), best.get(arm)
        for rate, row in zip(values_SR.index, _each(place, values_SR, aside, log), strict=True):
            if row:
                ring = {"ring": True} if chosen and np.isclose(rate, chosen.lr) else {}
                rows.append({**row, "place": digits(rate), **ring})
    return rows


def _each(place: int, values_SR: pd.DataFrame, aside: float, log: bool) -> list[Row]:
    """Return the row of each rate; an empty one where no run has a value."""
    rates = values_SR.index.to_numpy()
    by_rate = {row["x"]: row for row in curve(place, rates * aside, values_SR, log)}
    return [by_rate.get(digits(rate * aside), {}) for rate in rates]


def _rates_panel(study: Study, rows: list[Row], x: View, y: View) -> list[View]:
    ring = {
        "data": {"values": [row for row in rows if "ring" in row]},
        "mark": {"type": "point", "shape": "circle", "size": 150, "strokeWidth": 1.6, "clip": True},
        "encoding": {"x": at(x, "x"), "y": at(y, "y"), **arm_look(len(study.arms))},
    }
    return [*curves(rows, len(study.arms), x, y, {"learning rate": "place", **MEAN}), ring]


def _bounds(rows: list[Row]) -> list[float]:
    return [row[name] for row in rows for name in ("y", "low", "high") if name in row] or [0.0, 1.0]


def shared_rate(study: Study) -> Drawn:
    """Draw differences in validation accuracy with one learning rate for both arms, and with each arm's own."""
    pairs = _differences(study)
    if not pairs:
        return None
    shown = pairs[:MOST_PAIRS]
    largest = [np.abs(table.to_numpy()) for *_, shared_SR, own in shown for table in (shared_SR, own)]
    y = _about_zero("difference, points", max(float(np.nanmax(table)) for table in largest))
    rates = np.unique([rate for *_, shared_SR, _ in shown for rate in shared_SR.index])
    x = log_axis("learning rate", [rates.min() * 10**-0.12, rates.max() * 10**0.12], rates[:: -(-len(rates) // 4)])
    rest = f" The figure shows the first {len(shown)} of {len(pairs)} pairs of arms." if len(shown) < len(pairs) else ""
    return Figure(
        "Differences at one shared learning rate",
        "Look at where the line, both arms at the same learning rate, leaves the band, each arm at its own best rate. "
        "A study at that one rate would blame the head for the rate. Accuracies are those of validation, as the search "
        f"does not read the test set. A diverged run counts at chance level.{rest}",
        [_pair(study, x, y, *pair) for pair in shown],
        [
            Key("one seed, both at this rate", shape="square"),
            Key("mean over seeds", shape="circle", dash=(1, 0)),
            Key("each at its best rate, 95 %", dash=(1, 0), thick=11),
        ],
        names=study.arms,
    )


def _about_zero(title: str, most: float) -> View:
    """Return the axis of differences up to `most`: linear up to one, logarithmic beyond.

    At either end a decade stays free for text.
    """
    most = max(most, 1)
    powers = [10.0**power for power in range(math.ceil(math.log10(most)) + 1)]
    ticks = [*(-power for power in powers[::-1]), 0, *powers]
    return axis(title, (-10 * most, 10 * most), ticks, {"type": "symlog", "constant": 1}, labelExpr=SIGNED)


def _pair(study: Study, x: View, y: View, first: str, other: str, shared_SR: pd.DataFrame, own: pd.Series) -> View:
    place, colour = study.arms.index(other), colour_of(study.arms, other)
    rates = shared_SR.index.to_numpy()
    # Seeds stand beside each other, so that none hides another.
    rates_SR = np.outer(rates, 10 ** np.linspace(-0.08, 0.08, shared_SR.shape[1]))
    each = [
        {"x": digits(rate), "y": digits(value)}
        for rate, value in zip(rates_SR.ravel().tolist(), shared_SR.to_numpy().ravel().tolist(), strict=True)
        if math.isfinite(value)
    ]
    means = curve(place, rates, shared_SR)
    mean, lower, upper = t_interval(own)
    of_own = {
        "data": {"values": [{"low": digits(lower), "high": digits(upper)}]},
        "mark": {"type": "rect", "color": colour, "opacity": 0.2},
        "encoding": {"y": at(y, "low"), "y2": {"field": "high"}},
    }
    _, heads = split_shared([first, other])
    ahead = [f"{short(head, 24)} ahead" for head in heads]
    dash, shape = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
    encoding = {"x": at(x, "x"), "y": at(y, "y")}
    layers: list[View] = [
        *([of_own] if math.isfinite(lower) else []),
        line_at("y", digits(mean), y, strokeDash=[1, 0], color=colour),
        line_at("y", 0, y, color=colour_of(study.arms, first)),
        {"data": {"values": each}, "encoding": encoding,
         "mark": {"type": "point", "shape": "square", "filled": True, "size": 8, "color": colour, "opacity": 0.6}},
        {"data": {"values": means}, "encoding": encoding,
         "mark": {"type": "line", "color": colour, "strokeDash": dash, "strokeWidth": 1.7}},
        {"data": {"values": means}, "encoding": encoding,
         "mark": {"type": "point", "shape": shape, "filled": True, "opacity": 1, "size": 34, "color": colour}},
        note(ahead[0], 4, 3),
        note(ahead[1], 4, "height", dy=-3, baseline="bottom"),
        {"data": {"values": means}, **near(encoding, {"learning rate": "x", **MEAN}, arm=False)},
    ]  # fmt: skip
    return panel(short(other, 32), layers, SMALL_PANEL)


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
    ticks = sorted({*values.values()})
    x = log_axis(key, ticks, ticks) if 0 < 10 * ticks[0] <= ticks[-1] else axis(key, ticks=ticks)
    panels = []
    for measure, title, label in (("accuracy", "Accuracy", "test accuracy, %"), ("loss", "Loss", "test NLL / ln K")):
        points: list[Row] = []
        for place, name in enumerate(names):
            values_SR = rows[rows.kind == name].pivot_table(index="value", columns="seed", values=measure)
            points += curve(place, values_SR.index, values_SR)
        panels.append(panel(title, curves(points, len(names), x, axis(label), {"value": "x", **MEAN})))
    return Figure(
        f"Test accuracy and loss over {short(key, 60)}",
        f"Look at where lines part or cross: there the difference between arms depends on {short(key, 60)}. A line "
        "joins the arms that are alike in all else.",
        panels,
        keys(names),
        names=names,
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
