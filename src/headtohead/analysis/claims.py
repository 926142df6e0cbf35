"""From claims to verdicts: each sentence of the article against the runs of a study."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from headtohead.analysis import statistics
from headtohead.analysis.study import Study
from headtohead.options import ConfigError, build, nearest, require
from headtohead.record import run as record

ALPHA = 0.05


@dataclass(frozen=True)
class Claim:
    """What the article says of one head against every other.

    Attributes:
        sentence: in the article's words.
        metric: a column of results.csv, or a key of DERIVED.
        phase: "confirm" judges each arm at its best learning rate, "search" over the whole grid.
        direction: of the favoured head's metric, "higher" or "lower".
        margin: differences within it do not matter; in the metric's unit, fixed before any run.
        favours: the head that the article prefers, as in `head=softmax`.
    """

    sentence: str
    metric: str
    phase: str
    direction: str
    margin: float
    favours: str

    def __post_init__(self):
        require(self.phase in ("search", "confirm"), "claim.phase", self.phase, "must be search or confirm")
        require(self.direction in ("higher", "lower"), "claim.direction", self.direction, "must be higher or lower")
        holds = math.isfinite(self.margin) and self.margin > 0
        require(holds, "claim.margin", self.margin, "must be positive and finite, in the metric's unit")


@dataclass(frozen=True)
class Verdict:
    """What a study says of a claim for one pair of arms. NaN stands where nothing could be computed.

    Attributes:
        claim: its id; the next five repeat what it asks.
        arm: the side that the article favours.
        versus: the other arm.
        head, versus_head: of the two arms.
        context: the overrides that both share, and that tell them from other arms.
        seeds: pairs of runs.
        mean_arm, mean_versus: over these pairs.
        difference: `arm` minus `versus` in the metric's unit, with `lower` and `upper` of its 95 % interval.
        p: of no difference, by sign flips; `p_corrected` by Holm over the claims of the pair of arms.
        p_equivalence: that the difference exceeds the margin, corrected likewise.
        verdict: "supported", "refuted", "equivalent" or "inconclusive".
        more_seeds: that would decide, where inconclusive; None if no reasonable number would.
        minimum_detectable: difference that these seeds find with 80 % power after the correction; NaN where they
            are too few to find any.
        note: what a reader of the verdict must know.
    """

    claim: str
    sentence: str
    metric: str
    phase: str
    direction: str
    margin: float
    arm: str
    versus: str
    head: str = ""
    versus_head: str = ""
    context: tuple[str, ...] = ()
    seeds: int = 0
    mean_arm: float = math.nan
    mean_versus: float = math.nan
    difference: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    p: float = math.nan
    p_corrected: float = math.nan
    p_equivalence: float = math.nan
    verdict: str = "inconclusive"
    more_seeds: int | None = None
    minimum_detectable: float = math.nan
    note: str | None = None


class Unjudged(Exception):
    """The runs do not hold what a claim needs. The message says what is missing."""


def judge(study: Study) -> list[Verdict]:
    """A verdict per claim and pair of arms that differ in the head alone, in the order of the claims.

    Raises:
        ConfigError: a claim of study.json is wrong.
    """
    try:
        claims = read_claims(study.asked["claims"])
    except ConfigError as error:
        raise ConfigError(f"{study.folder / 'study.json'}: {error}") from error
    pairs = [(key, claim, *arms) for key, claim in claims.items() for arms in pairs_of(study, claim.favours)]
    compared = [_compare(study, *pair) for pair in pairs]
    decided: list[Verdict | None] = [None] * len(compared)
    for rows in _families(compared):
        corrected = statistics.holm([compared[row][0].p for row in rows])
        equivalence = statistics.holm([compared[row][0].p_equivalence for row in rows])
        # Holm holds the smallest p-value of a family against this level: who reaches it passes in any case.
        level = ALPHA / max(1, int(np.isfinite(corrected).sum()))
        for row, p, p_equivalence in zip(rows, corrected, equivalence, strict=True):
            verdict, differences = compared[row]
            verdict = replace(verdict, p_corrected=float(p), p_equivalence=float(p_equivalence))
            decided[row] = _decide(verdict, differences, level)
    return decided


def _families(compared: Sequence[tuple[Verdict, np.ndarray]]) -> list[list[int]]:
    """The rows of each pair of arms: the claims about two heads are one family of tests.

    A family over all pairs would need more seeds for every arm that a study adds, whatever its question.
    """
    families: dict[tuple[str, str], list[int]] = {}
    for row, (verdict, _) in enumerate(compared):
        families.setdefault((verdict.arm, verdict.versus), []).append(row)
    return list(families.values())


def write_verdicts(study: Study) -> list[Verdict]:
    """Judge a study, write its verdicts.json, and return the verdicts."""
    verdicts = judge(study)
    text = record.to_json({"claims": [asdict(verdict) for verdict in verdicts]})
    record.write_atomically(study.folder / "verdicts.json", text)
    return verdicts


def read_claims(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Claim]:
    """Checked claims from their configuration, the node `claims`.

    Raises:
        ConfigError: a claim has an unknown or missing key, or a value that is not accepted.
    """
    claims = {}
    for key, fields in nodes.items():
        require(isinstance(fields, Mapping), f"claims.{key}", fields, "must be a mapping of a claim's keys")
        try:
            claims[key] = build(Claim, OmegaConf.create(dict(fields)), f"claims.{key}")
        except ConfigError as error:
            raise ConfigError(str(error).replace("claim.", f"claims.{key}.", 1)) from None
    return claims


def context(study: Study, arm: str) -> tuple[str, ...]:
    """What an arm is besides its head."""
    return tuple(item for item in study.asked["arms"][arm] if not item.startswith("head="))


def head_of(study: Study, arm: str) -> str:
    """The name of an arm's head; the arm's own where its overrides name none."""
    chosen = [item.partition("=")[2] for item in study.asked["arms"][arm] if item.startswith("head=")]
    return chosen[-1] if chosen else arm


def pairs_of(study: Study, head: str) -> list[tuple[str, str]]:
    """Pairs of arms that differ in nothing but the head: one of `head` and one of another."""
    favoured = [arm for arm in study.arms if head_of(study, arm) == head]
    others = [arm for arm in study.arms if head_of(study, arm) != head]
    return [(arm, other) for arm in favoured for other in others if context(study, arm) == context(study, other)]


def _phase(study: Study, phase: str) -> pd.DataFrame:
    """The runs of a phase. In a study without a search all runs are of the phase run, and confirm."""
    phases = ["confirm", "run"] if phase == "confirm" else ["search"]
    return study.finite[study.finite.phase.isin(phases)]


# Derived metrics: from a study and the runs of two arms in one phase to a value per run, NaN where it cannot be
# had, and a note. What belongs to a whole grid is repeated for each of its runs.


def _diverged_share(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    return (runs.status == "diverged").astype(float), None


def _lr_sensitivity(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Per arm and seed over the grid of learning rates; NaN where a run of the grid is missing."""
    rates = runs.lr.nunique()
    if rates < 2:
        raise Unjudged("lr_sensitivity needs a grid of learning rates: its phase must be search")
    num_classes = _num_classes(study, runs, "lr_sensitivity")

    def sensitivity(nll: pd.Series) -> float:
        complete = nll.count() == rates
        return statistics.learning_rate_sensitivity(nll.to_numpy(), num_classes[nll.index[0]]) if complete else math.nan

    return _column(runs, "val_nll").groupby([runs.arm, runs.seed]).transform(sensitivity), None


