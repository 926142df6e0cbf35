"""One recorded run again, alone, beside its record."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from headtohead.options import ConfigError
from headtohead.record import run as record
from headtohead.runner.worker import environment, prepare_process
from headtohead.training import data
from headtohead.training.config import parse, resolve_device
from headtohead.training.loop import train

# How far a run in a pack may be from the run alone, relative to the value or, below 1, absolute.
BOUNDS = {"float64": 1e-9, "float32": 5e-3, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Reproduction:
    """A run beside its record.

    Attributes:
        metrics: by name the recorded value and that of now; NaN where there is none.
        bound: up to which a difference counts as rounding.
        environment: a line for each thing that differs around the run.
    """

    metrics: dict[str, tuple[float, float]]
    bound: float
    environment: list[str]

    @property
    def unequal(self) -> dict[str, float]:
        """The distance of the metrics that are not bitwise equal, the largest first."""
        found = {
            name: abs(now - before) / max(1.0, abs(before)) if math.isfinite(now - before) else math.inf
            for name, (before, now) in self.metrics.items()
            if before != now and not (math.isnan(before) and math.isnan(now))
        }
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def different(self) -> list[str]:
        """The metrics beyond the bound."""
        return [name for name, distance in self.unequal.items() if distance > self.bound]


def reproduce(folder: Path) -> Reproduction:
    """Train the run of a folder again, alone and on the device that its configuration names.

    Raises:
        ConfigError: the folder holds no record of a run that ended.
    """
    run = record.read_run(folder)
    if run is None or run["status"] == "failed":
        accepted = "the folder of a run that ended, such as outputs/digits/runs/head=softmax,seed=0"
        raise ConfigError(f"{folder}: {'its run failed' if run else 'no record of a run'}; accepted: {accepted}")
    # Records of older versions lack what only the study asks for.
    config = parse(OmegaConf.merge({"protocol": {"ladder": None}}, run["config"]))
    device = resolve_device(config.settings.device)
    prepare_process(run["pack"]["threads"])
    *_, (outcome,) = train([config], data.load(config.dataset, device), run["phase"] != "search")
    names = [*dict.fromkeys([*run["metrics"], *outcome.metrics])]
    before, now = ({name: _number(values.get(name)) for name in names} for values in (run["metrics"], outcome.metrics))
    return Reproduction(
        {name: (before[name], now[name]) for name in names},
        BOUNDS[config.settings.precision],
        record.differences(run["environment"], environment(str(device))),
    )


def print_reproduction(folder: Path, found: Reproduction, shown: int = 12) -> None:
    """The verdict in one sentence, the metrics that differ most, and what differs around the run."""
    console = Console(highlight=False)
    say = partial(console.print, markup=False, soft_wrap=True)
    unequal, different = found.unequal, found.different
    if not unequal:
        say(f"{folder.name}: bitwise equal in all {len(found.metrics)} metrics")
    elif not different:
        said = f"equal within {found.bound:g}, the bound between a run in a pack and alone; "
        say(f"{folder.name}: {said}{len(found.metrics) - len(unequal)} of {len(found.metrics)} bitwise")
    else:
        say(f"{folder.name}: different in {len(different)} of {len(found.metrics)} metrics")
    if unequal:
        table = Table("metric", "recorded", "now", "distance")
        for name, distance in [*unequal.items()][:shown]:
            table.add_row(name, *(f"{value:.9g}" for value in found.metrics[name]), f"{distance:.2g}")
        console.print(table)
    for line in found.environment:
        say(f"environment: {line}")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
