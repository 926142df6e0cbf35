"""Render what a person reads about a study: report.html, report.md and figures, and a short form in the terminal."""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headtohead.analysis.checks import Check
from headtohead.analysis.claims import VERDICTS, Verdict
from headtohead.analysis.ladder import LadderRow
from headtohead.analysis.settings import AcrossSettings
from headtohead.analysis.statistics import Interval
from headtohead.analysis.study import Study, read_study
from headtohead.analysis.summary import ArmSummary, Summary, Tuning, summarise, verdicts_json
from headtohead.analysis.text import (
    against,
    decimal,
    difference,
    in_percent,
    num_decimals,
    plus_minus,
    predicted,
    rivals,
)
from headtohead.analysis.tuning import ChosenTrial
from headtohead.analysis.verdicts import Comparison, level_of_look, look_of
from headtohead.options import ConfigError, printable, require
from headtohead.record.files import without_home, write_atomically
from headtohead.report import provenance
from headtohead.report.figures import FIGURES, start_drawing
from headtohead.report.figures.style import Drawing

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

AVerdict = TypeVar("AVerdict", bound=Verdict)


def write_report(study: Path, to: Path | None = None, pictures: bool = False) -> tuple[Summary, list[Drawing]]:
    """Judge a study and write its verdicts.json, report.html, report.md and figures/.

    The same records give the same bytes.

    Args:
        study: Folder of the study.
        to: Folder to write to, made if missing; None takes the study's own.
        pictures: Whether the page of TensorBoard will need the figures as images.

    Returns:
        The summary and the figures.

    Raises:
        ConfigError: the folder holds no study, study.json or results.csv is broken, or `to` holds something else.
        OSError: the report cannot be written.
    """
    if to is not None and to.resolve() != study.resolve():
        refuse_foreign_folder("--out", to, {"report.html", "report.md", "verdicts.json"}, "a report")
    read = read_study(study)
    drawn = start_drawing(read, pictures)
    summary = summarise(read)
    to = to or study
    drawings, failures = drawn(summary)
    undrawn = [Check("warning", f"The figure {name} could not be drawn ({why}).") for name, why in failures.items()]
    summary = replace(summary, checks=sorted([*summary.checks, *undrawn], key=lambda check: check.kind == "remark"))
    write_figures(to / "figures", drawings)
    write_atomically(to / "verdicts.json", verdicts_json(summary))
    shown = content(summary, drawings)
    for name, environment in (("report.html", _html()), ("report.md", markdown())):
        write_atomically(to / name, without_home(environment.get_template(f"{name}.j2").render(shown)))
    return summary, drawings


def refuse_foreign_folder(key: str, folder: Path, ours: Set[str], what: str) -> None:
    """Refuse to write to a folder that holds something else than `what`, which has all the files `ours`.

    Raises:
        ConfigError: naming the option `key`.
    """
    accepted = f"a new or empty folder, or one that holds {what}"
    require(folder.is_dir() or not os.path.lexists(folder), key, folder, f"is no folder; accepted: {accepted}")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not ours <= held:
        raise ConfigError(f"{key}={folder}: holds other files, such as {printable(min(held))}; accepted: {accepted}")


