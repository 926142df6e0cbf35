"""Summary of a study: its verdicts, its arms, the answer to its question and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from headtohead.analysis.checks import Check, run_checks
from headtohead.analysis.claims import KEYS, VERDICTS, Verdict, judge
from headtohead.analysis.guess import nothing_to_recommend
from headtohead.analysis.ladder import LadderRow, ladder_rows
from headtohead.analysis.settings import SETTINGS_KEYS, AcrossSettings, across_settings
from headtohead.analysis.statistics import Interval, is_higher_better, t_interval
from headtohead.analysis.study import Study, by_seed, read_study
from headtohead.analysis.text import (
    MINUS,
    capitalised,
    difference,
    in_percent,
    listed,
    plural,
    plus_minus,
    predicted,
    split_shared,
)
from headtohead.analysis.tuning import ChosenTrial, Importance, chosen_trials, importances, is_at_end, unequal_spaces
from headtohead.analysis.verdicts import REVERSED, AComparison, Comparison, Decision, decide
from headtohead.analysis.words import sentence, unit_of
from headtohead.record.files import to_json, without_home
from headtohead.record.study import Trial

# The layout of verdicts.json, which record/verdicts.schema.json describes.
VERDICTS_VERSION = 1
# Outcomes in the order in which the answer tells them.
DECISIONS: tuple[Decision, ...] = ("better", "worse", "equivalent", "undecided")
# The keys of a comparison of the answer in verdicts.json, in order.
ANSWER_KEYS = (
    *("metric", "direction", "margin", "arm", "versus", "seeds", "examples", "mean_arm", "mean_versus", "difference"),
    *("lower", "upper", "confidence", "p", "p_corrected", "p_equivalence", "decision", "note"),
)
# What an answer decides: an arm is better than every other one, or equivalent to the best of them, or neither is shown.
Outcome = Literal["winner", "equivalent", "undecided", "none"]


@dataclass(frozen=True)
class ArmSummary:
    """Summary of an arm. Intervals are over the seeds of the final runs.

    Attributes:
        arm: Label of the arm.
        best: Best trial; None without a run that ended.
        on_edge: Whether it is on the edge of the grid, or in the outer tenth of a range.
        runs: Number of runs.
        diverged: Number of runs that diverged.
        failed: Number of runs that failed.
        seeds: Number of seeds of the final runs.
        val_accuracy: Mean and interval of the validation accuracy.
        test_accuracy: Mean and interval of the test accuracy.
        test_nll: Mean and interval of the test NLL.
    """

    arm: str
    best: Trial | None
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
        headline: The arm to use, or that no difference was shown and the safer choice.
        sentences: What this rests on.
        comparisons: The arm that validation favours against each other one.
        is_vain: Whether no arm is shown to beat a guess, so that none is recommended.
        decision: What the comparisons decide; "none" where there is nothing to decide by.
        winner: The arm that is better than every other one; None without one.
        is_provisional: Whether it rests on validation, as the test set has not been read.
        settings: The answer of each setting, by its name; empty with one setting.
    """

    headline: str
    sentences: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    is_vain: bool = False
    decision: Outcome = "none"
    winner: str | None = None
    is_provisional: bool = False
    settings: Mapping[str, "Answer"] = field(default_factory=dict)

    @property
    def by_setting(self) -> tuple[tuple[str, str], ...]:
        """Name and headline of each setting, where there are several; `sentences` ends with them."""
        return tuple((name, part.headline) for name, part in self.settings.items())

    def __str__(self) -> str:
        return "\n".join((self.headline, *self.sentences))


