"""What a study found: the answer to its question, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from headtohead.analysis.checks import Doubt, doubts
from headtohead.analysis.claims import ALPHA, Verdict, context, write_verdicts
from headtohead.analysis.ladder import Climb, climbs
from headtohead.analysis.statistics import Interval, equivalence_p, more_seeds, sign_flip_p, t_interval
from headtohead.analysis.study import Study, is_number, read_study
from headtohead.analysis.text import apart, listed, plus_minus

# Of the recommended arm against another.
VERDICTS = ("better", "worse", "equivalent", "undecided")


@dataclass(frozen=True)
class Comparison:
    """The recommended arm against another, on the test set: its metric's difference, paired by seed."""

    versus: str
    metric: str
    difference: Interval
    pairs: int
    p: float
    verdict: Literal["better", "worse", "equivalent", "undecided"]
    more_seeds: int | None


@dataclass(frozen=True)
class Answer:
    """The question of the study, answered: a headline, then sentences."""

    headline: str
    sentences: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Findings:
    """All that the report of a study says."""

    study: Study
    verdicts: list[Verdict]
    arms: pd.DataFrame
    answer: Answer
    doubts: list[Doubt]
    climbs: list[Climb]


def find(folder: Path) -> Findings:
    """Read a study, bring its results.csv up to date with its records, judge its claims and draw conclusions.

    Raises:
        ConfigError: the folder holds no study, or study.json or results.csv is broken.
    """
    study = read_study(folder)
    verdicts = write_verdicts(study)
    return Findings(
        study, verdicts, summarise_arms(study), answer(study, verdicts), doubts(study, verdicts), climbs(study)
    )


def summarise_arms(study: Study) -> pd.DataFrame:
    """A row per arm: `lr`, `on_edge` (of the grid), `runs`, `diverged`, `failed`, and Intervals over seeds.

    The intervals are of val_accuracy, test_accuracy and test_nll over the runs by which arms are compared.
    """
    rows = []
    for arm in study.arms:
        runs = study.results[study.results.arm == arm]
        final = study.final[study.final.arm == arm]
        lr = study.best.get(arm, math.nan)
        row = {
            "arm": arm,
            "lr": lr,
            "on_edge": len(study.grid) > 1 and lr in (study.grid[0], study.grid[-1]),
            "runs": len(runs),
            "diverged": int((runs.status == "diverged").sum()),
            "failed": int((runs.status == "failed").sum()),
            "seeds": len(final),
        }
        for metric in ("val_accuracy", "test_accuracy", "test_nll"):
            row[metric] = t_interval(final[metric].dropna()) if metric in final else t_interval([])
        rows.append(row)
    return pd.DataFrame(rows)


def compare(study: Study, verdicts: Sequence[Verdict], arm: str, metric: str) -> list[Comparison]:
    """`arm` against each other one by a metric of the final runs.

    Where a claim is about this metric and this pair, its verdict is taken, so that a report never says two
    things. Other pairs are tested in the same way, with Bonferroni's correction over these pairs.
    """
    lower_is_better = metric.endswith("nll")
    judged = {(row.arm, row.versus): row for row in verdicts if row.metric == metric and row.phase == "confirm"}
    judged |= {(versus, favoured): _swapped(row) for (favoured, versus), row in judged.items()}
    table = study.final.pivot_table(index="seed", columns="arm", values=metric)
    others = [other for other in study.arms if other in table and other != arm and arm in table]
    open_pairs = [other for other in others if (arm, other) not in judged]
    comparisons = []
    for other in others:
        row = judged.get((arm, other))
        if row is None:
            differences = (table[arm] - table[other]).dropna().to_numpy()
            row = _test(differences, _margin(study, metric), len(open_pairs))
        if not row.seeds:
            continue
        verdict = {"equivalent": "equivalent", "inconclusive": "undecided"}.get(row.verdict)
        if verdict is None:
            verdict = "better" if (row.difference < 0) == lower_is_better else "worse"
        interval = Interval(row.difference, row.lower, row.upper)
        comparisons.append(Comparison(other, metric, interval, row.seeds, row.p_corrected, verdict, row.more_seeds))
    return comparisons


