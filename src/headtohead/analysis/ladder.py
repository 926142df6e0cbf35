"""Arms in an order, such as from the naive sigmoid to softmax: what each step adds to the difference of the ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headtohead.analysis.claims import Claim, Unjudged, by_seed, read_claims
from headtohead.analysis.statistics import Interval, t_interval
from headtohead.analysis.study import Study
from headtohead.analysis.text import percent
from headtohead.report.figures.style import MUTED, WIDTH, Drawing, drawing, short, style

COLUMNS = 3
# In inches.
ROW, ABOVE, BELOW, LEFT, GAP = 0.17, 0.3, 0.4, 1.55, 0.22


@dataclass(frozen=True)
class Climb:
    """The steps of one claim's metric, each the later arm minus the one before, paired over the `seeds` that all
    arms share, so that the steps sum to the total.
    """

    claim: str
    asks: Claim
    seeds: int
    steps: tuple[Interval, ...]
    total: Interval


def climbs(study: Study) -> list[Climb]:
    """Of every claim whose metric the arms of `protocol.ladder` have; none where the study names no ladder."""
    arms = study.ladder
    found = []
    for key, claim in read_claims(study.asked["claims"]).items() if arms else ():
        try:
            values, _ = by_seed(study, claim, arms)
        except Unjudged:
            continue
        steps = tuple(t_interval((values[arm] - values[before]).to_numpy()) for before, arm in pairwise(arms))
        total = t_interval((values[arms[-1]] - values[arms[0]]).to_numpy())
        found.append(Climb(key, claim, len(values), steps, total))
    return found


def draw_ladder(study: Study, found: Sequence[Climb]) -> Drawing | None:
    """The figure `ladder`: a panel per claim, a row per step and one for their sum."""
    return drawing("ladder", partial(_draw, study.arms, study.ladder, found))


def _draw(arms: Sequence[str], ladder: Sequence[str], found: Sequence[Climb]) -> tuple[Figure, str] | None:
    if not found:
        return None
    rows = -(-len(found) // COLUMNS)
    tall = ROW * (len(ladder) + 0.4)
    height = 0.4 + rows * (ABOVE + tall + BELOW)
    width = (WIDTH - LEFT - 0.1 - (COLUMNS - 1) * GAP) / COLUMNS
    figure = Figure((WIDTH, height))
    FigureCanvasSVG(figure)
    title = f"From {short(ladder[0], 30)} to {short(ladder[-1], 30)}, step by step"
    figure.suptitle(title, x=0.12 / WIDTH, y=1 - 0.08 / height, ha="left", va="top")
    key = {"fontsize": 8, "color": "#333333", "ha": "right", "va": "top"}
    figure.text(1 - 0.1 / WIDTH, 1 - 0.1 / height, "shade: within the claim's margin", **key)
    for place, climb in enumerate(found):
        row, column = divmod(place, COLUMNS)
        left, bottom = LEFT + column * (width + GAP), height - 0.4 - (row + 1) * (ABOVE + tall + BELOW) + BELOW
        axis = figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, tall / height))
        _panel(axis, climb, [style(arms, arm) for arm in ladder[1:]])
        names = [*(f"→ {short(arm, 22)}" for arm in ladder[1:]), "in all"]
        axis.set_yticks(range(len(ladder)), names if column == 0 else [], fontsize=8, color="#333333")
    return figure, (
        "Look at which step carries the difference in all: each is an arm's metric minus that of the arm before, the "
        "first minus that of the start, with its 95 % interval over seeds, and what lies in the shade, the claim's "
        "margin, does not matter."
    )


def _panel(axis: Axes, climb: Climb, looks: Sequence[Mapping[str, object]]) -> None:
    factor = 100 if percent(climb.asks.metric) else 1
    margin = factor * climb.asks.margin
    axis.axvspan(-margin, margin, color="#ececec", linewidth=0, zorder=0)
    axis.axvline(0, color=MUTED, linewidth=0.9)
    whole = {"color": "#000000", "marker": "D"}
    for place, (interval, look) in enumerate(zip((*climb.steps, climb.total), (*looks, whole), strict=True)):
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
    axis.set_title(climb.claim, fontsize=8.5)
    axis.set_xlabel(climb.asks.metric + (", points" if factor == 100 else ""), fontsize=7, labelpad=1)
