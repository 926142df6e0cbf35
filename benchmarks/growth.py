"""Measure how cost grows with the number of runs, of classes and of examples: time per step and run, and peak memory.

    python benchmarks/growth.py           all three, about four minutes on two cores
    python benchmarks/growth.py classes   one of them

Every point is a process of its own with one thread that trains a single pack. Prints a table and draws growth.svg
beside this file; a slope is the power with which the cost grows over the last tenfold (1: in proportion).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

POINTS = {
    "runs": (1, 4, 16, 64, 256, 1024),
    "classes": (10, 100, 1_000, 10_000),
    "examples": (1_000, 10_000, 60_000, 240_000),
}
TITLES = {
    "runs": "runs in a pack: digits, MLP 64-128-128-10",
    "classes": "classes: gaussians, linear, 8 runs, 100,000 examples",
    "examples": "examples: 28x28 bytes, MLP 784-128-128-10, 8 runs",
}
BLOCKS, WARM_UP = 6, 2


def child(axis: str, value: int) -> None:
    """Print the microseconds per step and run of each block, and the peak memory in MiB beyond that of the imports."""
    from cases import Case

    from headtohead.runner.process import prepare_process
    from headtohead.training.loop import train

    prepare_process(1)
    lrs = tuple(0.01 + 0.0001 * i for i in range(max(1, value // 2) if axis == "runs" else 4))
    if axis == "runs":
        case = Case(("dataset=digits", "model=mlp"), lrs, 1, max(10, 2_000 // value))
    elif axis == "classes":
        options = (f"dataset.classes={value}", "dataset.examples=100000")
        case = Case(("dataset=gaussians", "model=linear", *options), lrs, 1, max(4, 4_000 // value))
    else:
        case = Case(("dataset=fashion_mnist", "model=mlp"), lrs, 1, 30, (value, 1, 28, 28))
    before = _peak()
    times, last = [], None
    runs = case.lasting(BLOCKS + 1)[: value if axis == "runs" else None]
    for point in islice(train(runs, case.pool, test=False), BLOCKS + 1):
        now = time.perf_counter()
        if last:
            times.append((now - last[1]) / (point.step - last[0]) / len(runs) * 1e6)
        last = point.step, now
    print(json.dumps({"times": times[WARM_UP:], "memory": _peak() - before}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(axis: str, value: int) -> tuple[float, float, float, float]:
    """Quartiles of the time, and the memory."""
    command = [sys.executable, __file__, "--child", axis, str(value)]
    printed = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ).stdout
    found = json.loads(printed.splitlines()[-1])
    return *np.quantile(found["times"], (0.25, 0.5, 0.75)), found["memory"]


def slope(values: np.ndarray, costs: np.ndarray) -> float:
    """Return the slope of the logarithms over the last tenfold."""
    last = values >= values[-1] / 10.001
    return np.polyfit(np.log(values[last]), np.log(costs[last]), 1)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("axis", nargs="?", choices=POINTS, help="only this")
    parser.add_argument("--child", nargs=2, metavar=("AXIS", "VALUE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]))
        return
    axes = [arguments.axis] if arguments.axis else [*POINTS]
    found = {
        axis: np.array([measure(axis, value) for value in track(POINTS[axis], axis, transient=True)]) for axis in axes
    }
    console = Console(width=120)
    for axis, rows in found.items():
        table = Table(title=TITLES[axis], title_justify="left")
        for header in (axis, "µs per step and run", "quartiles", "peak memory, MiB"):
            table.add_column(header, justify="right")
        for value, (low, middle, high, memory) in zip(POINTS[axis], rows, strict=True):
            table.add_row(f"{value:,}", f"{middle:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{memory:,.0f}")
        values = np.array(POINTS[axis], float)
        table.add_section()
        table.add_row("slope", f"{slope(values, rows[:, 1]):.2f}", "", f"{slope(values, rows[:, 3]):.2f}")
        console.print(table)
    if not arguments.axis:
        draw(found)


def draw(found: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(2, len(found), figsize=(11, 5.5), sharex="col", layout="constrained")
    for (axis, rows), (above, below) in zip(found.items(), grid.T, strict=True):
        values = np.array(POINTS[axis], float)
        above.set_title(TITLES[axis], fontsize=9)
        above.fill_between(values, rows[:, 0], rows[:, 2], alpha=0.25, linewidth=0)
        for panel, costs, unit in ((above, rows[:, 1], "µs per step and run"), (below, rows[:, 3], "peak memory, MiB")):
            panel.loglog(values, costs, marker="o")
            panel.set_ylim(costs.min() / 3, costs.max() * 3)
            panel.set_ylabel(unit)
            panel.annotate(f"slope {slope(values, costs):.2f}", (values[-1], costs[-1]), (-6, 10),
                           textcoords="offset points", ha="right")  # fmt: skip
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(alpha=0.3)
        below.set_xlabel(axis)
    figure.savefig(Path(__file__).with_name("growth.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