@dataclass(frozen=True)
class Tuning:
    """Tuning of a study over a space.

    Attributes:
        chosen: Chosen trials of the arms.
        unequal: Sentences on arms that tune more settings than others; empty where none does.
        importances: What each setting explains for each arm.
    """

    chosen: list[ChosenTrial]
    unequal: str
    importances: list[Importance]


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
        tuning: What a study with a space shows of it; None for any other.
    """

    study: Study
    verdicts: list[Verdict]
    settings: list[AcrossSettings]
    arms: list[ArmSummary]
    answer: Answer
    checks: list[Check]
    ladder: list[LadderRow]
    tuning: Tuning | None


def summarise(study: Path | Study) -> Summary:
    """Judge the claims of a study, and answer its question. Nothing is written: see `verdicts_json`.

    Args:
        study: The study, or its folder, which `read_study` reads.

    Raises:
        ConfigError: the folder holds no study, or study.json or results.csv is broken.
    """
    study = study if isinstance(study, Study) else read_study(study)
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
        tuning=_tuning(study) if study.record.space else None,
    )


def _tuning(study: Study) -> Tuning:
    return Tuning(chosen_trials(study), unequal_spaces(study), importances(study))


def verdicts_json(summary: Summary) -> str:
    """Return the text of verdicts.json: the answer, and rows of verdicts: across settings, and per pair of arms."""
    rows = [{key: getattr(verdict, key) for key in KEYS} for verdict in summary.verdicts]
    settings = [{key: getattr(verdict, key) for key in SETTINGS_KEYS} for verdict in summary.settings]
    answer = answer_fields(summary.answer)
    return to_json({"version": VERDICTS_VERSION, "answer": answer, "settings": settings, "claims": rows})


def answer_fields(answer: Answer) -> dict[str, Any]:
    """Return an answer as verdicts.json holds it."""
    return {
        "headline": answer.headline,
        "sentences": answer.sentences,
        "decision": answer.decision,
        "winner": answer.winner,
        "is_provisional": answer.is_provisional,
        "comparisons": [{key: getattr(row, key) for key in ANSWER_KEYS} for row in answer.comparisons],
        "settings": {without_home(name): answer_fields(part) for name, part in answer.settings.items()},
    }


def outcome(comparisons: Sequence[Comparison]) -> tuple[Outcome, str | None]:
    """Return what the comparisons of one arm with others decide together, and the winner, if there is one."""
    decisions = {row.decision for row in comparisons}
    if decisions == {"better"}:
        return "winner", comparisons[0].arm
    if decisions == {"worse"} and len(comparisons) == 1:
        return "winner", comparisons[0].versus
    if not decisions:
        return "none", None
    return ("equivalent" if decisions <= {"better", "equivalent"} else "undecided"), None


def answer(study: Study, verdicts: Sequence[Verdict], settings: Sequence[AcrossSettings]) -> Answer:
    """Answer which head to use, at which trial, and how sure that is; in each context, where there are several.

    What holds across the contexts comes first, for the claims of a given weight. Validation chooses an arm, in the
    search. The test metric of the same kind compares it with the others.
    """
    contexts: dict[tuple[str, ...], list[str]] = {}
    for arm in study.arms:
        contexts.setdefault(study.context(arm), []).append(arm)
    if len(contexts) == 1 or max(map(len, contexts.values())) == 1:
        return _answer(study, verdicts)
    parts: dict[str, Answer] = {}
    comparisons: list[Comparison] = []
    for context, arms in contexts.items():
        # Within its context an arm goes by what tells it from the others there.
        names = dict(zip(arms, split_shared(arms)[1], strict=True))
        part = _answer(study.part(names), _renamed(verdicts, names))
        parts[", ".join(context) or "otherwise"] = part
        comparisons += _renamed(part.comparisons, {name: arm for arm, name in names.items()})
    primary = [row for row in settings if row.weight]
    headline = _headline_across(primary) or f"An answer for each of {len(contexts)} settings"
    decision, winner = outcome([row for row in primary if row.claim == primary[0].claim])
    vain = sum(part.is_vain for part in parts.values())
    if vain == len(contexts):
        headline = f"Use none of the arms: no arm is shown to beat a guess in any of {vain} settings"
        decision, winner = "none", None
    elif vain:
        headline += f"; in {vain} of them no arm is shown to beat a guess"
    return Answer(
        headline=f"{headline}.",
        sentences=(*map(_across, primary), *(f"{name}: {part.headline}" for name, part in parts.items())),
        comparisons=tuple(comparisons),
        is_vain=vain == len(contexts),
        decision=decision,
        winner=winner,
        is_provisional=any(part.is_provisional for part in parts.values()),
        settings=parts,
    )


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
    """Return what to say of a claim across settings."""
    if math.isnan(row.predicted_lower):
        return sentence(row)
    interval = Interval(row.difference, row.lower, row.upper)
    bounds = predicted(row.metric, interval, row.predicted_lower, row.predicted_upper)
    unit = unit_of(row.metric)
    where = f"In a new setting {row.arm} {MINUS} {row.versus} may lie in {bounds}{unit and f' {unit}'}."
    return f"{sentence(row)} {where}"


def compare(
    study: Study, verdicts: Sequence[Verdict], arm: str, metric: str, selected_by: str | None = None
) -> list[Comparison]:
    """Compare `arm` with each other arm by a metric of the final runs.

    Where a claim is about this metric and this pair, its verdict is taken, so that a report never contradicts
    itself. The other pairs are one family of tests. Where the arm was picked by the final runs, all pairs of arms are
    this family, so that picking costs nothing.

    Args:
        selected_by: Criterion by whose best trials the arms are compared; None takes the primary one.
    """
    direction = "higher" if is_higher_better(metric) else "lower"
    primary = study.record.protocol.selected_by
    taken: dict[str, Comparison] = {}
    for verdict in verdicts:
        at_these_trials = not study.tuned or (verdict.selected_by or primary) == (selected_by or primary)
        if verdict.metric == metric and verdict.phase == "confirm" and at_these_trials:
            if arm not in (verdict.arm, verdict.versus):
                continue
            comparison = verdict if verdict.arm == arm else verdict.from_other_side()
            if comparison.direction != direction:
                comparison = replace(comparison, decision=REVERSED.get(comparison.decision, comparison.decision))
            taken[comparison.versus] = comparison
    known = set(study.final.loc[study.final[metric].notna(), "arm"])
    others = [other for other in study.arms if other in known and other != arm and arm in known]
    pairs = [(arm, other) for other in others if other not in taken]
    if pairs and not _is_confirmed(study):
        pairs = [(arm, other) for other in others] + [*combinations(others, 2)]
    scope, margin = ("confirm" if selected_by else "final"), _margin(study, metric)
    family = [
        Comparison(
            metric=metric, phase=scope, direction=direction, margin=margin, selected_by=selected_by, arm=one, versus=two
        )
        for one, two in pairs
    ]
    tested = {row.versus: row for row in decide(study, family) if row.arm == arm}
    rows = tested | taken
    return [rows[other] for other in others if rows[other].seeds]


def _summarise_arm(study: Study, arm: str) -> ArmSummary:
    runs = study.results.loc[study.results.arm == arm]
    final = study.final.loc[study.final.arm == arm]
    best = study.best.get(arm)

    def interval(metric: str) -> Interval:
        return t_interval(by_seed(final, metric))

    return ArmSummary(
        arm=arm,
        best=best,
        on_edge=_on_edge(study, arm, best),
        runs=len(runs),
        diverged=int((runs.status == "diverged").sum()),
        failed=int((runs.status == "failed").sum()),
        seeds=final.seed.nunique(),
        val_accuracy=interval("val_accuracy"),
        test_accuracy=interval("test_accuracy"),
        test_nll=interval("test_nll"),
    )


def _on_edge(study: Study, arm: str, trial: Trial | None) -> bool:
    """Return whether an arm's trial is on the edge of the grid, or in the outer tenth of a range."""
    if trial is None:
        return False
    return (len(study.grid) > 1 and trial.lr in (study.grid[0], study.grid[-1])) or is_at_end(study, arm, trial)


