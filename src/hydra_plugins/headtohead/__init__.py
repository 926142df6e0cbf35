"""Hydra's door to the sweep: Hydra takes sweepers only from modules under `hydra_plugins`.

Hydra imports this file whenever it starts, so it imports nothing heavy. Discovery does not see it in an
editable install, so `headtohead.cli` registers `PackSweeper` itself.
"""

import sys
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PackSweeper(Sweeper):
    """Turns a command line into packs of runs, each of them one job of the launcher."""

    def __init__(self, **options: Any) -> None:
        """Accept any option of `hydra.sweeper`: `run_study` reads them from the config."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Train what the arguments ask for and print the table of arms; exits with 1 where a pack failed."""
        from headtohead.report import print_study
        from headtohead.sweep import run_study

        folder, failures = run_study(arguments, self.config, self.hydra_context)
        print_study(folder)
        if failures:
            run, reason = failures[0]
            sys.exit(
                f"headtohead: {len(failures)} runs failed, the first with {reason}\n"
                f"headtohead: its traceback is in {folder / 'runs' / run / 'run.json'}"
            )
