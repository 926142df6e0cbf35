"""All figures of a report."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from typing import Any

from headtohead.analysis.study import Study
from headtohead.analysis.summary import Summary
from headtohead.options import one_line
from headtohead.report.figures import examples, forest, ladder, sweeps, training, tuning
from headtohead.report.figures.scripts import interactive as interactive
from headtohead.report.figures.style import Drawing, Drawn, draw_figure

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

# An end of a pipe between processes.
Pipe = Any

# The figures that were drawn, and for each that failed the reason.
Drawings = tuple[list[Drawing], dict[str, str]]


def draw(study: Study, names: Iterable[str] = FIGURES, plots: Sequence[forest.Plot] = ()) -> Drawings:
    """Draw every figure that the study has the records for; name those that fail, each with the reason.

    Args:
        plots: Panels of the forest figure, as `forest.plots` gives them for a summary.
    """
    drawings, failures = [], {}
    for name in names:
        make = partial(forest.forest, plots, study.arms) if name == FOREST else partial(OF_STUDY[name], study)
        try:
            drawing = draw_figure(name, make)
        except Exception as error:  # whatever it is, it never costs the rest of the report
            failures[name] = one_line(error)
            continue
        if drawing is not None:
            drawings.append(drawing)
    return drawings, failures


def draw_judged(summary: Summary, names: Iterable[str]) -> Drawings:
    """Draw figures of what was judged, as `draw` does."""
    return draw(summary.study, names, _plots(summary))


def start_drawing(study: Study, pictures: bool = False) -> Callable[[Summary], Drawings]:
    """Begin to draw every figure in processes beside this one, and return a function that waits for them.

    A process for each core is forked, since the study is in memory. The function takes the study's summary, which the
    first process waits for to draw the forest figure. Where there is one core, or no safe fork, the figures are drawn
    when they are waited for: a process that has drawn before has threads that a fork would lack.

    Args:
        pictures: Whether the drawings bring their PNG images.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if cores == 1 or "vl_convert" in sys.modules:
        return partial(draw_judged, names=FIGURES)
    _ = study.history, study.predictions, study.blocks  # read once, for all processes
    parts = [[*OF_STUDY][place::cores] for place in range(min(cores, len(OF_STUDY)))]
    pipes = [_start_process(study, names, pictures, place == 0) for place, names in enumerate(parts)]

    def wait(summary: Summary) -> Drawings:
        plots = _plots(summary)
        with suppress(BrokenPipeError):  # the process was killed
            pipes[0].send(plots)
        drawings, failures = [], {}
        for place, (names, pipe) in enumerate(zip(parts, pipes, strict=True)):
            try:
                drawn, failed = pipe.recv()
            except (EOFError, ConnectionResetError):  # the process was killed
                drawn, failed = draw(study, [*([FOREST] if place == 0 else []), *names], plots)
            drawings += drawn
            failures |= failed
        return sorted(drawings, key=lambda drawing: FIGURES.index(drawing.name)), failures

    return wait


def _plots(summary: Summary) -> Sequence[forest.Plot]:
    """Return the panels of the forest figure; none where what was judged cannot be shown."""
    with suppress(Exception):  # whatever it is, it never costs the rest of the report
        return forest.plots(summary)
    return ()


def _start_process(study: Study, names: Sequence[str], pictures: bool, judged: bool) -> Pipe:
    """Fork a process that draws some figures, and return its pipe; an EOFError from it says that the process ended.

    Args:
        judged: Whether it draws the forest figure too, from the panels that it is sent.
    """
    context = get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_draw_and_send, args=(study, names, pictures, judged, ours, theirs), daemon=True)
    with warnings.catch_warnings():
        # Other threads hold no lock that drawing takes.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return ours


def _draw_and_send(study: Study, names: Sequence[str], pictures: bool, judged: bool, ours: Pipe, pipe: Pipe) -> None:
    """Draw some figures and send them; a process whose parent has ended ends as well."""
    ours.close()  # otherwise this process would wait for itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells of it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    drawings, failures = draw(study, names)
    with suppress(BrokenPipeError, EOFError, ConnectionResetError):
        if judged:
            drawn, failed = draw(study, [FOREST], pipe.recv())
            drawings, failures = [*drawn, *drawings], failed | failures
        pipe.send(([drawing.with_picture() if pictures else drawing for drawing in drawings], failures))
