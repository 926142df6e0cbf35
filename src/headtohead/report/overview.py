"""Claims by studies at a glance, from the verdicts.json of published studies."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from headtohead.analysis.text import setting
from headtohead.options import ConfigError
from headtohead.report.figures.style import Drawing, drawing
from headtohead.report.render import SYMBOLS

# The proper sigmoid, or the plain one where a study has none; and the naive one.
PROPER, NAIVE = ("sigmoid_prior", "sigmoid"), "sigmoid_mean"
# Fill, line and ink of each verdict.
LOOKS = {
    "supported": ("#00704f", "#00704f", "#ffffff"),
    "refuted": ("#b34700", "#b34700", "#ffffff"),
    "equivalent": ("#005a92", "#005a92", "#ffffff"),
    "inconclusive": ("#ffffff", "#9a9a9a", "#4a4a4a"),
}
# In inches; a letter of a title as it is drawn, at TILT degrees.
COLUMN, ROW, STUDY_GAP, LEFT, ABOVE, LETTER, TILT = 0.46, 0.25, 0.12, 1.85, 0.66, 0.07, 55
PAGE = 14  # inches: wider, a page would show the letters too small
BIG, SMALL = 0.2, 0.14


@dataclass(frozen=True)
class Column:
    """One context of a study.

    Attributes:
        context: what its arms have in common, empty where the study has one context.
        rival: the head of PROPER that softmax is compared with here; None where there is neither.
        proper, naive: the verdict on each claim against that head, and against NAIVE.
    """

    study: str
    context: str
    rival: str | None
    proper: Mapping[str, str]
    naive: Mapping[str, str]

    @property
    def title(self) -> str:
        """`tabular: wine`; the study `classes` is told by `classes=10`. A star where the rival is the plain sigmoid."""
        told = self.context.startswith(f"{self.study}=")
        named = self.context if told else ": ".join(filter(None, (self.study, self.context)))
        return f"{named} *" if self.rival == PROPER[1] else named


def read_columns(experiments: Path) -> tuple[list[Column], dict[str, str]]:
    """A column per study and context that have a verdict to show, and the sentence of each claim.

    Raises:
        ConfigError: a verdicts.json is broken.
    """
    columns, sentences = [], {}
    for path in sorted(experiments.glob("*/verdicts.json")):
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["claims"]
            columns += _columns(path.parent.name, rows)
            sentences |= {row["claim"]: row["sentence"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: broken ({type(error).__name__}: {error}); publish its study again") from error
    return columns, sentences


def _columns(study: str, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    columns = []
    for context in dict.fromkeys(tuple(row["context"]) for row in rows):
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            # Without seeds nothing was judged.
            if tuple(row["context"]) == context and row["seeds"]:
                found.setdefault(row["versus_head"], {})[row["claim"]] = row["verdict"]
        rival = next((head for head in PROPER if head in found), None)
        if rival or NAIVE in found:
            title = ", ".join(map(setting, context))
            columns.append(Column(study, title, rival, found.get(rival, {}), found.get(NAIVE, {})))
    return columns


def draw_matrix(columns: Sequence[Column], claims: Sequence[str]) -> Drawing | None:
    """The figure `matrix`; None where there is nothing to show."""
    return drawing("matrix", partial(_draw, columns, claims)) if columns and claims else None


def _draw(columns: Sequence[Column], claims: Sequence[str]) -> tuple[Figure, str]:
    rows = _rows(columns)
    width = max(4.8, *(max(_reach(row)) for row in rows)) + 0.1
    heads = [math.sin(math.radians(TILT)) * max(LETTER * len(column.title) for column in row) + 0.2 for row in rows]
    height = ABOVE + sum(heads) + len(rows) * (len(claims) * ROW + 0.1)
    figure = Figure((width, height))
    FigureCanvasSVG(figure)
    figure.suptitle("What the article claims of softmax, by study", x=0.12 / width, y=1 - 0.08 / height, ha="left")
    axis = figure.add_axes((0, 0, 1, 1))
    # Inches from the upper left corner.
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    marks: dict[tuple[str, float], list[tuple[float, float]]] = {}
    top = ABOVE
    for row, head in zip(rows, heads, strict=True):
        top += head
        _table(axis, row, claims, top, marks)
        top += len(claims) * ROW + 0.1
    _legend(axis, marks, any(column.rival == PROPER[1] for column in columns))
    for (verdict, size), places in marks.items():
        fill, line, ink = LOOKS[verdict]
        xs, ys = zip(*places, strict=True)
        box = {"marker": "s", "markersize": 72 * size, "markerfacecolor": fill, "markeredgecolor": line}
        axis.plot(xs, ys, linestyle="none", zorder=2, **box)
        sign = {"marker": _outline(SYMBOLS[verdict]), "markersize": 46 * size, "color": ink, "markeredgewidth": 0}
        axis.plot(xs, ys, linestyle="none", zorder=3, **sign)
    return figure, "Look at the rows that keep their symbol from study to study, and at those that change it."


def _rows(columns: Sequence[Column]) -> list[list[Column]]:
    """Columns below each other where they would be wider than a page; a study stays together if it can."""
    rows: list[list[Column]] = [[]]
    for _, group in groupby(columns, key=lambda column: column.study):
        study = list(group)
        if rows[-1] and max(_reach([*rows[-1], *study])) > PAGE:
            rows.append([])
        rows[-1] += study
    return rows


def _starts(columns: Sequence[Column]) -> list[float]:
    """Where each column begins."""
    starts, end = [], LEFT
    for place, column in enumerate(columns):
        end += STUDY_GAP if place and columns[place - 1].study != column.study else 0
        starts.append(end)
        end += COLUMN
    return starts


def _reach(columns: Sequence[Column]) -> list[float]:
    """Where each column with its tilted title ends."""
    tilted = math.cos(math.radians(TILT)) * LETTER
    return [x + COLUMN + tilted * len(column.title) for x, column in zip(_starts(columns), columns, strict=True)]


def _table(
    axis: Axes,
    columns: Sequence[Column],
    claims: Sequence[str],
    top: float,
    marks: dict[tuple[str, float], list[tuple[float, float]]],
) -> None:
    """Titles and lines of the columns side by side below `top`; their squares join `marks`."""
    starts = _starts(columns)
    for column, x in zip(columns, starts, strict=True):
        look = {"rotation": TILT, "ha": "left", "va": "bottom", "rotation_mode": "anchor"}
        axis.text(x + 0.2, top - 0.06, column.title, **look)
    for row, claim in enumerate(claims):
        y = top + (row + 0.5) * ROW
        if row and claim.split("_")[0] != claims[row - 1].split("_")[0]:
            axis.plot([0.12, starts[-1] + COLUMN], [y - ROW / 2] * 2, color="#dedede", linewidth=0.6, zorder=0)
        axis.text(LEFT - 0.08, y, claim, ha="right", va="center_baseline")
        for column, x in zip(columns, starts, strict=True):
            for verdicts, size, aside in ((column.proper, BIG, 0.14), (column.naive, SMALL, 0.335)):
                if claim in verdicts:
                    marks.setdefault((verdicts[claim], size), []).append((x + aside, y))


def _outline(symbol: str) -> Outline:
    """A character about the origin, as a marker: drawn once and placed often, it takes little room."""
    path = TextPath((0, 0), symbol)
    return Outline(path.vertices - path.get_extents().get_points().mean(axis=0), path.codes)


def _legend(axis: Axes, marks: dict[tuple[str, float], list[tuple[float, float]]], starred: bool) -> None:
    """Texts of the legend; its squares join those of the table."""
    for place, verdict in enumerate(LOOKS):
        x = 0.22 + 1.05 * place
        marks.setdefault((verdict, BIG), []).append((x, 0.4))
        axis.text(x + 0.16, 0.4, verdict, va="center_baseline")
    for x, size, text in (
        (0.22, BIG, f"against {PROPER[0]}{f' (*: {PROPER[1]})' if starred else ''}"),
        (2.85, SMALL, f"against {NAIVE}"),
    ):
        axis.plot([x], [0.67], linestyle="none", marker="s", markersize=72 * size, color="#b5b5b5")
        axis.text(x + 0.16, 0.67, text, va="center_baseline")
