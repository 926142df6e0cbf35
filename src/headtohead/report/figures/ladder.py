"""The figure of a ladder of arms."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headtohead.analysis.ladder import LadderRow, ladder_rows
from headtohead.analysis.study import Study
from headtohead.analysis.text import in_percent
from headtohead.report.figures.style import MUTED, WIDTH, Drawn, arm_style, short

PANELS_ACROSS = 3
# In inches: the height of a step, and the room above, below, left of and between panels.
STEP, ABOVE, BELOW, LEFT, GAP = 0.17, 0.3, 0.4, 1.55, 0.22


def ladder(study: Study) -> Drawn:
    """Draw the steps of a ladder: a panel per claim, in it a row per step and one for the total."""
    arms, rows = study.record.protocol.ladder, ladder_rows(study)
    if not rows:
        return None
    panel_height = STEP * (len(arms) + 0.4)
    height = 0.4 + -(-len(rows) // PANELS_ACROSS) * (ABOVE + panel_height + BELOW)
    panel_width = (WIDTH - LEFT - 0.1 - (PANELS_ACROSS - 1) * GAP) / PANELS_ACROSS
    figure = Figure((WIDTH, height))
    FigureCanvasSVG(figure)
    title = f"From {short(arms[0], 30)} to {short(arms[-1], 30)}, step by step"
    figure.suptitle(title, x=0.12 / WIDTH, y=1 - 0.08 / height, ha="left", va="top")
    key = {"fontsize": 8, "color": "#333333", "ha": "right", "va": "top"}
    figure.text(1 - 0.1 / WIDTH, 1 - 0.1 / height, "shade: within the claim's margin", **key)
    names = [*(f"→ {short(arm, 22)}" for arm in arms[1:]), "total"]
    for place, row in enumerate(rows):
        down, across = divmod(place, PANELS_ACROSS)
        left = LEFT + across * (panel_width + GAP)
        bottom = height - 0.4 - (down + 1) * (ABOVE + panel_height + BELOW) + BELOW
        axis = figure.add_axes((left / WIDTH, bottom / height, panel_width / WIDTH, panel_height / height))
        _draw_row(axis, row, [arm_style(study.arms, arm) for arm in arms[1:]])
        axis.set_yticks(range(len(arms)), names if across == 0 else [], fontsize=8, color="#333333")
    return figure, (
        "Look at which step carries the total difference. A step is an arm's metric minus that of the arm before; the "
        f"first one is minus that of {arms[0]}. Lines are 95 % intervals. Differences in the shade are "
        "within the claim's margin and do not matter."
    )


def _draw_row(axis: Axes, row: LadderRow, looks: Sequence[Mapping[str, object]]) -> None:
    metric = row.definition.metric
    factor = 100 if in_percent(metric) else 1
    margin = factor * row.definition.margin
    axis.axvspan(-margin, margin, color="#ececec", linewidth=0, zorder=0)
    axis.axvline(0, color=MUTED, linewidth=0.9)
    total = {"color": "#000000", "marker": "D"}
    for place, (interval, look) in enumerate(zip((*row.steps, row.total), (*looks, total), strict=True)):
        mean, lower, upper = (factor * bound for bound in interval)
        axis.plot([lower, upper], [place, place], color=look["color"], linewidth=1.4)
        axis.plot([mean], [place], color=look["color"], marker=look["marker"], linestyle="none")
    axis.axhline(len(looks) - 0.5, color="#c4c4c4", linewidth=0.6)
    axis.margins(x=0.08)
    axis.set_ylim(len(looks) + 0.7, -0.7)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=7, pad=2)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.set_title(row.claim, fontsize=8.5)
    axis.set_xlabel(metric + (", points" if factor == 100 else ""), fontsize=7, labelpad=1)
