"""Hydra's door to the sweep: Hydra takes sweepers only from modules under `hydra_plugins`.

Hydra imports this file whenever it starts, so it imports nothing heavy. Discovery does not see it in an
editable install, so `headtohead.cli` registers `PackSweeper` itself.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PackSweeper(Sweeper):
    """Turns a command line into packs of runs, each of them one job of the launcher."""

    def __init__(self, **options: Any) -> None:
        """Accept any option of `hydra.sweeper`: `headtohead.sweep` reads them from the config."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Train what the arguments ask for and print the report's short form; exits with 1 where a pack failed."""
        from headtohead.report.dashboard import write_dashboard
        from headtohead.report.render import print_study, write_report
        from headtohead.runner.sweep import Sweep

        study = Sweep(arguments, self.config, self.hydra_context)
        study.run()
        findings, drawings = write_report(study.folder)
        write_dashboard(findings, drawings)
        print_study(findings)
        if study.failures:
            sys.exit(_failed(study.folder, study.failures))


def _failed(folder: Path, failures: Sequence[tuple[str, str]]) -> str:
    """How many runs failed, and for each reason the first of them with its log.

    Reasons are one if they differ only in what they quote, such as the path of a file.
    """
    reasons: dict[str, list[tuple[str, str]]] = {}
    for run, reason in failures:
        reasons.setdefault(re.sub(r"'[^']*'", "", reason), []).append((run, reason))
    lines = [f"{len(failures)} runs failed; the same command tries them again"]
    for group in reasons.values():
        runs, (reason, *_) = zip(*group, strict=True)
        log = folder / "runs" / runs[0] / "run.json"
        where = f", traceback in {log}" if log.exists() else ""
        lines.append(f"{reason} ({len(runs)} runs, such as {runs[0]}{where})")
    return "\n".join(f"headtohead: {line}" for line in lines)
