"""What is committed of a study: README.md, results.csv, verdicts.json and a few figures; and the matrix of all."""

import re
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from headtohead.analysis.claims import Verdict
from headtohead.analysis.study import Study
from headtohead.analysis.summary import Findings
from headtohead.analysis.text import rivals
from headtohead.options import require
from headtohead.record.run import write_atomically
from headtohead.report import overview as matrix
from headtohead.report.figures.style import Drawing
from headtohead.report.render import SYMBOLS, VERDICTS, content, markdown

# The figures that answer.
FIGURES = ("seeds", "settings", "ladder", "learning_rates", "shared_rate")
# What a person adds: included as it is, never written.
REMARKS = "remarks.md"
# The folders of an absolute path, up to its last part.
FOLDERS = re.compile(r"""(?<![\w.…/)\]<;])~?/(?:[^\s/,;'"`)\]|]+/)*(?=[^\s/,;'"`)\]|])""")


def publish(findings: Findings, drawings: Sequence[Drawing], to: Path) -> None:
    """Write what is committed of a study to the folder `to`, and the matrix of all studies beside it.

    The same records and remarks give the same bytes.

    Raises:
        ConfigError: `to` is the study's own folder, or a study beside it is broken.
    """
    study = findings.study
    require(to.resolve() != study.folder.resolve(), "--to", to, "another folder, such as experiments/digits")
    figures = to / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    chosen = [drawing for name in FIGURES for drawing in drawings if drawing.name == name]
    for drawing in chosen:
        write_atomically(figures / f"{drawing.name}.svg", drawing.svg)
    for stale in set(figures.glob("*.svg")) - {figures / f"{drawing.name}.svg" for drawing in chosen}:
        stale.unlink()
    # Metrics are in single precision.
    write_atomically(to / "results.csv", study.results.to_csv(index=False, float_format="%.7g"))
    write_atomically(to / "verdicts.json", (study.folder / "verdicts.json").read_bytes())
    text = without_folders(
        markdown()
        .get_template("publication.md.j2")
        .render(
            content(findings, chosen),
            question=question(study),
            verdicts=_by_claim(findings.verdicts),
            words=[(word, SYMBOLS[word]) for word in VERDICTS],
        )
    )
    if (to / REMARKS).is_file():
        text += f"\n## Remarks\n\n{(to / REMARKS).read_text(encoding='utf-8')}"
    write_atomically(to / "README.md", text)
    write_matrix(to.parent)


def write_matrix(experiments: Path) -> None:
    """Write matrix.svg and matrix.md of the studies published in a folder, where any of them has a verdict to show.

    Raises:
        ConfigError: a verdicts.json is broken.
    """
    columns, sentences = matrix.read_columns(experiments)
    drawn = matrix.draw_matrix(columns, list(sentences))
    if drawn is None:
        return
    write_atomically(experiments / "matrix.svg", drawn.svg)
    symbols = defaultdict(lambda: "–", SYMBOLS)
    template = markdown().get_template("matrix.md.j2")
    names = {"proper": matrix.PROPER, "naive": matrix.NAIVE}
    text = template.render(columns=columns, sentences=sentences, symbols=symbols, **names)
    write_atomically(experiments / "matrix.md", text)


def question(study: Study) -> list[tuple[str, str]]:
    """The comment that opens the config of the study's experiment, as paragraphs ("text", ...) and ("code", ...).

    Its command is left out, since the study tells the one that was given. Empty where the study is no experiment
    of this package.
    """
    names = [item.partition("=")[2] for item in study.asked.get("common") or () if item.startswith("experiment=")]
    path = files("headtohead.configs") / "experiment" / f"{names[-1] if names else ''}.yaml"
    if not names or not re.fullmatch(r"\w+", names[-1]) or not path.is_file():
        return []
    blocks: list[tuple[str, list[str]]] = [("text", [])]
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        if not line.startswith("#"):
            break
        line = line[1:].removeprefix(" ")
        kind = "code" if line.startswith("  ") else "text"
        if not line or kind != blocks[-1][0] or re.match("(Cost|Expected|Command):", line):
            blocks.append((kind, []))
        if line:
            blocks[-1][1].append(line.strip())
    paragraphs = [(kind, ("\n" if kind == "code" else " ").join(lines)) for kind, lines in blocks if lines]
    return [(kind, text) for kind, text in paragraphs if not text.startswith("Command:")]


def without_folders(text: str) -> str:
    """The text with the last part of each absolute path alone: where things lie is the machine's, not the study's."""
    return FOLDERS.sub("…/", text)


def _by_claim(verdicts: Sequence[Verdict]) -> dict[str, dict[str, str]]:
    """For each claim the other arms by their verdict."""
    pairs: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for row in verdicts:
        pairs.setdefault(row.claim, {word: [] for word in VERDICTS})[row.verdict].append((row.arm, row.versus))
    return {claim: {word: rivals(of_word) for word, of_word in words.items()} for claim, words in pairs.items()}
