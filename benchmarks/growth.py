"""Measure how cost grows with runs, classes, examples, trials and folds: time per run, and peak memory.

Every point is a process of its own with one thread. The first three axes train a single pack; the last two are whole
small studies, from their plan to their report. A slope is the power with which the cost grows over the last tenfold
(1: in proportion).
"""

import contextlib
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from machine import result

POINTS = {
    "runs": (1, 4, 16, 64, 256, 1024),
    "classes": (10, 100, 1_000, 10_000),
    "examples": (1_000, 10_000, 60_000, 240_000),
    "trials": (4, 16, 64, 256),
    "folds": (2, 5, 10, 20),
}
WHAT = {
    "runs": "a pack of the digits, MLP 64-128-128-10",
    "classes": "8 runs, linear, 100,000 examples of Gaussians",
    "examples": "8 runs, MLP 784-128-128-10, images of 28x28 bytes",
    "trials": "whole study of iris, linear: 2 heads, 2 seeds",
    "folds": "whole study of iris, linear: 2 heads, 2 trials, 2 seeds",
}
TIME, STUDY_TIME, MEMORY = "µs per step and run", "ms per run", "peak memory, MiB"
BLOCKS, WARM_UP = 6, 2
STUDY = [
    "name=growth", "head=softmax,sigmoid", "dataset=iris", "model=linear", "training.epochs=2", "seed=range(2)",
    "optimizer.lr=tag(log,interval(0.001,1))", "protocol.confirm_seeds=2", "hydra/launcher=basic", "device=cpu",
]  # fmt: skip
OPTIONS = {
    "trials": ("dataset.folds=null", "dataset.test_fraction=0.2", "protocol.trials={}"),
    "folds": ("dataset.folds={}", "protocol.trials=2"),
}


def of_pack(axis: str, value: int) -> Callable[[], list[float]]:
    """Prepare a pack, and return a function that trains it and returns the time of each block."""
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

    def measure() -> list[float]:
        times, last = [], None
        runs = case.lasting(BLOCKS + 1)[: value if axis == "runs" else None]
        for point in islice(train(runs, case.pool, test=False), BLOCKS + 1):
            now = time.perf_counter()
            if last:
                times.append((now - last[1]) / (point.step - last[0]) / len(runs) * 1e6)
            last = point.step, now
        return times[WARM_UP:]

    return measure


def of_study(axis: str, value: int) -> Callable[[], list[float]]:
    """Import what a study needs, and return a function that runs one and returns its milliseconds per run."""
    from headtohead import cli
    from headtohead.report import render  # noqa: F401
    from headtohead.runner import sweep, worker  # noqa: F401

    sys.argv = ["headtohead", *STUDY, *(option.format(value) for option in OPTIONS[axis])]

    def measure() -> list[float]:
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main()
        taken = time.perf_counter() - started
        return [taken * 1e3 / len(list(Path("outputs/growth/runs").glob("*/run.json")))]

    return measure


def child(axis: str, value: int) -> None:
    """Print quartiles of the time of a point, and the peak memory beyond that of the imports."""
    measure = (of_study if axis in OPTIONS else of_pack)(axis, value)
    before = _peak()
    times = measure()
    print(json.dumps([*np.quantile(times, (0.25, 0.5, 0.75)), _peak() - before]))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def slope(values: np.ndarray, costs: np.ndarray) -> float:
    """Return the slope of the logarithms over the last tenfold."""
    last = values >= values[-1] / 10.001
    return np.polyfit(np.log(values[last]), np.log(costs[last]), 1)[0]


def measure(figure: Path) -> str:
    """Measure all points, draw the figure, and return a table of the slopes in Markdown."""
    found = {}
    for axis, values in POINTS.items():
        print(f"growth with {axis}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            for value in values:
                place = Path(folder, str(value))
                place.mkdir()
                rows.append(result("growth.py", axis, str(value), folder=place))
        found[axis] = np.array(rows)
    draw(found, figure)
    lines = ["| axis | of | time | slope | memory | slope |", "| --- | --- | --- | --- | --- | --- |"]
    for axis, rows in found.items():
        values = np.array(POINTS[axis], float)
        cells = [f"{axis}, {values[0]:,.0f} to {values[-1]:,.0f}", WHAT[axis]]
        for costs, unit in ((rows[:, 1], STUDY_TIME if axis in OPTIONS else TIME), (rows[:, 3], "MiB")):
            cells += [f"{costs[0]:,.0f} to {costs[-1]:,.0f} {unit}", f"{slope(values, costs):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, np.ndarray], path: Path) -> None:
    """Draw time and memory against each axis.

    Args:
        found: by axis the quartiles of the time and the memory, a row for each point.
    """
    from headtohead.report.figures.layers import arm_look, at, log_axis, note, panel
    from headtohead.report.figures.style import Figure, draw_figure

    def panels(below: bool) -> list[dict]:
        made = []
        for axis, rows in found.items():
            values = np.array(POINTS[axis], float)
            costs, label = (rows[:, 3], MEMORY) if below else (rows[:, 1], STUDY_TIME if axis in OPTIONS else TIME)
            x, y = log_axis(axis, values, values), log_axis(label, [costs.min() / 2, costs.max() * 2])
            data = [
                {"arm": 0, "x": value, "y": cost, "low": low, "high": high}
                for value, cost, (low, high) in zip(values, costs, rows[:, [0, 2]], strict=True)
            ]
            encoding, look = {"x": at(x, "x"), "y": at(y, "y")}, arm_look(1)
            band = {"mark": {"type": "area", "opacity": 0.2},
                    "encoding": {"x": at(x, "x"), "y": at(y, "low"), "y2": {"field": "high"}}}  # fmt: skip
            line = {"mark": {"type": "line", "point": True}, "encoding": {**encoding, "color": look["color"]}}
            text = note(f"slope {slope(values, costs):.2f}", "width", 2, align="right")
            made.append(panel(axis, [{"data": {"values": data}, "layer": [line] if below else [band, line]}, text]))
        return made

    figure = Figure(
        "How cost grows", "", [*panels(False), *panels(True)], across=len(found), names=["headtohead"], left=54
    )
    drawing = draw_figure("growth", lambda: figure)
    path.write_text(drawing.svg)


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]))
