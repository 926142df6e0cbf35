"""The space of tuned settings: the ranges of a command line, and the points that are drawn from them.

Shape suffixes: N points, D settings.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from headtohead.options import ConfigError, nearest, require
from headtohead.record.study import Range
from headtohead.training.config import Config

# Groups whose numbers may be tuned: another dataset or seed would be another question.
GROUPS = ("optimizer", "training", "model", "head")
# Where the options of a head of the user's own stand.
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
    groups = f"accepted: ranges of numbers of {', '.join(GROUPS)}, such as optimizer.momentum=interval(0.5,0.99)"
    if override.is_delete() or key.partition(".")[0] not in GROUPS or "." not in key or "@" in key:
        raise ConfigError(f"{line}: {key} cannot be tuned; {groups}")
    low, high = sweep.start, sweep.end
    if isinstance(low, int) or isinstance(high, int):
        raise ConfigError(f"{line}: only numbers with a fraction can be tuned, not integers; {groups}")
    others = sweep.tags - {"log"}
    require(not others, key, f"tag({','.join(sorted(others))},...)", "accepted: tag(log,interval(LOW,HIGH))")
    require(low is not None and high is not None and math.isfinite(low) and math.isfinite(high), key, line,
            "the ends of a range must be finite")  # fmt: skip
    assert low is not None and high is not None
    require(low < high, key, f"interval({low:g},{high:g})", "the lower end must come first, below the upper one")
    log = "log" in sweep.tags
    require(low > 0 or not log, key, f"tag(log,interval({low:g},{high:g}))", "a logarithm needs a lower end above 0")
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


def has(node: DictConfig, key: str) -> bool:
    """Return whether a composed configuration has a tuned setting: another head may have other numbers."""
    if key.startswith(OF_OWN_HEAD):
        return node.head.get("name") == "factory"
    group, _, name = key.rpartition(".")
    parent = OmegaConf.select(node, group)
    return isinstance(parent, DictConfig) and name in parent


def applied(config: Config, values: dict[str, Any], point: Point) -> Config:
    """Return a configuration at a point of the space, and write the point to its plain `values`.

    Raises:
        ConfigError: a value is not accepted.
    """
    for setting in point:
        group, _, name = setting.key.partition(".")
        name = name.removeprefix("options.") if setting.key.startswith(OF_OWN_HEAD) else name
        require_tunable(config, setting.key)
        config = replace(config, **{group: replace(getattr(config, group), **{name: setting.value})})
        *path, last = setting.key.split(".")
        of_group = values
        for part in path:
            of_group = of_group[part]
        of_group[last] = setting.value
    return config


def require_tunable(config: Config, key: str) -> None:
    """Refuse to tune what is no number with a fraction.

    Raises:
        ConfigError: the key names a word, an integer such as a width, or nothing.
    """
    known = tunable(config)
    if key not in known:
        reason = "shapes, batches and words cannot be tuned, only numbers with a fraction"
        raise ConfigError(f"{key}: {reason}; {nearest(key, known)}")


def tunable(config: Config) -> list[str]:
    """List the settings of a configuration that can be tuned, by dotted key."""
    keys = []
    for group in GROUPS:
        part = getattr(config, group)
        own = group == "head" and type(part).__module__ != "headtohead.training.heads"
        common = {"label_smoothing", "prior_bias"}
        hints = get_type_hints(type(part))
        names = [field.name for field in fields(part) if _is_fraction(hints[field.name])]
        keys += [f"{group}.{'options.' if own and name not in common else ''}{name}" for name in names]
    return keys


def _is_fraction(hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return float in kinds and {*kinds} <= {float, type(None)}


def check_space(space: Mapping[str, Range], trials: int, having: Mapping[str, Sequence[str]]) -> None:
    """Refuse a space that no trial can fill.

    Args:
        trials: the number of points.
        having: for each setting of the space the arms that have it.

    Raises:
        ConfigError: an arm has fewer trials than settings, or no arm has a setting.
    """
    for key in space:
        require(having[key], key, "a range", "no arm has this setting; leave it out")
    accepted = f"{len(space)} or more, as many as the settings that are tuned: {', '.join(space)}"
    require(trials >= len(space), "protocol.trials", trials, accepted)
