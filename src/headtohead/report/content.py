"""Text and numbers of a report's pages, which the templates arrange and escape."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, TypeVar

import numpy as np

from headtohead.analysis.claims import VERDICTS, Verdict
from headtohead.analysis.ladder import LadderRow
from headtohead.analysis.settings import AcrossSettings
from headtohead.analysis.statistics import Interval
from headtohead.analysis.study import Study
from headtohead.analysis.summary import ArmSummary, Summary, Tuning
from headtohead.analysis.text import (
    against,
    capitalised,
    decimal,
    difference,
    in_percent,
    num_decimals,
    plus_minus,
    predicted,
    split_shared,
)
from headtohead.analysis.verdicts import Comparison, level_of_look, look_of
from headtohead.analysis.words import comparative, remark, sentence, short_name, unit_of, words_of
from headtohead.report import provenance
from headtohead.report.drawing import Drawing
from headtohead.report.glossary import TERMS

# A verdict is shown by its word and its symbol; colour only repeats them.
SYMBOLS = {
    "supported": "✓",
    "refuted": "✗",
    "equivalent": "=",
    "inconclusive": "?",
    "better": "✓",
    "worse": "✗",
    "undecided": "?",
}
WORDS = tuple(VERDICTS.values())

# What the claims about softmax rest on.
SOURCE = (
    "Common claims are what is often said of softmax. Their source is an article of questions and answers, “Is "
    "training with softmax more stable than with sigmoid?”, whose answer measured nothing."
)
# Which runs the claims of a phase compare.
RUNS = {"search": "in all runs of the search", "confirm": "in the final runs", "final": "in the final runs"}

AVerdict = TypeVar("AVerdict", bound=Verdict)


def content(summary: Summary, drawings: Sequence[Drawing]) -> dict[str, Any]:
    """Return what the templates show: text and numbers, not yet escaped. A part that is empty has no section."""
    study, answer = summary.study, summary.answer
    differing, shared = provenance.differing_keys(study)
    counts = Counter(verdict.verdict for verdict in summary.verdicts)
    return {
        "name": study.record.name,
        "answer": answer,
        "lead": answer.sentences[: len(answer.sentences) - len(answer.by_setting)],
        "confidence": _confidence(summary),
        "source": SOURCE if any(claim.favours == "softmax" for claim in study.record.claims.values()) else "",
        "counts": [(word, SYMBOLS[word], counts[word]) for word in WORDS],
        "comparisons": [_comparison_row(comparison) for comparison in answer.comparisons],
        "groups": _claims_by_theme(summary.verdicts),
        **_across_content(summary),
        "settings": _settings(summary),
        "arms": arm_rows(summary),
        "choice": study.choice,
        "edge": "trial in the outer tenth of a range" if summary.tuning else "rate on the edge of the grid",
        "tuning": _tuning_content(summary, summary.tuning) if summary.tuning else None,
        "any_on_edge": any(arm.on_edge for arm in summary.arms),
        "steps": [f"{before} → {arm}" for before, arm in pairwise(study.record.protocol.ladder)],
        "ladder": [_ladder_row(row) for row in summary.ladder],
        "forest": next((drawing for drawing in drawings if drawing.name == "forest"), None),
        "drawings": [drawing for drawing in drawings if drawing.name != "forest"],
        "warnings": [check.text for check in summary.checks if check.kind == "warning"],
        "remarks": [check.text for check in summary.checks if check.kind == "remark"],
        "command": provenance.command(study),
        "differing": [(key, list(row)) for key, row in zip(differing.index, differing.to_numpy(), strict=True)],
        "differing_arms": list(differing.columns),
        "shared": shared,
        "facts": provenance.facts(study),
        "versions": provenance.versions(study),
        "terms": _terms(study),
        "metrics": _metrics([*summary.verdicts, *answer.comparisons]),
    }


def _terms(study: Study) -> dict[str, str]:
    left_out = set() if study.record.space else {"trial"}
    return {term: text.format(choice=study.choice) for term, text in TERMS.items() if term not in left_out}


def _metrics(rows: Sequence[Comparison]) -> dict[str, str]:
    """Return what the metrics of comparisons mean, by their names in sentences."""
    words = [words_of(row.metric) for row in rows]
    return {word.noun: word.meaning for word in words if word.meaning}


def _across_content(summary: Summary) -> dict[str, Any]:
    """Return the claims across settings, and their grid."""
    claims = _claims(summary.settings, _across_row, "across-")
    return {"across": claims, "across_grid": _grid(claims)}


def _settings(summary: Summary) -> list[dict[str, Any]]:
    """Return each setting with its answer and verdicts; a study of one setting has one, without a name."""
    study, names = summary.study, {}
    for arm in study.arms:
        names.setdefault(study.context(arm), ", ".join(study.context(arm)) or "otherwise")
    headlines = dict(summary.answer.by_setting)
    several, settings = len(names) > 1, []
    for place, (context, name) in enumerate(names.items()):
        claims = _claims(
            [verdict for verdict in summary.verdicts if verdict.context == context],
            _verdict_row,
            f"setting-{place}-" if several else "",
        )
        rows = [row for row in summary.answer.comparisons if study.context(row.arm) == context]
        if claims or rows:
            settings.append(
                {
                    "name": name if several else "",
                    "anchor": f"setting-{place}",
                    "headline": headlines.get(name, ""),
                    "comparisons": [_comparison_row(row) for row in rows],
                    "themes": _by_theme(claims),
                    "grid": _grid(claims),
                }
            )
    return settings


def _grid(claims: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return claims times other arms: a symbol for each verdict, which leads to its row."""
    others = list(dict.fromkeys(row["versus"] for claim in claims for row in claim["verdicts"]))
    favoured = list(dict.fromkeys(row["arm"] for claim in claims for row in claim["verdicts"]))
    rows = []
    for claim in claims:
        cells = {row["versus"]: row for row in claim["verdicts"]}
        whose = "" if len(favoured) == 1 else f"{claim['verdicts'][0]['arm']}: "
        rows.append(
            {
                "name": f"{whose}{claim['name']}",
                "sentence": claim["sentence"],
                "anchor": claim["anchor"],
                "cells": [(other, cells.get(other)) for other in others],
            }
        )
    return {"favoured": favoured[0] if len(favoured) == 1 else "", "others": others, "rows": rows}


