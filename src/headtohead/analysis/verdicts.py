"""Compare pairs of arms by a metric, correct a family of comparisons, and decide each.

The claims and the answer of a study both use `decide`.

Shape suffixes: S seeds, G blocks of test examples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeVar

import numpy as np

from headtohead.analysis.estimates import Crossed, Estimate, weighted_holm
from headtohead.analysis.pairing import Direction, Pairs, Scope, Unjudged, pair_up
from headtohead.analysis.study import Study

# The share of studies of equal arms that may have a false verdict about a pair, over all looks.
ALPHA = 0.05
# The probability of a decision that a study is planned for.
POWER = 0.8
# So many seeds that only test examples are uncertain.
ENDLESS = 10**6

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
        weight: Share of the family's level, as `Claim.weight`.
        selected_by: Criterion by whose best trials the arms are compared; None for the primary one, or where all
            trials are compared.
        arm: Label of the first arm.
        versus: Label of the other arm.
        seeds: Number of pairs of runs.
        examples: Number of test examples whose choice the interval covers; None where it covers seeds alone.
        mean_arm: Mean of `arm` over these pairs.
        mean_versus: Mean of `versus` over these pairs.
        difference: `arm` minus `versus`, in the metric's unit.
        lower: Lower bound of the difference's interval.
        upper: Upper bound of the difference's interval.
        confidence: Confidence of this interval, in [0, 1]: one minus the level of the look.
        error: Standard error of the difference.
        p: p-value of no difference.
        p_corrected: `p` corrected for the family, by Holm with weights, and for the looks. Below ALPHA the difference
            is real.
        p_equivalence: p-value of a difference beyond the margin, corrected likewise.
        decision: What the comparison says of `arm`.
        next_power: Probability that an undecided comparison is decided at the next look, with twice the seeds, if the
            observed mean and spreads are the true ones.
        needs_examples: Number of test examples with which enough seeds would decide; None where these examples do.
        minimum_detectable: Difference that a study of this size detects with 80 % power after the correction; NaN for
            a share of runs.
        note: What a reader must know; None without a note.
        differences_SG: Differences of seeds on blocks, (S, G), from which the error of several comparisons together
            follows; G = 1 where the interval covers seeds alone.
    """

    metric: str
    phase: Scope
    direction: Direction
    margin: float | None
    weight: float | None = None
    selected_by: str | None = None
    arm: str
    versus: str
    seeds: int = 0
    examples: int | None = None
    mean_arm: float = math.nan
    mean_versus: float = math.nan
    difference: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    confidence: float = math.nan
    error: float = math.nan
    p: float = math.nan
    p_corrected: float = math.nan
    p_equivalence: float = math.nan
    decision: Decision = "undecided"
    next_power: float = math.nan
    needs_examples: int | None = None
    minimum_detectable: float = math.nan
    note: str | None = None
    differences_SG: np.ndarray | None = field(default=None, compare=False, repr=False)

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
            "differences_SG": None if self.differences_SG is None else -self.differences_SG,
        }
        return Comparison(**values | swapped)

    @property
    def outlook(self) -> str:
        """Sentence on what would decide an undecided comparison; empty where that is not known."""
        if self.needs_examples:
            return f"it needs more test examples, about {self.needs_examples:,}"
        if math.isfinite(self.next_power):
            twice = f"{2 * self.seeds} seeds would"
            if self.next_power < 0.05:
                return f"{twice} hardly decide it: they do in fewer than 5 of 100 studies"
            return f"{twice} decide it in about {100 * self.next_power:.0f} of 100 studies"
        return ""


AComparison = TypeVar("AComparison", bound=Comparison)


def look_of(study: Study) -> int:
    """Return the number of the study's last look, from 1 on."""
    return max(1, len(study.record.protocol.looks))


def level_of_look(look: int) -> float:
    """Return the level of the k-th look, alpha / (k (k + 1)), k from 1 on. The levels of all looks sum to alpha."""
    return ALPHA / (look * (look + 1))


def decide(study: Study, family: Sequence[AComparison]) -> list[AComparison]:
    """Complete comparisons that so far name a metric and two arms each.

    They are one family of tests: the correction counts those of them that the study has the runs for and whose weight
    is not 0.
    """
    return decide_pairs([(comparison, _pairs_of(study, comparison)) for comparison in family], look_of(study))


def decide_pairs(family: Sequence[tuple[AComparison, Pairs | Unjudged]], look: int) -> list[AComparison]:
    """Complete comparisons, one family of tests, each from the pairs of its arms or the reason why there are none.

    Args:
        look: number of the look, from 1 on.
    """
    level = level_of_look(look)
    measured = [_measure(comparison, pairs, level) for comparison, pairs in family]
    decided = decide_measured([comparison for comparison, _ in measured], level)
    weights = _weights(decided)
    # Holm holds a test against this share of the level before any other has passed.
    shares = np.where(weights > 0, weights, 1.0)
    return [
        _look_ahead(comparison, estimate, float(share) * level, float(share) * level_of_look(look + 1))
        for comparison, (_, estimate), share in zip(decided, measured, shares, strict=True)
    ]


