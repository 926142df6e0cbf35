"""The space of tuned settings: the ranges of a command line, and the points that are drawn from them.

Shape suffixes: N points, D settings.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override

from headtohead.options import ConfigError, nearest, require
from headtohead.record.files import flat
from headtohead.record.study import Range

if TYPE_CHECKING:  # it imports torch, which takes long
    from headtohead.training.config import Config

# Groups whose numbers may be tuned: another dataset or seed would be another question.
GROUPS = ("optimizer", "training", "model", "head")
# Where the options of a head of the user's own stand, but for those of all heads.
OF_OWN_HEAD = "head.options."
# The seed of the points, which all studies share.
SOBOL_SEED = 0
# Enough to tell any two trials apart, and few enough to be typed again.
DIGITS = 4


@dataclass(frozen=True)
class Setting:
    """A tuned setting at one point of the space: its dotted key and its value."""

    key: str
    value: float


# A point of the space: a value for each of its settings.
Point = tuple[Setting, ...]


def read_range(override: Override) -> Range:
    """Read a range from an override such as `optimizer.lr=tag(log,interval(1e-3,1))`.

    Raises:
        ConfigError: its key cannot be tuned, or its ends are no range.
    """
    line, sweep = override.input_line, override.value()
    assert isinstance(sweep, IntervalSweep)
    key = override.get_key_element().lstrip("+~")
    accepted = f"accepted: numbers of {', '.join(GROUPS)}, such as optimizer.momentum=interval(0.5,0.99)"
    if override.is_delete() or key.partition(".")[0] not in GROUPS or "." not in key or "@" in key:
        raise ConfigError(f"{line}: a range tunes a setting, and {key} cannot be tuned; {accepted}")
    low, high = sweep.start, sweep.end
    if not isinstance(low, float) or not isinstance(high, float):
        raise ConfigError(f"{line}: integers cannot be tuned; {accepted}")
    unknown = ", ".join(sorted(sweep.tags - {"log"}))
    if unknown:
        raise ConfigError(f"{line}: unknown tag {unknown}; accepted: tag(log,interval(LOW,HIGH))")
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"{line}: no range; accepted: interval(LOW,HIGH) with finite ends, the lower one first")
    log = "log" in sweep.tags
    if log and low <= 0:
        raise ConfigError(f"{line}: the logarithm of {low:g} is not finite; accepted: a lower end above 0")
    return Range(low, high, log)


def points(space: Mapping[str, Range], count: int) -> tuple[Point, ...]:
    """Return the first points of a space: a scrambled Sobol sequence (Owen 1998), rounded to DIGITS digits.

    The points are the same whatever their number, so that more of them extend a study.
    """
    if not space:
        return ()
    from scipy.stats import qmc  # takes as long to import as a small study to plan

    keys = sorted(space)
    sequence = qmc.Sobol(len(keys), scramble=True, rng=SOBOL_SEED)
    unit_ND = sequence.random_base2(math.ceil(math.log2(max(count, 2))))[:count]
    values_ND = np.stack([_scaled(unit_ND[:, place], space[key]) for place, key in enumerate(keys)], 1)
    return tuple(tuple(map(Setting, keys, row_D)) for row_D in values_ND.tolist())


def _scaled(unit_N: np.ndarray, of: Range) -> np.ndarray:
    """Return values in a range from numbers in [0, 1)."""
    if of.log:
        values_N = np.exp(math.log(of.low) + unit_N * (math.log(of.high) - math.log(of.low)))
    else:
        values_N = of.low + unit_N * (of.high - of.low)
    rounded_N = np.array([float(f"{value:.{DIGITS}g}") for value in values_N])
    return rounded_N.clip(of.low, of.high)


def applied(config: "Config", values: dict[str, Any], point: Point) -> "Config":
    """Return a configuration at a point of the space, and write the point to its plain `values`.

    Raises:
        ConfigError: a value is not accepted.
    """
    for setting in point:
        group, _, name = setting.key.partition(".")
        name = name.removeprefix("options.") if setting.key.startswith(OF_OWN_HEAD) else name
        config = replace(config, **{group: replace(getattr(config, group), **{name: setting.value})})
        *path, last = setting.key.split(".")
        of_group = values
        for part in path:
            of_group = of_group[part]
        of_group[last] = setting.value
    return config


def tunable(config: "Config") -> frozenset[str]:
    """Return the settings of a configuration that can be tuned, numbers with a fraction, by dotted key."""
    return _tunable(*(type(getattr(config, group)) for group in GROUPS))


@cache
def _tunable(*classes: type) -> frozenset[str]:
    from headtohead.training.heads import HEADS, Head

    keys, of_all_heads = set(), {field.name for field in fields(Head)}
    for group, cls in zip(GROUPS, classes, strict=True):
        hints = get_type_hints(cls)
        names = [field.name for field in fields(cls) if _is_fraction(hints[field.name])]
        own = group == "head" and cls not in HEADS.values()
        keys |= {f"{OF_OWN_HEAD if own and name not in of_all_heads else f'{group}.'}{name}" for name in names}
    return frozenset(keys)


def _is_fraction(hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return float in kinds and {*kinds} <= {float, type(None)}


def check_space(space: Mapping[str, Range], trials: int, arms: Sequence[tuple["Config", Mapping[str, Any]]]) -> None:
    """Refuse a space that is not one of the arms, or has too few trials.

    Args:
        trials: the number of points.
        arms: the configuration of a run of each arm, and its plain values.

    Raises:
        ConfigError: a setting cannot be tuned, no arm has it, or there are fewer trials than settings.
    """
    known = {key for config, _ in arms for key in tunable(config)}
    for key, of in space.items():
        if any(key not in tunable(config) and key in flat(values) for config, values in arms):
            reason = "only numbers with a fraction can be tuned, no shapes, batches or words"
            raise ConfigError(f"{key}={of.override}: {reason}; {nearest(key, known)}")
        require(key in known, key, of.override, f"no arm has this setting; {nearest(key, known)}")
    accepted = f"{len(space)} or more, as many as the settings that are tuned: {', '.join(space)}"
    require(trials >= len(space), "protocol.trials", trials, accepted)