def _confidence(summary: Summary) -> str:
    """Return the confidence of the intervals of differences in percent: that of the study's last look."""
    return f"{100 * (1 - level_of_look(look_of(summary.study))):.3g}"


def arm_rows(summary: Summary) -> list[dict[str, str]]:
    return [_arm_row(summary.study, arm) for arm in summary.arms]


def _arm_row(study: Study, arm: ArmSummary) -> dict[str, str]:
    return {
        "arm": arm.arm,
        "best": f"{study.label(arm.best)}{'*' if arm.on_edge else ''}" if arm.best else "-",
        "val_accuracy": plus_minus(arm.val_accuracy, 100, 2),
        "test_accuracy": plus_minus(arm.test_accuracy, 100, 2),
        "test_nll": plus_minus(arm.test_nll, 1, 3),
        "seeds": str(arm.seeds),
        "diverged": f"{arm.diverged}/{arm.runs}",
        "failed": f"{arm.failed}/{arm.runs}",
    }


def _tuning_content(summary: Summary, tuning: Tuning) -> dict[str, Any]:
    """Return what the report shows of the tuning of a study over a space."""
    study = summary.study
    means = {
        setting: np.nanmean([0.0, *(share for row in group for share in row.shares.values())])
        for setting, group in ((key, [*rows]) for key, rows in groupby(tuning.importances, lambda row: row.setting))
    }
    swept = ["optimizer.lr"] if len(study.grid) > 1 else []
    return {
        "keys": [*swept, *study.record.space],
        "chosen": [
            {
                "arm": row.arm,
                "criteria": ", ".join(row.criteria),
                "trial": str(row.trial.number),
                "values": [
                    *(f"{row.trial.lr:.4g}" for _ in swept),
                    *(f"{row.settings[key]:.4g}" if key in row.settings else "-" for key in study.record.space),
                ],
                "val_accuracy": plus_minus(row.val_accuracy, 100, 2),
                "val_nll": plus_minus(row.val_nll, 1, 3),
            }
            for row in tuning.chosen
        ],
        "unequal": tuning.unequal,
        "importances": [
            {
                "setting": row.setting,
                "arm": row.arm,
                "cells": [
                    text
                    for metric in row.shares
                    for text in (decimal(100 * row.shares[metric], 0), decimal(row.directions[metric], 2, signed=True))
                ],
            }
            for row in sorted(tuning.importances, key=lambda row: -means[row.setting])
        ],
    }


def _comparison_row(row: Comparison) -> dict[str, Any]:
    return _row(row) | {
        "versus": row.versus,
        "metric": row.metric,
        "unit": unit_of(row.metric),
        "noun": words_of(row.metric).noun,
        "word": row.decision,
        "symbol": SYMBOLS[row.decision],
    }