def _renamed(rows: Sequence[AComparison], names: Mapping[str, str]) -> list[AComparison]:
    """Return the comparisons between the arms in `names`, each arm under its name there."""
    return [replace(row, arm=names[row.arm], versus=names[row.versus]) for row in rows if row.arm in names]


def _answer(study: Study, verdicts: Sequence[Verdict]) -> Answer:
    primary = study.record.protocol.selected_by
    ranked = _ranked(study, primary)
    if not ranked:
        return Answer("There is no answer yet: no run has ended well.", (), ())
    leader, metric = ranked[0], f"test_{primary.removeprefix('val_')}"
    tested = study.is_measured(metric)
    comparisons = compare(study, verdicts, leader, metric if tested else primary)

    sentences = [_performance(study, leader, len(ranked))]
    if comparisons:
        sentences.append(_certainty(leader, comparisons))
    if not tested:
        sentences.append("The test set has not been read yet: this rests on validation and is provisional.")
    surest = _better_probabilities(study, verdicts, leader)
    if surest is not None:
        sentences.append(f"The probabilities of {surest} are better (lower NLL): prefer it where they matter.")
    vain = nothing_to_recommend(study, leader, ranked)
    headline = vain or _headline(study, verdicts, ranked, comparisons)
    if not tested and not vain:
        headline = f"Provisional: {headline}"
    decided = not vain and study.tuned
    decision, winner = outcome(comparisons) if decided else ("none", None)
    return Answer(headline, tuple(sentences), tuple(comparisons), vain is not None, decision, winner, not tested)


def _is_confirmed(study: Study) -> bool:
    """Return whether the final runs are fresh, so that nothing was picked by them."""
    return bool((study.final.phase == "confirm").any())


