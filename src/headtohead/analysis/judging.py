"""Verdicts on runs that another program trained, and the answer that they give, by the statistics of a study."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from headtohead.analysis.checks import FEW_SEEDS, MODEST_SEEDS, Check
from headtohead.analysis.claims import Verdict
from headtohead.analysis.columns import short_name
from headtohead.analysis.runs import Asked, Metric, Runs, by_setting, check_runs
from headtohead.analysis.settings import AcrossSettings, across_settings
from headtohead.analysis.statistics import Interval
from headtohead.analysis.study import Study
from headtohead.analysis.summary import Answer, Summary, outcome
from headtohead.analysis.text import capitalised, difference, in_percent, listed, plural, predicted
from headtohead.analysis.verdicts import Comparison, decide_pairs
from headtohead.analysis.words import with_unit, words_of
from headtohead.record.run import COLUMNS, Environment
from headtohead.record.study import Claim, StudyProtocol, StudyRecord

# What a comparison says of the first arm, in the order in which the answer tells it.
RELATIONS = {
    "better": "better than",
    "equivalent": "equivalent to",
    "worse": "worse than",
    "undecided": "not shown to differ from",
}


def judge_runs(
    frame: pd.DataFrame, asked: Asked, source: str, scores: pd.DataFrame | None = None, scores_source: str = "examples"
) -> Summary:
    """Judge runs that another program trained: one arm against each other one, by each metric, in each setting.

    Args:
        frame: A row per run.
        source: Name of the table in messages.
        scores: A row per run and test example; see `check_scores`.
        scores_source: Name of their table in messages.

    Raises:
        ConfigError: naming the column and the rows that are wrong, and what is accepted.
    """
    runs = check_runs(frame, asked, source, scores, scores_source)
    verdicts = [row for setting in runs.settings for arm in runs.arms[1:] for row in _family(runs, setting, arm)]
    names = [metric.name for metric in runs.asked.metrics]
    verdicts.sort(key=lambda row: names.index(row.claim))
    study = _study(runs)
    settings = across_settings(study, verdicts)
    checks = sorted([*runs.checks, *_checks(runs, verdicts)], key=lambda check: check.kind == "remark")
    answer = _answer(runs, verdicts, settings)
    return Summary(study, verdicts, settings, arms=[], answer=answer, checks=checks, ladder=[], tuning=None)


def _family(runs: Runs, setting: str, versus: str) -> list[Verdict]:
    """Return the verdicts by all metrics on the first arm against another one in a setting: one family of tests."""
    arm = runs.arms[0]
    present = {*runs.values.arm[runs.values.setting == setting]}
    if not {arm, versus} <= present:
        return []
    family = [
        (_open_verdict(runs, metric, setting, versus), runs.pairs(setting, metric.name, versus))
        for metric in runs.asked.metrics
    ]
    decided = decide_pairs(family, runs.asked.look)
    return [replace(row, arm=_label(setting, arm), versus=_label(setting, versus)) for row in decided]


def _open_verdict(runs: Runs, metric: Metric, setting: str, versus: str) -> Verdict:
    return Verdict(
        claim=metric.name,
        sentence=_sentence(runs, metric),
        metric=metric.name,
        phase="final",
        direction=metric.direction,
        margin=metric.margin,
        weight=1 / len(runs.asked.metrics),
        arm=runs.arms[0],
        versus=versus,
        head=runs.arms[0],
        versus_head=versus,
        context=_context(runs, setting),
    )


def _sentence(runs: Runs, metric: Metric) -> str:
    return f"{runs.arms[0]} has the {metric.direction} {words_of(metric.name).noun}."


def _label(setting: str, arm: str) -> str:
    return ",".join([*setting.split(", "), arm]) if setting else arm


def _context(runs: Runs, setting: str) -> tuple[str, ...]:
    """Return a setting as overrides, `column=value` for each of its columns."""
    if not setting:
        return ()
    values = setting.split(", ", len(runs.asked.settings) - 1)
    # In a study `head` tells the arms of one context apart.
    names = [{"head": "of head"}.get(short_name(name), short_name(name)) for name in runs.asked.settings]
    return tuple(f"{name}={value}" for name, value in zip(names, values, strict=True))


def _study(runs: Runs) -> Study:
    """Return what a report needs to know of the runs as of a study: its name, its arms, its claims and its table."""
    arms = {
        _label(setting, arm): (*_context(runs, setting), f"head={arm}")
        for setting, rows in by_setting(runs.values)
        for arm in runs.arms
        if (rows.arm == arm).any()
    }
    claims = {
        metric.name: Claim(
            sentence=_sentence(runs, metric),
            metric=metric.name,
            phase="confirm",
            direction=metric.direction,
            margin=metric.margin,
            favours=runs.arms[0],
        )
        for metric in runs.asked.metrics
    }
    record = StudyRecord(
        name=runs.name,
        command=(),
        common=(),
        started="",
        num_classes=dict.fromkeys(arms, 2),
        classes=(),
        arms=arms,
        grid={},
        protocol=StudyProtocol(
            search_seeds=(),
            confirm_seeds=(),
            selected_by=runs.asked.metrics[0].name,
            extended={},
            ladder=(),
            looks=(int(runs.values.pair.nunique()),) * runs.asked.look,
        ),
        runs={},
        hparams={},
        claims=claims,
        environment=Environment(python="", versions={}, device="", device_name="", commit=None),
    )
    # A report's table holds what tells runs apart; a metric that is called like that stays out of it.
    table = runs.values.drop(columns=[*{*runs.values} & {*COLUMNS}]).assign(
        run=[str(row) for row in runs.values.index],
        phase="run",
        arm=[_label(setting, arm) for setting, arm in zip(runs.values.setting, runs.values.arm, strict=True)],
        head=runs.values.arm,
        seed=runs.values.pair,
        fold=0,
        lr=math.nan,
        trial=0,
        status="finished",
        steps=0,
        wall_s=0.0,
    )
    others = [name for name in table if name not in (*COLUMNS, "setting", "pair")]
    results = table.reindex(columns=[*COLUMNS, *others]).reset_index(drop=True)
    return Study(Path(runs.name), record, results, {}, {}, 0)


def _answer(runs: Runs, verdicts: Sequence[Verdict], settings: Sequence[AcrossSettings]) -> Answer:
    """Return the answer: what the metrics show, the primary one first; in each setting, where there are several."""
    if len(runs.settings) == 1:
        return _answer_of(runs, verdicts)
    parts: dict[str, Answer] = {}
    for setting in runs.settings:
        context = _context(runs, setting)
        rows = [replace(row, arm=row.head, versus=row.versus_head) for row in verdicts if row.context == context]
        if rows:
            parts[", ".join(context)] = _answer_of(runs, rows)
    judged = [row for row in verdicts if row.metric == runs.asked.metrics[0].name and row.seeds]
    headlines = tuple(f"{setting}: {part.headline}" for setting, part in parts.items())
    if not any(row.metric == runs.asked.metrics[0].name for row in settings):
        found = f"An answer for each of {plural(len(parts), 'setting')}, as no two of them compare the same arms."
        return Answer(found, headlines, tuple(judged), settings=parts)
    whole = _answer_of(runs, settings)
    # A report shows them last, each with its setting.
    return replace(whole, sentences=(*whole.sentences, *headlines), comparisons=tuple(judged), settings=parts)


def _answer_of(runs: Runs, rows: Sequence[Verdict]) -> Answer:
    """Return the answer of verdicts in one setting, or across settings."""
    by_metric = {
        metric.name: [row for row in rows if row.metric == metric.name and row.seeds] for metric in runs.asked.metrics
    }
    primary = by_metric[runs.asked.metrics[0].name]
    found = [_finding(of_metric) for of_metric in by_metric.values() if of_metric]
    if not primary:
        reason = str(next(row.note for row in rows if row.metric == runs.asked.metrics[0].name))
        found.insert(0, f"There is no answer: {reason.removeprefix('not judged: ')}.")
    sentences = found[1:]
    if len(primary) == 1 and primary[0].outlook:  # a table holds those of several arms
        sentences.append(f"{capitalised(primary[0].outlook)}.")
    sentences += [_elsewhere(row) for row in primary if isinstance(row, AcrossSettings) and row.settings > 2]
    if primary:
        sentences.append(_scope(runs, primary))
    decision, winner = outcome(primary)
    return Answer(found[0], tuple(sentences), tuple(primary), False, decision, winner)


def _finding(rows: Sequence[Verdict]) -> str:
    """Return a sentence on what a metric shows of the first arm and the others."""
    first, metric = rows[0], words_of(rows[0].metric).noun
    where = f"Across {first.settings} settings, by {metric}" if isinstance(first, AcrossSettings) else f"By {metric}"
    if len(rows) > 1:
        relations = {
            relation: listed([row.versus for row in rows if row.decision == decision], most=20)
            for decision, relation in RELATIONS.items()
        }
        text = "; ".join(f"{relation} {others}" for relation, others in relations.items() if others)
        return f"{where}, {first.arm} is {text}."
    row: Comparison = first.from_other_side() if first.decision == "worse" else first
    apart = f"{row.arm} minus {row.versus} is {_difference(row)}"
    if row.decision == "better":
        return f"{where}, {row.arm} is better than {row.versus}: {apart}."
    if row.decision == "equivalent":
        margin = with_unit(f"{first.margin * (100 if in_percent(row.metric) else 1):g}", row.metric)
        return f"{where}, {row.arm} and {row.versus} are equivalent: {apart}, within the margin of {margin}."
    return f"{where}, no difference was shown between {row.arm} and {row.versus}: {apart}."


def _elsewhere(row: AcrossSettings) -> str:
    interval = Interval(row.difference, row.lower, row.upper)
    bounds = predicted(row.metric, interval, row.predicted_lower, row.predicted_upper)
    return f"In a new setting like these {row.arm} minus {row.versus} would lie in {with_unit(bounds, row.metric)}."


def _difference(row: Comparison) -> str:
    return with_unit(difference(row.metric, Interval(row.difference, row.lower, row.upper)), row.metric)


def _scope(runs: Runs, rows: Sequence[Verdict]) -> str:
    """Return a sentence on what the intervals of some verdicts cover."""
    pair = short_name(runs.asked.pair)
    counts = sorted({row.seeds for row in rows})
    pairs = f"{counts[0]} to {counts[-1]} pairs" if len(counts) > 1 else f"{counts[0]} pairs"
    what = f"The intervals, of {100 * rows[0].confidence:.3g} %, rest on {pairs} of runs of the same {pair}"
    if rows[0].metric in runs.scores.blocks:
        examples = sorted({int(sizes.sum()) for sizes in runs.scores.sizes.values()})
        count = f"{examples[0]:,} to {examples[-1]:,}" if len(examples) > 1 else f"{examples[0]:,}"
        return f"{what}, crossed with {count} test examples: they cover new runs and new examples."
    return (
        f"{what} and cover new runs on these test examples alone: the verdict holds for this test split. Scores per "
        "example would tell whether it holds for others."
    )


def _checks(runs: Runs, verdicts: Sequence[Verdict]) -> Iterable[Check]:
    """Return what could be wrong with the verdicts."""
    fewest = min((row.seeds for row in verdicts if row.seeds), default=0)
    if 0 < fewest < FEW_SEEDS:
        text = f"Few runs: {plural(fewest, 'pair')}. Intervals are far narrower with {FEW_SEEDS} pairs or more."
        yield Check("warning", text)
    elif 0 < fewest < MODEST_SEEDS:
        yield Check("remark", f"{fewest} pairs detect large differences only. Small differences need more of them.")
    for row in verdicts:
        if not row.seeds:
            yield Check("warning", f"{row.arm} against {row.versus}: {row.note}.")
    yield Check("remark", "How the arms were tuned is not known here: an arm may be better for its settings alone.")
