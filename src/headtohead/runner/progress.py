"""Progress of a phase, wherever its packs are trained: workers leave notes in a folder, and a bar reads them.

The notes are files, one per pack, so that it does not matter whether a worker is this process, another one, or another
machine on a shared folder.
"""

import math
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from headtohead.runner.signals import RESUME_HINT, exit_soon, handled

FOLDER = ".progress"
MESSAGE = ".message"
STOP = ".stop"
# The seconds between two looks at the notes, and the most between two lines of a log.
PERIOD_S, LINE_S = 0.2, 60.0
# The widest bar, and the room that is left to the words beside it.
BAR, WORDS = 40, 45


class Notes:
    """Notes of a worker about its pack. A note that cannot be written is left out: no training stops for it.

    Args:
        study: the folder of the study.
        pack: a name that no other pack of the phase has.
        runs: the number of runs in the pack.
    """

    def __init__(self, study: Path, pack: str, runs: int):
        self._path = study / FOLDER / pack
        self._runs = runs
        self._written = -math.inf
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, share: float) -> None:
        """Note that this share of the pack has been trained; the bar looks every PERIOD_S."""
        if share < 1 and time.monotonic() - self._written < PERIOD_S:
            return
        self._written = time.monotonic()
        with suppress(OSError):
            self._path.write_text(f"{self._runs * share:.4f}")

    def show(self, line: str) -> None:
        """Show a line above the bar."""
        with suppress(OSError):
            self._path.with_name(f"{self._path.name}{MESSAGE}").write_text(line, encoding="utf-8")

    @property
    def stop_requested(self) -> bool:
        """Whether the sweep has told its workers to stop."""
        return (self._path.parent / STOP).exists()


def tell(line: str, console: Console | None = None) -> None:
    """Print a line to stderr: in a terminal above the bar, elsewhere with the time, as a line of a log."""
    console = console or Console(stderr=True)
    if console.is_terminal:
        console.print(line, markup=False, highlight=False)
    else:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A bar on stderr over the runs of a phase, as a context: it follows the notes until it is left.

    Where stderr is no terminal, lines of a log stand for the bar: one per tenth of the phase, and one each minute.

    Args:
        study: the folder of the study.
        phase: the name of the phase.
        runs: the number of runs in the phase.
        done: the number of runs that ended before.
    """

    def __init__(self, study: Path, phase: str, runs: int, done: int = 0):
        self._folder = study / FOLDER
        self._console = Console(stderr=True)
        bar = BarColumn(max(5, min(BAR, self._console.width - WORDS)))
        count = TextColumn("{task.completed:.0f} of {task.total:.0f} runs")
        columns = (TextColumn("{task.description}"), bar, count, TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._progress.add_task(phase, total=runs, completed=done)
        self._phase, self._runs, self._done = phase, runs, done
        self._tenths, self._told = (int(10 * done / runs) if done else -1), time.monotonic()
        self._shown: set[Path] = set()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._done:
            self.print(f"{self._phase}: reused {self._done} of {self._runs} runs")
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        self._thread.join()
        self._progress.stop()
        # Jobs on other machines may still have to see that they are told to stop.
        if kind is not KeyboardInterrupt:
            shutil.rmtree(self._folder, ignore_errors=True)

    def print(self, line: str) -> None:
        """Show a line above the bar."""
        tell(line, self._console)

    def request_stop(self) -> None:
        """Tell the workers to save their state and stop."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / STOP).touch()

    def _follow(self) -> None:
        left = False
        while not left:
            left = self._left.wait(PERIOD_S)
            # Notes may vanish with the study's folder, and a process may run out of file handles.
            with suppress(OSError):
                self._read()

    def trained(self) -> float:
        """Return the number of runs that are trained, with the parts of those in training."""
        done = float(self._done)
        for path in self._folder.glob("[!.]*"):
            if not path.name.endswith(MESSAGE):
                with suppress(OSError):
                    done += float(path.read_text() or 0)  # empty between being opened and being written
        return done

    def _read(self) -> None:
        for path in self._folder.glob(f"[!.]*{MESSAGE}"):
            text = path.read_text(encoding="utf-8")
            if text and path not in self._shown:
                self._shown.add(path)
                self.print(text)
        trained = round(self.trained(), 2)
        self._progress.update(self._task, completed=trained)
        if not self._console.is_terminal:
            self._log(trained)

    def _log(self, trained: float) -> None:
        """Tell how far the phase is, if a tenth of it or a minute has passed."""
        tenths = int(10 * trained / self._runs) if self._runs else 10
        if tenths > self._tenths or time.monotonic() - self._told > LINE_S:
            self._tenths, self._told = tenths, time.monotonic()
            self.print(f"{self._phase}: {trained:.0f} of {self._runs} runs")


class Stop:
    """A context in which a signal to end tells the workers to save their state and stop.

    A second Ctrl-C interrupts at once. The other signals come from programs, which may repeat them, and kill a process
    that takes too long: it exits before that.

    Attributes:
        requested: whether there was such a signal.
    """

    def __init__(self, bar: Bar):
        self._bar = bar
        self._handled = handled(self._on_signal)
        self.requested = False

    def __enter__(self) -> Self:
        self._handled.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._handled.__exit__(None, None, None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            exit_soon()
        elif self.requested:
            raise KeyboardInterrupt(RESUME_HINT)
        if not self.requested:
            self.requested = True
            self._bar.request_stop()
            again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            self._bar.print(f"saving what is trained{again}")