def write_figures(folder: Path, drawings: Sequence[Drawing]) -> None:
    """Write the figures to a folder, and remove those of our figures from it that there are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {folder / f"{drawing.name}.svg": drawing.svg for drawing in drawings}
    for path, svg in paths.items():
        write_atomically(path, without_home(svg))
    for stale in {folder / f"{name}.svg" for name in FIGURES} - {*paths}:
        stale.unlink(missing_ok=True)


def verdicts_in_markdown(summary: Summary) -> str:
    """Return the answer and one table of all verdicts."""
    return markdown().get_template("verdicts.md.j2").render(content(summary, []))


def print_study(study: Path | Summary, console: Console | None = None, to: Path | None = None) -> None:
    """Print the short form of a report: the answer, the arms, the verdicts, the warnings and where files are.

    Args:
        to: Folder that the report was written to; None where it is the study's own.
    """
    summary = study if isinstance(study, Summary) else summarise(study)
    folder = summary.study.folder
    console = console or Console()
    console.print()
    console.print(f"[bold]{_shown(summary.answer.headline)}[/bold]", highlight=False)
    for sentence in summary.answer.sentences:
        console.print(_shown(sentence), highlight=False)
    console.print()
    console.print(f"[i]{_shown(folder.name)}: mean ± half of the 95 % interval over seeds[/i]", highlight=False)
    console.print(_arms_table(summary))
    if any(arm.on_edge for arm in summary.arms):
        where = "in the outer tenth of a range" if summary.tuning else "on the edge of the grid of learning rates"
        console.print(f"* {where}: the arm may not be tuned", highlight=False)
    console.print()
    if summary.tuning:
        console.print(_chosen_table(summary.study, summary.tuning.chosen))
        console.print()
    if summary.settings:
        console.print("[i]common claims across settings: the favoured head against the others[/i]", highlight=False)
        console.print(_verdicts_table(summary.settings))
        console.print()
    if any(verdict.seeds for verdict in summary.verdicts):
        console.print("[i]common claims: the favoured head against the others[/i]", highlight=False)
        console.print(_verdicts_table(summary.verdicts))
        console.print()
    warnings = [check.text for check in summary.checks if check.kind == "warning"]
    for warning in warnings:
        console.print(f"[bold]! [/bold]{_shown(warning)}", highlight=False)
    if warnings:
        console.print()
    places = {
        "results": folder / "results.csv",
        "report": (to or folder) / "report.html",
        "TensorBoard": f"headtohead board {folder}",
    }
    for name, place in places.items():
        console.print(f"{name + ':':<13}{_shown(str(place))}", soft_wrap=True, highlight=False)


def _arms_table(summary: Summary) -> Table:
    table, best = _table(), "best trial" if summary.study.record.space else "best lr"
    table.add_column("arm", overflow="fold")
    for header in (best, "val acc, %", "test acc, %", "test NLL", "diverged"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in _arm_rows(summary):
        cells = (row["best"], row["val_accuracy"], row["test_accuracy"], row["test_nll"], row["diverged"])
        table.add_row(_shown(row["arm"]), *cells)
    return table


def _chosen_table(study: Study, chosen: Sequence[ChosenTrial]) -> Table:
    table = _table()
    table.add_column("arm", overflow="fold")
    table.add_column("chosen trial: its settings", overflow="fold", ratio=1)
    several = {arm for arm, count in Counter(row.arm for row in chosen).items() if count > 1}
    for row in chosen:
        by = f" by {', '.join(row.criteria)}" if row.arm in several else ""
        settings = ", ".join(f"{key.rpartition('.')[2]} {value:.3g}" for key, value in row.settings.items())
        table.add_row(_shown(row.arm), _shown(f"{study.label(row.trial)}{by}: {settings}"))
    return table


def _verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    table = _table()
    table.add_column("claim", overflow="fold", ratio=1)
    table.add_column("verdict", overflow="fold", ratio=2)
    for claim, group in groupby(verdicts, key=lambda verdict: verdict.claim):
        rows, parts = list(group), []
        for word in WORDS:
            named = rivals((row.arm, row.versus) for row in rows if row.verdict == word)
            if named:
                parts.append(f"{SYMBOLS[word]} {word}: {named}")
        table.add_row(_shown(claim), "\n".join(map(_shown, parts)))
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def content(summary: Summary, drawings: Sequence[Drawing]) -> dict[str, Any]:
    """Return what the templates show: text and numbers, not yet escaped."""
    study = summary.study
    differing, shared = provenance.differing_keys(study)
    counts = Counter(verdict.verdict for verdict in summary.verdicts)
    return {
        "name": study.record.name,
        "answer": summary.answer,
        "comparisons": [_comparison_row(comparison) for comparison in summary.answer.comparisons],
        "confidence": _confidence(summary),
        "across": _claims(summary.settings, _across_row),
        "counts": [(word, SYMBOLS[word], counts[word]) for word in WORDS],
        "groups": _claims_by_theme(summary.verdicts),
        "arms": _arm_rows(summary),
        "choice": study.choice,
        "edge": "trial in the outer tenth of a range" if summary.tuning else "rate on the edge of the grid",
        "tuning": _tuning_content(summary, summary.tuning) if summary.tuning else None,
        "any_on_edge": any(arm.on_edge for arm in summary.arms),
        "steps": [f"{before} → {arm}" for before, arm in pairwise(study.record.protocol.ladder)],
        "ladder": [_ladder_row(row) for row in summary.ladder],
        "drawings": drawings,
        "warnings": [check.text for check in summary.checks if check.kind == "warning"],
        "remarks": [check.text for check in summary.checks if check.kind == "remark"],
        "command": provenance.command(study),
        "differing": [(key, list(row)) for key, row in zip(differing.index, differing.to_numpy(), strict=True)],
        "differing_arms": list(differing.columns),
        "shared": shared,
        "facts": provenance.facts(study),
        "versions": provenance.versions(study),
    }


def _confidence(summary: Summary) -> str:
    """Return the confidence of the intervals of differences in percent: that of the study's last look."""
    return f"{100 * (1 - level_of_look(look_of(summary.study))):.3g}"