def _claims_by_theme(verdicts: Sequence[Verdict]) -> list[tuple[str, list[dict[str, Any]]]]:
    return _by_theme(_claims(verdicts, _verdict_row))


def _by_theme(claims: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Group claims by the theme that their ids begin with."""
    return [(theme, list(group)) for theme, group in groupby(claims, key=lambda claim: claim["theme"])]


def _claims(
    verdicts: Sequence[AVerdict], shown: Callable[[AVerdict], dict[str, Any]], prefix: str = ""
) -> list[dict[str, Any]]:
    """Return the claims, each with its verdicts as `shown` gives them.

    Args:
        prefix: What the anchors of these claims begin with.
    """
    claims = []
    for claim, group in groupby(verdicts, key=lambda verdict: verdict.claim):
        rows = list(group)
        first, words = rows[0], words_of(rows[0].metric)
        anchor = f"{prefix}claim-{claim}"
        claims.append(
            {
                "id": claim,
                "anchor": anchor,
                "theme": claim.replace(".", "_").split("_")[0],
                "name": short_name(first.metric, first.direction),
                "sentence": first.sentence,
                "metric": first.metric,
                "noun": words.noun,
                "meaning": words.meaning,
                "phase": first.phase,
                "runs": RUNS[first.phase],
                "direction": first.direction,
                "expected": f"{first.head} {words.verb} {comparative(first.metric, first.direction)}",
                "margin": f"{(100 if in_percent(first.metric) else 1) * first.margin:g}",
                "unit": unit_of(first.metric),
                "verdicts": [shown(row) | {"anchor": f"{anchor}-{place}"} for place, row in enumerate(rows)],
            }
        )
    return claims


def _row(row: Comparison) -> dict[str, Any]:
    """Return what every table of comparisons shows of one."""
    scale = 100 if in_percent(row.metric) else 1
    digits = num_decimals(scale * (row.upper - row.lower) / 2, scale * abs(row.difference))
    interval = difference(row.metric, Interval(row.difference, row.lower, row.upper))
    return {
        "arms": against(row.arm, row.versus),
        "arm": row.arm,
        "versus": row.versus,
        "sentence": sentence(row),
        "remark": remark(row),
        "more": f"{capitalised(row.outlook)}." if row.outlook else "",
        # The sentence holds the reason where there is no verdict.
        "note": f"{capitalised(row.note)}." if row.note and row.seeds else "",
        "mean_arm": decimal(scale * row.mean_arm, digits),
        "mean_versus": decimal(scale * row.mean_versus, digits),
        "difference": interval,
        "change": interval.partition(" ")[0],
        "interval": interval.partition(" ")[2] or "-",
        "p": p_value(row.p),
        "p_corrected": p_value(row.p_corrected),
        "pairs": row.seeds,
    }


def _verdict_row(row: Verdict) -> dict[str, Any]:
    _, (arm, versus) = split_shared([row.arm, row.versus])
    return _row(row) | {"arm": arm, "versus": versus, "word": row.verdict, "symbol": SYMBOLS[row.verdict]}


def _across_row(row: AcrossSettings) -> dict[str, Any]:
    interval = Interval(row.difference, row.lower, row.upper)
    scale = 100 if in_percent(row.metric) else 1
    digits = num_decimals(scale * interval.half_width, scale * abs(row.difference))
    return _verdict_row(row) | {
        "settings": row.settings,
        "predicted": predicted(row.metric, interval, row.predicted_lower, row.predicted_upper),
        "tau": decimal(scale * row.tau, digits),
    }


def _ladder_row(row: LadderRow) -> dict[str, Any]:
    metric = row.definition.metric
    factor = 100 if in_percent(metric) else 1
    intervals = [*row.steps, row.total]
    half_width, largest = max(step.half_width for step in intervals), max(abs(step.mean) for step in intervals)
    # All of a row have the same decimals, so that a reader can add them.
    digits = num_decimals(factor * half_width, factor * largest)
    return {
        "claim": row.claim,
        "metric": f"{metric}, points" if in_percent(metric) else metric,
        "margin": f"{factor * row.definition.margin:g}",
        "seeds": row.seeds,
        "steps": [difference(metric, step, digits) for step in row.steps],
        "total": difference(metric, row.total, digits),
    }


def p_value(value: float) -> str:
    """Format a p-value: `< 0.001`, `0.042`; `-` where it is unknown."""
    if not math.isfinite(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
