"""The short form of a report in the terminal: the answer, the arms, the verdicts, the warnings and where files are."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headtohead.analysis.claims import Verdict
from headtohead.analysis.study import Study
from headtohead.analysis.summary import Summary, summarise
from headtohead.analysis.text import rivals
from headtohead.analysis.tuning import ChosenTrial
from headtohead.options import printable
from headtohead.report.content import SYMBOLS, WORDS, arm_rows


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
    for row in arm_rows(summary):
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


def _shown(text: object) -> str:
    """Return a text for the terminal, in which nothing is taken for markup or control."""
    return escape(printable(text))