def _arm_rows(summary: Summary) -> list[dict[str, str]]:
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
    return {
        "versus": row.versus,
        "metric": row.metric,
        "difference": difference(row.metric, Interval(row.difference, row.lower, row.upper)),
        "unit": "points" if in_percent(row.metric) else "",
        "pairs": row.seeds,
        "p": _p_value(row.p_corrected),
        "decision": row.decision,
        "symbol": SYMBOLS[row.decision],
        "more": row.outlook,
    }


def _claims_by_theme(verdicts: Sequence[Verdict]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Group claims, each with its verdicts, by the theme that their ids begin with."""
    claims = _claims(verdicts, _verdict_row)
    return [(theme, list(group)) for theme, group in groupby(claims, key=lambda claim: claim["theme"])]


def _claims(verdicts: Sequence[AVerdict], shown: Callable[[AVerdict], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claims, each with its verdicts as `shown` gives them."""
    claims = []
    for claim, group in groupby(verdicts, key=lambda verdict: verdict.claim):
        rows = list(group)
        unit = "points" if in_percent(rows[0].metric) else ""
        claims.append(
            {
                "id": claim,
                "theme": claim.replace(".", "_").split("_")[0],
                "sentence": rows[0].sentence,
                "metric": rows[0].metric,
                "phase": rows[0].phase,
                "direction": rows[0].direction,
                "margin": f"{(100 if unit else 1) * rows[0].margin:g}",
                "unit": unit,
                "verdicts": [shown(row) for row in rows],
            }
        )
    return claims


def _verdict_row(row: Verdict) -> dict[str, Any]:
    scale = 100 if in_percent(row.metric) else 1
    digits = num_decimals(scale * (row.upper - row.lower) / 2, scale * abs(row.difference))
    return {
        "arms": against(row.arm, row.versus),
        "mean_arm": decimal(scale * row.mean_arm, digits),
        "mean_versus": decimal(scale * row.mean_versus, digits),
        "difference": difference(row.metric, Interval(row.difference, row.lower, row.upper)),
        "p": _p_value(row.p_corrected),
        "seeds": row.seeds,
        "verdict": row.verdict,
        "symbol": SYMBOLS[row.verdict],
        "more": row.outlook,
        "note": row.note,
    }


def _across_row(row: AcrossSettings) -> dict[str, Any]:
    interval = Interval(row.difference, row.lower, row.upper)
    scale = 100 if in_percent(row.metric) else 1
    digits = num_decimals(scale * interval.half_width, scale * abs(row.difference))
    return {
        "heads": against(row.arm, row.versus),
        "settings": row.settings,
        "difference": difference(row.metric, interval),
        "predicted": predicted(row.metric, interval, row.predicted_lower, row.predicted_upper),
        "tau": decimal(scale * row.tau, digits),
        "p": _p_value(row.p_corrected),
        "verdict": row.verdict,
        "symbol": SYMBOLS[row.verdict],
        "note": row.note,
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


def _p_value(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _shown(text: object) -> str:
    """Return a text for the terminal, in which nothing is taken for markup or control."""
    return escape(printable(text))


def _html() -> Environment:
    environment = _environment(autoescape=True, finalize=_printable_value)
    environment.filters["svg"] = Markup  # our own drawing: the one thing that is not escaped
    return environment


def markdown() -> Environment:
    """Return the environment of Markdown templates, in which every value passes through `_escape_markdown`."""
    environment = _environment(autoescape=False, finalize=_escape_markdown)
    environment.filters["code"] = lambda text: Markup(
        "\n".join(f"    {printable(line)}" for line in str(text).splitlines())
    )
    return environment


def _environment(**options: Any) -> Environment:
    loader = PackageLoader("headtohead.report")
    return Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, **options)


def _printable_value(value: Any) -> Any:
    return value if isinstance(value, Markup) else printable(value)


def _escape_markdown(value: Any) -> str:
    if isinstance(value, Markup):
        return value
    text = printable(value)
    for special in ("\\", "|", "*", "`", "#", "]("):
        text = text.replace(special, f"\\{special}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
