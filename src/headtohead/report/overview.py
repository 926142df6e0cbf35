"""Overview of claims by studies, from the verdicts.json of published studies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from headtohead.analysis.text import short_override
from headtohead.options import ConfigError, one_line
from headtohead.record.files import read_json
from headtohead.report.figures.style import Drawing, draw_figure
from headtohead.report.render import SYMBOLS

# The heads that softmax is compared with: a proper sigmoid (the first of these that a study has), and the naive one.
PROPER, NAIVE = ("sigmoid_prior", "sigmoid"), "sigmoid_mean"
# Fill, line and ink of each verdict.
VERDICT_COLOURS = {
    "supported": ("#00704f", "#00704f", "#ffffff"),
    "refuted": ("#b34700", "#b34700", "#ffffff"),
    "equivalent": ("#005a92", "#005a92", "#ffffff"),
    "inconclusive": ("#ffffff", "#9a9a9a", "#4a4a4a"),
}
# In inches: the size of a cell, the room between studies, left of and above the table, and a letter of a title.
COLUMN_WIDTH, ROW_HEIGHT, STUDY_GAP, LEFT, ABOVE, LETTER = 0.46, 0.25, 0.12, 1.85, 0.66, 0.07
TILT = 55  # of the titles, in degrees
PAGE_WIDTH = 14  # inches: on a wider page the letters would be too small
BIG, SMALL = 0.2, 0.14  # inches: the squares of a proper and of the naive sigmoid

# Centres of squares by verdict and size.
Marks = dict[tuple[str, float], list[tuple[float, float]]]


@dataclass(frozen=True)
class Column:
    """One context of a study.

    Attributes:
        study: Name of the study.
        context: What the arms have in common; empty where the study has one context.
        rival: Head of PROPER that softmax is compared with; None where the study has none of them.
        proper: Verdict on each claim against that head.
        naive: Verdict on each claim against NAIVE.
    """

    study: str
    context: str
    rival: str | None
    proper: Mapping[str, str]
    naive: Mapping[str, str]

    @property
    def title(self) -> str:
        """Study and context: `tabular: wine`, or `classes=10` of the study `classes`.

        A star marks the plain sigmoid as rival.
        """
        names_study = self.context.startswith(f"{self.study}=")
        title = self.context if names_study else ": ".join(filter(None, (self.study, self.context)))
        return f"{title} *" if self.rival == PROPER[1] else title


def read_columns(experiments: Path) -> tuple[list[Column], dict[str, str]]:
    """Return a column per study and context with a verdict to show, and the sentence of each claim.

    Raises:
        ConfigError: a verdicts.json is broken.
    """
    columns, sentences = [], {}
    for path in sorted(experiments.glob("*/verdicts.json")):
        try:
            rows = read_json(path)["claims"]
            strange = {str(row["verdict"]) for row in rows} - {*VERDICT_COLOURS}
            if strange:
                raise TypeError(f"no verdict: {min(strange)}")
            columns += _columns(path.parent.name, rows)
            sentences |= {row["claim"]: row["sentence"] for row in rows}
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: broken ({one_line(error)}); publish its study again") from error
    return columns, sentences


def _columns(study: str, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    columns = []
    for context in dict.fromkeys(tuple(row["context"]) for row in rows):
        verdicts: dict[str, dict[str, str]] = {}
        for row in rows:
            # A claim without seeds was not judged.
            if tuple(row["context"]) == context and row["seeds"]:
                verdicts.setdefault(row["versus_head"], {})[row["claim"]] = row["verdict"]
        rival = next((head for head in PROPER if head in verdicts), None)
        if rival or NAIVE in verdicts:
            title = ", ".join(map(short_override, context))
            proper = verdicts[rival] if rival else {}
            columns.append(Column(study, title, rival, proper, verdicts.get(NAIVE, {})))
    return columns


def draw_matrix(columns: Sequence[Column], claims: Sequence[str]) -> Drawing | None:
    """Draw the figure `matrix`; None where there is nothing to show."""
    return draw_figure("matrix", partial(_draw, columns, claims)) if columns and claims else None


def _draw(columns: Sequence[Column], claims: Sequence[str]) -> tuple[Figure, str]:
    rows = _rows(columns)
    width = max(4.8, *(max(_reach(row)) for row in rows)) + 0.1
    tilted = math.sin(math.radians(TILT)) * LETTER
    title_heights = [tilted * max(len(column.title) for column in row) + 0.2 for row in rows]
    height = ABOVE + sum(title_heights) + len(rows) * (len(claims) * ROW_HEIGHT + 0.1)
    figure = Figure((width, height))
    FigureCanvasSVG(figure)
    figure.suptitle("Common claims about softmax, by study", x=0.12 / width, y=1 - 0.08 / height, ha="left")
    axis = figure.add_axes((0, 0, 1, 1))
    # Inches from the upper left corner.
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    marks: Marks = {}
    top = ABOVE
    for row, title_height in zip(rows, title_heights, strict=True):
        top += title_height
        _table(axis, row, claims, top, marks)
        top += len(claims) * ROW_HEIGHT + 0.1
    _legend(axis, marks, any(column.rival == PROPER[1] for column in columns))
    _draw_marks(axis, marks)
    return figure, "Look at the rows that keep their symbol from study to study, and at those that change it."


def _draw_marks(axis: Axes, marks: Marks) -> None:
    """Draw a square with the symbol of its verdict at each place."""
    for (verdict, size), places in marks.items():
        fill, line, ink = VERDICT_COLOURS[verdict]
        xs, ys = zip(*places, strict=True)
        box = {"marker": "s", "markersize": 72 * size, "markerfacecolor": fill, "markeredgecolor": line}
        axis.plot(xs, ys, linestyle="none", zorder=2, **box)
        sign = {"marker": _outline(SYMBOLS[verdict]), "markersize": 46 * size, "color": ink, "markeredgewidth": 0}
        axis.plot(xs, ys, linestyle="none", zorder=3, **sign)


def _rows(columns: Sequence[Column]) -> list[list[Column]]:
    """Break columns into rows no wider than a page; a study stays together if it can."""
    rows: list[list[Column]] = [[]]
    for _, group in groupby(columns, key=lambda column: column.study):
        study = list(group)
        if rows[-1] and max(_reach([*rows[-1], *study])) > PAGE_WIDTH:
            rows.append([])
        rows[-1] += study
    return rows


def _starts(columns: Sequence[Column]) -> list[float]:
    """Return where each column begins, in inches."""
    starts, end = [], LEFT
    for place, column in enumerate(columns):
        end += STUDY_GAP if place and columns[place - 1].study != column.study else 0
        starts.append(end)
        end += COLUMN_WIDTH
    return starts


def _reach(columns: Sequence[Column]) -> list[float]:
    """Return where each column with its tilted title ends, in inches."""
    tilted = math.cos(math.radians(TILT)) * LETTER
    return [x + COLUMN_WIDTH + tilted * len(column.title) for x, column in zip(_starts(columns), columns, strict=True)]


def _table(axis: Axes, columns: Sequence[Column], claims: Sequence[str], top: float, marks: Marks) -> None:
    """Draw the titles and lines of columns side by side below `top`, and add their squares to `marks`."""
    starts = _starts(columns)
    for column, x in zip(columns, starts, strict=True):
        look = {"rotation": TILT, "ha": "left", "va": "bottom", "rotation_mode": "anchor"}
        axis.text(x + 0.2, top - 0.06, column.title, **look)
    for row, claim in enumerate(claims):
        y = top + (row + 0.5) * ROW_HEIGHT
        if row and claim.split("_")[0] != claims[row - 1].split("_")[0]:
            axis.plot(
                [0.12, starts[-1] + COLUMN_WIDTH], [y - ROW_HEIGHT / 2] * 2, color="#dedede", linewidth=0.6, zorder=0
            )
        axis.text(LEFT - 0.08, y, claim, ha="right", va="center_baseline")
        for column, x in zip(columns, starts, strict=True):
            for verdicts, size, aside in ((column.proper, BIG, 0.14), (column.naive, SMALL, 0.335)):
                if claim in verdicts:
                    marks.setdefault((verdicts[claim], size), []).append((x + aside, y))


def _outline(symbol: str) -> Outline:
    """Return a character around the origin as a marker, which SVG stores once however often it is placed."""
    path = TextPath((0, 0), symbol)
    return Outline(np.asarray(path.vertices) - path.get_extents().get_points().mean(axis=0), path.codes)


def _legend(axis: Axes, marks: Marks, starred: bool) -> None:
    """Draw the texts of the legend, and add its squares to `marks`."""
    for place, verdict in enumerate(VERDICT_COLOURS):
        x = 0.22 + 1.05 * place
        marks.setdefault((verdict, BIG), []).append((x, 0.4))
        axis.text(x + 0.16, 0.4, verdict, va="center_baseline")
    for x, size, text in (
        (0.22, BIG, f"against {PROPER[0]}{f' (*: {PROPER[1]})' if starred else ''}"),
        (2.85, SMALL, f"against {NAIVE}"),
    ):
        axis.plot([x], [0.67], linestyle="none", marker="s", markersize=72 * size, color="#b5b5b5")
        axis.text(x + 0.16, 0.67, text, va="center_baseline")