def answer(study: Study, verdicts: Sequence[Verdict]) -> Answer:
    """Which head to use, at which learning rate, and how sure that is; in each context, where there are several.

    The arm is chosen by validation (mean accuracy, then NLL) and compared by test accuracy.
    """
    contexts: dict[tuple[str, ...], dict[str, Any]] = {}
    for arm, overrides in study.asked["arms"].items():
        contexts.setdefault(context(study, arm), {})[arm] = overrides
    if len(contexts) == 1 or max(map(len, contexts.values())) == 1:
        return _answer(study, verdicts)
    headlines, comparisons = [], []
    for shared, arms in contexts.items():
        # In its setting an arm goes by what tells it from the others there.
        own = dict(zip(arms, apart(list(arms))[1], strict=True))
        results = study.results[study.results.arm.isin(arms)]
        part = replace(
            study,
            asked={**study.asked, "arms": {own[arm]: overrides for arm, overrides in arms.items()}},
            results=results.assign(arm=results.arm.map(own)),
        )
        judged = [replace(row, arm=own[row.arm], versus=own[row.versus]) for row in verdicts if row.arm in own]
        found = _answer(part, judged)
        headlines.append(f"{', '.join(shared) or 'otherwise'}: {found.headline}")
        label = {name: arm for arm, name in own.items()}
        comparisons += [replace(item, versus=label[item.versus]) for item in found.comparisons]
    return Answer(f"An answer for each of {len(contexts)} settings.", tuple(headlines), tuple(comparisons))


def _answer(study: Study, verdicts: Sequence[Verdict]) -> Answer:
    final = study.final
    if final.empty or not {"val_accuracy", "val_nll"} <= set(final):
        return Answer("There is no answer yet: no run has ended well.", (), ())
    means = final.groupby("arm")[["val_accuracy", "val_nll"]].mean()
    means = means.reindex([arm for arm in study.arms if arm in means.index])
    ranked = means.sort_values(["val_accuracy", "val_nll"], ascending=[False, True], kind="stable")
    leader = ranked.index[0]
    tested = "test_accuracy" in final and final.test_accuracy.notna().any()
    metric = "test_accuracy" if tested else "val_accuracy"
    comparisons = compare(study, verdicts, leader, metric)

    sentences = [_standing(study, leader, len(ranked))]
    if comparisons:
        sentences.append(_certainty(comparisons))
    if not tested:
        sentences.append("The test set has not been read yet: this rests on validation and is provisional.")
    surest = _better_probabilities(study, verdicts, leader, means)
    if surest is not None:
        sentences.append(f"The probabilities of {surest} are better (lower NLL): prefer it where they matter.")
    return Answer(_headline(study, leader, comparisons), tuple(sentences), tuple(comparisons))


def _margin(study: Study, metric: str) -> float | None:
    """Below which difference the study's claims call a metric equivalent."""
    metric = metric.replace("val_", "test_")
    margins = [claim.get("margin") for claim in study.asked["claims"].values() if claim.get("metric") == metric]
    return min((margin for margin in margins if is_number(margin) and margin > 0), default=None)


def _standing(study: Study, leader: str, arms: int) -> str:
    runs = study.final[study.final.arm == leader]
    accuracy = plus_minus(t_interval(runs.val_accuracy.dropna()), 100, 2)
    text = f"{leader} reaches a validation accuracy of {accuracy} %"
    if arms > 1:
        text += f", the highest of {arms} arms,"
    if "test_accuracy" in runs and runs.test_accuracy.notna().any():
        text += f" and {plus_minus(t_interval(runs.test_accuracy.dropna()), 100, 2)} % on test"
        if "test_nll" in runs and runs.test_nll.notna().any():
            text += f" with an NLL of {plus_minus(t_interval(runs.test_nll.dropna()), 1, 3)}"
    count = len(runs)
    return f"{text.rstrip(',')} ({count} {'seed' if count == 1 else 'seeds'})."


