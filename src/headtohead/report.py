"""What a person reads of a study: a table of its arms in the terminal."""

import json
import math
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.record import read_results
from headtohead.statistics import Interval, best_learning_rates, t_interval


def arms(study: Path) -> pd.DataFrame:
    """A row per arm: `lr`, `on_edge` (of the grid), `runs`, `diverged`, `failed`, and Intervals over seeds.

    The intervals are of val_accuracy, test_accuracy and test_nll in the confirm phase where there is one,
    else of the arm's runs at its best learning rate. Only runs of the study's last command count.
    """
    asked = json.loads((study / "study.json").read_text(encoding="utf-8"))
    results = read_results(study)
    results = results[results.run.isin([run for runs in asked["runs"].values() for run in runs])]
    grid = asked["grid"]["optimizer.lr"]
    searched = results[results.phase == "search"]
    best = best_learning_rates(searched if len(searched) else results)
    rows = []
    for arm in asked["arms"]:
        runs = results[results.arm == arm]
        lr = best.get(arm, math.nan)
        confirmed = runs[runs.phase == "confirm"]
        final = confirmed if len(confirmed) else runs[runs.lr == lr]
        final = final[final.status != "failed"]
        row = {
            "arm": arm,
            "lr": lr,
            "on_edge": len(grid) > 1 and lr in (grid[0], grid[-1]),
            "runs": len(runs),
            "diverged": int((runs.status == "diverged").sum()),
            "failed": int((runs.status == "failed").sum()),
        }
        for metric in ("val_accuracy", "test_accuracy", "test_nll"):
            row[metric] = t_interval(final[metric].dropna()) if metric in final else t_interval([])
        rows.append(row)
    return pd.DataFrame(rows)


def print_study(study: Path, console: Console | None = None) -> None:
    """Print the table of arms and where everything lies."""
    console = console or Console()
    table = Table(
        title=f"{study.name}: mean ± half of the 95 % interval over seeds",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
    )
    table.add_column("arm", no_wrap=True)
    for header in ("best lr", "val acc, %", "test acc, %", "test NLL", "diverged"):
        table.add_column(header, justify="right", no_wrap=True)
    summary = arms(study)
    for row in summary.itertuples():
        table.add_row(
            row.arm,
            f"{row.lr:g}{'*' if row.on_edge else ''}",
            _text(row.val_accuracy, 100, 2),
            _text(row.test_accuracy, 100, 2),
            _text(row.test_nll, 1, 3),
            f"{row.diverged}/{row.runs}",
        )
    console.print(table)
    if summary.on_edge.any():
        console.print("* on the edge of the grid of learning rates: the arm may not be tuned")
    console.print(f"results:      {study / 'results.csv'}", soft_wrap=True)
    console.print(f"TensorBoard:  tensorboard --logdir {study / 'runs'}", soft_wrap=True)


def _text(interval: Interval, scale: float, digits: int) -> str:
    if math.isnan(interval.mean):
        return "-"
    text = f"{scale * interval.mean:.{digits}f}"
    return text if math.isnan(interval.lower) else f"{text} ± {scale * interval.half_width:.{digits}f}"