def _ranked(study: Study, criterion: str) -> list[str]:
    """Return the arms with final runs, best first by a validation metric, then by NLL, at each arm's best trial.

    The search ranks them, whose runs no test sees again. Without a search the final runs do.
    """
    if study.final.empty or not {criterion, "val_nll"} <= {*study.final}:
        return []
    rows = study.at_best(study.searched, criterion) if study.tuned else study.final
    rows = rows.loc[(rows.status != "failed") & rows.arm.isin(study.final.arm)]
    if rows.empty:
        return []
    metrics = list(dict.fromkeys([criterion, "val_nll"]))
    means = pd.DataFrame({arm: runs[metrics].mean() for arm, runs in study.by_arm(rows)}).T
    ascending = [not is_higher_better(metric) for metric in metrics]
    return [str(arm) for arm in means.sort_values(metrics, ascending=ascending, kind="stable").index]


def _margin(study: Study, metric: str) -> float | None:
    """Return the smallest margin of the claims about a metric; None without such a claim."""
    metric = metric.replace("val_", "test_")
    return min((claim.margin for claim in study.record.claims.values() if claim.metric == metric), default=None)


def _performance(study: Study, leader: str, arms: int) -> str:
    """Return a sentence on the validation of an arm that led there, and on its final runs."""
    primary = study.record.protocol.selected_by
    rows = study.at_best(study.searched) if study.tuned else study.final
    extreme = "highest" if is_higher_better(primary) else "lowest"
    # Fresh runs confirm the trial, whose validation the table of arms shows.
    searched = study.tuned and _is_confirmed(study)
    text = (
        f"Validation favours {leader}: its {_words(primary)}{' in the search' if searched else ''} is "
        if arms > 1
        else f"{leader} has a {_words(primary)} of "
    )
    text += _reached(primary, rows.loc[rows.arm == leader])
    text += f", the {extreme} of {arms} arms" if arms > 1 else ""
    runs = study.final.loc[study.final.arm == leader]
    reached = [f"a {_words(metric)} of {_reached(metric, runs)}" for metric in _tested(primary) if _has(runs, metric)]
    if not reached:
        return f"{text}."
    reach = "Fresh runs of it reach" if searched else "It reaches"
    return f"{text}. {reach} {listed(reached)} ({plural(runs.seed.nunique(), 'seed')})."


def _tested(primary: str) -> list[str]:
    """Return the test metrics that the answer quotes: that of the primary criterion, and the NLL."""
    return list(dict.fromkeys([f"test_{primary.removeprefix('val_')}", "test_nll"]))


def _has(runs: pd.DataFrame, metric: str) -> bool:
    return metric in runs and bool(runs[metric].notna().any())


def _reached(metric: str, runs: pd.DataFrame) -> str:
    interval = t_interval(by_seed(runs, metric))
    return f"{plus_minus(interval, 100, 2)} %" if in_percent(metric) else plus_minus(interval, 1, 3)


def _words(metric: str) -> str:
    """Name a metric in a sentence: `test balanced accuracy`, `validation NLL`."""
    words = {"val": "validation", "f1": "F1", "nll": "NLL"}
    return " ".join(words.get(part, part) for part in metric.split("_"))


def _better_probabilities(study: Study, verdicts: Sequence[Verdict], leader: str) -> str | None:
    """Return the arm of the lowest validation NLL if the final NLL shows it better than `leader`, else None.

    Where the study confirms arms at their best trials for the NLL, these are compared.
    """
    ranked = _ranked(study, "val_nll")
    if not ranked or ranked[0] == leader or study.record.protocol.selected_by == "val_nll":
        return None
    confirmed = study.tuned and _is_confirmed(study) and "val_nll" in study.record.criteria
    metric = "test_nll" if study.is_measured("test_nll") else "val_nll"
    rows = compare(study, verdicts, ranked[0], metric, "val_nll" if confirmed else None)
    if leader not in [row.versus for row in rows if row.decision == "better"]:
        return None
    trial = study.best_by("val_nll").get(ranked[0]) if confirmed else None
    return f"{ranked[0]} at {study.named(trial)}" if trial and trial != study.best.get(ranked[0]) else ranked[0]