def _better_probabilities(study: Study, verdicts: Sequence[Verdict], leader: str, means: pd.DataFrame) -> str | None:
    """The arm of the lowest validation NLL, where the final NLL shows it better than `leader`."""
    metric = "test_nll" if "test_nll" in study.final and study.final.test_nll.notna().any() else "val_nll"
    if means.val_nll.isna().all() or (arm := means.val_nll.idxmin()) == leader:
        return None
    better = [item.versus for item in compare(study, verdicts, arm, metric) if item.verdict == "better"]
    return arm if leader in better else None


class _Tested(NamedTuple):
    """What a Verdict says of a pair, without a claim."""

    seeds: int
    difference: float
    lower: float
    upper: float
    p_corrected: float
    verdict: str
    more_seeds: int | None


def _test(differences: np.ndarray, margin: float | None, tests: int) -> _Tested:
    """Paired differences tested as one of so many `tests`; without a margin nothing is equivalent."""
    if not len(differences):
        return _Tested(0, math.nan, math.nan, math.nan, math.nan, "inconclusive", None)
    p = min(1.0, tests * sign_flip_p(differences))
    if margin and tests * equivalence_p(differences, margin) < ALPHA:
        verdict = "equivalent"
    else:
        verdict = "different" if p < ALPHA else "inconclusive"
    needed = more_seeds(differences, margin, ALPHA / tests) if margin and verdict == "inconclusive" else None
    return _Tested(len(differences), *t_interval(differences), p, verdict, needed)


def _swapped(row: Verdict) -> Verdict:
    """The same verdict seen from the other arm."""
    return replace(row, difference=-row.difference, lower=-row.upper, upper=-row.lower)


def _headline(study: Study, leader: str, comparisons: list[Comparison]) -> str:
    against = {verdict: [item.versus for item in comparisons if item.verdict == verdict] for verdict in VERDICTS}
    at = f"{leader} at learning rate {study.best[leader]:g}" if leader in study.best else leader
    if not comparisons and study.final.arm.nunique() > 1:
        return f"No answer yet: {at} leads, but the arms do not share the 2 seeds or more that a comparison needs."
    if not comparisons:
        return f"Only {at} has run: there is nothing to compare it with."
    if not study.tuned:
        return f"No answer on the heads, since no arm is tuned; here {at} leads."
    if against["worse"]:
        return f"Undecided: validation favours {at}, the test set {listed(against['worse'])}."
    if against["undecided"]:
        return f"Use {at}, but its lead over {listed(against['undecided'])} is not settled."
    if against["equivalent"]:
        which = "which is" if len(against["equivalent"]) == 1 else "which are"
        return f"Use {at}, or {listed(against['equivalent'], last='or')}, {which} equivalent."
    return f"Use {at}: it is better than every other arm."


def _certainty(comparisons: list[Comparison]) -> str:
    """How sure: the arms that the recommended one was compared with, by verdict."""
    unit = comparisons[0].metric.replace("_", " ")
    parts = []
    for verdict in VERDICTS:
        items = [item for item in comparisons if item.verdict == verdict]
        if not items:
            continue
        needed = [item.more_seeds for item in items]
        relation = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
        text = f"{relation.get(verdict, 'undecided against')} {listed(item.versus for item in items)}"
        if verdict == "undecided":
            known = max((count for count in needed if count), default=None)
            text += (
                f" (about {known} more {'seed' if known == 1 else 'seeds'} would decide)"
                if known and all(needed)
                else " (no seeds in reach decide)"
            )
        parts.append(text)
    return f"How sure: by {unit}, paired by seed, it is {'; '.join(parts)}."
