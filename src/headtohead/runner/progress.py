"""Progress of a phase, wherever its packs are trained: workers leave notes in a folder, a bar reads them.

The notes are files, one per pack, so that processes, other machines on a shared folder and this process are alike.
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
SAID = ".said"
STOP = ".stop"
GO_ON = "the same command goes on where it stopped"


class Notes:
    """What a worker says of its pack. What cannot be written is left unsaid: no training stops for it.

    Args:
        study: the folder of the study.
        pack: a name that no other pack of the phase has.
        runs: the pack holds.
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

    @property
    def stop(self) -> bool:
        """Whether the study has been asked to stop."""
        return (self._path.parent / STOP).exists()

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        with suppress(OSError):
            self._path.with_name(f"{self._path.name}{SAID}").write_text(line, encoding="utf-8")


class Bar:
    """A bar on stderr over the runs of a phase, as a context: it follows the notes until it is left.

    Args:
        study: the folder of the study.
        runs: of the phase, and how many of them were `done` before.
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

    def stop(self) -> None:
        """Ask the workers to save their state and stop."""
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
            if not path.name.endswith(SAID):
                done += float(text or 0)
            elif text and path not in self._shown:
                self._shown.add(path)
                self.print(text)
        self._progress.update(self._task, completed=round(done, 2))


class Stop:
    """As a context, Ctrl-C asks the workers to save their state and stop; once more, and it interrupts at once."""

    def __init__(self, bar: Bar):
        self._bar = bar
        self.asked = False

    def __enter__(self) -> Self:
        # Signals reach the main thread alone.
        self._before = (
            signal.signal(signal.SIGINT, self._ask) if threading.current_thread() is threading.main_thread() else None
        )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt(GO_ON)
        self.asked = True
        self._bar.stop()
        self._bar.print("saving what is trained; Ctrl-C again stops at once")
