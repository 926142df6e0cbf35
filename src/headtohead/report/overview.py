"""Overview of claims by studies, from the verdicts.json of published studies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from headtohead.analysis.text import short_override
from headtohead.options import ConfigError, one_line
from headtohead.record.files import read_json
from headtohead.report.content import SYMBOLS
from headtohead.report.drawing import Drawing, View
from headtohead.report.figures.layers import pixels
from headtohead.report.figures.style import LINE, Figure, Row, draw_figure

# The heads that softmax is compared with: a proper sigmoid (the first of these that a study has), and the naive one.
PROPER, NAIVE = ("sigmoid_prior", "sigmoid"), "sigmoid_mean"
# Fill, line and ink of each verdict.
VERDICT_COLOURS = {
    "supported": ("#00704f", "#00704f", "#ffffff"),
    "refuted": ("#b34700", "#b34700", "#ffffff"),
    "equivalent": ("#005a92", "#005a92", "#ffffff"),
    "inconclusive": ("#ffffff", "#9a9a9a", "#4a4a4a"),
}
# In pixels: the size of a cell, the room between studies, left of and above the table, and a letter of a title.
COLUMN_WIDTH, ROW_HEIGHT, STUDY_GAP, LEFT, ABOVE, LETTER = 44, 24, 12, 180, 60, 6.6
TILT = 55  # of the titles, in degrees
PAGE_WIDTH = 1340  # pixels: on a wider page the letters would be too small
BIG, SMALL = 19, 13  # pixels: the squares of a proper and of the naive sigmoid
END = 10  # pixels below a table


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


def _draw(columns: Sequence[Column], claims: Sequence[str]) -> Figure:
    rows = _rows(columns)
    width = max(460, *(max(_reach(row)) for row in rows)) + 10
    tilted = math.sin(math.radians(TILT)) * LETTER
    top = float(ABOVE)
    marks, texts, lines = _legend(any(column.rival == PROPER[1] for column in columns))
    titles: list[Row] = []
    for row in rows:
        top += tilted * max(len(column.title) for column in row) + 20
        for parts, of_row in zip((marks, texts, titles, lines), _table(row, claims, top), strict=True):
            parts += of_row
        top += len(claims) * ROW_HEIGHT + END
    x, y = pixels("x"), pixels("y")
    layers: list[View] = [
        {"data": {"values": lines}, "mark": {"type": "rule", "color": LINE},
         "encoding": {"x": x, "y": y, "x2": {"field": "end"}}},
        *_squares(marks),
        {"data": {"values": titles},
         "mark": {"type": "text", "align": "left", "baseline": "middle", "angle": 360 - TILT},
         "encoding": {"x": x, "y": y, "text": {"field": "text"}}},
        *(
            {"data": {"values": [row for row in texts if row["align"] == align]},
             "mark": {"type": "text", "align": align, "baseline": "middle"},
             "encoding": {"x": x, "y": y, "text": {"field": "text"}}}
            for align in ("left", "right")
        ),
    ]  # fmt: skip
    return Figure(
        "Common claims about softmax, by study",
        "Look at the rows that keep their symbol from study to study, and at those that change it.",
        [{"width": width, "height": top, "layer": layers}],
    )


def _squares(marks: Sequence[Row]) -> list[View]:
    """Return the layers of squares, each with the symbol of its verdict."""
    x, y = pixels("x"), pixels("y")
    layers: list[View] = []
    for verdict, (fill, line, ink) in VERDICT_COLOURS.items():
        for size in (BIG, SMALL):
            values = [
                {"x": row["x"], "y": row["y"]} for row in marks if (row["verdict"], row["size"]) == (verdict, size)
            ]
            box = {"type": "point", "shape": "square", "size": size**2, "fill": fill, "stroke": line, "strokeWidth": 1}
            sign = {
                "type": "text",
                "baseline": "middle",
                "fontSize": 0.68 * size,
                "color": ink,
                "text": SYMBOLS[verdict],
            }
            layers += [
                {"data": {"values": values}, "mark": {**mark, "opacity": 1}, "encoding": {"x": x, "y": y}}
                for mark in (box, sign)
                if values
            ]
    return layers


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
    """Return where each column begins, in pixels."""
    starts, end = [], float(LEFT)
    for place, column in enumerate(columns):
        end += STUDY_GAP if place and columns[place - 1].study != column.study else 0
        starts.append(end)
        end += COLUMN_WIDTH
    return starts


def _reach(columns: Sequence[Column]) -> list[float]:
    """Return where each column with its tilted title ends, in pixels."""
    tilted = math.cos(math.radians(TILT)) * LETTER
    return [x + COLUMN_WIDTH + tilted * len(column.title) for x, column in zip(_starts(columns), columns, strict=True)]


def _table(
    columns: Sequence[Column], claims: Sequence[str], top: float
) -> tuple[list[Row], list[Row], list[Row], list[Row]]:
    """Return the squares, names, titles and lines of columns side by side below `top`."""
    starts, marks, names, lines = _starts(columns), [], [], []
    titles = [{"x": x + 19, "y": top - 6, "text": column.title} for column, x in zip(columns, starts, strict=True)]
    for row, claim in enumerate(claims):
        y = top + (row + 0.5) * ROW_HEIGHT
        if row and claim.split("_")[0] != claims[row - 1].split("_")[0]:
            lines.append({"x": 12, "end": starts[-1] + COLUMN_WIDTH, "y": y - ROW_HEIGHT / 2})
        names.append({"x": LEFT - 8, "y": y, "text": claim, "align": "right"})
        for column, x in zip(columns, starts, strict=True):
            for verdicts, size, aside in ((column.proper, BIG, 13), (column.naive, SMALL, 32)):
                if claim in verdicts:
                    marks.append({"x": x + aside, "y": y, "verdict": verdicts[claim], "size": size})
    return marks, names, titles, lines


def _legend(starred: bool) -> tuple[list[Row], list[Row], list[Row]]:
    """Return the squares, texts and lines of the legend."""
    marks, texts = [], []
    for place, verdict in enumerate(VERDICT_COLOURS):
        marks.append({"x": 22 + 104 * place, "y": 14, "verdict": verdict, "size": BIG})
        texts.append({"x": 38 + 104 * place, "y": 14, "text": verdict, "align": "left"})
    against = f"large: against {PROPER[0]}{f' (*: {PROPER[1]})' if starred else ''}; small: against {NAIVE}"
    texts.append({"x": 12, "y": 40, "text": against, "align": "left"})
    return marks, texts, []
