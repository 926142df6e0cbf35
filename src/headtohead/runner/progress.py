"""Progress of a phase, wherever its packs are trained: workers leave notes in a folder, and a bar reads them.

The notes are files, one per pack, so that it does not matter whether a worker is this process, another one, or another
machine on a shared folder.
"""

import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

FOLDER = ".progress"
MESSAGE = ".message"
STOP = ".stop"
RESUME_HINT = "the same command goes on where it stopped"


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
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, share: float) -> None:
        """Note that this share of the pack has been trained."""
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


class Bar:
    """A bar on stderr over the runs of a phase, as a context: it follows the notes until it is left.

    Args:
        study: the folder of the study.
        phase: the name of the phase.
        runs: the number of runs in the phase.
        done: the number of runs that ended before.
    """

    def __init__(self, study: Path, phase: str, runs: int, done: int = 0):
        self._folder = study / FOLDER
        count = TextColumn("{task.completed:.0f} of {task.total:.0f} runs")
        columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(phase, total=runs, completed=done)
        self._done = done
        self._shown: set[Path] = set()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        self._thread.join()
        self._progress.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def print(self, line: str) -> None:
        """Show a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)

    def request_stop(self) -> None:
        """Tell the workers to save their state and stop."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / STOP).touch()

    def _follow(self) -> None:
        left = False
        while not left:
            left = self._left.wait(0.2)
            # Notes may vanish with the study's folder, and a process may run out of file handles.
            with suppress(OSError):
                self._read()

    def _read(self) -> None:
        done = float(self._done)
        for path in self._folder.glob("[!.]*"):
            text = path.read_text(encoding="utf-8")  # empty between being opened and being written
            if not path.name.endswith(MESSAGE):
                done += float(text or 0)
            elif text and path not in self._shown:
                self._shown.add(path)
                self.print(text)
        self._progress.update(self._task, completed=round(done, 2))


class Stop:
    """A context in which Ctrl-C tells the workers to save their state and stop; a second Ctrl-C interrupts at once.

    Attributes:
        requested: whether Ctrl-C was pressed.
    """

    def __init__(self, bar: Bar):
        self._bar = bar
        self.requested = False

    def __enter__(self) -> Self:
        # Signals reach the main thread alone.
        self._before = (
            signal.signal(signal.SIGINT, self._on_interrupt)
            if threading.current_thread() is threading.main_thread()
            else None
        )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt(RESUME_HINT)
        self.requested = True
        self._bar.request_stop()
        self._bar.print("saving what is trained; Ctrl-C again stops at once")
