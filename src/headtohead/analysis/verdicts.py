"""Compare pairs of arms by a metric, correct a family of comparisons, and decide each.

The claims and the answer of a study both use `decide`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import numpy as np

from headtohead.analysis import statistics
from headtohead.analysis.pairing import Scope, Unjudged, by_seed
from headtohead.analysis.study import Study

ALPHA = 0.05

Decision = Literal["better", "worse", "equivalent", "undecided"]
REVERSED: dict[Decision, Decision] = {"better": "worse", "worse": "better"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric of an arm against that of another, paired by seed. NaN stands for what is not computed.

    Attributes:
        metric: Column of results.csv, or metric derived from several runs.
        phase: Runs that are compared: "search", "confirm" or "final".
        direction: Whether the better value of the metric is the higher or the lower one.
        margin: Size below which a difference does not matter, in the metric's unit; without one, no arms are
            equivalent.
        arm: Label of the first arm.
        versus: Label of the other arm.
        seeds: Number of pairs of runs.
        mean_arm: Mean of `arm` over these pairs.
        mean_versus: Mean of `versus` over these pairs.
        difference: `arm` minus `versus`, in the metric's unit.
        lower: Lower bound of the difference's 95 % interval.
        upper: Upper bound of the difference's 95 % interval.
        p: p-value of no difference, by sign flips.
        p_corrected: `p` corrected for the family, by Holm.
        p_equivalence: p-value of a difference beyond the margin, corrected likewise.
        decision: What the comparison says of `arm`.
        more_seeds: Number of further seeds that would decide an undecided comparison; None where none in reach would.
        minimum_detectable: Difference that these seeds detect with 80 % power after the correction; NaN where they
            can detect none.
        note: What a reader must know; None without a note.
    """

    metric: str
    phase: Scope
    direction: Literal["higher", "lower"]
    margin: float | None
    arm: str
    versus: str
    seeds: int = 0
    mean_arm: float = math.nan
    mean_versus: float = math.nan
    difference: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    p: float = math.nan
    p_corrected: float = math.nan
    p_equivalence: float = math.nan
    decision: Decision = "undecided"
    more_seeds: int | None = None
    minimum_detectable: float = math.nan
    note: str | None = None

    def from_other_side(self) -> "Comparison":
        """Return the comparison of `versus` with `arm`."""
        values = {field.name: getattr(self, field.name) for field in fields(Comparison)}
        swapped = {
            "arm": self.versus,
            "versus": self.arm,
            "mean_arm": self.mean_versus,
            "mean_versus": self.mean_arm,
            "difference": -self.difference,
            "lower": -self.upper,
            "upper": -self.lower,
            "decision": REVERSED.get(self.decision, self.decision),
        }
        return Comparison(**values | swapped)


AComparison = TypeVar("AComparison", bound=Comparison)


def decide(study: Study, family: Sequence[AComparison]) -> list[AComparison]:
    """Complete comparisons that so far name a metric and two arms each.

    They are one family of tests: Holm's correction counts those of them that the study has the runs for.
    """
    measured = [_measure(study, comparison) for comparison in family]
    corrected = statistics.holm([comparison.p for comparison, _ in measured])
    equivalence = statistics.holm([comparison.p_equivalence for comparison, _ in measured])
    # Holm compares the smallest p-value of a family with this level. A value below it passes whatever the others are.
    level = ALPHA / max(1, int(np.isfinite(corrected).sum()))
    return [
        _decide(replace(comparison, p_corrected=float(p), p_equivalence=float(p_equivalence)), differences, level)
        for (comparison, differences), p, p_equivalence in zip(measured, corrected, equivalence, strict=True)
    ]


def _measure(study: Study, comparison: AComparison) -> tuple[AComparison, np.ndarray]:
    """Return a comparison with all that its own runs say, and the differences behind it, (seeds,)."""
    arm, versus = comparison.arm, comparison.versus
    try:
        pairs, note = by_seed(study, comparison.metric, comparison.phase, [arm, versus])
    except Unjudged as reason:
        return replace(comparison, note=f"not judged: {reason}"), np.empty(0)
    differences = (pairs[arm] - pairs[versus]).to_numpy()
    difference, lower, upper = map(float, statistics.t_interval(differences))
    margin = comparison.margin
    measured = replace(
        comparison,
        seeds=len(pairs),
        mean_arm=float(pairs[arm].to_numpy().mean()),
        mean_versus=float(pairs[versus].to_numpy().mean()),
        difference=difference,
        lower=lower,
        upper=upper,
        p=statistics.sign_flip_p(differences),
        p_equivalence=math.nan if margin is None else statistics.equivalence_p(differences, margin),
        note=note,
    )
    return measured, differences


def _decide(comparison: AComparison, differences: np.ndarray, level: float) -> AComparison:
    """Return a measured comparison with its decision; `level` is that of Holm's first step."""
    if not len(differences):
        return comparison
    notes = [comparison.note] if comparison.note else []
    real = comparison.p_corrected < ALPHA
    attainable = statistics.smallest_sign_flip_p(comparison.seeds) <= level
    decision: Decision = "undecided"
    if comparison.p_equivalence < ALPHA:
        decision = "equivalent"
        if real:
            notes.append("the difference is real, but below the margin")
    elif real:
        decision = "better" if (comparison.difference > 0) == (comparison.direction == "higher") else "worse"
    elif comparison.p < ALPHA and not attainable:
        pairs = comparison.seeds
        notes.append(f"{pairs} pairs cannot reach p < {level:.2g}, which this study's correction asks for")
    more_seeds = None
    if decision == "undecided" and comparison.margin is not None:
        more_seeds = statistics.more_seeds(differences, comparison.margin, level)
    return replace(
        comparison,
        decision=decision,
        more_seeds=more_seeds,
        minimum_detectable=statistics.minimum_detectable_difference(differences, level) if attainable else math.nan,
        note="; ".join(notes) or None,
    )
