"""Serve TensorBoard on a study's folder, from this process."""

import argparse
import hashlib
import io
import re
import resource
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

from tensorboard import assets, program
from tensorboard.data import server_ingester

from headtohead.analysis.study import read_study
from headtohead.options import ConfigError, require
from headtohead.report.dashboard import ARMS, write_dashboard
from headtohead.report.figures.style import COLOURS
from headtohead.report.render import write_report

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

DEFAULT_PORT = 6006
LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
# Files that TensorBoard opens beside those of events: its own, and a connection for each of a browser's requests.
OWN_FILES = 128
# Smoothing would hide what the bands show. TensorBoard has this setting once per generation of its pages.
UNSMOOTHED, UNSMOOTHED_OLD = "?smoothing=0", "_smoothingWeight=0"
# With many runs TensorBoard shows none until they are chosen; this chooses the arms.
ARMS_ALONE = f"regexInput=%5E{ARMS}%2F"
# Where TensorBoard's script names the colours of runs: on its older pages, such as Custom Scalars, and on Time Series.
OLDER_PALETTE = re.compile(r"(tensorboardColorBlindAssist:)\[[^\]]*\]")
PALETTE = re.compile(r'(colorPalette:\{id:"default",name:"\w*",colors:)\[[^\]]*\]')


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
    if (not _has_events(shown) or is_behind(folder)) and not study.final.empty:
        # The study was stopped before its page was written, or copied without it, or its report was rebuilt since.
        print("writing the page", file=sys.stderr)
        write_dashboard(*write_report(folder, pictures=True))
    if not _has_events(shown):
        hint = "" if runs or not _has_events(folder) else "; --runs shows those that have begun"
        event = "begun" if runs else "ended"
        raise ConfigError(f"{folder}: nothing to show, no run has {event} yet{hint}")

    page = page_in_our_colours()
    allow_files(sum(1 for _ in _event_files(shown)), folder)
    board = program.TensorBoard(server_class=_local_server, assets_zip_provider=lambda: io.BytesIO(page))
    board.configure(logdir=str(shown), host="localhost", port=port, load_fast=_load_fast())
    try:
        address = board.launch()
    except program.TensorBoardServerException as error:
        accepted = "another --port" if port is not None else f"a free --port; those from {DEFAULT_PORT} on are taken"
        raise ConfigError(f"port: {error.msg}; accepted: {accepted}") from error
    chosen = ["custom_scalars", UNSMOOTHED_OLD, *([ARMS_ALONE] if runs else [])]
    return f"{address}{UNSMOOTHED}#{'&'.join(chosen)}"


def page_in_our_colours() -> bytes:
    """Return TensorBoard's web page as a zip file, in which the arms have the colours of the report.

    TensorBoard gives colours to runs by their places. What compares the arms has the first place.
    """
    colours = [COLOURS[-1], *COLOURS[:-1]]
    older = ",".join(f'"{colour}"' for colour in colours)
    newer = ",".join(f'{{name:"{colour}",lightHex:"{colour}",darkHex:"{colour}"}}' for colour in colours)
    provider = assets.get_default_assets_zip_provider()
    assert provider is not None, "TensorBoard lacks its web page"
    with provider() as file, ZipFile(file) as page:
        files = {name: page.read(name) for name in page.namelist()}
    script = files["index.js"].decode()
    script = PALETTE.sub(rf"\g<1>[{newer}]", OLDER_PALETTE.sub(rf"\g<1>[{older}]", script)).encode()
    # A browser keeps a script for a day under the hash in its address.
    named = f"index.js?_file_hash={hashlib.sha256(script).hexdigest()[:8]}".encode()
    index = re.sub(rb"index\.js\?_file_hash=\w+", named, files["index.html"])
    sink = io.BytesIO()
    with ZipFile(sink, "w") as page:
        for name, content in (files | {"index.js": script, "index.html": index}).items():
            page.writestr(name, content)
    return sink.getvalue()


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


def is_behind(folder: Path) -> bool:
    """Return whether a study's report was written after its page, so that the two may disagree."""
    verdicts = folder / "verdicts.json"
    written = max((path.stat().st_mtime_ns for path in _event_files(folder / ARMS)), default=0)
    return verdicts.is_file() and verdicts.stat().st_mtime_ns > written


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
