"""The short form of a report in the terminal: the answer, the arms, the verdicts, the warnings and where files are."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from headtohead.analysis.claims import Verdict
from headtohead.analysis.study import Study
from headtohead.analysis.summary import Summary, summarise
from headtohead.analysis.text import rivals
from headtohead.analysis.tuning import ChosenTrial
from headtohead.report.content import SYMBOLS, WORDS, arm_rows
from headtohead.report.tables import plain_table, print_table, shown


def print_study(study: Path | Summary, console: Console | None = None, to: Path | None = None) -> None:
    """Print the short form of a report: the answer, the arms, the verdicts, the warnings and where files are.

    Args:
        to: Folder that the report was written to; None where it is the study's own.
    """
    summary = study if isinstance(study, Summary) else summarise(study)
    folder = summary.study.folder
    console = console or Console()
    print_answer(console, summary)
    console.print(f"[i]{shown(folder.name)}: mean ± half of the 95 % interval over seeds[/i]", highlight=False)
    print_table(console, _arms_table(summary))
    if any(arm.on_edge for arm in summary.arms):
        where = "in the outer tenth of a range" if summary.tuning else "on the edge of the grid of learning rates"
        console.print(f"* {where}: the arm may not be tuned", highlight=False)
    console.print()
    if summary.tuning:
        print_table(console, _chosen_table(summary.study, summary.tuning.chosen))
        console.print()
    if summary.settings:
        console.print("[i]common claims across settings: the favoured head against the others[/i]", highlight=False)
        print_table(console, _verdicts_table(summary.settings))
        console.print()
    if any(verdict.seeds for verdict in summary.verdicts):
        console.print("[i]common claims: the favoured head against the others[/i]", highlight=False)
        print_table(console, _verdicts_table(summary.verdicts))
        console.print()
    print_warnings(console, summary)
    places = {
        "results": folder / "results.csv",
        "report": (to or folder) / "report.html",
        "TensorBoard": f"headtohead board {folder}",
    }
    for name, place in places.items():
        console.print(f"{name + ':':<13}{shown(str(place))}", soft_wrap=True, highlight=False)


def print_answer(console: Console, summary: Summary) -> None:
    """Print the answer between blank lines."""
    console.print()
    console.print(f"[bold]{shown(summary.answer.headline)}[/bold]", highlight=False)
    for sentence in summary.answer.sentences:
        console.print(shown(sentence), highlight=False)
    console.print()


def print_warnings(console: Console, summary: Summary) -> None:
    """Print the warnings and a blank line; nothing without any."""
    warnings = [check.text for check in summary.checks if check.kind == "warning"]
    for warning in warnings:
        console.print(f"[bold]! [/bold]{shown(warning)}", highlight=False)
    if warnings:
        console.print()


def _arms_table(summary: Summary) -> Table:
    table, best = plain_table(), "best trial" if summary.study.record.space else "best lr"
    table.add_column("arm")
    for header in (best, "val acc, %", "test acc, %", "test NLL", "diverged"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in arm_rows(summary):
        cells = (row["best"], row["val_accuracy"], row["test_accuracy"], row["test_nll"], row["diverged"])
        table.add_row(_folding(row["arm"]), *cells)
    return table


def _chosen_table(study: Study, chosen: Sequence[ChosenTrial]) -> Table:
    table = plain_table()
    table.add_column("arm")
    table.add_column("chosen trial: its settings")
    several = {arm for arm, count in Counter(row.arm for row in chosen).items() if count > 1}
    for row in chosen:
        by = f" by {', '.join(row.criteria)}" if row.arm in several else ""
        settings = ", ".join(f"{key.rpartition('.')[2]} {value:.3g}" for key, value in row.settings.items())
        table.add_row(_folding(row.arm), shown(f"{study.label(row.trial)}{by}: {settings}"))
    return table


def _verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    table = plain_table()
    table.add_column("claim", no_wrap=True)
    table.add_column("verdict")
    for claim, group in groupby(verdicts, key=lambda verdict: verdict.claim):
        rows, parts = list(group), []
        for word in WORDS:
            named = rivals((row.arm, row.versus) for row in rows if row.verdict == word)
            if named:
                parts.append(f"{SYMBOLS[word]} {word}: {named}")
        table.add_row(shown(claim), "\n".join(map(shown, parts)))
    return table


def _folding(arm: str) -> str:
    """Return the label of an arm such that it can be broken between its overrides."""
    return shown(arm.replace(",", ", "))
