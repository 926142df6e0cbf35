"""The figure of a ladder of arms."""

from headtohead.analysis.ladder import LadderRow, ladder_rows
from headtohead.analysis.study import Study
from headtohead.report.figures.intervals import Difference, interval_panel
from headtohead.report.figures.style import Drawn, Figure, View, short


def ladder(study: Study) -> Drawn:
    """Draw the steps of a ladder: a panel per claim, in it a row per step and one for the total."""
    arms, rows = study.record.protocol.ladder, ladder_rows(study)
    if not rows:
        return None
    return Figure(
        f"From {short(arms[0], 30)} to {short(arms[-1], 30)}, step by step",
        "Look at which step carries the total difference. A step is an arm's metric minus that of the arm before; the "
        f"first one is minus that of {short(arms[0], 60)}. Lines are 95 % intervals. Differences in the shade are "
        "within the claim's margin and do not matter.",
        [_panel(study, row) for row in rows],
        names=study.arms,
        left=24,
        least=300,
    )


def _panel(study: Study, row: LadderRow) -> View:
    arms = study.record.protocol.ladder[1:]
    steps = [
        Difference(f"→ {short(arm, 22)}", step, row.seeds, study.arms.index(arm))
        for arm, step in zip(arms, row.steps, strict=True)
    ]
    total = Difference("total", row.total, row.seeds, is_summary=True)
    return interval_panel(row.claim, row.definition.metric, [*steps, total], row.definition.margin)
