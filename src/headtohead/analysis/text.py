"""How numbers and names are written in a report."""

import math
from collections.abc import Iterable, Sequence

from headtohead.analysis.statistics import Interval

MINUS = "\N{MINUS SIGN}"


def percent(metric: str) -> bool:
    """Whether a metric is told in percent, and its differences in points."""
    return metric.endswith("accuracy")


def number(value: float, digits: int, signed: bool = False) -> str:
    """A number with so many decimals; `-` where it is not known."""
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", MINUS)


def decimals(half_width: float, value: float) -> int:
    """Decimals that show two significant digits of an interval's half width, or three of the value without one.

    Never more than four significant digits of the value: nobody reads `1.000004 [1.000003, 1.000005]`.
    """
    known = [math.isfinite(x) and x > 1e-12 if x is not None else False for x in (half_width, value)]
    most = 3 - math.floor(math.log10(value)) if known[1] else 6
    if known[0]:
        digits = 1 - math.floor(math.log10(half_width))
    else:
        digits = most - 1 if known[1] else 2
    return min(max(min(digits, most), 0), 6)


def difference(metric: str, interval: Interval, digits: int | None = None) -> str:
    """A signed difference with its interval: `+0.21 [−0.05, +0.47]`, of a share in points.

    Args:
        digits: decimals; as many as the interval supports unless given.
    """
    factor = 100 if percent(metric) else 1
    mean, lower, upper = (math.nan if bound is None else factor * bound for bound in interval)
    digits = decimals((upper - lower) / 2, abs(mean)) if digits is None else digits
    if math.isnan(lower):
        return number(mean, digits, signed=True)
    bounds = ", ".join(number(bound, digits, signed=True) for bound in (lower, upper))
    return f"{number(mean, digits, signed=True)} [{bounds}]"


def plus_minus(interval: Interval, scale: float, digits: int) -> str:
    """`97.51 ± 0.42`."""
    text = number(scale * interval.mean, digits)
    return text if math.isnan(interval.lower) else f"{text} ± {number(scale * interval.half_width, digits)}"


def listed(names: Iterable[object], most: int = 5, last: str = "and") -> str:
    """`a, b and c`, and beyond `most` how many more."""
    names = [str(name) for name in names]
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def setting(override: str) -> str:
    """`dataset.classes=10` becomes `classes=10`, and `dataset=wine` is `wine`."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}" if "." in key else value


def apart(labels: Sequence[str]) -> tuple[str, list[str]]:
    """What all labels of arms share, and what is left of each: of `x=1,softmax` and `x=1,sigmoid` `x=1`."""
    parts = [label.split(",") for label in labels]
    shared = [part for part in parts[0] if all(part in others for others in parts)]
    left = [",".join(part for part in own if part not in shared) for own in parts]
    return (", ".join(shared), left) if all(left) else ("", [*labels])


def against(arm: str, versus: str) -> str:
    """`softmax against sigmoid`, after what both arms share."""
    shared, (own, other) = apart([arm, versus])
    return f"{shared}: {own} against {other}" if shared else f"{own} against {other}"


def rivals(pairs: Iterable[tuple[str, str]]) -> str:
    """The second arm of each pair, after what both share: `x=1: sigmoid, sigmoid_prior; x=2: sigmoid`."""
    named: dict[str, list[str]] = {}
    for pair in pairs:
        shared, (_, other) = apart(pair)
        named.setdefault(shared, []).append(other)
    return "; ".join(
        f"{shared}: {', '.join(others)}" if shared else ", ".join(others) for shared, others in named.items()
    )


def ranges(numbers: Iterable[int] | None) -> str:
    """`0-9, 20`."""
    parts: list[list[int]] = []
    for number in sorted(numbers or []):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def many_runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
