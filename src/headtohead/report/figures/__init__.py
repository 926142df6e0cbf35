"""All figures of a report."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from headtohead.analysis.study import Study
from headtohead.analysis.summary import Summary
from headtohead.options import one_line
from headtohead.report.figures import examples, forest, ladder, sweeps, training, tuning
from headtohead.report.figures.scripts import interactive as interactive
from headtohead.report.figures.style import Drawn, chart_of
from headtohead.report.renderer import Drawings, draw_charts

# Figures of what a study recorded, by name, in the order of the report.
OF_STUDY: dict[str, Callable[[Study], Drawn]] = {
    "learning_rates": sweeps.learning_rates,
    "shared_rate": sweeps.shared_rate,
    "budget": tuning.budget,
    "tuned_settings": tuning.tuned_settings,
    "training": training.training,
    "gradients": training.gradients,
    "seeds": training.seeds,
    "settings": sweeps.swept_number,
    "reliability": training.reliability,
    "ambiguity": training.ambiguity,
    "ambiguous_examples": examples.ambiguous_examples,
    "confusion": examples.confusion,
    "time_to_target": training.time_to_target,
    "ladder": ladder.ladder,
}
# The figure of what was judged.
FOREST = "forest"
# The names of all figures, in the order of the report.
FIGURES = (FOREST, *OF_STUDY)


def draw(study: Study, names: Iterable[str] = FIGURES, plots: Sequence[forest.Plot] = ()) -> Drawings:
    """Draw every figure that the study has the records for; name those that fail, each with the reason.

    Args:
        plots: Panels of the forest figure, as `forest.plots` gives them for a summary.
    """
    charts, failures = define(study, names, plots)
    drawings, undrawn = draw_charts(charts, pictures=False)
    return drawings, failures | undrawn


def draw_judged(summary: Summary, names: Iterable[str]) -> Drawings:
    """Draw figures of what was judged, as `draw` does."""
    return draw(summary.study, names, panels(summary))


def define(study: Study, names: Iterable[str] = FIGURES, plots: Sequence[forest.Plot] = ()) -> Drawings:
    """Define figures, as `draw` does, without their images."""
    charts, failures = [], {}
    for name in names:
        make = partial(forest.forest, plots, study.arms) if name == FOREST else partial(OF_STUDY[name], study)
        try:
            chart = chart_of(name, make)
        except Exception as error:  # whatever it is, it never costs the rest of the report
            failures[name] = one_line(error)
            continue
        if chart is not None:
            charts.append(chart)
    return charts, failures


def panels(summary: Summary) -> Sequence[forest.Plot]:
    """Return the panels of the forest figure; none where what was judged cannot be shown."""
    with suppress(Exception):  # whatever it is, it never costs the rest of the report
        return forest.plots(summary)
    return ()
