"""The sweeper of this package, in the only place where Hydra looks for one: a module under `hydra_plugins`.

Hydra imports this file whenever it starts, so it imports nothing heavy. Discovery does not see it in an
editable install, so `headtohead.cli` registers `PackSweeper` itself.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class PackSweeper(Sweeper):
    """A sweeper that turns a command line into packs of runs, each of them one job of the launcher."""

    def __init__(self, **options: Any) -> None:
        """Accept any option of `hydra.sweeper`: `headtohead.runner.plan` reads them from the config."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; the task function is not needed, as packs have their own."""
        self.hydra_context = hydra_context
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Train the study of a command line and print the short form of its report; exit with 1 if a run failed."""
        assert self.config is not None and self.hydra_context is not None, "Hydra calls setup first"

        # Imports take seconds, so that each waits until what comes before it has been checked and told.
        from headtohead.runner.axes import read_axes

        axes = read_axes(arguments, self.config.hydra.sweeper.params, self.hydra_context.config_loader)
        trials = OmegaConf.select(self.config, "protocol.trials")  # refused below where it is no number
        print(f"study: {axes.summary(trials if isinstance(trials, int) else 1)}", flush=True)

        from headtohead.runner.plan import plan_study

        plan = plan_study(axes, self.config, self.hydra_context)

        from headtohead.report.provenance import data
        from headtohead.report.tables import print_line

        for line in data(plan.record):
            print_line(f"data: {line}")

        from headtohead.report.dashboard import Live, write_dashboard
        from headtohead.report.render import write_report
        from headtohead.report.terminal import print_study
        from headtohead.runner.sweep import run_study

        failures = run_study(plan, Live)
        print("writing the report", flush=True)
        summary, figures = write_report(plan.folder, pictures=True)
        write_dashboard(summary, figures)
        print_study(summary)
        if failures:
            lacking = sum(run in failures for run in summary.study.record.runs.get("search", ()))
            sys.exit(_describe(plan.folder, failures, lacking))


class DataSweeper(PackSweeper):
    """A sweeper that prints what the data of a command line are, and trains nothing."""

    def sweep(self, arguments: list[str]) -> None:
        """Print what is known of the data."""
        from headtohead.runner.describe import print_data

        assert self.config is not None and self.hydra_context is not None, "Hydra calls setup first"
        print_data(arguments, self.config, self.hydra_context)


def _describe(folder: Path, failures: Mapping[str, str], lacking: int) -> str:
    """Tell how many runs failed, what follows, and for each reason its first run with the log.

    Reasons are one if they differ only in what they quote, such as the path of a file.

    Args:
        folder: the folder of the study.
        failures: for each failed run the reason.
        lacking: the number of them that a search lacks.
    """
    groups: dict[str, list[str]] = {}
    for run, reason in failures.items():
        groups.setdefault(re.sub(r"'[^']*'", "", reason), []).append(run)
    unsearched = f". The search lacks {lacking} runs: no learning rate was chosen, and no test set was read"
    lines = [f"{len(failures)} runs failed; the same command tries them again{unsearched if lacking else ''}"]
    for first, *others in groups.values():
        log = folder / "runs" / first / "run.json"
        where = f", traceback in {log}" if log.exists() else ""
        lines.append(f"{failures[first]} ({1 + len(others)} runs, such as {first}{where})")
    return "\n".join(f"headtohead: {line}" for line in lines)
