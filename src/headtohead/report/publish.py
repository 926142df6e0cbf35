"""Publish what is committed of a study: README.md, tables, verdicts.json and a few figures; and the overview."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from headtohead.analysis.claims import Verdict
from headtohead.analysis.study import Study
from headtohead.analysis.summary import Summary, verdicts_json
from headtohead.analysis.text import rivals
from headtohead.options import require
from headtohead.record.files import read_bytes, without_home, write_atomically
from headtohead.report.content import SYMBOLS, WORDS, content
from headtohead.report.drawing import Drawing
from headtohead.report.overview import NAIVE, PROPER, draw_matrix, read_columns
from headtohead.report.render import markdown, refuse_foreign_folder, write_figures

# The figures that answer a study's question, in the order of its page.
PUBLISHED = ("seeds", "settings", "ladder", "learning_rates", "shared_rate", "budget", "tuned_settings")
# A file that a person writes; its text goes into the page as it is.
REMARKS = "remarks.md"
# The first line of matrix.md.
MATRIX_HEADING = b"# Claims by studies\n"
# The folders of an absolute path, up to its last part.
FOLDERS = re.compile(r"""(?<![\w.…/)\]<;])~?/(?:[^\s/,;'"`)\]|]+/)*(?=[^\s/,;'"`)\]|])""")


def publish(summary: Summary, drawings: Sequence[Drawing], to: Path) -> None:
    """Write what is committed of a study to the folder `to`, and the overview of all studies beside it.

    The same records and remarks give the same bytes.

    Raises:
        ConfigError: `to` is the study's own folder, or a study beside it is broken.
    """
    study = summary.study
    refuse_target(study.folder, to)
    published = [drawing for name in PUBLISHED for drawing in drawings if drawing.name == name]
    write_figures(to / "figures", published)
    # Metrics are in single precision.
    write_atomically(to / "results.csv", without_home(study.results.to_csv(index=False, float_format="%.7g")))
    write_atomically(to / "blocks.csv", without_home(_judged_blocks(study).to_csv(index=False, float_format="%.7g")))
    write_atomically(to / "verdicts.json", verdicts_json(summary))
    text = without_folders(
        markdown()
        .get_template("publication.md.j2")
        .render(
            content(summary, published),
            question=question(study),
            verdicts=_by_claim(summary.verdicts),
            words=[(word, SYMBOLS[word]) for word in WORDS],
        )
    )
    if (to / REMARKS).is_file():
        text += f"\n## Remarks\n\n{(to / REMARKS).read_text(encoding='utf-8')}"
    write_atomically(to / "README.md", text)
    write_matrix(to.parent)


def refuse_target(study: Path, to: Path) -> None:
    """Refuse to publish a study to its own folder, or over what a person has written.

    Raises:
        ConfigError: naming what stands in the way.
    """
    require(to.resolve() != study.resolve(), "--to", to, "another folder, such as experiments/digits")
    if not to.is_dir() or {path.name for path in to.iterdir()} != {REMARKS}:
        refuse_foreign_folder("--to", to, {"README.md", "results.csv", "verdicts.json"}, "a published study")
    overview, picture = to.parent / "matrix.md", to.parent / "matrix.svg"
    accepted = "which headtohead did not write; accepted: a folder without one beside it"
    if os.path.lexists(overview):
        require(read_bytes(overview).startswith(MATRIX_HEADING), "--to", to, f"beside it lies {overview}, {accepted}")
    else:
        require(not os.path.lexists(picture), "--to", to, f"beside it lies {picture}, {accepted}")


def write_matrix(experiments: Path) -> None:
    """Write matrix.svg and matrix.md, the overview of the studies published in a folder, where any has a verdict.

    Raises:
        ConfigError: a verdicts.json is broken.
    """
    columns, sentences = read_columns(experiments)
    drawn = draw_matrix(columns, list(sentences))
    if drawn is None:
        return
    write_atomically(experiments / "matrix.svg", drawn.svg)
    symbols = defaultdict(lambda: "–", SYMBOLS)
    template = markdown().get_template("matrix.md.j2")
    text = template.render(columns=columns, sentences=sentences, symbols=symbols, proper=PROPER, naive=NAIVE)
    write_atomically(experiments / "matrix.md", text)


def question(study: Study) -> list[tuple[str, str]]:
    """Return the comment that opens the config of the study's experiment, as paragraphs of kind "text" or "code".

    The command in it is left out, since the study names its own. Empty where the study is no experiment of this
    package.
    """
    names = [item.partition("=")[2] for item in study.record.common if item.startswith("experiment=")]
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
    """Return the text with absolute paths cut to their last part, since folders are the machine's, not the study's."""
    return FOLDERS.sub("…/", text)


def _judged_blocks(study: Study) -> pd.DataFrame:
    """Return the metrics on blocks by which verdicts and the answer can be computed again."""
    primary = f"test_{study.record.protocol.selected_by.removeprefix('val_')}"
    judged = {claim.metric for claim in study.record.claims.values()} | {primary, "test_nll"}
    others = [name for name in study.blocks if name not in {"run", "block", "size"} | judged]
    tested = study.blocks.loc[~study.blocks.run.isin(study.record.runs.get("search", ()))]
    return tested.drop(columns=others)


def _by_claim(verdicts: Sequence[Verdict]) -> dict[str, dict[str, str]]:
    """Return for each claim the other arms, by their verdict."""
    pairs: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for row in verdicts:
        pairs.setdefault(row.claim, {word: [] for word in WORDS})[row.verdict].append((row.arm, row.versus))
    return {claim: {word: rivals(of_word) for word, of_word in words.items()} for claim, words in pairs.items()}
