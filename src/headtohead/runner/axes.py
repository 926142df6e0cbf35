"""Axes of a command line: arms x trials x seeds x folds, and the runs that they span.

An arm is every swept setting but the seed and the fold, which are its repetition, and the tuned ones: the learning rate
and what is given as a range.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from math import prod
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep

from headtohead.options import ConfigError, require
from headtohead.record.files import folder_name, without_home
from headtohead.record.run import NOT_OF_A_RUN
from headtohead.record.study import Range, Trial
from headtohead.runner.asked import check_choice
from headtohead.runner.space import Point, read_range

SEED, FOLD, LR, TRIAL = "seed", "fold", "optimizer.lr", "trial"
# Keys that say where and how to run, or what to report, not what runs: they are no part of a run's name.
UNNAMED = NOT_OF_A_RUN | {"pack_size"}
# Groups that belong to the study as a whole.
OF_THE_STUDY = {"claims", "protocol", "experiment"}
# The most runs of a study: more would only fill the memory.
MOST_RUNS = 1_000_000
# Texts that Hydra's grammar reads as themselves without quotes, but for the words of other types.
PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)
# How often the grid of learning rates may grow on either side.
EXTENSIONS = 2

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Axes:
    """The settings that a command sweeps, and those that all its runs share.

    Attributes:
        common: the overrides that all runs share.
        arms: for each arm's label its own overrides.
        lrs: the learning rates that are listed; empty where the command lists none.
        seeds: the seeds; empty where the command names none.
        folds: the folds; empty where the command names none.
        space: the ranges of the settings that are tuned by ranges, by dotted key.
    """

    common: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...] = ()
    space: dict[str, Range] = field(default_factory=dict)

    @property
    def is_single(self) -> bool:
        """Whether the command asks for one run."""
        return not self.space and all(len(axis) <= 1 for axis in (self.arms, self.lrs, self.seeds, self.folds))

    def summary(self, trials: int) -> str:
        """Return in a line how many arms, trials and seeds there are.

        Args:
            trials: the number of points of the space, if there is one.
        """
        if self.is_single:
            return "one run"
        rates = max(1, len(self.lrs))
        counts = {"arm": len(self.arms), "seed": max(1, len(self.seeds)), "fold": max(1, len(self.folds))}
        if self.is_tuned:
            counts = {"arm": counts["arm"], "trial": rates * (trials if self.space else 1), **counts}
        parts = [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count > 1 or name != "fold"]
        return " x ".join(parts)

    @property
    def is_tuned(self) -> bool:
        """Whether there are trials to choose from."""
        return len(self.lrs) > 1 or bool(self.space)


@dataclass(frozen=True)
class Run:
    """One run of a study before its configuration is composed.

    Attributes:
        arm: the label of its arm; empty if the arm has no overrides.
        overrides: those of its arm.
        lr: the learning rate of a list; None where the configuration or the point decides.
        seed: the seed; None where the configuration decides.
        fold: the fold; None where the configuration decides.
        trial: the number of the point of the space, from 1 on; 0 without one.
        point: the point of the space, with the settings that the arm may lack.
    """

    arm: str
    overrides: tuple[str, ...]
    lr: float | None
    seed: int | None
    fold: int | None = None
    trial: int = 0
    point: Point = ()

    def name(self, common: Sequence[str]) -> str:
        """Return the name of the run's folder: the arm's overrides, the common ones, the trial, seed and fold.

        The first fold is not named, so that a run is the same one beside other folds and alone.
        """
        overrides = [*self.overrides, *filter(is_named, common)]
        numbers = [f"{LR}={_shortest(self.lr)}"] if self.lr is not None else []
        numbers += [f"{TRIAL}={self.trial}"] if self.trial else []
        numbers += [f"{SEED}={self.seed}"] if self.seed is not None else []
        numbers += [f"{FOLD}={self.fold}"] if self.fold else []
        named = [folder_name(",".join(overrides))] if overrides or not numbers else []
        return ",".join([*named, *numbers])


def is_named(override: str) -> bool:
    """Return whether an override says what is trained, and so belongs to the names of the runs."""
    key = re.split("[=@]", override.lstrip("+~"))[0]
    return key not in UNNAMED and key.partition(".")[0] not in OF_THE_STUDY


def read_axes(
    arguments: Sequence[str], params: Mapping[str, object] | None, loader: ConfigLoader | None = None
) -> Axes:
    """Read the axes of a command line.

    Args:
        arguments: the overrides of the command line.
        params: the axes of an experiment; the command line has precedence over them.
        loader: lists the options of a config group, for `glob(...)`.

    Raises:
        ConfigError: a learning rate, a seed or a fold is no number, a key or a value occurs twice, or a key cannot be
            swept.
    """
    parser = OverridesParser.create(loader)
    given = parser.parse_overrides(list(arguments))
    keys = [_bare_key(override) for override in given]
    for key, count in Counter(keys).items():
        require(count == 1, key, ", ".join(_value(o) for o in given if _bare_key(o) == key), "given twice; give one")
    require(params is None or isinstance(params, Mapping), "hydra.sweeper.params", params, "must be keys with values")
    defaults = parser.parse_overrides([f"{key}={value}" for key, value in (params or {}).items() if key not in keys])
    for override in defaults:
        check_choice(override, None)

    common: list[str] = []
    swept: dict[str, list[str]] = {}
    space: dict[str, Range] = {}
    numbers: dict[str, list[str]] = {LR: [], SEED: [], FOLD: []}
    for override in [*defaults, *given]:
        key, line = override.get_key_element(), override.input_line or ""
        if override.is_interval_sweep():
            space[_bare_key(override)] = read_range(override)
            continue
        values = _values(override) if override.is_sweep_override() else []
        if _sets_a_number(override):
            numbers[_bare_key(override)] = [_unquoted(value) for value in values or [_value(override)]]
        elif not values:
            common.append(line)
        elif len(values) == 1:
            common.append(f"{key}={values[0]}")
        else:
            _refuse_unswept(override)
            swept[key] = [f"{key}={value}" for value in values]
    lrs = _numbers(LR, numbers[LR], float, "a number")
    seeds, folds = (_numbers(key, numbers[key], int, "an integer") for key in (SEED, FOLD))
    count = prod(map(len, swept.values())) * prod(max(1, len(axis)) for axis in (lrs, seeds, folds))
    require(count <= MOST_RUNS, "the sweep", f"{count} runs", f"accepted: at most {MOST_RUNS}")
    arms = {_label(overrides): overrides for overrides in product(*swept.values())}
    return Axes(tuple(common), arms, lrs, seeds, folds, space)


def _bare_key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _value(override: Override) -> str:
    return (override.input_line or "").partition("=")[2]


def _sets_a_number(override: Override) -> bool:
    """Return whether an override gives learning rates, seeds or folds as numbers, not by reference to another key."""
    is_value = override.get_key_element().removeprefix("++") in (LR, SEED, FOLD)
    refers = _bare_key(override) == FOLD and "${" in _value(override)
    require(not refers, FOLD, _value(override), "may not refer to another key; accepted: numbers, such as 0,1")
    return is_value and (override.is_sweep_override() or "${" not in _value(override))


def _refuse_unswept(override: Override) -> None:
    """Refuse to sweep what belongs to the study, or says where and how it runs."""
    key, line = _bare_key(override), override.input_line
    group = re.split("[.@]", key)[0]
    if group in OF_THE_STUDY or key in UNNAMED - {"dataset.root", "dataset.path"}:
        raise ConfigError(f"{line}: {key} cannot be swept, as it is no setting of a run; give one value")


def _values(override: Override) -> list[str]:
    """Return the values of a sweep in Hydra's grammar, such that each is read back as itself."""
    line = override.input_line
    swept: Any = override.value()
    if any(isinstance(value, Sweep) for value in getattr(swept, "list", ())):
        raise ConfigError(f"{line}: a list of values, each an arm, or one range, which is tuned; not both")
    try:
        values = [_text(value) for value in islice(override.sweep_iterator(), MOST_RUNS + 1)]
    except ValueError as error:
        raise ConfigError(f"{line}: {error}; accepted: such as range(3) or range(1,10,2)") from None
    require(values, _bare_key(override), _value(override), "sweeps no value")
    require(len(values) <= MOST_RUNS, _bare_key(override), _value(override), f"more than {MOST_RUNS} values")
    repeated = [value for value, count in Counter(values).items() if count > 1]
    require(not repeated, _bare_key(override), ",".join(repeated), "names a value twice")
    return values


