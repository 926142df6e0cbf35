"""Tables for papers: the numbers of verdicts.json, as CSV and as LaTeX that nothing can break."""

import json
import re
from io import StringIO

import pandas as pd
import pytest

from headtohead.analysis.summary import summarise, verdicts_json
from headtohead.analysis.text import MINUS
from headtohead.report.paper import csv_table, latex_table, tex
from headtohead.testing import ACCURACY, make_study

ODD = r"100%_a&b#{c}$d\e~f^g<h>|i"


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    arms = {
        f"{data},{name}": [f"dataset={data}", f"head={head}"]
        for data in ("iris", "wine")
        for name, head in (("softmax", "softmax"), (ODD, "sigmoid"))
    }
    nll = ACCURACY | {"metric": "val_nll", "direction": "lower", "sentence": "Softmax has lower loss."}
    claims = {"accuracy": ACCURACY, "loss": nll}
    return summarise(make_study(tmp_path_factory.mktemp("outputs") / "odd", arms=arms, seeds=4, claims=claims))


def test_csv_has_the_numbers_of_verdicts_json(summary):
    table = pd.read_csv(StringIO(csv_table(summary)))
    content = json.loads(verdicts_json(summary))
    rows = [*content["settings"], *content["claims"]]
    assert len(table) == len(rows) == 6
    for (_, line), row in zip(table.iterrows(), rows, strict=True):
        for key in ("difference", "lower", "upper", "mean_arm", "mean_versus", "confidence", "p", "p_corrected"):
            assert line[key] == pytest.approx(row[key])
        assert line.verdict == row["verdict"] and line.metric == row["metric"] and line.margin == row["margin"]
    assert list(table.setting[:3]) == ["all 2", "all 2", "dataset=iris"] and table.versus[2] == f"iris,{ODD}"
    assert table.in_words[0].startswith("Over 2 settings: ") and table.claim[0] == "higher test accuracy"


def test_a_row_without_runs_has_empty_cells(tmp_path):
    study = make_study(tmp_path / "study", seeds=3, claims={"mine": ACCURACY | {"metric": "test_beauty"}})
    (line,) = pd.read_csv(StringIO(csv_table(summarise(study)))).to_dict("records")
    assert line["pairs"] == 0 and pd.isna(line["difference"]) and line["in_words"].startswith("Not judged: ")
    assert " &  &  &  & inconclusive " in latex_table(summarise(study))


def test_latex_is_a_booktabs_table_with_the_intervals_and_verdicts(summary):
    lines = latex_table(summary).splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}" and lines[1] == r"\begin{tabular}{llrrrl}"
    assert [lines[2], *lines[-2:]] == [r"\toprule", r"\bottomrule", r"\end{tabular}"]
    body = [line for line in lines[4:-2] if line != r"\midrule"]
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in body]
    assert {len(row) for row in rows} == {6} and len(rows) == 6
    for cells, verdict in zip(rows, [*summary.settings, *summary.verdicts], strict=True):
        scale = 100 if verdict.metric.endswith("accuracy") else 1
        shown = re.findall(r"[-+]?\d+\.?\d*", "".join(cells[2:4]).replace("$-$", "-"))
        wanted = [scale * value for value in (verdict.difference, verdict.lower, verdict.upper)]
        assert list(map(float, shown)) == pytest.approx(wanted, abs=0.06 * (wanted[2] - wanted[1]))
        assert cells[5].strip() == verdict.verdict
    commands = {*re.findall(r"\\([A-Za-z]+)", latex_table(summary))}
    ours = {"usepackage", "begin", "end", "toprule", "midrule", "bottomrule"}
    assert commands <= ours | {
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
    }


def test_no_character_of_a_name_is_a_command_of_tex():
    assert tex("a_b & 5 %") == r"a\_b \& 5 \%"
    assert tex(r"\input{x}") == r"\textbackslash{}input\{x\}"
    assert tex(f"{MINUS}1 ^~") == r"$-$1 \textasciicircum{}\textasciitilde{}"
    assert tex("a\nb") == "a b"


def test_the_command_prints_the_table_alone_and_writes_nothing(command, tmp_path):
    study = make_study(tmp_path / "outputs/study", seeds=3, claims={"accuracy": ACCURACY})
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    printed = command("report", "outputs/study", "--format", "csv")
    assert printed.status == 0 and printed.out == csv_table(summarise(study)) and printed.err == ""
    assert command("report", "outputs/study", "--format", "latex").out == latex_table(summarise(study))
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "latx"], "--format=latx: did you mean latex? accepted: csv, latex"),
        (["--format", ""], "--format=: accepted: csv, latex"),
        (["--format", "csv", "--out", "x"], "--out=x: with --format nothing is written; accepted: one of the two"),
        (["--format", "csv", "--to", "y"], "--to=y: with --format nothing is written; accepted: one of the two"),
    ],
)
def test_a_wrong_format_is_refused_in_one_line(command, tmp_path, arguments, message):
    make_study(tmp_path / "outputs/study", seeds=2, records=False)
    refused = command("report", "outputs/study", *arguments)
    assert refused.status == 2 and refused.err == f"headtohead: {message}\n" and refused.out == ""
