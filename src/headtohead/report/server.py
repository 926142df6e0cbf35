"""Serve TensorBoard on a study's folder, from this process."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

from tensorboard import program
from tensorboard.data import server_ingester

from headtohead.analysis.study import read_study
from headtohead.options import ConfigError, require
from headtohead.report.dashboard import ARMS, write_dashboard
from headtohead.report.render import write_report

DEFAULT_PORT = 6006
# Files that TensorBoard opens beside those of events: its own, and a connection for each of a browser's requests.
OWN_FILES = 128


def launch(folder: Path, runs: bool = False, port: int | None = None) -> str:
    """Start to serve the arms of a study to this machine alone.

    Args:
        folder: Folder of the study.
        runs: Whether to serve every run too.
        port: Port to serve at; None takes the first free one from 6006 on.

    Returns:
        The address of the page to look at first.

    Raises:
        ConfigError: there is nothing to show, or the port is not free.
    """
    require(port is None or 0 < port < 65536, "--port", port, "accepted: 1 to 65535")
    study = read_study(folder)
    shown = folder if runs else folder / ARMS
    if not _has_events(shown) and not study.final.empty:
        # The study was stopped before its page was written, or copied without it.
        write_dashboard(*write_report(folder))
    if not _has_events(shown):
        hint = "" if runs or not _has_events(folder) else "; --runs shows those that have begun"
        event = "begun" if runs else "ended"
        raise ConfigError(f"{folder}: nothing to show, no run has {event} yet{hint}")

    allow_files(sum(1 for _ in _event_files(shown)), folder)
    board = program.TensorBoard()
    board.configure(logdir=str(shown), host="localhost", port=port, load_fast=_load_fast())
    try:
        address = board.launch()
    except program.TensorBoardServerException as error:
        accepted = "another --port" if port is not None else f"a free --port; those from {DEFAULT_PORT} on are taken"
        raise ConfigError(f"port: {error.msg}; accepted: {accepted}") from error
    return f"{address}#{'timeseries' if runs else 'custom_scalars'}"


def wait() -> None:
    """Wait until the user interrupts."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


def _has_events(folder: Path) -> bool:
    return any(_event_files(folder))


def _event_files(folder: Path) -> Iterator[Path]:
    return folder.glob("**/*tfevents*")


def allow_files(count: int, folder: Path) -> None:
    """Raise this process's limit of open files, as far as it may, since TensorBoard keeps each event file open."""
    needed = count + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = hard == resource.RLIM_INFINITY or needed <= hard
    accepted = f"a higher limit than ulimit -Hn={hard}, or the arms alone, without --runs"
    require(allowed, str(folder), f"{count} event files", accepted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _load_fast() -> str:
    """Return TensorBoard's own default for `load_fast`, which it would announce in a paragraph."""
    try:
        server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        return "false"
    return "true"
