"""TensorBoard on a study's folder, in this process."""

import threading
from pathlib import Path

from tensorboard import program
from tensorboard.data import server_ingester

from headtohead.analysis.study import read_study
from headtohead.options import ConfigError
from headtohead.report.dashboard import ARMS, write_dashboard
from headtohead.report.render import write_report

DEFAULT_PORT = 6006


def launch(folder: Path, runs: bool = False, port: int | None = None) -> str:
    """Start to serve the arms of a study, or all that lies in its folder, to this machine alone.

    Args:
        runs: show every run too.
        port: None takes the first free one from 6006 on.

    Returns:
        The address of the page to look at first.

    Raises:
        ConfigError: there is nothing to show, or the port cannot be had.
    """
    study = read_study(folder)
    shown = folder if runs else folder / ARMS
    if not _has_events(shown) and not study.final.empty:
        # A study that was stopped before its page, or copied without it.
        write_dashboard(*write_report(folder))
    if not _has_events(shown):
        hint = "" if runs or not _has_events(folder) else "; --runs shows those that have begun"
        what = "run has begun" if runs else "run has ended"
        raise ConfigError(f"{folder}: nothing to show, no {what} yet{hint}")

    board = program.TensorBoard()
    board.configure(logdir=str(shown), host="localhost", port=port, load_fast=_load_fast())
    try:
        address = board.launch()
    except program.TensorBoardServerException as error:
        accepted = "another --port" if port is not None else f"--port, as those from {DEFAULT_PORT} on are taken"
        raise ConfigError(f"port: {error.msg}; accepted: {accepted}") from error
    return f"{address}#{'timeseries' if runs else 'custom_scalars'}"


def wait() -> None:
    """Return when the user interrupts."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


def _has_events(folder: Path) -> bool:
    return any(folder.glob("**/*tfevents*"))


def _load_fast() -> str:
    """TensorBoard's own default is the same, with a paragraph about it."""
    try:
        server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        return "false"
    return "true"
