"""The list of studies in a folder, each with its state and its answer, from small files alone."""

import csv
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from headtohead.analysis.text import plural
from headtohead.options import ConfigError, one_line
from headtohead.record.files import read_json
from headtohead.record.study import read_study_record
from headtohead.report.tables import plain_table, print_table, shown


def print_studies(folder: Path, console: Console | None = None) -> None:
    """Print the studies in a folder, or the folder's own.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; accepted: a folder of studies, such as outputs")
    console = console or Console()
    studies = sorted(path.parent for path in (*folder.glob("study.json"), *folder.glob("*/study.json")))
    if not studies:
        console.print(f"{shown(folder)}: no study yet; headtohead experiment=digits trains one", highlight=False)
        return
    table = plain_table()
    for header in ("study", "state", "answer"):
        table.add_column(header)
    for study in studies:
        table.add_row(*map(shown, (study.resolve().name, _state(study), _answer(study))))
    print_table(console, table)


def _state(study: Path) -> str:
    """Say how far a study is: running, stopped, where the same command goes on, or finished; and with how many runs."""
    try:
        record = read_study_record(study)
    except ConfigError as error:
        return f"broken: {one_line(error)}"
    planned = [run for runs in record.runs.values() for run in runs]
    ended = sum((study / "runs" / run / "run.json").is_file() for run in planned)
    if _is_locked(study / ".lock"):
        return f"running, {ended}/{len(planned)} runs"
    if ended < len(planned) or not (study / "verdicts.json").is_file():
        return f"stopped, {ended}/{len(planned)} runs"
    failed = _failed(study / "results.csv")
    return f"finished, {plural(len(planned), 'run')}" + (f", {failed} failed" if failed else "")


def _is_locked(lock: Path) -> bool:
    """Return whether a command is at work on a study."""
    try:
        if lock.is_file():
            with FileLock(lock, timeout=0):
                pass
    except Timeout:
        return True
    except OSError:  # of somebody else, or on a disk that cannot be written
        return False
    return False


def _failed(results: Path) -> int:
    try:
        with results.open(newline="") as file:
            return sum(row.get("status") == "failed" for row in csv.DictReader(file))
    except OSError:
        return 0


def _answer(study: Path) -> str:
    try:
        return str(read_json(study / "verdicts.json")["answer"]["headline"])
    except (ConfigError, OSError, KeyError, TypeError):
        return "-"