def _headline(
    study: Study, verdicts: Sequence[Verdict], ranked: Sequence[str], comparisons: Sequence[Comparison]
) -> str:
    """Return what to use, where that is decided; else that it is not, and the safer choice."""
    leader = ranked[0]
    others = {decision: [row.versus for row in comparisons if row.decision == decision] for decision in DECISIONS}
    at = _at_trial(study, leader)
    if not comparisons and len(ranked) > 1:
        return f"No answer yet: validation favours {at}, but the arms share fewer than the 2 seeds that a test needs."
    if not comparisons:
        return f"Only {at} has run: there is nothing to compare it with."
    if not study.tuned:
        return f"No answer about the heads, since no arm is tuned. Here {_finding(leader, comparisons)}."
    if others["worse"] and len(comparisons) == 1:
        return f"Use {_at_trial(study, others['worse'][0])}: it is better than {leader}, which validation favours."
    if others["worse"] or others["undecided"]:
        alike = [arm for arm in ranked if arm in others["worse"]]
        alike = alike or [arm for arm in ranked if arm not in others["better"]]
        finding = capitalised(_finding(leader, comparisons))
        if len(alike) == 1:
            return f"{finding}. Rather use {_at_trial(study, alike[0])}."
        safest, reason = _safest(study, verdicts, alike)
        return f"{finding}. The safer choice is {_at_trial(study, safest)}: {reason}."
    if others["equivalent"]:
        which = "which is" if len(others["equivalent"]) == 1 else "which are"
        return f"Use {at}, or {listed(others['equivalent'], last='or')}, {which} equivalent."
    return f"Use {at}: it is better than every other arm."


def _at_trial(study: Study, arm: str) -> str:
    return f"{arm} at {study.named(study.best[arm])}" if arm in study.best else arm


def _finding(leader: str, comparisons: Sequence[Comparison]) -> str:
    """Return what the comparisons of the arm that validation favours with the others have shown, as a clause."""
    others = {decision: [row.versus for row in comparisons if row.decision == decision] for decision in DECISIONS}
    metric = _words(comparisons[0].metric)
    if others["worse"]:
        return f"validation favours {leader}, but by {metric} it is worse than {listed(others['worse'])}"
    if others["undecided"]:
        text = f"no difference in {metric} was shown between {leader} and {listed(others['undecided'], last='or')}"
        only = comparisons[0]
        return f"{text}: {leader} minus {only.versus} is {_difference(only)}" if len(comparisons) == 1 else text
    if others["equivalent"]:
        return f"{leader} is equivalent to {listed(others['equivalent'])} by {metric}, and better than any other arm"
    return f"{leader} is better than every other arm by {metric}"


def _difference(row: Comparison) -> str:
    """Return a difference with its interval and unit."""
    text = difference(row.metric, Interval(row.difference, row.lower, row.upper))
    return f"{text} points" if in_percent(row.metric) else text


def _safest(study: Study, verdicts: Sequence[Verdict], arms: Sequence[str]) -> tuple[str, str]:
    """Return the safest of arms between which no difference was shown, and why it is.

    Args:
        arms: Labels, best first by validation.
    """
    final = study.final
    sensitive = {
        row.arm if row.decision == "worse" else row.versus
        for row in verdicts
        if row.metric in ("lr_sensitivity", "near_best_share")
        and row.decision in ("better", "worse")
        and {row.arm, row.versus} <= {*arms}
    }
    edge = f"its {study.choice} is not on the edge of the {'space' if study.record.space else 'grid'}"
    tuned = "its tuned settings" if study.record.space else "the learning rate"
    costs = {
        "fewer of its runs diverged": lambda arm: (final.status[final.arm == arm] == "diverged").mean(),
        edge: lambda arm: _on_edge(study, arm, study.best.get(arm)),
        f"it is less sensitive to {tuned}": lambda arm: arm in sensitive,
        "its head is PyTorch's default": lambda arm: study.head_of(arm) != "softmax",
    }
    reasons, left = [], [*arms]
    for reason, cost in costs.items():
        least = min(map(cost, left))
        kept = [arm for arm in left if cost(arm) == least]
        if len(kept) < len(left):
            reasons.append(reason)
        left = kept
    return left[0], listed(reasons if len(left) == 1 else [*reasons, "validation favours it"])


def _certainty(leader: str, comparisons: Sequence[Comparison]) -> str:
    """Return a sentence on the arms that the one which validation favours was compared with, by decision."""
    relations = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
    parts = []
    for decision in DECISIONS:
        rows = [row for row in comparisons if row.decision == decision]
        if rows:
            each = listed(f"{row.versus} ({'; '.join(filter(None, (_difference(row), row.outlook)))})" for row in rows)
            parts.append(f"{relations.get(decision, 'undecided against')} {each}")
    confidence = f"{100 * comparisons[0].confidence:.3g} %"
    by = f"by {_words(comparisons[0].metric)}, paired by seed, with {confidence} intervals"
    return f"How sure: {by}, {leader} is {'; '.join(parts)}."
