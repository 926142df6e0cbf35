"""Style of the figures of a report, and how a figure becomes a Vega-Lite chart.

A figure is a list of panels, each a layered Vega-Lite view with its data, under a title and a legend. One chart serves
all media: the static SVG and the picture show it as it is, the page lets it be hovered and zoomed.

An arm has the same colour, line and marker in every figure, so that colour is not needed to tell arms apart. Charts
know an arm by its place: what a name holds is text in data, never part of a field or an expression.

S points of a line, such as steps, R runs (one per seed).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from headtohead.analysis.text import listed
from headtohead.options import printable
from headtohead.report.drawing import Drawing, View, draw_chart

# The palette of Okabe and Ito (2008), which the colour-blind can tell apart, without its yellow and black; orange and
# sky blue are darker, and there is a purple. Each has a contrast of 3 on light and on dark ground. The pages of
# TensorBoard have these too. The numbers of colours, lines and markers have no common divisor: 140 arms differ.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#bf8400", "#2f96d0", "#7d62b5")
LINES = ([1, 0], [6, 3], [8, 3, 2, 3], [2, 2], [8, 2, 2, 2, 2, 2])
MARKERS = ("circle", "square", "triangle-up", "diamond")
# Text, less of it, lines of a grid, and the ground. The page shows these in its own colours, dark ones where asked for.
INK, SOFT, LINE, PAPER = "#1c1c1c", "#5a5a5a", "#dedede", "#ffffff"
# What these become on a dark ground.
DARK = {INK: "#e8e8e6", SOFT: "#a9a9a6", LINE: "#34373b", PAPER: "#15171a"}
# In pixels: the width of a figure, that of the room left of a panel, the heights of panels and of a legend's line.
WIDTH, LEFT, PANEL, SMALL_PANEL, KEY_HEIGHT = 760, 62, 210, 150, 20
LETTER = 6.6  # pixels, of a key's text
MEASURED = "sans-serif"  # the font in which words are measured, which takes least time
CONFIG: dict[str, Any] = {
    "aria": False,
    "background": PAPER,
    "font": MEASURED,
    "axis": {
        "domainColor": SOFT,
        "gridColor": LINE,
        "gridWidth": 0.7,
        "labelColor": SOFT,
        "labelFontSize": 11.5,
        "labelOverlap": "greedy",
        "tickColor": SOFT,
        "tickSize": 4,
        "titleColor": INK,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "concat": {"spacing": 18},
    "range": {"category": [*COLOURS], "symbol": [*MARKERS]},
    "text": {"color": INK, "fontSize": 11.5},
    "title": {"anchor": "start", "color": INK, "fontSize": 12.5, "fontWeight": "normal", "frame": "group"},
    "view": {"stroke": None},
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        label: What it says.
        arm: Place of the arm that it stands for; -1 for none.
        colour: Colour of its mark.
        dash: Pattern of its line; None for no line.
        shape: Shape of its symbol; None for no symbol.
        hollow: Whether the symbol is a ring.
        thick: Width of the line: that of a band is the height of letters.
    """

    label: str
    arm: int = -1
    colour: str = SOFT
    dash: Sequence[int] | None = None
    shape: str | None = None
    hollow: bool = False
    thick: float = 1.8


@dataclass(frozen=True)
class Figure:
    """A figure as it is defined.

    Attributes:
        title: Title of the figure.
        caption: A sentence on what to look at.
        panels: Layered views with their data, without a width.
        legend: Its keys, in order.
        across: Number of panels side by side, where there is room.
        names: Names of the arms, which charts know by their place.
        left: Room left of each panel, in pixels.
        least: Least width of a panel in a page, in pixels.
        zoom: Whether a reader can zoom its panels.
    """

    title: str
    caption: str
    panels: Sequence[View]
    legend: Sequence[Key] = ()
    across: int = 3
    names: Sequence[str] = ()
    left: int = LEFT
    least: int = 250
    zoom: bool = False

    def spec(self) -> View:
        """Return the figure as one chart of Vega-Lite."""
        across = max(1, min(self.across, len(self.panels)))
        width = round((WIDTH - across * self.left - (across - 1) * CONFIG["concat"]["spacing"]) / across)
        panels = [_numbered({"width": width, **panel}, place) for place, panel in enumerate(self.panels)]
        views: list[View] = [{"concat": panels, "columns": across, "align": "all", "bounds": "full"}]
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "title": {"text": self.title, "fontSize": 14, "fontWeight": "bold", "offset": 8, "frame": "bounds"},
            "config": CONFIG,
            # The arm that a reader has chosen; -1 for none.
            "params": [
                {"name": "chosen", "value": -1},
                {"name": "names", "value": [short(name, 60) for name in self.names]},
            ],
            "vconcat": [*([_legend(self.legend)] if self.legend else []), *views],
            "spacing": 10,
            "usermeta": {
                "legend": [asdict(key) for key in self.legend],
                "across": across,
                "least": self.least,
                "zoom": self.zoom,
            },
        }


# None where the study lacks the records for a figure.
Drawn = Figure | None


def draw_figure(name: str, make: Callable[[], Drawn]) -> Drawing | None:
    """Call `make`, and return what it defines as a drawing."""
    chart = chart_of(name, make)
    return chart and draw_chart(chart)


def chart_of(name: str, make: Callable[[], Drawn]) -> Drawing | None:
    """Call `make`, and return what it defines as a drawing without its image."""
    with np.errstate(all="ignore"):  # numbers near the largest overflow: no reason to speak of it
        figure = make()
    return figure and Drawing(name, figure.title, figure.caption + alike(figure), "", figure.spec())


