"""Format numbers and names for a report."""

import math
from collections.abc import Iterable, Sequence

from headtohead.analysis.statistics import Interval

MINUS = "\N{MINUS SIGN}"
# The most decimals, and the sizes from which on a number has an exponent.
MOST_DECIMALS, TINY, HUGE = 6, 1e-3, 1e7
# Metrics that are shares but no accuracies.
SHARES = (
    "ambiguity_none",
    "ambiguity_several",
    "exact_match",
    "decided_99",
    "diverged_share",
    "stalled",
    "near_best_share",
    "seed_spread",
)


def in_percent(metric: str) -> bool:
    """Return whether a metric is shown in percent, and its differences in points."""
    return metric.endswith(("accuracy", *SHARES))


def decimal(value: float | None, digits: int, signed: bool = False) -> str:
    """Format a number with `digits` decimals, or with three digits and an exponent where it is tiny or huge.

    It is `-` where it is unknown.
    """
    if value is None or not math.isfinite(value):
        return "-"
    sign, size = "+" if signed else "", abs(value)
    if (digits > MOST_DECIMALS and 0 < size < TINY) or size >= HUGE:
        return f"{value:{sign}.3g}".replace("-", MINUS)
    digits = min(digits, MOST_DECIMALS)
    text = f"{value:{sign}.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", MINUS)


def num_decimals(half_width: float, value: float) -> int:
    """Return the decimals that show two significant digits of a half width, or three of the value without one.

    They never show more than four significant digits of the value: nobody reads `1.000004 [1.000003, 1.000005]`.

    Args:
        half_width: Half the width of the value's interval.
        value: A value that is not negative.
    """
    has_width, has_value = (math.isfinite(x) and x > 1e-12 for x in (half_width, value))
    most = 3 - math.floor(math.log10(value)) if has_value else 6
    if has_width:
        digits = 1 - math.floor(math.log10(half_width))
    else:
        digits = most - 1 if has_value else 2
    return max(min(digits, most), 0)


def difference(metric: str, interval: Interval, digits: int | None = None) -> str:
    """Format a signed difference with its interval: `+0.21 [−0.05, +0.47]`, a share in points.

    Args:
        digits: Number of decimals; None takes as many as the interval supports.
    """
    factor = 100 if in_percent(metric) else 1
    mean, lower, upper = (factor * bound for bound in interval)
    digits = num_decimals((upper - lower) / 2, abs(mean)) if digits is None else digits
    text = decimal(mean, digits, signed=True)
    return text if math.isnan(lower) else f"{text} {_bounds(lower, upper, digits)}"


def predicted(metric: str, interval: Interval, lower: float, upper: float) -> str:
    """Format bounds of a prediction with the decimals of the difference that they belong to: `[−0.05, +0.47]`."""
    factor = 100 if in_percent(metric) else 1
    digits = num_decimals(factor * interval.half_width, factor * abs(interval.mean))
    return "-" if math.isnan(lower) else _bounds(factor * lower, factor * upper, digits)


def _bounds(lower: float, upper: float, digits: int) -> str:
    return f"[{decimal(lower, digits, signed=True)}, {decimal(upper, digits, signed=True)}]"


def plus_minus(interval: Interval, scale: float, digits: int) -> str:
    """Format a mean with half the width of its interval: `97.51 ± 0.42`."""
    text = decimal(scale * interval.mean, digits)
    return text if math.isnan(interval.lower) else f"{text} ± {decimal(scale * interval.half_width, digits)}"


def listed(names: Iterable[object], most: int = 5, last: str = "and") -> str:
    """Join names as `a, b and c`; beyond `most` of them, count the rest."""
    names = [str(name) for name in names]
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def short_override(override: str) -> str:
    """Shorten an override: `dataset.classes=10` becomes `classes=10`, and `dataset=wine` becomes `wine`."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}" if "." in key else value


def split_shared(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Split labels of arms into what all share and what is left of each: `x=1` for `x=1,softmax` and `x=1,sigmoid`."""
    parts = [label.split(",") for label in labels]
    shared = [part for part in parts[0] if all(part in others for others in parts)]
    left = [",".join(part for part in own if part not in shared) for own in parts]
    return (", ".join(shared), left) if all(left) else ("", [*labels])


def against(arm: str, versus: str) -> str:
    """Name a pair of arms, what both share first: `x=1: softmax against sigmoid`."""
    shared, (own, other) = split_shared([arm, versus])
    return f"{shared}: {own} against {other}" if shared else f"{own} against {other}"


def rivals(pairs: Iterable[tuple[str, str]]) -> str:
    """Name the second arm of each pair, what both share first: `x=1: sigmoid, sigmoid_prior; x=2: sigmoid`."""
    named: dict[str, list[str]] = {}
    for pair in pairs:
        shared, (_, other) = split_shared(pair)
        named.setdefault(shared, []).append(other)
    return "; ".join(
        f"{shared}: {', '.join(others)}" if shared else ", ".join(others) for shared, others in named.items()
    )


def ranges(integers: Iterable[int]) -> str:
    """Join integers as ranges: `0-9, 20`."""
    parts: list[list[int]] = []
    for integer in sorted(integers):
        if parts and integer == parts[-1][-1] + 1:
            parts[-1].append(integer)
        else:
            parts.append([integer])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)


def plural(count: int, noun: str) -> str:
    """Count things: `1 run`, `2 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def capitalised(text: str) -> str:
    """Return the text with its first letter in upper case; the others keep theirs."""
    return text[:1].upper() + text[1:]