def decide_measured(family: Sequence[AComparison], level: float) -> list[AComparison]:
    """Correct the p-values of comparisons, which are one family of tests at the level of a look, and decide each."""
    spent = ALPHA / level
    weights = _weights(family)
    tested = weights > 0
    corrected = np.array([comparison.p for comparison in family])
    equivalence = np.array([comparison.p_equivalence for comparison in family])
    corrected[tested] = np.minimum(spent * weighted_holm(corrected[tested], weights[tested]), 1)
    equivalence[tested] = np.minimum(spent * weighted_holm(equivalence[tested], weights[tested]), 1)
    return [
        _decide(replace(comparison, p_corrected=float(p), p_equivalence=float(p_equivalence)))
        for comparison, p, p_equivalence in zip(family, corrected, equivalence, strict=True)
    ]


def _weights(family: Sequence[Comparison]) -> np.ndarray:
    """Return each comparison's share of the level; those that were not measured have none."""
    judged = np.array([bool(comparison.seeds) for comparison in family], dtype=bool)
    given = np.array([math.nan if row.weight is None else row.weight for row in family], dtype=float)
    rest = judged & np.isnan(given)
    left = max(1 - np.nansum(given[judged]), 0.0)
    weights = np.where(rest, left / max(rest.sum(), 1), np.nan_to_num(given)) * judged
    total = weights.sum()
    return weights / total if total else weights


def _pairs_of(study: Study, comparison: Comparison) -> Pairs | Unjudged:
    arms = [comparison.arm, comparison.versus]
    try:
        return pair_up(study, comparison.metric, comparison.phase, arms, comparison.selected_by)
    except Unjudged as reason:
        return reason


def _measure(comparison: AComparison, pairs: Pairs | Unjudged, level: float) -> tuple[AComparison, Estimate | None]:
    """Return a comparison with all that its own runs say, and the estimate behind it."""
    if isinstance(pairs, Unjudged):
        return replace(comparison, note=f"not judged: {pairs}"), None
    arm, versus = comparison.arm, comparison.versus
    estimate = pairs.estimate(arm, versus)
    difference, lower, upper = estimate.interval(1 - level)
    margin = comparison.margin
    measured = replace(
        comparison,
        seeds=len(pairs.values),
        examples=None if pairs.size_G is None else int(pairs.size_G.sum()),
        mean_arm=pairs.mean(arm),
        mean_versus=pairs.mean(versus),
        difference=difference,
        lower=lower,
        upper=upper,
        confidence=1 - level,
        error=estimate.error,
        p=estimate.p(),
        p_equivalence=math.nan if margin is None else estimate.equivalence_p(margin),
        note=pairs.note,
        differences_SG=pairs.differences(arm, versus),
    )
    return measured, estimate


def _decide(comparison: AComparison) -> AComparison:
    """Return a measured comparison with its decision."""
    real = comparison.p_corrected < ALPHA
    if comparison.p_equivalence < ALPHA:
        notes = [comparison.note, "the difference is real, but below the margin" if real else None]
        return replace(comparison, decision="equivalent", note="; ".join(filter(None, notes)) or None)
    if not real:
        return comparison
    better = (comparison.difference > 0) == (comparison.direction == "higher")
    return replace(comparison, decision="better" if better else "worse")


def _look_ahead(comparison: AComparison, estimate: Estimate | None, level: float, next_level: float) -> AComparison:
    """Return a comparison with what its size can detect and, where it is undecided, what would decide it.

    Args:
        level: level that the comparison is held against first, after the correction.
        next_level: this level at the next look.
    """
    if not isinstance(estimate, Crossed):
        return comparison
    detectable = estimate.detectable(level, POWER)
    if comparison.decision != "undecided":
        return replace(comparison, minimum_detectable=detectable)
    margin, examples = comparison.margin, None
    endless = estimate.with_seeds(ENDLESS)
    if comparison.examples and endless.power(next_level, margin) < POWER:
        factor = 2.0
        while endless.with_examples(factor).power(next_level, margin) < POWER and factor < ENDLESS:
            factor *= 2
        examples = int(comparison.examples * factor) if factor < ENDLESS else None
    return replace(
        comparison,
        minimum_detectable=detectable,
        next_power=estimate.with_seeds(2 * estimate.seeds).power(next_level, margin),
        needs_examples=examples,
    )
