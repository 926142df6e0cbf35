"""The forest figure: what a study shows of its primary metrics, a row for each comparison."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from headtohead.analysis.claims import Verdict
from headtohead.analysis.settings import AcrossSettings
from headtohead.analysis.statistics import Interval
from headtohead.analysis.summary import Summary
from headtohead.analysis.text import short_override, split_shared
from headtohead.analysis.verdicts import Comparison
from headtohead.report.figures.intervals import Difference, interval_panel
from headtohead.report.figures.style import INK, Drawn, Figure, Key, View, short

MOST_ROWS, MOST_PLOTS = 24, 8


@dataclass(frozen=True)
class Plot:
    """A panel of the figure, small enough to be sent to the process that draws it.

    Attributes:
        title: Title of the panel.
        metric: Metric whose differences it shows.
        margin: Size below which a difference does not matter.
        sides: What the left and the right side of the panel favour.
        descending: Whether its axis runs from high to low, so that the sides are those of every panel.
        rows: The differences.
        summary: A difference that sums the rows up; None without one.
        confidence: Confidence of the intervals.
    """

    title: str
    metric: str
    margin: float | None
    sides: tuple[str, str]
    descending: bool
    rows: Sequence[Difference]
    summary: Difference | None
    confidence: float


def plots(summary: Summary) -> list[Plot]:
    """Return the panels of a study's forest figure.

    The verdicts on the claims of a given weight are shown, across settings where the study has several. Without such
    claims the comparisons behind the answer are.
    """
    across = [row for row in summary.settings if row.weight]
    if across:
        return [_of_settings(summary, row, across[0].head) for row in across]
    rows: list[Comparison] = [row for row in summary.verdicts if row.weight and row.seeds]
    rows = rows or [*summary.answer.comparisons]
    if not rows:
        return []
    # Every row has the same head first, so that a side of zero means the same in all panels.
    first = _head(rows[0], rows[0].arm)
    rows = [row.from_other_side() if _head(row, row.versus) == first else row for row in rows]
    metrics = [*dict.fromkeys(row.metric for row in rows)]
    rows.sort(key=lambda row: metrics.index(row.metric))
    return [_of_arms(summary, first, [*group]) for _, group in groupby(rows, key=lambda row: row.metric)]


def _head(row: Comparison, arm: str) -> str:
    """Return the head of one of a verdict's arms; the arm itself where no claim is about its head."""
    return {row.arm: row.head, row.versus: row.versus_head}[arm] if isinstance(row, Verdict) else arm


def _of_arms(summary: Summary, first: str, rows: Sequence[Comparison]) -> Plot:
    """Return the panel of a metric: a row for each other arm."""
    differences = [_difference(_against(row), row, summary.study.arms.index(row.versus)) for row in rows]
    others = {row.versus for row in rows}
    other = short(split_shared([rows[0].arm, rows[0].versus])[1][1], 24) if len(others) == 1 else "the other"
    metric = rows[0].metric
    sides = (f"← favours {other}", f"favours {short(first, 24)} →")
    title, descending = _title(rows[0]), rows[0].direction == "lower"
    return Plot(title, metric, rows[0].margin, sides, descending, differences, None, rows[0].confidence)


def _of_settings(summary: Summary, across: AcrossSettings, first: str) -> Plot:
    """Return the panel of a claim and a pair of heads: a row for each setting, and one for all of them."""
    rows = [
        _difference(", ".join(map(short_override, row.context)) or "otherwise", row)
        for row in summary.verdicts
        if (row.claim, row.head, row.versus_head) == (across.claim, across.head, across.versus_head) and row.seeds
    ]
    mean = Interval(across.difference, across.lower, across.upper)
    predicted = (across.predicted_lower, across.predicted_upper)
    total = Difference(f"mean of {across.settings} settings", mean, across.seeds, is_summary=True, predicted=predicted)
    # The head that the first panel has at the right is there in all.
    right, left = (
        (across.versus_head, across.head) if across.versus_head == first else (across.head, across.versus_head)
    )
    sides = (f"← favours {short(left, 24)}", f"favours {short(right, 24)} →")
    descending = (across.direction == "higher") != (right == across.head)
    title = f"{_title(across)}: {short(across.head, 20)} against {short(across.versus_head, 20)}"
    return Plot(title, across.metric, across.margin, sides, descending, rows, total, across.confidence)


def _difference(label: str, row: Comparison, arm: int | None = None) -> Difference:
    return Difference(short(label, 34), Interval(row.difference, row.lower, row.upper), row.seeds, arm)


def _against(row: Comparison) -> str:
    shared, (_, other) = split_shared([row.arm, row.versus])
    return f"{shared}: against {other}" if shared else f"against {other}"


def _title(row: Comparison) -> str:
    text = row.metric.replace("_", " ").replace("nll", "NLL")
    return f"{text[:1].upper()}{text[1:]}{'' if row.direction == 'higher' else ' (lower is better)'}"


def forest(plots: Sequence[Plot], arms: Sequence[str]) -> Drawn:
    """Draw differences with their intervals: a panel per metric, a row per other arm or per setting."""
    if not plots:
        return None
    shown = plots[:MOST_PLOTS]
    legend = []
    if any(plot.margin for plot in shown):
        legend.append(Key("too small to matter: the margin", dash=(1, 0), thick=11))
    # The panels of settings name both arms in their titles.
    first = "the first arm" if shown[0].summary else shown[0].sides[1].removeprefix("favours ").removesuffix(" →")
    text = (
        f"Look at which side of zero an interval lies, and whether it reaches into the shade. A row is {first}'s "
        f"metric minus the other's, with its {100 * shown[0].confidence:.3g} % interval. The sides mean the same in "
        "every panel: where lower is better, the axis runs from high to low."
    )
    if any(plot.summary for plot in shown):
        legend.append(Key("mean of the settings", colour=INK, shape="diamond", dash=(1, 0)))
        text += " Each setting counts the same."
    if any(math.isfinite(bound) for plot in shown if plot.summary for bound in plot.summary.predicted or ()):
        legend.append(Key("expected in a new setting", colour=INK, dash=(3, 3), thick=1.2))
        text += " The dotted line says where the difference in a new setting may lie."
    if any(len(plot.rows) > MOST_ROWS for plot in shown) or len(shown) < len(plots):
        text += f" Of more rows the first {MOST_ROWS} are shown, of more panels the first {MOST_PLOTS}."
    title = (
        "The difference in the primary metrics" if any(plot.margin for plot in shown) else "How large the difference is"
    )
    return Figure(title, text, [_panel(plot) for plot in shown], legend, across=2, names=arms, left=24, least=300)


def _panel(plot: Plot) -> View:
    rows = [*plot.rows[:MOST_ROWS], *([plot.summary] if plot.summary else [])]
    return interval_panel(plot.title, plot.metric, rows, plot.margin, plot.sides, plot.descending)