def keys(arms: Sequence[str], labels: Sequence[str] | None = None) -> list[Key]:
    """Return the keys of arms, under other labels where given."""
    return [
        Key(
            short(label, 36),
            place,
            COLOURS[place % len(COLOURS)],
            LINES[place % len(LINES)],
            MARKERS[place % len(MARKERS)],
        )
        for place, label in enumerate(labels or arms)
    ]


def colour_of(arms: Sequence[str], arm: str) -> str:
    """Return the colour of an arm."""
    return COLOURS[list(arms).index(arm) % len(COLOURS)]


def loss_scale(num_classes: int | None) -> tuple[float, str]:
    """Return the factor and the name of a loss: an NLL over ln K is 1 at chance level."""
    return (1 / math.log(num_classes), "NLL / ln K") if num_classes else (1.0, "NLL, nats")


def band(values_SR: ArrayLike, log: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, lower and upper bound of the 95 % t interval over runs, each (S,).

    The bounds are NaN for fewer than two runs. Values that are not finite are not measured.
    """
    values_SR = np.asarray(values_SR, dtype=float)
    values_SR = np.where(np.isfinite(values_SR), values_SR, np.nan)
    if log:
        values_SR = np.log(np.where(values_SR > 0, values_SR, np.nan))
    frame = pd.DataFrame(values_SR)
    mean, count = frame.mean(axis=1).to_numpy(), frame.count(axis=1).to_numpy()
    half = np.full(len(mean), np.nan)
    many = count > 1
    deviation = frame.std(axis=1).to_numpy()[many]
    half[many] = special.stdtrit(count[many] - 1, 0.975) * deviation / np.sqrt(count[many])
    lower, upper = mean - half, mean + half
    return (np.exp(mean), np.exp(lower), np.exp(upper)) if log else (mean, lower, upper)


def short(text: str, most: int) -> str:
    """Shorten a text to `most` characters that can be shown, with an ellipsis."""
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def alike(figure: Figure) -> str:
    """Return a sentence on the arms whose marks are the same in all panels, so that one hides another."""
    marks: dict[int, list[str]] = {}
    for panel in figure.panels:
        for row in _rows(panel):
            if "arm" in row and "y" in row:
                # A point that stands aside, so that none hides another, has its place under another name.
                same = [
                    f"{row.get('place', row.get('x'))}",
                    *(f"{row[key]}" for key in ("y", "low", "high") if key in row),
                ]
                marks.setdefault(row["arm"], []).append(" ".join(same))
    groups: dict[tuple[str, ...], list[str]] = {}
    for arm, shown in marks.items():
        groups.setdefault(tuple(shown), []).append(figure.names[arm] if arm < len(figure.names) else str(arm))
    hidden = [listed(short(name, 36) for name in arms) for arms in groups.values() if len(arms) > 1]
    return f" Exactly the same in every point: {'; '.join(hidden)}." if hidden else ""


def _rows(view: View) -> Iterator[Row]:
    yield from view.get("data", {}).get("values", ())
    for layer in view.get("layer", ()):
        yield from _rows(layer)


def _numbered(view: View, place: int) -> View:
    """Return a view whose parameters have the number of the panel in their names: they are unique in a chart."""
    view = {**view, **({"layer": [_numbered(layer, place) for layer in view["layer"]]} if "layer" in view else {})}
    if "params" in view:
        view["params"] = [{**param, "name": f"{param['name']}{place}"} for param in view["params"]]
    return view


def _legend(legend: Sequence[Key]) -> View:
    """Return the view of a legend, whose keys fill as many lines as they need."""
    room = 52 + LETTER * max(len(key.label) for key in legend)
    columns = max(1, min(len(legend), int((WIDTH - 10) // room)))
    rows = [
        {
            **{name: value for name, value in asdict(key).items() if value is not None},
            "x": room * (place % columns),
            "y": KEY_HEIGHT * (place // columns + 0.5),
            "opacity": 0.3 if key.thick > 5 else 1,
            "size": 110 if key.hollow else 45,
            "fill": "transparent" if key.hollow else key.colour,
        }
        for place, key in enumerate(legend)
    ]

    def encoding(**fields: str) -> View:
        numbers = ("x", "y", "size", "strokeWidth", "opacity")
        plain: View = {
            channel: {"field": field, "type": "quantitative" if channel in numbers else "nominal", "scale": None}
            for channel, field in fields.items()
        }
        return {**plain, "x": {**plain["x"], "axis": None}, "y": {**plain["y"], "axis": None}}

    lines = [{**row, "end": row["x"] + 36} for row in rows if "dash" in row]
    symbols = [{**row, "x": row["x"] + 18} for row in rows if "shape" in row]
    texts = [{name: row[name] for name in ("x", "y", "label")} for row in rows]
    of_line = encoding(x="x", y="y", color="colour", strokeDash="dash", strokeWidth="thick", opacity="opacity")
    of_symbol = encoding(x="x", y="y", stroke="colour", fill="fill", shape="shape", size="size")
    layers = [
        {"data": {"values": lines}, "mark": "rule", "encoding": {**of_line, "x2": {"field": "end"}}},
        {"data": {"values": symbols}, "mark": {"type": "point", "opacity": 1}, "encoding": of_symbol},
        {"data": {"values": texts},
         "mark": {"type": "text", "align": "left", "baseline": "middle", "fontSize": 12, "dx": 44},
         "encoding": {**encoding(x="x", y="y"), "text": {"field": "label"}}},
    ]  # fmt: skip
    layers = [layer for layer in layers if layer["data"]["values"]]
    return {"width": WIDTH - LEFT, "height": KEY_HEIGHT * -(-len(legend) // columns), "layer": layers}
