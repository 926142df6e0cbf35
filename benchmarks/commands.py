"""Measure whole commands: the default study with its time, its loop and its memory, and how soon the others answer."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from machine import result, seconds

REPEATS = 3
STUDY = ["experiment=digits", "device=cpu"]
# Wrong command lines. All end with status 2.
WRONG = (
    "dataset=digitss",
    "head=softmax,sigmoidd",
    "optimiser.lr=0.1",
    "optimizer.lr=-1",
    "seed=x",
    "training.epochs=0",
    "experiment=digits model.widths=0",
    "experiment=digits protocol.trials=-1",
    "experiment=digits claims=[none]",
    "dataset=table dataset.path=nowhere.csv",
    "head=factory head.path=nowhere:Head",
    "data dataset=digitss",
    "report nowhere",
    "board nowhere",
    "reproduce nowhere",
)
# Values that only the data show to be wrong.
WRONG_FOR_DATA = ("dataset=iris dataset.folds=1000", "dataset=digits dataset.train_size=9999")


@cache
def scratch() -> Path:
    """Make a folder that lasts until the end of this process."""
    global _folder
    _folder = tempfile.TemporaryDirectory()
    return Path(_folder.name)


@cache
def whole_studies() -> list[tuple[float, dict[str, float]]]:
    """Run the default study, and return for each time its seconds and the largest memory of a process that trains."""
    found = []
    for number in range(REPEATS):
        folder = scratch() / str(number)
        folder.mkdir()
        started, most = time.perf_counter(), {}
        command = [sys.executable, "-m", "headtohead", *STUDY]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as study:
            while study.poll() is None:
                for name, value in _memory_of_children(study.pid):
                    most[name] = max(most.get(name, 0), value)
                time.sleep(0.1)
        if study.returncode:
            raise RuntimeError(f"the default study ended with {study.returncode}")
        found.append((time.perf_counter() - started, most))
    return found


def _memory_of_children(pid: int) -> list[tuple[str, float]]:
    """Return the most memory (VmHWM) and the memory that is no file's (RssAnon) of each child, in MB."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            facts = _facts(path.read_text())
            if facts["PPid"] == str(pid) and "VmHWM" in facts:
                found += [(name, _megabytes(facts[name])) for name in ("VmHWM", "RssAnon")]
    return found


def _facts(status: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in status.splitlines())}


def _megabytes(value: str) -> float:
    return float(value.removesuffix(" kB")) * 1024 / 1e6


def wholes() -> dict[str, list[float]]:
    """Measure the seconds of the whole default study, from the start of Python to its report."""
    return {"headtohead": [taken for taken, _ in whole_studies()]}


def memory() -> dict[str, list[float]]:
    """Measure the most memory of a process that trains the default study, and of one that only imports torch."""
    code = "import torch; print(open('/proc/self/status').read())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {
        "headtohead": [most["VmHWM"] for _, most in whole_studies()],
        "import torch": [_megabytes(_facts(printed)["VmHWM"])],
    }


def own_memory() -> dict[str, list[float]]:
    """Measure the part of that memory that is no file's."""
    return {"headtohead": [most["RssAnon"] for _, most in whole_studies()]}


def loop() -> dict[str, list[float]]:
    """Measure the default study in one process, imports not counted, and the part of it inside `training.train`."""
    found = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            found.append(result("commands.py", folder=folder))
    return {"headtohead": [whole for whole, _ in found], "its loop": [inside for _, inside in found]}


def first_line() -> dict[str, list[float]]:
    """Measure the seconds to the first line of the slowest of all commands."""
    whole_studies()
    lines = [STUDY, ["data", "dataset=digits"], ["dataset=iris", "name=x"], ["report", "outputs/digits"], ["--version"]]
    return {"headtohead": [max(_first_line(line) for line in lines) for _ in range(REPEATS)]}


def _first_line(line: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        if line[0] == "report":
            folder = scratch() / "0"
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "headtohead", *line],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            printed = next((text for text in process.stdout if text.strip()), None)
            taken = time.perf_counter() - started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if not printed:
        raise RuntimeError(f"{' '.join(line)}: printed nothing")
    return taken


def help_() -> dict[str, list[float]]:
    """Measure the seconds of `headtohead --help`."""
    return {"headtohead": [seconds("-m", "headtohead", "--help") for _ in range(REPEATS)]}


def report() -> dict[str, list[float]]:
    """Measure the seconds of `headtohead report` of the default study."""
    whole_studies()
    line = ("-m", "headtohead", "report", "outputs/digits")
    return {"headtohead": [seconds(*line, folder=scratch() / "0") for _ in range(REPEATS)]}


def refusals(lines: Sequence[str]) -> dict[str, list[float]]:
    """Measure the seconds of the slowest refusal of some command lines."""
    slowest = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            times = [seconds("-m", "headtohead", *line.split(), folder=folder, status=2) for line in lines]
            slowest.append(max(times))
    return {"headtohead": slowest}


def child() -> None:
    """Print the seconds of the default study and those inside its loop."""
    import hydra._internal.hydra  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import statsmodels.stats.multitest  # noqa: F401

    from headtohead import cli
    from headtohead.report import render  # noqa: F401
    from headtohead.runner import sweep, worker  # noqa: F401

    inside = 0.0
    train = worker.train

    def timed(*arguments):
        nonlocal inside
        items = train(*arguments)
        while True:
            started = time.perf_counter()
            item = next(items, None)
            inside += time.perf_counter() - started
            if item is None:
                return
            yield item

    worker.train = timed
    sys.argv = ["headtohead", *STUDY, "hydra/launcher=basic"]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main()
    print(json.dumps([time.perf_counter() - started, inside]))


if __name__ == "__main__":
    child()
