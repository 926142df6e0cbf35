"""What a person reads of a study: report.html, report.md and figures, and a short form in the terminal."""

import math
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headtohead.analysis.claims import Verdict, head_of, pairs_of
from headtohead.analysis.ladder import Climb, draw_ladder
from headtohead.analysis.statistics import Interval
from headtohead.analysis.study import Study
from headtohead.analysis.summary import Comparison, Findings, find
from headtohead.analysis.text import against, decimals, difference, number, percent, plus_minus, rivals
from headtohead.record.run import write_atomically
from headtohead.report import provenance as method
from headtohead.report.figures.evidence import Evidence
from headtohead.report.figures.style import Drawing
from headtohead.report.figures.training import draw

# A verdict is told by its word and its symbol; colour only repeats them.
SYMBOLS = {
    "supported": "✓",
    "refuted": "✗",
    "equivalent": "=",
    "inconclusive": "?",
    "better": "✓",
    "worse": "✗",
    "undecided": "?",
}
VERDICTS = ("supported", "refuted", "equivalent", "inconclusive")


def write_report(study: Path) -> tuple[Findings, list[Drawing]]:
    """Judge a study and write its verdicts.json, report.html, report.md and figures/.

    The same records give the same bytes.

    Returns:
        what was found, and the figures.

    Raises:
        ConfigError: the folder holds no study, or study.json or results.csv is broken.
    """
    findings = find(study)
    drawings = draw(evidence(findings.study))
    stairs = draw_ladder(findings.study, findings.climbs)
    drawings += [stairs] if stairs else []
    folder = study / "figures"
    folder.mkdir(exist_ok=True)
    for drawing in drawings:
        write_atomically(folder / f"{drawing.name}.svg", drawing.svg)
    for stale in set(folder.glob("*.svg")) - {folder / f"{drawing.name}.svg" for drawing in drawings}:
        stale.unlink()
    shown = content(findings, drawings)
    for name, environment in (("report.html", _html()), ("report.md", markdown())):
        write_atomically(study / name, environment.get_template(f"{name}.j2").render(shown))
    return findings, drawings


def verdicts_in_markdown(findings: Findings) -> str:
    """The answer and one table of all verdicts."""
    return markdown().get_template("verdicts.md.j2").render(content(findings, []))


def print_study(study: Path | Findings, console: Console | None = None) -> None:
    """Print the short form: the answer, the arms, the verdicts, what could be wrong and where everything lies."""
    findings = study if isinstance(study, Findings) else find(study)
    folder = findings.study.folder
    console = console or Console()
    console.print()
    console.print(f"[bold]{escape(findings.answer.headline)}[/bold]", highlight=False)
    for sentence in findings.answer.sentences:
        console.print(escape(sentence), highlight=False)
    console.print()
    console.print(f"[i]{escape(folder.name)}: mean ± half of the 95 % interval over seeds[/i]", highlight=False)
    console.print(_arms_table(findings))
    if findings.arms.on_edge.any():
        console.print("* on the edge of the grid of learning rates: the arm may not be tuned", highlight=False)
    console.print()
    if any(verdict.seeds for verdict in findings.verdicts):
        console.print("[i]what the article claims of its head, against the others[/i]", highlight=False)
        console.print(_verdicts_table(findings))
        console.print()
    warnings = [doubt.text for doubt in findings.doubts if doubt.kind == "warning"]
    for warning in warnings:
        console.print(f"[bold]! [/bold]{escape(warning)}", highlight=False)
    if warnings:
        console.print()
    places = {
        "results": folder / "results.csv",
        "report": folder / "report.html",
        "TensorBoard": f"headtohead board {folder}",
    }
    for what, place in places.items():
        console.print(f"{what + ':':<13}{escape(str(place))}", soft_wrap=True, highlight=False)


