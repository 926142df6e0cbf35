"""All figures of a report."""

from collections.abc import Callable
from functools import partial

from headtohead.analysis.study import Study
from headtohead.options import one_line
from headtohead.report.figures import examples, ladder, sweeps, training, tuning
from headtohead.report.figures.style import Drawing, Drawn, draw_figure

# By name, in the order of the report.
FIGURES: dict[str, Callable[[Study], Drawn]] = {
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


def draw(study: Study) -> tuple[list[Drawing], dict[str, str]]:
    """Draw every figure that the study has the records for; name those that fail, each with the reason."""
    drawings, failures = [], {}
    for name, make in FIGURES.items():
        try:
            drawing = draw_figure(name, partial(make, study))
        except Exception as error:  # whatever it is, it never costs the rest of the report
            failures[name] = one_line(error)
            continue
        if drawing is not None:
            drawings.append(drawing)
    return drawings, failures
