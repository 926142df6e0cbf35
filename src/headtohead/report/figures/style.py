"""Style, panels, bands and axes that the figures of a report share, and their SVG.

An arm has the same colour, line and marker in every figure, so that colour is not needed to tell arms apart. A band
is the 95 % t interval of the mean over seeds. On a logarithmic axis mean and band are those of the logarithms.

S points of a line, such as steps, R runs (one per seed).
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike
from scipy import special

from headtohead.options import printable

# The palette of Okabe and Ito (2008) without its yellow, which is too pale for lines on white. The numbers of colours,
# lines and markers have no common divisor, so that 140 arms differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#767676",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}
MUTED = "#767676"
# A line of reference.
DOTTED: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (2, 2))}
# In inches: the width of a figure, and the heights of its panels.
WIDTH, PANEL, SMALL_PANEL = 7.6, 2.2, 1.6


@dataclass(frozen=True)
class Drawing:
    """A figure that has been drawn.

    Attributes:
        name: Name of the figure and of its file.
        title: Title of the figure.
        caption: A sentence on what to look at.
        svg: The figure as an SVG element.
        figure: The figure as matplotlib holds it; None where another process has drawn it.
        pixels: The figure as a PNG image, where another process has drawn one.
    """

    name: str
    title: str
    caption: str
    svg: str
    figure: Figure | None
    pixels: bytes = b""

    @property
    def png(self) -> bytes:
        """The figure as a PNG image, 1,000 pixels wide; a ValueError says that there is none."""
        if self.figure is None:
            if not self.pixels:
                raise ValueError("no picture was drawn")
            return self.pixels
        with mpl.rc_context(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
            _set_style()
            FigureCanvasAgg(self.figure)
            sink = io.BytesIO()
            self.figure.savefig(sink, format="png", dpi=1000 / WIDTH, metadata={"Software": None})
            return sink.getvalue()

    def to_send(self, picture: bool) -> "Drawing":
        """Return the drawing as another process takes it: without matplotlib's figure, with a picture if asked for."""
        pixels = b""
        if picture:
            with suppress(Exception):  # whatever it is, a picture never costs the figure
                pixels = self.png
        return replace(self, figure=None, pixels=pixels)


# A figure and its caption; None where the study lacks the records for it.
Drawn = tuple[Figure, str] | None


def draw_figure(name: str, make: Callable[[], Drawn]) -> Drawing | None:
    """Call `make` in the style of all figures, and return what it draws."""
    # Numbers near the largest overflow, and a letter that the font lacks is a box: no reason to speak of either.
    with mpl.rc_context(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
        _set_style()
        drawn = make()
        if drawn is None:
            return None
        figure, caption = drawn
        return Drawing(name, figure.get_suptitle(), caption, _svg(figure, name), figure)


def _set_style() -> None:
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)


def arm_style(arms: Sequence[str], arm: str) -> dict[str, Any]:
    """Return the colour, line and marker of an arm."""
    index = list(arms).index(arm)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


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


def lay_out(
    count: int, title: str, arms: Sequence[str], right: float = 0.1, below: float = 0.46
) -> tuple[Figure, list[Axes]]:
    """Place panels side by side under a title and the legend of the arms.

    Args:
        count: Number of panels.
        right: Free room at the right, in inches.
        below: Free room below the panels, in inches.
    """
    legend = [Line2D([], [], label=short(arm, 36), **arm_style(arms, arm)) for arm in arms]
    figure = titled(title, legend, below + PANEL)
    height = figure.get_figheight()
    left, gap = 0.68, 0.76
    width = (WIDTH - left - right - (count - 1) * gap) / count
    frames = [(left + i * (width + gap), width) for i in range(count)]
    return figure, [figure.add_axes((x / WIDTH, below / height, w / WIDTH, PANEL / height)) for x, w in frames]


