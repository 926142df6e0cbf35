"""The verdicts of a study as a table for a paper: LaTeX with booktabs, or CSV."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from itertools import groupby

from headtohead.analysis.settings import AcrossSettings
from headtohead.analysis.statistics import Interval
from headtohead.analysis.summary import Summary
from headtohead.analysis.text import MINUS, against, difference
from headtohead.analysis.verdicts import Comparison
from headtohead.analysis.words import sentence, short_name, unit_of
from headtohead.options import printable

COLUMNS = (
    *("claim", "setting", "arm", "versus", "metric", "direction", "margin", "pairs", "mean_arm", "mean_versus"),
    *("difference", "lower", "upper", "confidence", "p", "p_corrected", "verdict", "in_words"),
)
# What TeX reads as a command, or sets as another sign in its first font.
TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "\\": "\\textbackslash{}",
    MINUS: "$-$",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "''",
}


def csv_table(summary: Summary) -> str:
    """Return a line per verdict, numbers in the metric's unit as verdicts.json has them; empty where there is none."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _rows(summary):
        numbers = (row.mean_arm, row.mean_versus, row.difference, row.lower, row.upper, row.confidence)
        numbers = (*numbers, row.p, row.p_corrected)
        names = (_name(row), _setting(summary, row), row.arm, row.versus)
        writer.writerow(
            [
                *map(printable, (*names, row.metric, row.direction)),
                "" if row.margin is None else row.margin,
                row.seeds,
                *("" if math.isnan(number) else number for number in numbers),
                _verdict(row),
                printable(sentence(row)),
            ]
        )
    return sink.getvalue()


def latex_table(summary: Summary) -> str:
    """Return a tabular of claims, differences with intervals, p-values and verdicts, which needs booktabs alone."""
    rows = _rows(summary)
    confidence = next((f"{100 * row.confidence:.3g}" for row in rows if not math.isnan(row.confidence)), "95")
    heads = ("Claim", "Arms", "Difference", f"{confidence}\\,\\% interval", "$p$, corrected", "Verdict")
    lines = ["% needs \\usepackage{booktabs}", "\\begin{tabular}{llrrrl}", "\\toprule", f"{' & '.join(heads)} \\\\"]
    for name, group in groupby(rows, key=_name):
        lines.append("\\midrule")
        for place, row in enumerate(group):
            cells = ("" if place else name, _arms(summary, row), *_numbers(row), _verdict(row))
            lines.append(f"{' & '.join(map(tex, cells))} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


FORMATS: dict[str, Callable[[Summary], str]] = {"latex": latex_table, "csv": csv_table}


def tex(text: str) -> str:
    """Return a text as TeX sets it, in which no character is a command."""
    return "".join(TEX.get(character, character) for character in printable(text))


def _rows(summary: Summary) -> Sequence[Comparison]:
    """Return the verdicts, those across settings first; without claims the comparisons of the answer."""
    return [*summary.settings, *summary.verdicts] or summary.answer.comparisons


def _name(row: Comparison) -> str:
    return short_name(row.metric, row.direction)


def _setting(summary: Summary, row: Comparison) -> str:
    if isinstance(row, AcrossSettings):
        return f"all {row.settings}"
    return ",".join(summary.study.context(row.arm))


def _arms(summary: Summary, row: Comparison) -> str:
    pair = against(row.arm, row.versus)
    return f"{_setting(summary, row)} settings: {pair}" if isinstance(row, AcrossSettings) else pair


def _numbers(row: Comparison) -> tuple[str, str, str]:
    """Return the difference with its unit, its interval and the corrected p-value, as the report shows them."""
    if not row.seeds:
        return "", "", ""
    change, _, interval = difference(row.metric, Interval(row.difference, row.lower, row.upper)).partition(" ")
    p = "" if math.isnan(row.p_corrected) else "< 0.001" if row.p_corrected < 0.001 else f"{row.p_corrected:.3f}"
    return f"{change} {unit_of(row.metric)}".rstrip(), interval, p


def _verdict(row: Comparison) -> str:
    return str(getattr(row, "verdict", row.decision))
