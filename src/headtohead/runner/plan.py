"""From a command line to runs and packs: arms x learning rates x seeds.

An arm is every swept setting but the seed and the learning rate, which are its repetition and its tuning.
"""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product

from hydra.core.override_parser.overrides_parser import OverridesParser

from headtohead.options import ConfigError, require
from headtohead.record.run import NOT_OF_A_RUN, folder_name

SEED, LR = "seed", "optimizer.lr"
# These say where and how to run, or what to report, not what runs: they are no part of a run's name.
UNNAMED = NOT_OF_A_RUN | {"experiment", "pack_size"}


@dataclass(frozen=True)
class Axes:
    """What a command sweeps.

    Attributes:
        common: the overrides that all runs share.
        arms: for each arm's label its own overrides.
        lrs: the learning rates, empty where the command names none.
        seeds: the seeds, empty where the command names none.
    """

    common: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One run of a study before it is composed. `lr` and `seed` are None where the config decides."""

    arm: str
    overrides: tuple[str, ...]
    lr: float | None
    seed: int | None

    def name(self, common: Sequence[str]) -> str:
        """The folder of the run: its overrides, the arm's first, then the learning rate and the seed."""
        parts = [*self.overrides, *filter(named, common)]
        parts += [f"{LR}={number(self.lr)}"] if self.lr is not None else []
        parts += [f"{SEED}={self.seed}"] if self.seed is not None else []
        return folder_name(",".join(parts))


def named(override: str) -> bool:
    """Whether an override says what is trained, and belongs to the names of the runs."""
    return re.split("[=@]", override.lstrip("+~"))[0] not in UNNAMED


def read_axes(arguments: Sequence[str], params: Mapping[str, object] | None) -> Axes:
    """The axes of a command line; `params`, an experiment's own, yield to it."""
    parser = OverridesParser.create()
    given = parser.parse_overrides(list(arguments))
    keys = {override.get_key_element().lstrip("+") for override in given}
    defaults = [f"{key}={value}" for key, value in (params or {}).items() if key not in keys]

    common: list[str] = []
    swept: dict[str, list[str]] = {}
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    for override in [*parser.parse_overrides(defaults), *given]:
        key, line = override.get_key_element(), override.input_line
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else []
        if key == LR:
            lrs = _numbers(LR, values or [line.partition("=")[2]], float)
        elif key == SEED:
            seeds = _numbers(SEED, values or [line.partition("=")[2]], int)
        elif not values:
            common.append(line)
        elif key in UNNAMED:
            raise ConfigError(f"{line}: {key} cannot be swept; give one value")
        else:
            swept[key] = [f"{key}={value}" for value in values]
    arms = {_label(overrides): overrides for overrides in product(*swept.values())}
    return Axes(tuple(common), arms, lrs, seeds)


def search(axes: Axes) -> list[Run]:
    """Every arm at every learning rate with every seed, in the order of the command."""
    return [
        Run(arm, overrides, lr, seed)
        for (arm, overrides), lr, seed in product(axes.arms.items(), axes.lrs or [None], axes.seeds or [None])
    ]


def next_rate(before: float, edge: float) -> float:
    """The learning rate that continues a grid beyond its edge in the same ratio, to three digits."""
    return float(f"{edge * edge / before:.3g}")


def confirm(arms: Mapping[str, tuple[str, ...]], best: Mapping[str, float], seeds: Sequence[int]) -> list[Run]:
    """Each arm that has a best learning rate at that rate with fresh seeds."""
    return [Run(arm, arms[arm], best[arm], seed) for arm, seed in product(best, seeds)]


def into_packs(
    runs: Iterable[int],
    key: Callable[[int], Hashable],
    seed: Callable[[int], int],
    size: Callable[[int], int],
) -> list[list[int]]:
    """Group runs, given by number, into packs of at most `size` of even length.

    Runs of one pack have equal keys. Runs with the same seed share batches: a seed whose runs fill more than half
    a pack has packs of its own, other seeds stand together.
    """
    groups: dict[Hashable, list[int]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    packs = []
    for group in groups.values():
        group.sort(key=seed)
        most = size(group[0])
        of_seed = [list(same) for _, same in groupby(group, key=seed)]
        alone = [same for same in of_seed if 2 * len(same) > most]
        together = [run for same in of_seed if 2 * len(same) <= most for run in same]
        for part in [*alone, together]:
            count = math.ceil(len(part) / most)
            edges = [round(i * len(part) / count) for i in range(count + 1)] if count else []
            # Within a pack the given order keeps runs of one head side by side: one loss computes them.
            packs += [sorted(part[start:end]) for start, end in pairwise(edges)]
    return packs


def number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _label(overrides: tuple[str, ...]) -> str:
    """`head=sigmoid,model.dropout=0.1` becomes `sigmoid,dropout=0.1`; an empty label is the head's to fill."""
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+").split("@")[0]
        parts.append(value if "." not in group else f"{group.rpartition('.')[2]}={value}")
    return ",".join(parts)


def _numbers(key: str, values: Sequence[str], kind: type) -> tuple:
    numbers = []
    for value in values:
        try:
            numbers.append(kind(value))
        except ValueError:
            raise ConfigError(f"{key}={value}: must be {'a number' if kind is float else 'an integer'}") from None
    require(len(set(numbers)) == len(numbers), key, ",".join(values), "names a value twice")
    return tuple(numbers)
