"""All figures of a report."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import get_context

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


# The figures that were drawn, and for each that failed the reason.
Drawings = tuple[list[Drawing], dict[str, str]]


def draw(study: Study, names: Iterable[str] = FIGURES) -> Drawings:
    """Draw every figure that the study has the records for; name those that fail, each with the reason."""
    drawings, failures = [], {}
    for name in names:
        try:
            drawing = draw_figure(name, partial(FIGURES[name], study))
        except Exception as error:  # whatever it is, it never costs the rest of the report
            failures[name] = one_line(error)
            continue
        if drawing is not None:
            drawings.append(drawing)
    return drawings, failures


def start_drawing(study: Study, pictures: bool = False) -> Callable[[], Drawings]:
    """Begin to draw every figure in processes beside this one, and return a function that waits for them.

    A process for each core is forked, since the study is in memory. Where there is one core, or no safe fork, the
    figures are drawn when they are waited for.

    Args:
        pictures: Whether the drawings bring their PNG images.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if cores == 1:
        return partial(draw, study)
    _ = study.history, study.predictions, study.blocks  # read once, for all processes
    parts = [[*FIGURES][place::cores] for place in range(min(cores, len(FIGURES)))]
    receive = [_start_process(study, names, pictures) for names in parts]

    def wait() -> Drawings:
        drawings, failures = [], {}
        for names, received in zip(parts, receive, strict=True):
            try:
                drawn, failed = received()
            except EOFError:  # the process was killed
                drawn, failed = draw(study, names)
            drawings += drawn
            failures |= failed
        order = [*FIGURES]
        return sorted(drawings, key=lambda drawing: order.index(drawing.name)), failures

    return wait


def _start_process(study: Study, names: Sequence[str], pictures: bool) -> Callable[[], Drawings]:
    """Fork a process that draws some figures, and return a function that waits for them; an EOFError says it ended."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    arguments = study, names, pictures, receiver.close, sender.send
    process = context.Process(target=_draw_and_send, args=arguments, daemon=True)
    with warnings.catch_warnings():
        # Other threads hold no lock that drawing takes.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    return receiver.recv


def _draw_and_send(
    study: Study, names: Sequence[str], pictures: bool, close: Callable[[], None], send: Callable[[Drawings], None]
) -> None:
    """Draw some figures and send them; a process whose parent has ended ends as well."""
    close()  # otherwise this process would wait for itself to read
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells of it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    drawings, failures = draw(study, names)
    with suppress(BrokenPipeError):
        send(([drawing.to_send(pictures) for drawing in drawings], failures))
