"""A process that turns charts into images while others are defined."""

import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from headtohead.options import one_line
from headtohead.report.drawing import Drawing, draw_chart

# The figures that were drawn, and for each that failed the reason.
Drawings = tuple[list[Drawing], dict[str, str]]


def draw_charts(charts: Sequence[Drawing], pictures: bool) -> Drawings:
    """Draw charts that lack their images; name those that fail, each with the reason."""
    drawings, failures = [], {}
    for chart in charts:
        try:
            drawing = draw_chart(chart)
        except Exception as error:  # whatever it is, it never costs the rest of the report
            failures[chart.name] = one_line(error)
            continue
        drawings.append(drawing.with_picture() if pictures else drawing)
    return drawings, failures


class Renderer:
    """A process that draws charts as they come.

    It takes half a second to be ready, which is free while a study is read. As a context, it ends the process.
    """

    def __init__(self, pictures: bool):
        """Start the process.

        Args:
            pictures: Whether the drawings bring their PNG images.
        """
        self._pictures = pictures
        self._charts: list[Drawing] = []
        self._failures: dict[str, str] = {}
        # No fork, which would hang where charts were drawn before. -P: nothing is imported from the working directory.
        command = [sys.executable, "-P", "-m", __name__, *(["pictures"] if pictures else [])]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)  # closes the pipes and waits

    def send(self, charts: Sequence[Drawing], failures: Mapping[str, str]) -> None:
        """Have charts drawn, and tell of others that could not be defined, each with the reason."""
        self._charts += charts
        self._failures |= failures
        assert self._process.stdin is not None
        with suppress(OSError):  # the process was killed
            for chart in charts:
                pickle.dump(chart, self._process.stdin)
            self._process.stdin.flush()

    def drawings(self) -> Drawings:
        """Wait for all drawings. Those of a process that was killed are drawn here."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            drawings, failures = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            drawings, failures = draw_charts(self._charts, self._pictures)
        return drawings, self._failures | failures


def main() -> None:
    """Draw the charts that come by standard input until it ends, then write all drawings to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells of it
    drawings, failures = [], {}
    with suppress(Exception):  # the first drawing takes longest
        draw_chart(Drawing("first", "", "", "", {"vconcat": [{"mark": "point", "data": {"values": []}}]}))
    with suppress(EOFError):
        while True:
            drawn, failed = draw_charts([pickle.load(sys.stdin.buffer)], "pictures" in sys.argv)
            drawings += drawn
            failures |= failed
    # Not before: both sides could wait for each other.
    pickle.dump((drawings, failures), sys.stdout.buffer)


if __name__ == "__main__":
    main()