def _stalled(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Whether a run has covered less than a tenth of the way from a guess, as which diverged ones count."""
    nll = _column(runs, "val_nll")
    stalled = nll > 0.9 * np.log(_num_classes(study, runs, "stalled"))
    return stalled.astype(float).where(nll.notna()), None


def _seed_spread(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Distance of the validation accuracy from its median over seeds (Brown and Forsythe, 1974)."""
    accuracy = _column(runs, "val_accuracy")
    return (accuracy - accuracy.groupby([runs.arm, runs.lr]).transform("median")).abs(), None


def _time_to_target(unit: str, study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """First reach of a share of the best arm's accuracy, in the history's column `unit`."""
    arms = [arm for arm in study.arms if context(study, arm) == context(study, runs.arm.iloc[0])]
    tuning = study.results[study.results.arm.isin(arms) & (study.results.phase != "confirm")]
    _column(tuning, "val_accuracy")
    target = statistics.target_accuracy(tuning)
    times, horizon, unread = pd.Series(math.nan, index=runs.index), 0.0, 0
    for index, name in runs.run[runs.status != "failed"].items():
        try:
            history = record.read_history(study.folder / "runs" / name)
            time, accuracy = history[unit].astype(float), history["val/accuracy"].astype(float)
        except (OSError, ValueError, KeyError):
            unread += 1
            continue
        times[index] = statistics.first_reach(time, accuracy, target)
        horizon = max(horizon, time.max())
    unreached = int(np.isinf(times).sum())
    note = f"target: {target:.3g} validation accuracy"
    if unreached:
        note += f"; {unreached} of {times.count()} runs never reach it and count at the horizon, {horizon:g} {unit}s"
    if unread:
        note += f"; {unread} runs have no readable history.csv with {unit} and val/accuracy"
    return pd.Series(statistics.restricted_times(times, horizon), index=runs.index), note


DERIVED = {
    "diverged_share": _diverged_share,
    "lr_sensitivity": _lr_sensitivity,
    "stalled": _stalled,
    "seed_spread": _seed_spread,
    "steps_to_target": partial(_time_to_target, "step"),
    "epochs_to_target": partial(_time_to_target, "epoch"),
}


def _num_classes(study: Study, runs: pd.DataFrame, metric: str) -> pd.Series:
    """Of each run."""
    if not {*runs.arm} <= {*study.num_classes}:
        raise Unjudged(f"{metric} needs num_classes, which study.json lacks")
    return runs.arm.map(study.num_classes)


def _column(runs: pd.DataFrame, metric: str) -> pd.Series:
    if metric not in runs:
        known = [*(name for name in runs if name not in record.COLUMNS), *DERIVED]
        raise Unjudged(f"no run has the metric {metric}; {nearest(metric, known)}")
    return runs[metric]


def _compare(study: Study, key: str, claim: Claim, arm: str, versus: str) -> tuple[Verdict, np.ndarray]:
    """A verdict with all that one pair of arms says by itself, and the differences, (seeds,), behind it."""
    asked = {name: getattr(claim, name) for name in ("sentence", "metric", "phase", "direction", "margin")}
    heads = {"head": head_of(study, arm), "versus_head": head_of(study, versus), "context": context(study, arm)}
    open_verdict = Verdict(key, **asked, arm=arm, versus=versus, **heads)
    try:
        pairs, note = by_seed(study, claim, [arm, versus])
    except Unjudged as reason:
        return replace(open_verdict, note=f"not judged: {reason}"), np.empty(0)
    differences = (pairs[arm] - pairs[versus]).to_numpy()
    difference, lower, upper = map(float, statistics.t_interval(differences))
    judged = replace(
        open_verdict,
        seeds=len(pairs),
        mean_arm=float(pairs[arm].mean()),
        mean_versus=float(pairs[versus].mean()),
        difference=difference,
        lower=lower,
        upper=upper,
        p=statistics.sign_flip_p(differences),
        p_equivalence=statistics.equivalence_p(differences, claim.margin),
        note=note,
    )
    return judged, differences


def by_seed(study: Study, claim: Claim, arms: Sequence[str]) -> tuple[pd.DataFrame, str | None]:
    """The claim's metric, a row per seed that all `arms` share and a column per arm, and a note.

    In the search a seed's value is the mean over those learning rates at which all arms have one.

    Raises:
        Unjudged: the runs do not hold it.
    """
    runs = _phase(study, claim.phase)
    if runs.empty:
        raise Unjudged(f"the study has no runs of the phase {claim.phase}")
    runs = runs[runs.arm.isin(arms)]
    if runs.empty:
        raise Unjudged(f"no arm has a run of the phase {claim.phase}")
    derive = DERIVED.get(claim.metric, lambda _, runs: (_column(runs, claim.metric), None))
    values, note = derive(study, runs)
    runs = runs.assign(value=values.where(runs.status != "failed"))
    # In the phase confirm each arm has a learning rate of its own.
    cell = ["seed", "lr"] if claim.phase == "search" else ["seed"]
    table = runs.groupby([*cell, "arm"]).value.mean().unstack("arm").reindex(columns=list(arms))
    measured = table.dropna()
    notes = [note] if note else []
    if len(measured) < len(table):
        lacking = runs.status[runs.value.isna() & (runs.status != "finished")].value_counts()
        reasons = "".join(f", {count} {status}" for status, count in lacking.items())
        notes.append(f"{len(table) - len(measured)} of {len(table)} pairs of runs lack {claim.metric}{reasons}")
    pairs = measured.groupby("seed").mean()
    if len(pairs) < 2:
        raise Unjudged("; ".join([f"{len(pairs)} pairs of seeds have {claim.metric}, at least 2 are needed", *notes]))
    return pairs, "; ".join(notes) or None


def _decide(verdict: Verdict, differences: np.ndarray, level: float) -> Verdict:
    """Complete a verdict that has its corrected p-values; `level` is that of Holm's first step."""
    if not len(differences):
        return verdict
    notes = [verdict.note] if verdict.note else []
    real = verdict.p_corrected < ALPHA
    attainable = statistics.smallest_sign_flip_p(verdict.seeds) <= level
    if verdict.p_equivalence < ALPHA:
        outcome = "equivalent"
        if real:
            notes.append("the difference is real, but below the margin")
    elif real:
        outcome = "supported" if (verdict.difference > 0) == (verdict.direction == "higher") else "refuted"
    else:
        outcome = "inconclusive"
        if verdict.p < ALPHA and not attainable:
            notes.append(f"{verdict.seeds} pairs cannot reach p < {level:.2g}, which this study's correction asks for")
    return replace(
        verdict,
        verdict=outcome,
        more_seeds=statistics.more_seeds(differences, verdict.margin, level) if outcome == "inconclusive" else None,
        minimum_detectable=statistics.minimum_detectable_difference(differences, level) if attainable else math.nan,
        note="; ".join(notes) or None,
    )
