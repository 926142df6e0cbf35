"""Serve TensorBoard on a study's folder, from this process."""

import argparse
import re
import resource
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboard import program
from tensorboard.data import server_ingester

from headtohead.analysis.study import read_study
from headtohead.options import ConfigError, require
from headtohead.report.dashboard import ARMS, write_dashboard
from headtohead.report.render import write_report

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

DEFAULT_PORT = 6006
LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
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
        write_dashboard(*write_report(folder, pictures=True))
    if not _has_events(shown):
        hint = "" if runs or not _has_events(folder) else "; --runs shows those that have begun"
        event = "begun" if runs else "ended"
        raise ConfigError(f"{folder}: nothing to show, no run has {event} yet{hint}")

    allow_files(sum(1 for _ in _event_files(shown)), folder)
    board = program.TensorBoard(server_class=_local_server)
    board.configure(logdir=str(shown), host="localhost", port=port, load_fast=_load_fast())
    try:
        address = board.launch()
    except program.TensorBoardServerException as error:
        accepted = "another --port" if port is not None else f"a free --port; those from {DEFAULT_PORT} on are taken"
        raise ConfigError(f"port: {error.msg}; accepted: {accepted}") from error
    return f"{address}#{'timeseries' if runs else 'custom_scalars'}"


def only_local(app: "WSGIApplication") -> "WSGIApplication":
    """Return an application that refuses requests for any host but this machine.

    A page of somebody else's could otherwise have its name resolve to this machine, and read what is served (DNS
    rebinding).
    """

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if _host(environ.get("HTTP_HOST", "")) in LOCAL_HOSTS:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"headtohead answers requests for localhost alone\n"]

    return guarded


def _host(header: str) -> str | None:
    """Return the host of a header without its port; None where it is no host."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d{1,5})?", header.strip().lower())
    return match[1] if match else None


def _local_server(app: "WSGIApplication", flags: argparse.Namespace) -> program.TensorBoardServer:
    return program.create_port_scanning_werkzeug_server(only_local(app), flags)


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
