"""Write what a person reads about a study: report.html, report.md, verdicts.json and figures."""

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from headtohead.analysis.checks import Check
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import Summary, summarise, verdicts_json
from headtohead.options import ConfigError, one_line, printable, require
from headtohead.record.files import without_home, write_atomically
from headtohead.report.content import content
from headtohead.report.drawing import Drawing
from headtohead.report.figures import FIGURES, FOREST, OF_STUDY, define, draw_judged, interactive, panels
from headtohead.report.figures.style import DARK
from headtohead.report.renderer import Renderer

# The files by which a folder with a report is known.
REPORT = {"report.html", "report.md", "verdicts.json"}


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
        refuse_foreign_folder("--out", to, REPORT, "a report")
    with Renderer(pictures) as renderer:
        read = read_study(study)
        for name in OF_STUDY:
            renderer.send(*define(read, [name]))
        summary = summarise(read)
        renderer.send(*define(read, [FOREST], panels(summary)))
        drawings, failures = renderer.drawings()
    to = to or study
    drawings.sort(key=lambda drawing: FIGURES.index(drawing.name))
    undrawn = [Check("warning", f"The figure {name} could not be drawn ({why}).") for name, why in failures.items()]
    summary = _with(summary, undrawn)
    return write_files(summary, drawings, to), drawings


def write_files(
    summary: Summary, drawings: Sequence[Drawing], to: Path, others: Mapping[str, Any] = MappingProxyType({})
) -> Summary:
    """Write verdicts.json, figures/ and the pages to a folder, made if missing, and return what the pages say.

    Args:
        others: What the pages show in place of what `content` returns.
    """
    scripts = ""
    try:
        scripts = interactive(drawings)
    except Exception as error:  # whatever it is, it never costs the rest of the report
        summary = _with(summary, [Check("remark", f"The figures of report.html stand still ({one_line(error)}).")])
    write_figures(to / "figures", drawings)
    write_atomically(to / "verdicts.json", verdicts_json(summary))
    shown = content(summary, drawings) | {"scripts": scripts, "dark": DARK} | dict(others)
    for name, environment in (("report.html", _html()), ("report.md", markdown())):
        write_atomically(to / name, without_home(environment.get_template(f"{name}.j2").render(shown)))
    return summary


def _with(summary: Summary, checks: Sequence[Check]) -> Summary:
    """Return the summary with more checks, warnings first."""
    return replace(summary, checks=sorted([*summary.checks, *checks], key=lambda check: check.kind == "remark"))


def first_screen(summary: Summary) -> str:
    """Return the answer and its verdicts as HTML for a notebook."""
    drawings, _ = draw_judged(summary, [FOREST])
    return _html().get_template("first_screen.html.j2").render(content(summary, drawings))


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


def _html() -> Environment:
    environment = _environment(autoescape=True, finalize=_printable_value)
    environment.filters["ours"] = Markup  # our own drawings and scripts: the only things that are not escaped
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