def _arms_table(findings: Findings) -> Table:
    table = _table()
    table.add_column("arm", overflow="fold")
    for header in ("best lr", "val acc, %", "test acc, %", "test NLL", "diverged"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in _arm_rows(findings):
        cells = (row["lr"], row["val_accuracy"], row["test_accuracy"], row["test_nll"], row["diverged"])
        table.add_row(escape(row["arm"]), *cells)
    return table


def _verdicts_table(findings: Findings) -> Table:
    table = _table()
    table.add_column("claim", overflow="fold", ratio=1)
    table.add_column("verdict", overflow="fold", ratio=2)
    for claim, group in groupby(findings.verdicts, key=lambda verdict: verdict.claim):
        rows, parts = list(group), []
        for word in VERDICTS:
            named = rivals((row.arm, row.versus) for row in rows if row.verdict == word)
            if named:
                parts.append(f"{SYMBOLS[word]} {word}: {named}")
        table.add_row(escape(claim), escape("\n".join(parts)))
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def evidence(study: Study) -> Evidence:
    """What the figures of a study are drawn from."""
    return Evidence(
        arms=study.arms,
        searched=study.searched,
        best=study.best,
        final=study.final,
        history=study.history,
        curves={run: study.records.get(run, {}).get("curves") for run in study.final.run},
        num_classes=study.common_num_classes,
        num_classes_of=study.num_classes,
        pairs=pairs_of(study, head_of(study, study.arms[0])),
        overrides=study.asked["arms"],
        target=study.target,
        predictions=study.predictions,
        picked=study.picked,
        classes=study.asked.get("classes") or (),
    )


def content(findings: Findings, drawings: list[Drawing]) -> dict[str, Any]:
    """What the templates show: text and numbers, not yet escaped."""
    study = findings.study
    differing, shared = method.differing_settings(study)
    counts = Counter(verdict.verdict for verdict in findings.verdicts)
    return {
        "name": study.asked.get("name") or study.folder.resolve().name,
        "answer": findings.answer,
        "comparisons": [_comparison(item) for item in findings.answer.comparisons],
        "counts": [(word, SYMBOLS[word], counts[word]) for word in VERDICTS],
        "groups": _groups(findings.verdicts),
        "arms": _arm_rows(findings),
        "any_on_edge": bool(findings.arms.on_edge.any()),
        "ladder": [f"{before} → {arm}" for before, arm in pairwise(study.ladder)],
        "climbs": [_climb(climb) for climb in findings.climbs],
        "drawings": drawings,
        "warnings": [doubt.text for doubt in findings.doubts if doubt.kind == "warning"],
        "remarks": [doubt.text for doubt in findings.doubts if doubt.kind == "remark"],
        "command": method.command(study),
        "differing": [(key, list(row)) for key, row in zip(differing.index, differing.to_numpy(), strict=True)],
        "differing_arms": list(differing.columns),
        "shared": shared,
        "facts": method.facts(study),
        "versions": method.versions(study),
    }


def _arm_rows(findings: Findings) -> list[dict[str, str]]:
    return [
        {
            "arm": row.arm,
            "lr": "-" if math.isnan(row.lr) else f"{row.lr:g}{'*' if row.on_edge else ''}",
            "val_accuracy": plus_minus(row.val_accuracy, 100, 2),
            "test_accuracy": plus_minus(row.test_accuracy, 100, 2),
            "test_nll": plus_minus(row.test_nll, 1, 3),
            "seeds": str(row.seeds),
            "diverged": f"{row.diverged}/{row.runs}",
            "failed": f"{row.failed}/{row.runs}",
        }
        for row in findings.arms.itertuples()
    ]


def _comparison(item: Comparison) -> dict[str, Any]:
    return {
        "versus": item.versus,
        "metric": item.metric,
        "difference": difference(item.metric, item.difference),
        "unit": "points" if percent(item.metric) else "",
        "pairs": item.pairs,
        "p": _p(item.p),
        "verdict": item.verdict,
        "symbol": SYMBOLS[item.verdict],
        "more": _more(item.more_seeds),
    }


def _groups(verdicts: list[Verdict]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Claims by the theme that their ids begin with, each with its verdicts."""
    claims = []
    for claim, group in groupby(verdicts, key=lambda verdict: verdict.claim):
        rows = list(group)
        unit = "points" if percent(rows[0].metric) else ""
        claims.append(
            {
                "id": claim,
                "theme": _theme(claim),
                "sentence": rows[0].sentence,
                "metric": rows[0].metric,
                "phase": rows[0].phase,
                "direction": rows[0].direction,
                "margin": f"{(100 if unit else 1) * rows[0].margin:g}",
                "unit": unit,
                "verdicts": [_verdict(row) for row in rows],
            }
        )
    return [(theme, list(group)) for theme, group in groupby(claims, key=lambda claim: claim["theme"])]


def _theme(claim: str) -> str:
    return claim.replace(".", "_").split("_")[0]


def _verdict(row: Verdict) -> dict[str, Any]:
    scale = 100 if percent(row.metric) else 1
    digits = decimals(scale * (row.upper - row.lower) / 2, scale * abs(row.difference))
    return {
        "arms": against(row.arm, row.versus),
        "mean_arm": number(scale * row.mean_arm, digits),
        "mean_versus": number(scale * row.mean_versus, digits),
        "difference": difference(row.metric, Interval(row.difference, row.lower, row.upper)),
        "p": _p(row.p_corrected),
        "seeds": row.seeds,
        "verdict": row.verdict,
        "symbol": SYMBOLS[row.verdict],
        "more": _more(row.more_seeds),
        "note": row.note,
    }


def _climb(climb: Climb) -> dict[str, Any]:
    metric = climb.asks.metric
    factor = 100 if percent(metric) else 1
    intervals = [*climb.steps, climb.total]
    # The same decimals in a row, so that a reader can add.
    digits = decimals(factor * max(step.half_width for step in intervals), factor * max(abs(s.mean) for s in intervals))
    return {
        "claim": climb.claim,
        "metric": f"{metric}, points" if percent(metric) else metric,
        "margin": f"{factor * climb.asks.margin:g}",
        "seeds": climb.seeds,
        "steps": [difference(metric, step, digits) for step in climb.steps],
        "total": difference(metric, climb.total, digits),
    }


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _more(seeds: int | None) -> str:
    return f"about {seeds} more {'seed' if seeds == 1 else 'seeds'} would decide" if seeds else ""


def _html() -> Environment:
    environment = _environment(autoescape=True)
    environment.filters["svg"] = Markup  # drawn here: the one thing that is not escaped
    return environment


def markdown() -> Environment:
    """Markdown has no escaping of its own in jinja2: every value passes through `_escape_markdown`."""
    environment = _environment(autoescape=False, finalize=_escape_markdown)
    environment.filters["code"] = lambda text: Markup("\n".join(f"    {line}" for line in str(text).splitlines()))
    return environment


def _environment(**options: Any) -> Environment:
    loader = PackageLoader("headtohead.report")
    return Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, **options)


def _escape_markdown(value: Any) -> str:
    if isinstance(value, Markup):
        return value
    text = str(value).replace("\n", " ")
    for special in ("\\", "|", "*", "`", "#", "]("):
        text = text.replace(special, f"\\{special}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
