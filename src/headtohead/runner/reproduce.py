"""Reproduction: a recorded run, trained again alone and compared with its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from headtohead.options import ConfigError
from headtohead.record.files import differences, with_home
from headtohead.record.run import RunRecord, flaws_of_files, read_run
from headtohead.runner.environment_values import recorded_values
from headtohead.runner.process import environment, import_from_here, prepare_process
from headtohead.runner.sources import Contents, changes, opened_files, sources_of
from headtohead.training import data
from headtohead.training.config import Config, parse, resolve_device
from headtohead.training.datasets import DATASETS

if TYPE_CHECKING:
    from headtohead.training.loop import Outcome

# How far a run in a pack may be from the run alone, by precision: relative to the value or, below 1, absolute.
BOUNDS = {"float64": 1e-9, "float32": 5e-3, "bfloat16": 5e-2}
# Keys of a configuration whose value is imported.
CODE = {"path", "_target_"}
# Options that older records lack, by group and name: what runs did before there was the option.
OLDER = {("model", "torchvision"): {"weights": None}, ("dataset", "image_folder"): {"on_error": "stop"}}
# The most metrics that are printed.
SHOWN_METRICS = 12
ACCEPTED = "accepted: the folder of a run that ended, such as outputs/digits/runs/head=softmax,seed=0"


@dataclass(frozen=True)
class Reproduction:
    """A run beside its record.

    Attributes:
        metrics: for each metric the recorded value and the new one; NaN where there is none.
        bound: the largest difference that counts as rounding.
        environment: a line for each difference between the recorded environment and this one.
    """

    metrics: dict[str, tuple[float, float]]
    bound: float
    environment: list[str]

    @property
    def unequal(self) -> dict[str, float]:
        """The distance of each metric that is not bitwise equal, the largest first."""
        distances = {
            metric: abs(now - before) / max(1.0, abs(before)) if math.isfinite(now - before) else math.inf
            for metric, (before, now) in self.metrics.items()
            if before != now and not (math.isnan(before) and math.isnan(now))
        }
        return dict(sorted(distances.items(), key=lambda item: -item[1]))

    @property
    def different(self) -> list[str]:
        """The metrics beyond the bound."""
        return [metric for metric, distance in self.unequal.items() if distance > self.bound]


def reproduce(folder: Path, allow_code: bool = False) -> Reproduction:
    """Train the run of a folder again, alone and on the device that its configuration names.

    Args:
        folder: the folder of the run.
        allow_code: whether to run code that is not this package's, where the record names any.

    Raises:
        ConfigError: the folder holds no record of a run that ended, or one that names code that is not allowed.
    """
    run = _read_ended_run(folder)
    # Records of older versions lack what only the study needs.
    older: dict[str, Any] = {
        "protocol": {"ladder": None, "until_decided": False, "max_seeds": None, "metric": "accuracy"},
        "model": {"freeze": "none"},
    }
    for (group, name), options in OLDER.items():
        recorded = run.config.get(group)
        if isinstance(recorded, dict) and recorded.get("name") == name:
            older[group] = older.get(group, {}) | options
    node = cast(DictConfig, OmegaConf.merge(older, with_home(run.config)))
    if allow_code:
        import_from_here()
    elif named := named_code(_resolved(node, folder)):
        accepted = "accepted: --allow-code, for a record that you trust"
        raise ConfigError(f"{folder}: would run code from elsewhere, {', '.join(named)}; {accepted}")
    config = parse(node)
    print(f"training {folder.name} again", flush=True)
    from headtohead.training.loop import train  # takes long to import, and all above may refuse the folder

    device = resolve_device(config.settings.device)
    changed = _changed_sources(run, config, node)
    prepare_process(run.pack.threads)
    *_, outcomes = train([config], data.load(config.dataset, device), run.phase != "search")
    assert isinstance(outcomes, list)
    return Reproduction(
        _side_by_side(run.metrics, outcomes[0]),
        BOUNDS[config.settings.precision],
        [*changed, *differences(run.environment, environment(str(device)))],
    )


def named_code(value: Any, key: str = "") -> list[str]:
    """List, as `key=value`, what a resolved configuration names that may run code from outside this package.

    That is whatever stands at a key of CODE, and all text among options of a function, which could name a file. The
    path of a file of data, or of weights, is none of it: nothing in such a file is run.
    """
    if isinstance(value, Mapping):
        dataset = DATASETS.get(str(value.get("name"))) if key == "dataset" else None
        if dataset is not None and dataset.place == "path":
            value = {part: item for part, item in value.items() if part != "path"}
        items = [(f"{key}.{part}".lstrip("."), item) for part, item in value.items()]
    elif isinstance(value, list):
        items = [(key, item) for item in value]
    else:
        parts = key.split(".")
        is_named = value is not None and (parts[-1] in CODE or ("options" in parts and isinstance(value, str)))
        return [f"{key}={value}"] if is_named else []
    return [line for part, item in items for line in named_code(item, part)]


def _resolved(node: DictConfig, folder: Path) -> Any:
    """Return a configuration without interpolations, which could hide what it names."""
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{folder}: its record is broken ({str(error).splitlines()[0]}); {ACCEPTED}") from error


def print_reproduction(folder: Path, reproduction: Reproduction) -> None:
    """Print the result in one sentence, the metrics that differ most, and what differs in the environment."""
    console = Console(highlight=False)
    print_line = partial(console.print, markup=False, soft_wrap=True)
    unequal, different, count = reproduction.unequal, reproduction.different, len(reproduction.metrics)
    if not unequal:
        print_line(f"{folder.name}: bitwise equal in all {count} metrics")
    elif not different:
        bound = f"equal within {reproduction.bound:g}, the bound between a run in a pack and alone"
        print_line(f"{folder.name}: {bound}; {count - len(unequal)} of {count} bitwise")
    else:
        print_line(f"{folder.name}: different in {len(different)} of {count} metrics")
    if unequal:
        table = Table("metric", "recorded", "now", "distance")
        for metric, distance in [*unequal.items()][:SHOWN_METRICS]:
            table.add_row(metric, *(f"{value:.9g}" for value in reproduction.metrics[metric]), f"{distance:.2g}")
        console.print(table)
    for line in reproduction.environment:
        print_line(f"environment: {line}")


def _read_ended_run(folder: Path) -> RunRecord:
    if not (folder / "run.json").is_file():
        raise ConfigError(f"{folder}: no record of a run; {ACCEPTED}")
    try:
        run = read_run(folder)
    except ConfigError as error:
        raise ConfigError(f"{folder}: its record is broken ({error}); {ACCEPTED}") from error
    if run.status == "failed":
        raise ConfigError(f"{folder}: its run failed; {ACCEPTED}")
    for flaw in flaws_of_files(folder, run):
        raise ConfigError(f"{folder}: {flaw} since it was written; {ACCEPTED}")
    return run


def _changed_sources(run: RunRecord, config: Config, node: DictConfig) -> list[str]:
    """List, a line each, the code that differs from that of a recorded run.

    Raises:
        ConfigError: the data, or files or environment variables that the run depends on, are others.
    """
    now = sources_of(config, recorded_values(node)[1], Contents({}), opened_files(run.sources))
    others = changes(run.sources, now, code=False)
    if others:
        raise ConfigError(f"{run.run}: cannot be trained again as it was ({'; '.join(others)} since the run)")
    return changes(run.sources, now)


def _side_by_side(recorded: Mapping[str, float | None], outcome: Outcome) -> dict[str, tuple[float, float]]:
    now: dict[str, float | None] = {**outcome.metrics}
    return {metric: (_or_nan(recorded.get(metric)), _or_nan(now.get(metric))) for metric in {**recorded, **now}}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