def _text(value: Any) -> str:
    """Return a parsed value in Hydra's grammar. Text has quotes where characters or the type need them."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        # The grammar has no quotes in keys.
        return (
            f"{{{','.join(f'{Override._get_value_element_as_str(key)}:{_text(item)}' for key, item in value.items())}}}"
        )
    text = value.text if isinstance(value, QuotedString) else value
    if not isinstance(text, str):
        return Override._get_value_element_as_str(value)
    return text if PLAIN.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def search(axes: Axes, points: Sequence[Point] = ()) -> list[Run]:
    """Return every arm at every trial with every seed, in the order of the command.

    Args:
        points: the points of the space; none where the command tunes no range.
    """
    numbered = [*enumerate(points, 1)] or [(0, ())]
    return [
        Run(arm, overrides, lr, seed, trial=trial, point=point)
        for (arm, overrides), lr, (trial, point), seed in product(
            axes.arms.items(), axes.lrs or [None], numbered, axes.seeds or [None]
        )
    ]


def confirm(
    arms: Mapping[str, tuple[str, ...]],
    trials: Mapping[str, Trial],
    seeds: Sequence[int],
    axes: Axes,
    points: Sequence[Point] = (),
) -> list[Run]:
    """Return each arm that has a trial at it, with fresh seeds."""
    return [at_trial(Run(arm, arms[arm], None, seed), trials[arm], axes, points) for arm in trials for seed in seeds]


def at_trial(run: Run, trial: Trial, axes: Axes, points: Sequence[Point] = ()) -> Run:
    """Return a run at another trial."""
    point = points[trial.number - 1] if trial.number else ()
    return replace(run, lr=trial.lr if axes.lrs else None, trial=trial.number, point=point)


def rates_beyond(
    grid: Sequence[float], best: Mapping[str, Iterable[float]], extended: Mapping[str, int]
) -> dict[str, float]:
    """Return the learning rates by which a grid grows: at each edge where an arm has its best rate.

    Args:
        grid: the learning rates searched so far, ascending; of a grid of fewer than two rates none grows.
        best: each arm's best learning rates, one for each criterion.
        extended: how often the grid has grown `below` and `above`, at most EXTENSIONS times each.

    Returns:
        A rate for `below`, for `above`, for both or for neither; it continues the grid in the same ratio.
    """
    beyond, rates = {}, {rate for rates in best.values() for rate in rates}
    if len(grid) < 2:
        return beyond
    if grid[0] in rates and extended["below"] < EXTENSIONS:
        beyond["below"] = _next_rate(grid[1], grid[0])
    if grid[-1] in rates and extended["above"] < EXTENSIONS:
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
