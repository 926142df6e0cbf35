"""The table of the benchmarks: its rows, and how it is kept for several machines."""

import importlib
from pathlib import Path

import pandas as pd
import pytest
from test_docs import read

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("bench")


def test_the_table_has_a_row_for_each_case_and_peer(bench):
    text = read("benchmarks/README.md")
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:1] == "|"]
    for case in bench.CASES:
        for peer in case.limits:
            limit = case.empty_row(peer)["limit"]
            found = [row for row in rows if row[:2] == (case.name, limit) and row[3].startswith(bench.named(peer))]
            assert found, (case.name, peer)


def test_a_limit_holds_for_the_median_of_the_ratios_within_rounds(bench):
    case = bench.Case("x", "µs", {"jax": 0.75, "eager x2": None, "": 2.5}, dict)
    # The machine slows down from round to round: the medians' ratio would be 2/3 = 0.67.
    found = {"headtohead x2": [1, 2, 8], "jax": [1.25, 2.5, 10], "eager x2": [4.0, 8.0]}
    jax, eager, alone = case.rows(found)
    assert jax["limit"] == "0.75 of JAX"
    assert jax["ours"] == "x2 2 (1.5 to 5) µs"
    assert jax["theirs"] == "2.5 (1.88 to 6.25) µs"
    assert jax["ratio"] == "0.8 (0.8 to 0.8)"
    assert jax["within"] == "**no**"
    assert (eager["limit"], eager["ratio"], eager["within"]) == ("", "0.333", "")
    assert (alone["limit"], alone["ratio"], alone["within"]) == ("2.5 µs", "", "yes")


def test_equal_accuracies_are_within_the_interval_of_their_difference(bench):
    case = bench.Case("x", "", {"float32": bench.SAME}, dict)
    (row,) = case.rows({"headtohead": [0.80, 0.82, 0.81], "float32": [0.81, 0.80, 0.81]})
    # The differences -0.01, 0.02, 0 have the mean 0.0033 and the standard error 0.0088; t(0.975, 2) is 4.303.
    assert row["ratio"] == "difference +0.0033 (-0.0346 to +0.0413)"
    assert row["within"] == "yes"
    (row,) = case.rows({"headtohead": [0.70, 0.72, 0.71], "float32": [0.81, 0.80, 0.81]})
    assert row["within"] == "**no**"


def test_what_was_not_measured_says_why(bench):
    case = bench.Case("x", "µs", {"jax": 0.75}, dict)
    (row,) = case.rows({"headtohead x2": [1, 2], "jax": "jax not installed"})
    assert (row["ours"], row["theirs"], row["within"]) == ("not measured: jax not installed", "", "")


def test_a_new_row_replaces_that_of_the_same_processor_alone(bench):
    case = bench.Case("x", "s", {"": 1}, dict)
    results = pd.DataFrame(columns=bench.COLUMNS)
    for processor, seconds in (("one", 0.5), ("two", 3.0), ("one", 0.25)):
        rows = [row | {"processor": processor, "versions": "v"} for row in case.rows({"headtohead": [seconds]})]
        results = bench.merge(results, rows)
    assert bench.table(results, [case]).splitlines()[2:] == [
        "| x | 1 s | 0.25 s | | | yes | A |",
        "| x | 1 s | 3 s | | | **no** | B |",
        "",
        "- A: one. v.",
        "- B: two. v.",
    ]


def test_the_pace_of_a_machine_is_the_sum_of_unlike_rates(bench):
    way = object.__new__(importlib.import_module("speed").Way)
    way._running, way.wait = [], lambda: [[1.0, 1.0], [2.0, 4.0]]
    assert way.turn(0) == pytest.approx(1 / (1 + 1 / 3))
