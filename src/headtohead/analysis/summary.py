"""Summary of a study: its verdicts, its arms, the answer to its question and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from headtohead.analysis.checks import Check, run_checks
from headtohead.analysis.claims import KEYS, VERDICTS, Verdict, judge
from headtohead.analysis.guess import nothing_to_recommend
from headtohead.analysis.ladder import LadderRow, ladder_rows
from headtohead.analysis.settings import SETTINGS_KEYS, AcrossSettings, across_settings
from headtohead.analysis.statistics import Interval, t_interval
from headtohead.analysis.study import Study, read_study
from headtohead.analysis.text import (
    MINUS,
    difference,
    in_percent,
    listed,
    plural,
    plus_minus,
    predicted,
    split_shared,
)
from headtohead.analysis.verdicts import REVERSED, AComparison, Comparison, Decision, decide
from headtohead.record.files import to_json

# Outcomes in the order in which the answer tells them.
DECISIONS: tuple[Decision, ...] = ("better", "worse", "equivalent", "undecided")


@dataclass(frozen=True)
class ArmSummary:
    """Summary of an arm. Intervals are over the seeds of the final runs.

    Attributes:
        arm: Label of the arm.
        lr: Best learning rate; NaN without a run that ended.
        on_edge: Whether this rate is on the edge of the grid.
        runs: Number of runs.
        diverged: Number of runs that diverged.
        failed: Number of runs that failed.
        seeds: Number of final runs.
        val_accuracy: Mean and interval of the validation accuracy.
        test_accuracy: Mean and interval of the test accuracy.
        test_nll: Mean and interval of the test NLL.
    """

    arm: str
    lr: float
    on_edge: bool
    runs: int
    diverged: int
    failed: int
    seeds: int
    val_accuracy: Interval
    test_accuracy: Interval
    test_nll: Interval


@dataclass(frozen=True)
class Answer:
    """The answer to a study's question.

    Attributes:
        headline: The arm to use, in one sentence.
        sentences: What this rests on.
        comparisons: The recommended arm against each other one.
        is_vain: Whether no arm is shown to beat a guess, so that none is recommended.
    """

    headline: str
    sentences: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    is_vain: bool = False


@dataclass(frozen=True)
class Summary:
    """All that the report of a study says.

    Attributes:
        study: The study, as it was read.
        verdicts: Verdicts on the claims, in their order.
        settings: Verdicts across the settings of the study, in the order of the claims; empty with one setting.
        arms: Summaries of the arms, in their order.
        answer: Answer to the study's question.
        checks: What could be wrong, warnings first.
        ladder: Rows of the ladder; empty without one.
    """

    study: Study
    verdicts: list[Verdict]
    settings: list[AcrossSettings]
    arms: list[ArmSummary]
    answer: Answer
    checks: list[Check]
    ladder: list[LadderRow]


def summarise(folder: Path) -> Summary:
    """Read a study, bring its results.csv up to date with its records, judge its claims and answer its question.

    Nothing else is written: see `verdicts_json`.

    Raises:
        ConfigError: the folder holds no study, or study.json or results.csv is broken.
    """
    study = read_study(folder)
    verdicts = judge(study)
    settings = across_settings(study, verdicts)
    return Summary(
        study=study,
        verdicts=verdicts,
        settings=settings,
        arms=[_summarise_arm(study, arm) for arm in study.arms],
        answer=answer(study, verdicts, settings),
        checks=run_checks(study, verdicts),
        ladder=ladder_rows(study),
    )


def verdicts_json(summary: Summary) -> str:
    """Return the text of verdicts.json: the answer, and rows of verdicts: across settings, and per pair of arms."""
    rows = [{key: getattr(verdict, key) for key in KEYS} for verdict in summary.verdicts]
    settings = [{key: getattr(verdict, key) for key in SETTINGS_KEYS} for verdict in summary.settings]
    answer = {"headline": summary.answer.headline, "sentences": summary.answer.sentences}
    return to_json({"answer": answer, "settings": settings, "claims": rows})


def answer(study: Study, verdicts: Sequence[Verdict], settings: Sequence[AcrossSettings]) -> Answer:
    """Answer which head to use, at which learning rate, and how sure that is; in each context, where there are several.

    What holds across the contexts comes first, for the claims of a given weight. Validation chooses the arm (mean
    accuracy, then NLL). The test accuracy compares it with the others.
    """
    contexts: dict[tuple[str, ...], list[str]] = {}
    for arm in study.arms:
        contexts.setdefault(study.context(arm), []).append(arm)
    if len(contexts) == 1 or max(map(len, contexts.values())) == 1:
        return _answer(study, verdicts)
    headlines, comparisons, vain = [], [], 0
    for context, arms in contexts.items():
        # Within its context an arm goes by what tells it from the others there.
        names = dict(zip(arms, split_shared(arms)[1], strict=True))
        part = _answer(study.part(names), _renamed(verdicts, names))
        headlines.append(f"{', '.join(context) or 'otherwise'}: {part.headline}")
        vain += part.is_vain
        comparisons += _renamed(part.comparisons, {name: arm for arm, name in names.items()})
    primary = [row for row in settings if row.weight]
    headline = _headline_across(primary) or f"An answer for each of {len(contexts)} settings"
    if vain == len(contexts):
        headline = f"Use none of the arms: no arm is shown to beat a guess in any of {vain} settings"
    elif vain:
        headline += f"; in {vain} of them no arm is shown to beat a guess"
    sentences = (*map(_across, primary), *headlines)
    return Answer(f"{headline}.", sentences, tuple(comparisons), vain == len(contexts))


def _headline_across(rows: Sequence[AcrossSettings]) -> str:
    """Return the verdicts on the first claim of `rows`, across settings; empty without rows."""
    if not rows:
        return ""
    of_first = [row for row in rows if row.claim == rows[0].claim]
    by_word = {word: [row.versus for row in of_first if row.verdict == word] for word in VERDICTS.values()}
    words = [f"{word} (against {listed(heads)})" for word, heads in by_word.items() if heads]
    count = max(row.settings for row in of_first)
    return f'Across {count} settings, "{rows[0].sentence.rstrip(".")}" is {", ".join(words)}'


def _across(row: AcrossSettings) -> str:
    """Return a sentence on a claim across settings."""
    interval = Interval(row.difference, row.lower, row.upper)
    unit = " points" if in_percent(row.metric) else ""
    text = f"{row.arm} {MINUS} {row.versus}, across {row.settings} settings: {row.metric.replace('_', ' ')} "
    text += difference(row.metric, interval) + unit
    if math.isfinite(row.predicted_lower):
        text += f", in a new setting {predicted(row.metric, interval, row.predicted_lower, row.predicted_upper)}"
    return f"{text}: {row.verdict}."


def compare(study: Study, verdicts: Sequence[Verdict], arm: str, metric: str) -> list[Comparison]:
    """Compare `arm` with each other arm by a metric of the final runs.

    Where a claim is about this metric and this pair, its verdict is taken, so that a report never contradicts
    itself. The other pairs are one family of tests.
    """
    direction = "lower" if metric.endswith("nll") else "higher"
    taken: dict[str, Comparison] = {}
    for verdict in verdicts:
        if verdict.metric == metric and verdict.phase == "confirm" and arm in (verdict.arm, verdict.versus):
            comparison = verdict if verdict.arm == arm else verdict.from_other_side()
            if comparison.direction != direction:
                comparison = replace(comparison, decision=REVERSED.get(comparison.decision, comparison.decision))
            taken[comparison.versus] = comparison
    known = set(study.final.loc[study.final[metric].notna(), "arm"])
    others = [other for other in study.arms if other in known and other != arm and arm in known]
    margin = _margin(study, metric)
    family = [
        Comparison(metric=metric, phase="final", direction=direction, margin=margin, arm=arm, versus=other)
        for other in others
        if other not in taken
    ]
    taken |= {comparison.versus: comparison for comparison in decide(study, family)}
    return [taken[other] for other in others if taken[other].seeds]


def _summarise_arm(study: Study, arm: str) -> ArmSummary:
    runs = study.results.loc[study.results.arm == arm]
    final = study.final.loc[study.final.arm == arm]
    lr = study.best.get(arm, math.nan)

    def interval(metric: str) -> Interval:
        return t_interval(final[metric].dropna() if metric in final else [])

    return ArmSummary(
        arm=arm,
        lr=lr,
        on_edge=len(study.grid) > 1 and lr in (study.grid[0], study.grid[-1]),
        runs=len(runs),
        diverged=int((runs.status == "diverged").sum()),
        failed=int((runs.status == "failed").sum()),
        seeds=len(final),
        val_accuracy=interval("val_accuracy"),
        test_accuracy=interval("test_accuracy"),
        test_nll=interval("test_nll"),
    )


def _renamed(rows: Sequence[AComparison], names: Mapping[str, str]) -> list[AComparison]:
    """Return the comparisons between the arms in `names`, each arm under its name there."""
    return [replace(row, arm=names[row.arm], versus=names[row.versus]) for row in rows if row.arm in names]


def _answer(study: Study, verdicts: Sequence[Verdict]) -> Answer:
    final = study.final
    if final.empty or not {"val_accuracy", "val_nll"} <= set(final):
        return Answer("There is no answer yet: no run has ended well.", (), ())
    by_arm = study.by_arm(final)
    means = pd.DataFrame({arm: runs[["val_accuracy", "val_nll"]].mean() for arm, runs in by_arm}).T
    ranked = means.sort_values(by=["val_accuracy", "val_nll"], ascending=[False, True], kind="stable")
    leader = str(ranked.index[0])
    tested = study.is_measured("test_accuracy")
    comparisons = compare(study, verdicts, leader, "test_accuracy" if tested else "val_accuracy")

    sentences = [_performance(study, leader, len(ranked))]
    if comparisons:
        sentences.append(_certainty(comparisons))
    if not tested:
        sentences.append("The test set has not been read yet: this rests on validation and is provisional.")
    surest = _better_probabilities(study, verdicts, leader, means)
    if surest is not None:
        sentences.append(f"The probabilities of {surest} are better (lower NLL): prefer it where they matter.")
    vain = nothing_to_recommend(study, leader, [str(arm) for arm in ranked.index])
    headline = vain or _headline(study, leader, comparisons)
    return Answer(headline, tuple(sentences), tuple(comparisons), vain is not None)


def _margin(study: Study, metric: str) -> float | None:
    """Return the smallest margin of the claims about a metric; None without such a claim."""
    metric = metric.replace("val_", "test_")
    return min((claim.margin for claim in study.record.claims.values() if claim.metric == metric), default=None)


def _performance(study: Study, leader: str, arms: int) -> str:
    runs = study.final.loc[study.final.arm == leader]
    accuracy = plus_minus(t_interval(runs.val_accuracy.dropna()), 100, 2)
    text = f"{leader} reaches a validation accuracy of {accuracy} %"
    if arms > 1:
        text += f", the highest of {arms} arms,"
    if "test_accuracy" in runs and runs.test_accuracy.notna().any():
        text += f" and {plus_minus(t_interval(runs.test_accuracy.dropna()), 100, 2)} % on test"
        if "test_nll" in runs and runs.test_nll.notna().any():
            text += f" with an NLL of {plus_minus(t_interval(runs.test_nll.dropna()), 1, 3)}"
    return f"{text.rstrip(',')} ({plural(len(runs), 'seed')})."


def _better_probabilities(study: Study, verdicts: Sequence[Verdict], leader: str, means: pd.DataFrame) -> str | None:
    """Return the arm of the lowest validation NLL if the final NLL shows it better than `leader`, else None."""
    if means.val_nll.isna().all() or (arm := str(means.val_nll.idxmin())) == leader:
        return None
    metric = "test_nll" if study.is_measured("test_nll") else "val_nll"
    better = [row.versus for row in compare(study, verdicts, arm, metric) if row.decision == "better"]
    return arm if leader in better else None


def _headline(study: Study, leader: str, comparisons: Sequence[Comparison]) -> str:
    others = {decision: [row.versus for row in comparisons if row.decision == decision] for decision in DECISIONS}
    at = f"{leader} at learning rate {study.best[leader]:g}" if leader in study.best else leader
    if not comparisons and study.final.arm.nunique() > 1:
        return f"No answer yet: {at} leads, but the arms share fewer than the 2 seeds that a comparison needs."
    if not comparisons:
        return f"Only {at} has run: there is nothing to compare it with."
    if not study.tuned:
        return f"No answer about the heads, since no arm is tuned. Here {at} leads."
    if others["worse"]:
        return f"Undecided: validation favours {at}, the test set {listed(others['worse'])}."
    if others["undecided"]:
        return f"Use {at}, but its lead over {listed(others['undecided'])} is not settled."
    if others["equivalent"]:
        which = "which is" if len(others["equivalent"]) == 1 else "which are"
        return f"Use {at}, or {listed(others['equivalent'], last='or')}, {which} equivalent."
    return f"Use {at}: it is better than every other arm."


def _certainty(comparisons: Sequence[Comparison]) -> str:
    """Return a sentence on the arms that the recommended one was compared with, by decision."""
    relations = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
    parts = []
    for decision in DECISIONS:
        rows = [row for row in comparisons if row.decision == decision]
        if rows:
            outlooks = [f"{row.versus}: {row.outlook}" for row in rows if row.outlook]
            part = f"{relations.get(decision, 'undecided against')} {listed(row.versus for row in rows)}"
            parts.append(part + (f" ({listed(outlooks)})" if outlooks else ""))
    return f"How sure: by {comparisons[0].metric.replace('_', ' ')}, paired by seed, it is {'; '.join(parts)}."
