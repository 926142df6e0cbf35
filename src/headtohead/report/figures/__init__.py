"""All figures of a report."""

from collections.abc import Callable
from functools import partial

from headtohead.analysis.study import Study
from headtohead.report.figures import examples, ladder, sweeps, training
from headtohead.report.figures.style import Drawing, Drawn, draw_figure

# By name, in the order of the report.
FIGURES: dict[str, Callable[[Study], Drawn]] = {
    "learning_rates": sweeps.learning_rates,
    "shared_rate": sweeps.shared_rate,
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


def draw(study: Study) -> list[Drawing]:
    """Draw every figure that the study has the records for."""
    drawings = [draw_figure(name, partial(make, study)) for name, make in FIGURES.items()]
    return [drawing for drawing in drawings if drawing is not None]