def small_multiples(count: int, title: str, legend: Sequence[Artist]) -> tuple[Figure, list[Axes]]:
    """Place panels that share their axes in rows of up to three, under a title and a legend of labelled artists."""
    across = min(count, 3)
    rows, left, gap, apart = -(-count // across), 0.68, 0.16, 0.5
    figure = titled(title, legend, rows * (SMALL_PANEL + apart))
    height, width = figure.get_figheight(), (WIDTH - left - 0.1 - (across - 1) * gap) / across
    axes: list[Axes] = []
    for place in range(count):
        row, column = divmod(place, across)
        x, y = left + column * (width + gap), (rows - 1 - row) * (SMALL_PANEL + apart) + 0.46
        frame = (x / WIDTH, y / height, width / WIDTH, SMALL_PANEL / height)
        axis = figure.add_axes(frame, sharex=axes[0] if axes else None, sharey=axes[0] if axes else None)
        axis.tick_params(labelleft=column == 0)
        axes.append(axis)
    return figure, axes


def titled(title: str, legend: Sequence[Artist], tall: float) -> Figure:
    """Return a figure with a title, a legend of labelled artists, and `tall` inches of room below them."""
    longest = max((len(str(artist.get_label())) for artist in legend), default=0)
    columns = max(1, min(len(legend), 110 // (9 + longest)))
    above = 0.64 + 0.19 * -(-len(legend) // columns)
    height = tall + above
    figure = Figure((WIDTH, height))
    FigureCanvasSVG(figure)
    figure.suptitle(title, x=0.12 / WIDTH, y=1 - 0.08 / height, ha="left", va="top")
    place = {"loc": "upper left", "bbox_to_anchor": (0.04 / WIDTH, 1 - 0.24 / height)}
    figure.legend(handles=legend, **place, ncols=columns, frameon=False, handlelength=3.2)
    return figure


def line(axis: Axes, x: ArrayLike, values_SR: ArrayLike, look: Mapping[str, Any], log: bool = False) -> np.ndarray:
    """Draw a mean over runs with its band, and return the mean, (S,)."""
    x, (mean, lower, upper) = np.asarray(x, dtype=float), band(values_SR, log)
    shown = ~np.isnan(mean)
    axis.plot(x[shown], mean[shown], **look)
    axis.fill_between(x[shown], lower[shown], upper[shown], color=look["color"], alpha=0.18, linewidth=0)
    return mean


def log_axis(axis: Any, ticks: ArrayLike | None = None, least: float = 0, most: float = math.inf) -> None:
    """Make an axis logarithmic; without a positive value to show it stays linear.

    Args:
        axis: The x axis or y axis of some panel.
        ticks: Values to label; None labels round numbers, denser over few decades.
        least: Lowest value to show.
        most: Highest value to show.
    """
    if not np.isfinite(axis.get_minpos()):
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_minor_locator(NullLocator())
    low, high = axis.get_view_interval()
    if max(low, least) < min(high, most):
        low, high = max(low, least), min(high, most)
        axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})  # also of panels that share the axis
    if ticks is not None:
        values = np.unique(np.asarray(ticks, dtype=float))
        axis.set_ticks(values[:: -(-len(values) // 8)])
    else:
        subs = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 2, 5) if high < 300 * low else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def about_zero(axis: Axes, most: float) -> None:
    """Make the y axis one of differences up to `most`: linear up to one, logarithmic beyond.

    At either end a decade stays free for text.
    """
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(-10 * max(most, 1), 10 * max(most, 1))
    powers = 10.0 ** np.arange(math.ceil(math.log10(max(most, 1))) + 1)
    axis.yaxis.set_major_locator(FixedLocator([*-powers, 0, *powers]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))


def count_axis(axis: Axes) -> None:
    """Label the x axis at integers."""
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def short(text: str, most: int) -> str:
    """Shorten a text to `most` characters that can be shown, with an ellipsis."""
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG element that can share a page with others."""
    mpl.rcParams["svg.hashsalt"] = name
    sink = io.StringIO()
    # Without metadata the same study gives the same bytes.
    figure.savefig(sink, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = sink.getvalue()
    # Names from elsewhere may hold characters that XML does not have.
    svg = "\n".join(map(printable, svg[svg.index("<svg") :].split("\n")))
    # A hundredth of a point cannot be seen.
    svg = re.sub(r' d="[^"]*"|<use [^>]*', lambda part: re.sub(r"(\.\d\d)\d+", r"\1", part[0]), svg)
    # Markers that look alike share one style, which is most of the room that they take.
    alike = re.compile(r'<g( clip-path="[^"]*")>\s*(<use [^>]*?( style="[^"]*")/>\s*(?:<use [^>]*?\3/>\s*)+)</g>')
    svg = alike.sub(lambda group: f"<g{group[1]}{group[3]}>\n{group[2].replace(group[3], '')}</g>", svg)
    # Ids must be unique in the page, which holds every figure.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub(r"^<svg ", f'<svg role="img" aria-label="{_attribute(figure.get_suptitle())}" ', svg)


def _attribute(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
