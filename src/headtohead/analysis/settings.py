"""Verdicts across the settings of a study: what its settings together say of a claim, and of a new setting.

The settings of a study are its datasets, models and optimisers: what two arms share that differ in the head alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import special

from headtohead.analysis.claims import Verdict
from headtohead.analysis.estimates import Crossed
from headtohead.analysis.study import Study
from headtohead.analysis.verdicts import decide_measured, level_of_look, look_of

# The keys of a row of `settings` in verdicts.json, in order.
SETTINGS_KEYS = (
    *("claim", "sentence", "metric", "phase", "direction", "margin", "head", "versus_head", "weight", "settings"),
    *("mean_arm", "mean_versus", "difference", "error", "lower", "upper", "confidence", "predicted_lower"),
    *("predicted_upper", "tau", "p", "p_corrected", "p_equivalence", "verdict", "note"),
)


@dataclass(frozen=True, kw_only=True)
class AcrossSettings(Verdict):
    """Verdict on a claim for two heads across settings, each of which counts the same. The arms are named by the heads.

    Attributes:
        settings: Number of settings in which the claim was judged.
        tau: Standard deviation of the true difference between settings, in the metric's unit (Hedges and Olkin, 1985).
        predicted_lower: Lower bound of the interval for the true difference in a new setting; NaN for two settings. It
            takes the spread of the settings' differences for that of the true ones, and so is rather too wide.
        predicted_upper: Upper bound of this interval.
    """

    settings: int
    tau: float
    predicted_lower: float
    predicted_upper: float


def across_settings(study: Study, verdicts: Sequence[Verdict]) -> list[AcrossSettings]:
    """Return a verdict per claim and pair of heads that two or more settings judge, in the order of the claims.

    The claims about a pair of heads are one family of tests.
    """
    level = level_of_look(look_of(study))
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.claim, verdict.head, verdict.versus_head), []).append(verdict)
    families: dict[tuple[str, str], list[AcrossSettings]] = {}
    for (_, head, versus_head), rows in groups.items():
        if sum(row.seeds > 0 for row in rows) > 1:
            families.setdefault((head, versus_head), []).append(_summarise(rows, level))
    decided = [row for family in families.values() for row in decide_measured(family, level)]
    claims = [*study.record.claims]
    return sorted(decided, key=lambda row: claims.index(row.claim))


def _summarise(rows: Sequence[Verdict], level: float) -> AcrossSettings:
    """Return what the settings of one claim and pair of heads say together, not yet corrected and decided."""
    judged = [row for row in rows if row.seeds]
    count, first = len(judged), judged[0]
    estimate = _estimate(judged)
    difference, lower, upper = estimate.interval(1 - level)
    spread = float(np.var([row.difference for row in judged], ddof=1))
    half = math.nan
    if count > 2:
        half = float(special.stdtrit(count - 1, 1 - level / 2)) * math.sqrt(spread + estimate.variance)
    known = {field.name: getattr(first, field.name) for field in fields(Verdict)}
    summary = {
        "arm": first.head,
        "versus": first.versus_head,
        "context": (),
        "seeds": sum(row.seeds for row in judged),
        "examples": None,
        "mean_arm": float(np.mean([row.mean_arm for row in judged])),
        "mean_versus": float(np.mean([row.mean_versus for row in judged])),
        "difference": difference,
        "lower": lower,
        "upper": upper,
        "confidence": 1 - level,
        "error": estimate.error,
        "p": estimate.p(),
        "p_equivalence": estimate.equivalence_p(first.margin),
        "decision": "undecided",
        "next_power": math.nan,
        "needs_examples": None,
        "minimum_detectable": math.nan,
        "note": f"not judged in {len(rows) - count} of {len(rows)} settings" if count < len(rows) else None,
        "differences_SG": None,
        "settings": count,
        "tau": math.sqrt(max(spread - float(np.mean([row.error**2 for row in judged])), 0.0)),
        "predicted_lower": difference - half,
        "predicted_upper": difference + half,
    }
    return AcrossSettings(**known | summary)


def _estimate(rows: Sequence[Verdict]) -> Crossed:
    """Estimate the mean difference over settings, with Student's t: the interval of Hartung and Knapp (2001).

    All settings have the same weight (Bonett, 2009; Shuster, 2010). The error is that of their spread, and at least
    that of their own errors, as Roever, Knapp and Friede (2015) advise. What their own errors have in common adds to
    it, since no spread shows it.
    """
    count = len(rows)
    over_settings = Crossed.over_seeds([row.difference for row in rows])
    alone = sum(row.error**2 for row in rows) / count**2
    together = _joint_variance(rows) / count**2
    spread, own = over_settings.seed_variance + max(together - alone, 0.0), max(together, alone)
    if count == 2:
        # One degree of freedom is too few for Satterthwaite's to rest on.
        return replace(over_settings, seed_variance=max(spread, own))
    return replace(over_settings, seed_variance=spread, floor=own)


def _joint_variance(rows: Sequence[Verdict]) -> float:
    """Return the variance of the sum of the settings' differences, from seeds and blocks.

    Settings of one dataset share its test examples, and with them a part of their errors, which the sum of their
    differences contains. Settings of other datasets may be summed with them: they share nothing.
    """
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = {}
    for row in rows:
        if row.differences_SG is not None:
            by_shape.setdefault(row.differences_SG.shape, []).append(row.differences_SG)
    return sum(_variance(np.sum(differences, axis=0)) for differences in by_shape.values())


def _variance(differences_SG: np.ndarray) -> float:
    """Return the variance of the mean of differences of seeds on blocks, (S, G)."""
    if differences_SG.shape[1] == 1:
        return Crossed.over_seeds(differences_SG[:, 0]).variance
    return Crossed.over_seeds_and_blocks(math.nan, differences_SG).variance
