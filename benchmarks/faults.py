"""Fuzz of the command line: wrong lines must end with exit status 2, valid ones with 0, kills must not change results.

    python benchmarks/faults.py                                   1,000 wrong and 500 valid lines, 50 kills
    python benchmarks/faults.py --wrong 100 --valid 20 --kills 2 --seed 1

Each line runs in a folder of its own, in a fork of a process that has imported headtohead, through the function that
the console script calls. The run of one in `REPRODUCED` valid lines is reproduced and must be equal. A small study is
killed (SIGKILL) at a random time; the same command then goes on, and its records must be those of a study that was
never killed. Prints the counts by exit status and each offender with the end of its output; `--save FOLDER` keeps all
of their output. Exits with 1 where there is an offender. All else is written to a temporary folder, which is removed.
"""

import argparse
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pandas as pd
import torch
from command_lines import FILES, Line, valid, wrong
from same_records import compare_runs

import headtohead.report.publish
import headtohead.report.render
import headtohead.runner.reproduce
import headtohead.runner.sweep  # noqa: F401, imported once for all forks
from headtohead import cli

TIMEOUT_S = 120
REPRODUCED = 5
# Exit statuses of a line that did not end by itself.
HUNG, DIED = "hung", "died"
KILLED_STUDY = [
    "name=s", "dataset=digits", "model=mlp", "model.widths=[8]", "head=softmax,sigmoid", "optimizer.lr=0.03,0.1",
    "training.warmup=interval(0,0.3)", "protocol.trials=2", "protocol.search=halving", "seed=0,1",
    "dataset.train_size=256", "training.epochs=8", "pack_size=4", "checkpoint_s=0", "model.dropout=0.3",
]  # fmt: skip
# One job runs in the process of the command.
IN_PROCESS = "hydra.launcher.n_jobs=1"


@dataclass
class Result:
    """How a command ended: its exit status, or HUNG or DIED, its output and the seconds that it took."""

    status: int | str
    output: str
    seconds: float


def run(arguments: list[str], folder: Path, kill_after_s: float | None = None) -> Result:
    """Run `headtohead` with arguments in a folder, in a fork."""
    printed = folder.with_suffix(".out")
    child = os.fork()
    if child == 0:
        _become(arguments, folder, printed)
    start = time.monotonic()
    limit = TIMEOUT_S if kill_after_s is None else kill_after_s
    status = None
    while status is None and time.monotonic() - start < limit:
        ended, found = os.waitpid(child, os.WNOHANG)
        status = found if ended else None
        time.sleep(0.01)
    seconds = time.monotonic() - start
    outcome: int | str = HUNG
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    else:
        outcome = os.waitstatus_to_exitcode(status)
    if isinstance(outcome, int) and outcome < 0:
        outcome = DIED
    return Result(outcome, printed.read_text(errors="replace") if printed.exists() else "", seconds)


