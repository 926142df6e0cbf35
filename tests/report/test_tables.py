"""Tables at any width: no word, name or number is broken."""

from io import StringIO

import pytest
from rich.console import Console

from headtohead.report.tables import plain_table, print_table, shown
from headtohead.report.terminal import print_study
from headtohead.testing import make_study


def printed(table, width):
    console = Console(file=StringIO(), width=width)
    print_table(console, table)
    return console.file.getvalue()


def example():
    table = plain_table()
    table.add_column("arm")
    table.add_column("best", justify="right", no_wrap=True)
    table.add_column("verdict")
    table.add_row(shown("optimizer=adamw, softmax"), "97.66 ± 0.26", "? inconclusive: sigmoid, sigmoid_prior")
    table.add_row(shown("[odd]"), "1", "= equivalent: sigmoid")
    return table


@pytest.mark.parametrize("width", [200, 80, 60, 52, 45, 30, 20])
def test_words_stay_whole(width):
    text = printed(example(), width)
    words = {*text.split()}
    assert {"optimizer=adamw,", "softmax", "[odd]", "97.66", "sigmoid_prior", "inconclusive:", "equivalent:"} <= words
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert width < 45 or "97.66 ± 0.26" in text


def test_where_all_fits_a_row_is_a_line():
    lines = printed(example(), 80).splitlines()
    assert lines[2].split("  ")[0] == "optimizer=adamw, softmax" and lines[2].endswith("sigmoid, sigmoid_prior")


def test_where_a_word_does_not_fit_a_row_is_a_paragraph():
    assert [line.rstrip() for line in printed(example(), 30).splitlines()[:3]] == [
        "optimizer=adamw, softmax", "  best: 97.66 ± 0.26", "  verdict: ? inconclusive:",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 40])
def test_names_of_arms_and_claims_stay_whole_in_the_short_form(tmp_path, width):
    study = make_study(tmp_path / "s", seeds=3)
    console = Console(file=StringIO(), width=width)
    print_study(study, console)
    text = console.file.getvalue()
    lines = text.split("results:")[0].splitlines()
    assert all(len(line.rstrip()) <= width for line in lines)
    assert {"softmax", "sigmoid"} <= {line.split()[0] for line in lines if line.strip()}
    assert "accuracy" in {line.split()[0] for line in lines if line.strip()}
