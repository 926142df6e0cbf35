"""Signals that ask a command to end, and workers that end with the command. It imports nothing heavy."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType

# Ctrl-C, what Slurm, Kubernetes and systemd send, and what a terminal sends when it is closed.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Slurm and Kubernetes kill a process 30 s after SIGTERM.
GRACE_S = 20.0
# How often a worker looks whether its parent lives.
WATCH_S = 1.0
# The exit status of an interrupted command.
INTERRUPTED = 130
RESUME_HINT = "the same command goes on where it stopped"


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have the signals that ask a command to end call `handler`; those that are ignored, as by nohup, stay ignored.

    Signals reach the main thread alone: in any other nothing changes.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        # None stands for a handler that is not Python's and could not be restored.
        numbers = [number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Ctrl-C does, for each Ctrl-C and for the first of all other signals."""
    if number == signal.SIGINT or exit_soon():
        raise KeyboardInterrupt


def exit_soon() -> bool:
    """Have this process exit after GRACE_S, whatever it does then. Return whether this is the first call."""
    if _exit_timer.cache_info().currsize:
        return False
    _exit_timer().start()
    return True


@cache
def _exit_timer() -> threading.Timer:
    timer = threading.Timer(GRACE_S, _exit)
    timer.daemon = True
    return timer


def _exit() -> None:
    with suppress(OSError):
        os.write(2, f"headtohead: interrupted; {RESUME_HINT}\n".encode())
    os._exit(INTERRUPTED)


def follow(parent: int) -> None:
    """Set up a worker: its parent decides when to stop, and the worker ends when its parent has ended.

    Args:
        parent: the number of the parent's process.
    """
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)
