"""A ladder of arms: what each step from one arm to the next adds to the difference between its ends."""

from dataclasses import dataclass
from itertools import pairwise

from headtohead.analysis.pairing import Unjudged, pair_up
from headtohead.analysis.statistics import Interval
from headtohead.analysis.study import Study
from headtohead.record.study import Claim


@dataclass(frozen=True)
class LadderRow:
    """Steps of one claim's metric along a ladder, paired by seed. They sum to the total.

    Attributes:
        claim: Id of the claim.
        definition: The claim, which names the metric and its margin.
        seeds: Number of seeds that all arms of the ladder share.
        steps: Differences between each arm but the first and the arm before it.
        total: Difference between the last arm and the first.
    """

    claim: str
    definition: Claim
    seeds: int
    steps: tuple[Interval, ...]
    total: Interval


def ladder_rows(study: Study) -> list[LadderRow]:
    """Return a row for every claim whose metric all arms of the ladder have; none where the study has no ladder."""
    arms = study.record.protocol.ladder
    rows = []
    for name, claim in study.record.claims.items() if arms else ():
        try:
            pairs = pair_up(study, claim.metric, claim.phase, arms, claim.selected_by)
        except Unjudged:
            continue
        steps = tuple(pairs.estimate(arm, before).interval(0.95) for before, arm in pairwise(arms))
        total = pairs.estimate(arms[-1], arms[0]).interval(0.95)
        rows.append(LadderRow(name, claim, len(pairs.values), steps, total))
    return rows
