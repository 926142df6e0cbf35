"""Panels of differences with their intervals, a row each: the name above the line, the numbers at its right."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headtohead.analysis.statistics import Interval
from headtohead.analysis.text import difference, in_percent
from headtohead.report.figures.layers import SHOWN, at, axis, digits, line_at, near, note, panel, pixels
from headtohead.report.figures.style import COLOURS, INK, MARKERS, PAPER, SOFT, View

ROW, TEXT, MARK = 40, 13, 28  # pixels: the height of a row, and in it the middles of its text and of its line
UNDER = 42  # pixels from an axis to what stands under its title
# What a reader is told of a row.
TOLD = {"row": "label", "difference [interval]": "interval", "pairs": "seeds"}


@dataclass(frozen=True)
class Difference:
    """A row of a panel.

    Attributes:
        label: Its name.
        interval: The difference with its interval, in the metric's unit.
        seeds: Number of pairs of runs.
        arm: Place of the arm whose look it has; None for none, a grey circle.
        is_summary: Whether it sums other rows up: a diamond.
        predicted: Interval for a further row; None without one.
    """

    label: str
    interval: Interval
    seeds: int
    arm: int | None = None
    is_summary: bool = False
    predicted: tuple[float, float] | None = None


def interval_panel(
    title: str, metric: str, rows: Sequence[Difference], margin: float | None, sides: tuple[str, str] | None = None,
    descending: bool = False,
) -> View:  # fmt: skip
    """Return a panel of differences in a metric, a row each.

    Args:
        margin: Size below which a difference does not matter: a band around zero.
        sides: What stands under the left and the right end of the axis.
        descending: Whether the axis runs from high to low, as that of a loss does where right is to be better.
    """
    factor = 100 if in_percent(metric) else 1
    name = metric.replace("_", " ").replace("nll", "NLL")
    height = ROW * len(rows) + 4
    reach = factor * (margin or 0)
    shown = [bound for row in rows for bound in (*row.interval, *(row.predicted or ())) if math.isfinite(bound)]
    low, high = (
        min([factor * bound for bound in shown] + [-reach, 0]),
        max([factor * bound for bound in shown] + [reach, 0]),
    )
    room = 0.06 * (high - low) or 1
    x = axis(
        f"difference in {name}{', points' if factor == 100 else ''}", (low - room, high + room),
        scale={"reverse": descending}, grid=False, tickCount=4,
    )  # fmt: skip
    values = [_values(row, metric, factor, place) for place, row in enumerate(rows)]
    band: list[View] = [
        {"data": {"values": [{"low": -reach, "high": reach}]}, "mark": {"type": "rect", "color": SOFT, "opacity": 0.16},
         "encoding": {"x": at(x, "low"), "x2": {"field": "high"}, "y": {"value": 0}, "y2": {"value": height}}}
    ] if reach else []  # fmt: skip
    faded = {"opacity": {"condition": {"test": f"{SHOWN} || datum.arm < 0", "value": 1}, "value": 0.15}}
    colour = {"color": {"field": "colour", "type": "nominal", "scale": None}, **faded}
    middle = {"y": pixels("y")}
    writing = {"y": pixels("text_y")}
    symbol = {
        "shape": {"field": "shape", "type": "nominal", "scale": None},
        "size": {"field": "size", "type": "quantitative", "scale": None},
    }
    dotted = {"type": "rule", "strokeDash": [3, 3], "strokeWidth": 1.2}
    layers: list[View] = [
        *band,
        line_at("x", 0, x, strokeDash=[1, 0]),
        {"transform": [{"filter": "isValid(datum.from)"}], "mark": dotted,
         "encoding": {"x": at(x, "from"), "x2": {"field": "to"}, **middle, **colour}},
        {"transform": [{"filter": "isValid(datum.low)"}], "mark": {"type": "rule", "strokeWidth": 2.4},
         "encoding": {"x": at(x, "low"), "x2": {"field": "high"}, **middle, **colour}},
        {"mark": {"type": "point", "filled": True, "opacity": 1},
         "encoding": {"x": at(x, "mean"), **middle, **colour, **symbol}},
        *_texts("label", {"value": 2}, "left", writing),
        *_texts("interval", {"value": "width"}, "right", writing),
        near({"x": at(x, "mean"), **middle}, TOLD, arm=False),
    ]  # fmt: skip
    if sides:
        under = {"color": SOFT, "fontStyle": "italic", "dy": UNDER}
        layers += [
            note(sides[0], 0, "height", **under),
            note(sides[1], "width", "height", align="right", **under),
        ]
    return panel(title, [{"data": {"values": values}, "layer": layers}], height)


def _texts(field: str, x: View, align: str, writing: View) -> Iterable[View]:
    """Return the layers of a text for each row, with a rim that keeps lines behind it away from the letters."""
    mark = {"type": "text", "align": align, "baseline": "middle", "fontSize": 12}
    for look in ({"stroke": PAPER, "strokeWidth": 4, "color": PAPER}, {"color": INK}):
        yield {"mark": {**mark, **look}, "encoding": {"x": x, **writing, "text": {"field": field}}}


def _values(row: Difference, metric: str, factor: float, place: int) -> View:
    """Return a row of data: numbers in the unit of the axis, the place in pixels."""
    mean, low, high = (digits(factor * bound) for bound in row.interval)
    values: View = {
        "label": row.label,
        "interval": difference(metric, row.interval),
        "seeds": row.seeds,
        "arm": -1 if row.arm is None else row.arm,
        **_look(row),
        "mean": mean,
        "y": ROW * place + MARK,
        "text_y": ROW * place + TEXT,
    }
    if math.isfinite(low) and math.isfinite(high):
        values |= {"low": low, "high": high}
    if row.predicted and all(map(math.isfinite, row.predicted)):
        values |= {name: digits(factor * bound) for name, bound in zip(("from", "to"), row.predicted, strict=True)}
    return values


def _look(row: Difference) -> View:
    if row.is_summary:
        return {"colour": INK, "shape": "diamond", "size": 130}
    if row.arm is None:
        return {"colour": SOFT, "shape": "circle", "size": 60}
    return {"colour": COLOURS[row.arm % len(COLOURS)], "shape": MARKERS[row.arm % len(MARKERS)], "size": 60}
