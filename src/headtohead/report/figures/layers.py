"""Layers and axes that the panels of figures are made of.

S points of a line, such as steps, R runs (one per seed).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from headtohead.report.figures.style import LINES, PANEL, SOFT, Row, View, band

MANY = 30  # arms
SATURATED = 90  # percent: from here on accuracies are drawn as errors
# An arm that a reader has not chosen while another one is.
SHOWN = "chosen < 0 || datum.arm == chosen"
TOUCH = "event.pointerType !== 'touch'"


def panel(title: str, layers: Sequence[View], height: int = PANEL, **more: Any) -> View:
    """Return a panel of layers, which share their axes."""
    return {"title": title, "height": height, "layer": [*layers], **more}


def axis(
    title: str | None,
    domain: tuple[float, float] | None = None,
    ticks: Iterable[float] | None = None,
    scale: Mapping[str, Any] | None = None,
    **more: Any,
) -> View:
    """Return the axis of a number.

    Args:
        domain: Ends of the axis; None takes those of the data.
        ticks: Values to label; None leaves them to the chart.
        scale: Options of the scale, such as its type.
        more: Options of the axis.
    """
    linear: View = {} if scale and scale.get("type") == "log" else {"zero": False}
    of_scale: View = {**linear, "nice": False, "padding": 4, **(scale or {})}
    if domain:
        of_scale |= {"domain": [*domain], "padding": 0}
    # With a count a chart would thin out the ticks that it is given.
    of_ticks: View = {"tickCount": 5} if ticks is None else {"values": [*ticks]}
    of_axis: View = {"format": ".6~g", **of_ticks, **more}
    return {"type": "quantitative", "title": title, "scale": of_scale, "axis": of_axis}


def log_axis(
    title: str | None, values: ArrayLike, ticks: ArrayLike | None = None, least: float = 0, most: float = math.inf
) -> View:
    """Return a logarithmic axis over the positive ones of `values`; without any it is linear.

    Args:
        ticks: Values to label; None leaves them to the chart.
        least: Lowest value to show.
        most: Highest value to show.
    """
    values = np.asarray(values, dtype=float).ravel()
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return axis(title)
    low, high = float(values.min()), float(values.max())
    if max(low, least) < min(high, most):
        low, high = max(low, least), min(high, most)
    wider = min((high / low) ** 0.04, 2) if high > low else 1.5
    low, high = max(low / wider, 1e-300), min(high * wider, 1e300)
    marked = round_numbers(low, high) if ticks is None else np.unique(np.asarray(ticks, dtype=float))
    few = marked[:: -(-len(marked) // 8)].tolist() if len(marked) > (ticks is None) else None
    return axis(title, (low, high), few, {"type": "log"})


def round_numbers(low: float, high: float) -> np.ndarray:
    """Return round numbers between two positive ones, denser over few decades."""
    subs = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 300 * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = np.array([float(f"{sub}e{power}") for power in powers for sub in subs])
    return numbers[(low <= numbers) & (numbers <= high)]


def error_axis(title: str | None, errors: ArrayLike) -> View:
    """Return an axis of errors in percent: logarithmic, but linear below the least of them, so that it holds zero."""
    errors = np.asarray(errors, dtype=float).ravel()
    positive = errors[np.isfinite(errors) & (errors > 0)]
    least = max(float(positive.min(initial=100)), 0.01)
    most = float(positive.max(initial=least))
    ticks = [0, *round_numbers(least, 1.1 * most).tolist()]
    return axis(title, (0, 1.1 * most), ticks, {"type": "symlog", "constant": least})


def at(axis: View, field: str) -> View:
    """Return the encoding of a field on an axis."""
    return {"field": field, **axis}


def pixels(field: str) -> View:
    """Return the encoding of a field that holds a place in pixels."""
    return {"field": field, "type": "quantitative", "scale": None, "axis": None}


def arm_look(count: int, dashes: bool = False, shapes: bool = False, opacity: float = 1) -> View:
    """Return the encoding of an arm's look; an arm that is not chosen fades.

    Args:
        count: Number of arms.
        dashes: Whether lines have the arm's pattern.
        shapes: Whether points have the arm's marker.
        opacity: Opacity of a chosen arm.
    """
    places = [*range(count)]
    arm = {"field": "arm", "type": "nominal", "legend": None}
    shown = {"condition": {"test": SHOWN, "value": opacity}, "value": 0.12 * opacity}
    look: View = {"color": {**arm, "scale": {"domain": places}}, "opacity": shown}
    if dashes:
        look["strokeDash"] = {**arm, "scale": {"domain": places, "range": [*LINES]}}
    if shapes:
        look["shape"] = {**arm, "scale": {"domain": places}}
    return look


def curve(arm: int, x: ArrayLike, values_SR: ArrayLike, log: bool = False, marked: Sequence[int] = ()) -> list[Row]:
    """Return the rows of a mean over runs with its band.

    Args:
        arm: Place of the arm.
        log: Whether mean and band are those of logarithms.
        marked: Points that have a marker; all have one without it.
    """
    mean, lower, upper = band(values_SR, log)
    count = np.isfinite(np.asarray(values_SR, dtype=float)).sum(axis=1)
    rows: list[Row] = []
    for place, (at_x, y, low, high, seeds) in enumerate(
        zip(
            np.asarray(x, dtype=float).tolist(),
            mean.tolist(),
            lower.tolist(),
            upper.tolist(),
            count.tolist(),
            strict=True,
        )
    ):
        if math.isfinite(y):
            row: Row = {"arm": arm, "x": digits(at_x), "y": digits(y), "seeds": seeds}
            if math.isfinite(low) and math.isfinite(high):
                row |= {"low": digits(low), "high": digits(high)}
            rows.append(row if not marked or place in marked else {**row, "bare": True})
    return rows


def digits(number: float) -> float:
    """Return a number with six significant digits: more cannot be seen."""
    return float(f"{number:.6g}")


def curves(rows: Sequence[Row], count: int, x: View, y: View, of: Mapping[str, str], zoom: bool = False) -> list[View]:
    """Return the layers of lines with their bands and markers.

    Args:
        rows: Rows of `curve`.
        count: Number of arms.
        of: What a reader is told of a point beside its arm: fields by their titles, which are part of an expression.
        zoom: Whether the panel can be zoomed.
    """
    data = {"data": {"values": [*rows]}}
    ends = {"y": at(y, "low"), "y2": {"field": "high"}}
    band_of: View = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "area", "clip": True},
        "encoding": {"x": at(x, "x"), **ends, **arm_look(count, opacity=min(0.18, 0.72 / count))},
    }
    # Among many arms bands hide each other, and one marker an arm is enough.
    many = count > MANY
    last = {row["arm"]: row for row in rows}.values()
    marked = {"data": {"values": [*last]}} if many else {"transform": [{"filter": "!datum.bare"}]}
    layers: list[View] = [
        *([] if many else [band_of]),
        {"mark": {"type": "line", "strokeWidth": 1.7, "clip": True},
         "encoding": {"x": at(x, "x"), "y": at(y, "y"), **arm_look(count, dashes=True)}},
        {**marked, "mark": {"type": "point", "filled": True, "size": 34, "clip": True},
         "encoding": {"x": at(x, "x"), "y": at(y, "y"), **arm_look(count, shapes=True)}},
        near({"x": at(x, "x"), "y": at(y, "y")}, of, zoom),
    ]  # fmt: skip
    return [{**data, "layer": layers}]


def near(encoding: View, of: Mapping[str, str], zoom: bool = False, arm: bool = True) -> View:
    """Return the layer that tells a reader about the point nearest to the pointer, first its arm."""
    params: list[View] = [
        {"name": "near", "select": {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True}}
    ]
    if zoom:
        # Neither scrolling the page nor a finger on a phone moves a chart.
        params.append({"name": "zoom", "bind": "scales", "select": {
            "type": "interval",
            "on": f"[pointerdown[{TOUCH}], window:pointerup] > window:pointermove!",
            "translate": f"[pointerdown[{TOUCH}], window:pointerup] > window:pointermove!",
            "zoom": "wheel![event.ctrlKey || event.shiftKey]",
        }})  # fmt: skip
    return {
        "params": params,
        "transform": [{"calculate": "names[datum.arm]", "as": "name"}],
        "mark": {"type": "point", "size": 90, "opacity": 0, "clip": True},
        "encoding": {**encoding, "tooltip": told(of, arm)},
    }


def told(of: Mapping[str, str], arm: bool = True) -> list[View]:
    """Return the encoding of what a reader is told of a mark: fields by their titles."""
    titles = {**({"arm": "name"} if arm else {}), **of}
    number: View = {"type": "quantitative", "format": ".4~g"}
    # Without a function of its own a text is looked for in the wrong place where the pointer is beside a mark.
    text: View = {"type": "nominal", "format": "", "formatType": "toString"}
    return [{"field": field, "title": title, **(text if field in TEXTS else number)} for title, field in titles.items()]


# Fields that hold text.
TEXTS = {"name", "text", "label", "interval", "class", "of"}
# What is told of a mean over seeds.
MEAN = {"mean": "y", "from": "low", "to": "high", "seeds": "seeds"}


def line_at(axis: str, value: float, of: View, **look: Any) -> View:
    """Return the layer of a line of reference at a value of the axis "x" or "y"."""
    mark = {"type": "rule", "color": SOFT, "strokeDash": [2, 2], "strokeWidth": 1, "clip": True, **look}
    # Without a row of its own a line would be drawn once for each row of the panel.
    return {"data": {"values": [{"v": value}]}, "mark": mark, "encoding": {axis: at(of, "v")}}


def note(text: str, x: float | str | View, y: float | str | View, **look: Any) -> View:
    """Return the layer of a text.

    Args:
        x: Place in pixels, "width", or the encoding of a place on an axis, whose field is "v".
        y: Place in pixels, "height", or such an encoding.
    """
    place = {name: value if isinstance(value, dict) else {"value": value} for name, value in (("x", x), ("y", y))}
    return {
        "data": {"values": [{"text": text, "v": look.pop("v", 0)}]},
        "mark": {"type": "text", "align": "left", "baseline": "top", **look},
        "encoding": {**place, "text": {"field": "text"}},
    }


def chance_level(of: View) -> list[View]:
    """Return the line of chance level on the axis of an NLL over ln K, with its name."""
    named = note("chance level", 3, at(of, "v"), v=1, color=SOFT, baseline="bottom", dy=-2, clip=True)
    return [line_at("y", 1, of), named]


def named_axis(title: str | None, labels: Sequence[str], **more: Any) -> View:
    """Return the axis of places that have names, which are labels of their own however much they are alike."""
    places = [*range(len(labels))]
    return {
        "type": "ordinal",
        "title": title,
        "scale": {"domain": places},
        # An array in an expression: a label is text, whatever it holds.
        "axis": {
            "labelExpr": f"{json.dumps([*labels])}[datum.value]",
            "labelAngle": 0,
            "labelOverlap": False,
            "grid": False,
            **more,
        },
    }
