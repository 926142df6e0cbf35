"""Verdicts of a study on the claims that it tests, as verdicts.json holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from headtohead.analysis.pairing import OF_GRID, OF_SPACE
from headtohead.analysis.study import Study
from headtohead.analysis.verdicts import Comparison, Decision, decide
from headtohead.record.study import Claim

Word = Literal["supported", "refuted", "equivalent", "inconclusive"]
VERDICTS: dict[Decision, Word] = {
    "better": "supported",
    "worse": "refuted",
    "equivalent": "equivalent",
    "undecided": "inconclusive",
}
# The keys of a row of verdicts.json, in order.
KEYS = (
    *("claim", "sentence", "metric", "phase", "direction", "margin", "arm", "versus", "head", "versus_head", "context"),
    *("selected_by", "weight", "seeds", "examples", "mean_arm", "mean_versus", "difference", "lower", "upper"),
    *("confidence", "error", "p", "p_corrected", "p_equivalence", "verdict", "next_power", "needs_examples"),
    *("minimum_detectable", "note"),
)


@dataclass(frozen=True, kw_only=True)
class Verdict(Comparison):
    """Verdict of a study on a claim for one pair of arms: a comparison in which the claim favours `arm`.

    Attributes:
        claim: Id of the claim.
        sentence: Sentence of the claim.
        margin: Margin of the claim.
        head: Name of the head of `arm`.
        versus_head: Name of the head of `versus`.
        context: Overrides that both arms share and that tell them from other arms.
    """

    claim: str
    sentence: str
    margin: float
    head: str
    versus_head: str
    context: tuple[str, ...]

    @property
    def verdict(self) -> Word:
        """The decision in the words of a claim."""
        return VERDICTS[self.decision]


def applicable(claims: Mapping[str, Claim], has_space: bool) -> dict[str, Claim]:
    """Return the claims that a study can test: those over a space need ranges, that over a grid is about rates alone.

    Args:
        has_space: Whether the study tunes settings by ranges.
    """
    others = OF_GRID if has_space else OF_SPACE
    return {name: claim for name, claim in claims.items() if claim.metric not in others}


def judge(study: Study) -> list[Verdict]:
    """Return a verdict per claim and pair of arms that differ in the head alone, in the order of the claims.

    The claims about a pair of arms are one family of tests. A family over all pairs would need more seeds for every
    arm that a study adds, whatever its question.
    """
    claims = study.record.claims
    families: dict[tuple[str, str], list[Verdict]] = {}
    for name, claim in claims.items():
        for pair in study.pairs_of(claim.favours):
            families.setdefault(pair, []).append(_open_verdict(study, name, claim, *pair))
    verdicts = [verdict for family in families.values() for verdict in decide(study, family)]
    return sorted(verdicts, key=lambda verdict: [*claims].index(verdict.claim))


def _open_verdict(study: Study, name: str, claim: Claim, arm: str, versus: str) -> Verdict:
    return Verdict(
        claim=name,
        sentence=claim.sentence,
        metric=claim.metric,
        phase=claim.phase,
        direction=claim.direction,
        margin=claim.margin,
        weight=claim.weight,
        selected_by=claim.selected_by if study.tuned else None,
        arm=arm,
        versus=versus,
        head=study.head_of(arm),
        versus_head=study.head_of(versus),
        context=study.context(arm),
    )
