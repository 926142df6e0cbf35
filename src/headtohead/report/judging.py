"""The report on runs that another program trained, in files and in the terminal."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from headtohead.analysis.checks import Check
from headtohead.analysis.columns import kept, rows_of, short_name
from headtohead.analysis.judging import judge_runs
from headtohead.analysis.runs import Asked
from headtohead.analysis.statistics import Interval
from headtohead.analysis.summary import Summary
from headtohead.analysis.text import against, difference, in_percent, listed
from headtohead.analysis.words import with_unit
from headtohead.options import require
from headtohead.record.logged import STEPS, read_logged
from headtohead.record.tables import read_frame
from headtohead.report.content import SYMBOLS, p_value
from headtohead.report.drawing import Drawing
from headtohead.report.figures import FOREST, draw_judged
from headtohead.report.render import REPORT, refuse_foreign_folder, write_files
from headtohead.report.tables import plain_table, print_table, shown
from headtohead.report.terminal import print_answer, print_warnings


def refuse_folder(to: Path) -> None:
    """Refuse to write a report to a folder that holds something else.

    Raises:
        ConfigError: naming --out.
    """
    require(not (to / "study.json").exists(), "--out", to, "holds a study; accepted: a folder for this report alone")
    refuse_foreign_folder("--out", to, REPORT, "a report")


def judge_files(
    place: Path, asked: Asked, where: Sequence[str], examples: Path | None, out: Path | None, command: Sequence[str]
) -> None:
    """Judge runs in files, write verdicts.json, report.html, report.md and figures/, and print the short form.

    The same runs give the same bytes.

    Args:
        place: Table of runs, folder of event files, or pattern of such folders.
        where: Conditions `column=value` on the runs.
        examples: Table of scores per example.
        out: Folder to write to, made if missing; None takes one in judged/.
        command: Command line, as it was typed.

    Raises:
        ConfigError: what was asked for is wrong; the message names the column, and the rows.
    """
    is_table = place.is_file() or not (place.is_dir() or "{" in str(place))
    name = place.name if is_table else next(part for part in reversed(place.absolute().parts) if "{" not in part)
    to = out or Path("judged") / (place.stem if is_table else name)
    refuse_folder(to)
    frame = read_frame(place) if is_table else read_logged(place)
    steps = frame.attrs.get(STEPS, {})
    frame = kept(frame, where, name)
    scores = None if examples is None else read_frame(examples, "examples")
    summary = judge_runs(frame, asked, name, scores, examples.name if examples else "")
    summary = replace(summary, checks=[*_stopped_early(frame, steps, asked), *summary.checks])
    drawings = draw_judgement(summary)
    own = {"command": shlex.join(command), "facts": _facts(summary, asked), "versions": {}, "source": ""}
    summary = write_files(summary, drawings, to, own)
    print_judgement(summary, to)


def _stopped_early(frame: pd.DataFrame, steps: Mapping[str, Mapping[str, int]], asked: Asked) -> Iterator[Check]:
    """Warn of runs whose last value comes before that of most: they may have been killed, or run still."""
    for metric in asked.metrics:
        of_run = {run: steps[metric.name][run] for run in frame.index if run in steps.get(metric.name, ())}
        last, count = max(Counter(of_run.values()).items(), key=lambda item: item[::-1], default=(0, 0))
        early = [run for run, step in of_run.items() if step < last]
        if early and 2 * count > len(of_run):
            found = f"{metric.name} ends at step {last} in most runs, and before it in {rows_of(early)}."
            advice = "A run that did not end is no fair comparison: take it out of the folder, or let it end."
            yield Check("warning", f"{found} {advice}")


def draw_judgement(summary: Summary) -> list[Drawing]:
    """Return the figures that the runs have: those that need their metrics alone."""
    return draw_judged(summary, [FOREST])[0]


def print_judgement(summary: Summary, to: Path, console: Console | None = None) -> None:
    """Print the answer, the verdicts, the warnings and where the report is."""
    console = console or Console()
    print_answer(console, summary)
    print_table(console, _verdicts_table(summary))
    console.print()
    print_warnings(console, summary)
    console.print(f"report:      {shown(to / 'report.html')}", soft_wrap=True, highlight=False)


def _verdicts_table(summary: Summary) -> Table:
    table = plain_table()
    for header in ("metric", "arms", "difference", "corrected p", "pairs", "result"):
        table.add_column(header, justify="right" if header in ("corrected p", "pairs") else "left")
    for row in [*summary.settings, *summary.verdicts]:
        interval = Interval(row.difference, row.lower, row.upper)
        cells = [row.metric, against(row.arm, row.versus), with_unit(difference(row.metric, interval), row.metric)]
        cells += [p_value(row.p_corrected), str(row.seeds), f"{SYMBOLS[row.decision]} {row.decision}"]
        table.add_row(*map(shown, cells))
    return table


def _facts(summary: Summary, asked: Asked) -> dict[str, str]:
    """Return what there is to know about how the runs were judged, by name."""
    claims = summary.study.record.claims.values()
    metrics = [
        f"{claim.metric} ({claim.direction} is better, margin "
        f"{with_unit(f'{claim.margin * (100 if in_percent(claim.metric) else 1):g}', claim.metric)})"
        for claim in claims
    ]
    lines = {
        "runs": f"{len(summary.study.results)}, of {summary.study.record.name}",
        "arms": f"{listed(dict.fromkeys(summary.study.results['head']), most=20)}, by {short_name(asked.arm)}",
        "pairs": f"runs of the same {short_name(asked.pair)}",
        "settings": listed(map(short_name, asked.settings)),
        "metrics": listed(metrics, most=20),
        "comparisons": "paired t tests, crossed with blocks of test examples where there are scores per example; "
        "Holm's correction with weights over the metrics; equivalence by two one-sided tests against the margin",
        "look": f"{asked.look}: tests at the level 0.05 / ({asked.look} x {asked.look + 1})",
    }
    return {name: text for name, text in lines.items() if text}
