"""Axes of a command line: arms x learning rates x seeds, and the runs that they span.

An arm is every swept setting but the seed and the learning rate, which are its repetition and its tuning.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser

from headtohead.options import ConfigError, require
from headtohead.record.files import folder_name, without_home
from headtohead.record.run import NOT_OF_A_RUN

SEED, LR = "seed", "optimizer.lr"
# Keys that say where and how to run, or what to report, not what runs: they are no part of a run's name.
UNNAMED = NOT_OF_A_RUN | {"experiment", "pack_size"}
# Keys of which a study has one value.
UNSWEPT = UNNAMED - {"dataset.root"}
# How often the grid of learning rates may grow on either side.
EXTENSIONS = 2

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Axes:
    """The settings that a command sweeps, and those that all its runs share.

    Attributes:
        common: the overrides that all runs share.
        arms: for each arm's label its own overrides.
        lrs: the learning rates; empty where the command names none.
        seeds: the seeds; empty where the command names none.
    """

    common: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One run of a study before its configuration is composed.

    Attributes:
        arm: the label of its arm; empty if the arm has no overrides.
        overrides: those of its arm.
        lr: the learning rate; None where the configuration decides.
        seed: the seed; None where the configuration decides.
    """

    arm: str
    overrides: tuple[str, ...]
    lr: float | None
    seed: int | None

    def name(self, common: Sequence[str]) -> str:
        """Return the name of the run's folder: the arm's overrides, the common ones, the learning rate, the seed."""
        parts = [*self.overrides, *filter(is_named, common)]
        parts += [f"{LR}={_shortest(self.lr)}"] if self.lr is not None else []
        parts += [f"{SEED}={self.seed}"] if self.seed is not None else []
        return folder_name(",".join(parts))


def is_named(override: str) -> bool:
    """Return whether an override says what is trained, and so belongs to the names of the runs."""
    return re.split("[=@]", override.lstrip("+~"))[0] not in UNNAMED


def read_axes(arguments: Sequence[str], params: Mapping[str, object] | None) -> Axes:
    """Read the axes of a command line.

    Args:
        arguments: the overrides of the command line.
        params: the axes of an experiment; the command line has precedence over them.

    Raises:
        ConfigError: a learning rate or a seed is no number or occurs twice, or a key cannot be swept.
    """
    parser = OverridesParser.create()
    given = parser.parse_overrides(list(arguments))
    keys = {override.get_key_element().lstrip("+") for override in given}
    defaults = [f"{key}={value}" for key, value in (params or {}).items() if key not in keys]

    common: list[str] = []
    swept: dict[str, list[str]] = {}
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    for override in [*parser.parse_overrides(defaults), *given]:
        key, line = override.get_key_element(), override.input_line or ""
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else []
        if key == LR:
            lrs = _numbers(LR, values or [line.partition("=")[2]], float, "a number")
        elif key == SEED:
            seeds = _numbers(SEED, values or [line.partition("=")[2]], int, "an integer")
        elif not values:
            common.append(line)
        elif key in UNSWEPT:
            raise ConfigError(f"{line}: {key} cannot be swept; give one value")
        else:
            swept[key] = [f"{key}={value}" for value in values]
    arms = {_label(overrides): overrides for overrides in product(*swept.values())}
    return Axes(tuple(common), arms, lrs, seeds)


def search(axes: Axes) -> list[Run]:
    """Return every arm at every learning rate with every seed, in the order of the command."""
    return [
        Run(arm, overrides, lr, seed)
        for (arm, overrides), lr, seed in product(axes.arms.items(), axes.lrs or [None], axes.seeds or [None])
    ]


def confirm(arms: Mapping[str, tuple[str, ...]], best: Mapping[str, float], seeds: Sequence[int]) -> list[Run]:
    """Return each arm that has a best learning rate at that rate with fresh seeds."""
    return [Run(arm, arms[arm], best[arm], seed) for arm, seed in product(best, seeds)]


def rates_beyond(grid: Sequence[float], best: Mapping[str, float], extended: Mapping[str, int]) -> dict[str, float]:
    """Return the learning rates by which a grid grows: at each edge where an arm has its best rate.

    Args:
        grid: the learning rates searched so far, ascending, two or more.
        best: each arm's best learning rate.
        extended: how often the grid has grown `below` and `above`, at most EXTENSIONS times each.

    Returns:
        A rate for `below`, for `above`, for both or for neither; it continues the grid in the same ratio.
    """
    beyond = {}
    if grid[0] in best.values() and extended["below"] < EXTENSIONS:
        beyond["below"] = _next_rate(grid[1], grid[0])
    if grid[-1] in best.values() and extended["above"] < EXTENSIONS:
        beyond["above"] = _next_rate(grid[-2], grid[-1])
    return beyond


def _next_rate(before: float, edge: float) -> float:
    return float(f"{edge * edge / before:.3g}")


def _shortest(value: float) -> str:
    """Return the shortest text that reads back as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _label(overrides: tuple[str, ...]) -> str:
    """Return an arm's label: `head=sigmoid,model.dropout=0.1` becomes `sigmoid,dropout=0.1`."""
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+").split("@")[0]
        parts.append(value if "." not in group else f"{group.rpartition('.')[2]}={value}")
    return without_home(",".join(parts))


def _numbers(key: str, values: Sequence[str], kind: Callable[[str], Number], accepted: str) -> tuple[Number, ...]:
    numbers = []
    for value in values:
        try:
            numbers.append(kind(value))
        except ValueError:
            raise ConfigError(f"{key}={value}: must be {accepted}") from None
    require(len(set(numbers)) == len(numbers), key, ",".join(values), "names a value twice")
    return tuple(numbers)