def _become(arguments: list[str], folder: Path, printed: Path) -> None:
    """Turn this fork into the command; does not return."""
    os.setsid()
    status = 70
    try:
        sink = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(sink, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        torch.set_num_threads(1)
        sys.argv = ["headtohead", *arguments]
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def run_line(line: Line, folder: Path) -> Result:
    """Run a line in a new folder with its files."""
    (folder / "empty").mkdir(parents=True)
    for path, content in {**FILES, **line.files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return run([*line.arguments, *[IN_PROCESS] * line.is_study], folder)


def reproduce_one(folder: Path, random: random.Random) -> Result:
    """Reproduce a random run of the study in a folder."""
    runs = sorted((folder / "outputs").glob("*/runs/*"))
    return run(["reproduce", str(random.choice(runs).relative_to(folder))], folder)


def differences_after_kill(reference: Path, folder: Path, after_s: float) -> list[str]:
    """Kill a study after some seconds, let the same command go on, and list the differences to the reference."""
    folder.mkdir()
    killed = run([*KILLED_STUDY, IN_PROCESS], folder, kill_after_s=after_s)
    ended = run([*KILLED_STUDY, IN_PROCESS], folder)
    if ended.status != 0:
        return [f"after the kill the status is {ended.status}: {_end(ended)}"]
    old, new = reference / "outputs/s", folder / "outputs/s"
    lines = compare_runs(old / "runs", new / "runs")
    if (old / "verdicts.json").read_bytes() != (new / "verdicts.json").read_bytes():
        lines.append("verdicts.json: differs")
    tables = [pd.read_csv(study / "results.csv", dtype=str).drop(columns="wall_s") for study in (old, new)]
    if not tables[0].equals(tables[1]):
        lines.append("results.csv: differs")
    return [f"killed after {after_s:.2f} s ({killed.status}): {line}" for line in lines]


def _end(result: Result) -> str:
    """Return the last lines of an output, on one line."""
    return " / ".join(result.output.strip().splitlines()[-3:])[-400:]


@dataclass
class Fuzz:
    """A fuzz in progress: where it runs, what it counted and the offenders with their outputs."""

    folder: Path
    jobs: int
    counts: Counter[tuple[str, int | str]]
    offenders: list[tuple[str, str, str]]

    def lines(self, lines: list[Line], expected: int, seed: int) -> None:
        """Run lines and count their exit statuses."""

        def work(index: int) -> None:
            line, place = lines[index], self.folder / f"{expected}_{index}"
            result = run_line(line, place)
            self.counts[line.kind, result.status] += 1
            # An error of a Python class's name tells a user nothing, whatever the status.
            if result.status != expected or (expected == 2 and "HYDRA_FULL_ERROR" in result.output):
                self._offend(f"{line.kind}: status {result.status}", line.arguments, line.files, result.output)
            elif expected == 0 and index % REPRODUCED == 0:
                again = reproduce_one(place, random.Random(f"{seed} {index}"))
                self.counts["reproduce", again.status] += 1
                if again.status != 0 or "equal" not in again.output:
                    self._offend(f"reproduce: status {again.status}", line.arguments, line.files, again.output)
            shutil.rmtree(place, ignore_errors=True)

        with ThreadPoolExecutor(self.jobs) as pool:
            [*pool.map(work, range(len(lines)))]

    def kills(self, count: int, seed: int) -> None:
        """Kill a study at `count` random times."""
        reference = self.folder / "reference"
        reference.mkdir()
        whole = run([*KILLED_STUDY, IN_PROCESS], reference)
        if whole.status != 0:
            self._offend(f"reference of kills: status {whole.status}", KILLED_STUDY, {}, whole.output)
            return
        times = [random.Random(f"{seed} kill {index}").uniform(0, whole.seconds) for index in range(count)]

        def work(index: int) -> None:
            folder = self.folder / f"kill_{index}"
            lines = differences_after_kill(reference, folder, times[index])
            self.counts["kill", "different" if lines else "equal"] += 1
            if lines:
                self._offend("kill", KILLED_STUDY, {}, "\n".join(lines))
            shutil.rmtree(folder, ignore_errors=True)

        with ThreadPoolExecutor(self.jobs) as pool:
            [*pool.map(work, range(count))]

    def _offend(self, what: str, arguments: list[str], files: dict[str, bytes], output: str) -> None:
        written = "".join(f"\n    {path}: {content!r}" for path, content in files.items())
        self.offenders.append((what, f"headtohead {shlex.join(arguments)}{written}", output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, count in (("wrong", 1000), ("valid", 500), ("kills", 50), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="lines at a time")
    parser.add_argument("--save", type=Path, help="a folder for the whole output of each offender")
    options = parser.parse_args()

    torch.set_num_threads(1)
    os.environ.pop("HYDRA_FULL_ERROR", None)
    random_ = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="headtohead_faults_") as folder:
        fuzz = Fuzz(Path(folder), options.jobs, Counter(), [])
        fuzz.lines([wrong(random_) for _ in range(options.wrong)], 2, options.seed)
        fuzz.lines([valid(random_) for _ in range(options.valid)], 0, options.seed)
        if options.kills:
            fuzz.kills(options.kills, options.seed)
    for index, (what, line, output) in enumerate(sorted(fuzz.offenders)):
        print(f"{what}\n    {line}\n    {' / '.join(output.strip().splitlines()[-3:])[-400:]}\n")
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            (options.save / f"{index:04}.txt").write_text(f"{what}\n{line}\n\n{output}\n")
    for kind in sorted({kind for kind, _ in fuzz.counts}):
        found = {status: count for (of, status), count in fuzz.counts.items() if of == kind}
        print(f"{kind:<12} " + ", ".join(f"{status}: {found[status]}" for status in sorted(found, key=str)))
    print(f"{len(fuzz.offenders)} offenders")
    sys.exit(bool(fuzz.offenders))


if __name__ == "__main__":
    main()
