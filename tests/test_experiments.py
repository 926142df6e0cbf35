"""The published studies: their numbers and verdicts are those of their results.csv and verdicts.json.

A published page keeps the wording it was written with: no page is written again when the report words a sentence
differently. These tests therefore read tables by their numbers, verdicts and arms, not by their sentences.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STUDIES = sorted(path.parent for path in EXPERIMENTS.glob("*/results.csv"))
# Of each metric in the table of arms its column, and the factor of its values.
ARM_CELLS = {"val_accuracy": (3, 100), "test_accuracy": (4, 100), "test_nll": (5, 1)}
# A cell with a verdict: its symbol and its word.
VERDICT = re.compile(r"[✓✗=?] (supported|refuted|equivalent|inconclusive)")

study = pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)


def test_there_are_studies():
    assert STUDIES


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of a study: all, and those that its arms are compared by."""
    runs = pd.read_csv(folder / "results.csv")
    ended = runs[runs.status != "failed"]
    if (runs.phase == "confirm").any():
        return runs, ended[ended.phase == "confirm"]
    means = ended.groupby(["arm", "lr"])[["val_accuracy", "val_nll"]].mean().reset_index()
    best = means.sort_values(["val_accuracy", "val_nll"], ascending=[False, True]).groupby("arm").first().lr
    return runs, ended[ended.lr == ended.arm.map(best)]


def tables(folder: Path) -> list[list[list[str]]]:
    """The rows of every table in the README, without their headings; the first cell of a row is empty."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    return [[[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in block[2:]] for block in blocks]


def number(cell: str) -> float:
    return float(cell.replace("−", "-"))


def arms(folder: Path) -> dict[str, list[str]]:
    """The table of arms in the README, which is the first one, by arm."""
    return {re.sub(r"\\(.)", r"\1", row[1]): row for row in tables(folder)[0]}


@study
def test_the_table_of_arms(folder):
    runs, final = read(folder)
    rows = arms(folder)
    assert set(rows) == set(runs.arm)
    for arm, cells in rows.items():
        of_arm = final[final.arm == arm]
        # Arms may have been confirmed at the best trials by several criteria.
        tried = of_arm.trial if of_arm.get("trial", pd.Series([0])).any() else of_arm.lr
        of_arm = of_arm[np.isclose(tried, float(cells[2].rstrip("\\*")), rtol=1e-5)]
        assert cells[6] == str(len(of_arm))
        assert cells[7] == f"{((runs.arm == arm) & (runs.status == 'diverged')).sum()}/{(runs.arm == arm).sum()}"
        for metric, (place, scale) in ARM_CELLS.items():
            values = scale * of_arm[metric].dropna()
            digits = len(cells[place].split()[0].partition(".")[2])
            # Of the rounding to the digits shown, and of results.csv itself.
            room = 0.5 * 10**-digits + 1e-4
            mean, _, half = cells[place].partition(" ± ")
            assert number(mean) == pytest.approx(values.mean(), abs=room), (arm, metric)
            # One seed has no interval.
            assert (half == "") == (len(values) == 1)
            if len(values) > 1 and values.std() > 0:
                expected = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
                assert float(half) == pytest.approx((expected[1] - expected[0]) / 2, abs=room), (arm, metric)


@study
def test_the_differences_of_the_verdicts(folder):
    runs, _ = read(folder)
    ended = runs[runs.status != "failed"].replace([math.inf, -math.inf], math.nan)
    checked = 0
    for row in json.loads((folder / "verdicts.json").read_text())["claims"]:
        if row["metric"] not in runs or not row["seeds"]:
            continue
        phases = ["search"] if row["phase"] == "search" else ["confirm", "run"]
        of_phase = ended[ended.phase.isin(phases)]
        trial = [name for name in ("lr", "trial") if name in runs]
        cell = ["seed", *trial] if row["phase"] == "search" else ["seed"]
        table = of_phase.pivot_table(index=cell, columns="arm", values=row["metric"])
        pairs = table[[row["arm"], row["versus"]]].dropna().groupby("seed").mean()
        assert len(pairs) == row["seeds"]
        difference = pairs[row["arm"]] - pairs[row["versus"]]
        room = 1e-5 * max(pairs.abs().max().max(), 1)
        assert row["difference"] == pytest.approx(difference.mean(), abs=room), row["claim"]
        if difference.std() > 1e-9:
            expected = stats.ttest_rel(pairs[row["arm"]], pairs[row["versus"]]).confidence_interval(0.95)
            assert (row["lower"], row["upper"]) == pytest.approx((expected.low, expected.high), abs=room), row["claim"]
        checked += 1
    # Of one seed nothing is judged.
    assert bool(checked) == (runs.groupby(["arm", "lr"]).seed.nunique().max() > 1)


@study
def test_the_readme_shows_every_verdict_with_its_numbers(folder):
    verdicts = json.loads((folder / "verdicts.json").read_text())["claims"]
    rows = [row for table in tables(folder) for row in table if VERDICT.fullmatch(row[-2])]
    assert len(rows) == len(verdicts)
    for cells, verdict in zip(rows, verdicts, strict=True):
        _, claim, metric, margin, _, difference, p, seeds, word, _ = cells
        factor = 100 if verdict["metric"].endswith("accuracy") else 1
        assert claim == verdict["claim"] and metric.partition(",")[0] == verdict["metric"]
        assert (word.split()[1], int(seeds)) == (verdict["verdict"], verdict["seeds"])
        assert number(margin) == pytest.approx(factor * verdict["margin"], rel=1e-5)
        if not verdict["seeds"]:
            assert (difference, p) == ("-", "-")
            continue
        shown = re.findall(r"[−+]?[\d.]+", difference)
        room = 0.5 * 10 ** -len(shown[0].partition(".")[2]) * 1.001
        expected = [factor * verdict[key] for key in ("difference", "lower", "upper")]
        assert [number(text) for text in shown] == pytest.approx(expected, abs=room), claim
        if p == "&lt; 0.001":
            assert verdict["p_corrected"] < 0.001
        else:
            assert number(p) == pytest.approx(verdict["p_corrected"], abs=0.0005001)


@study
def test_the_readme_links_what_lies_beside_it(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert linked == {f"figures/{path.name}" for path in (folder / "figures").iterdir()}
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    remarks = folder / "remarks.md"
    assert not remarks.is_file() or text.endswith(remarks.read_text(encoding="utf-8"))


def test_the_matrix_shows_every_study():
    text = (EXPERIMENTS / "matrix.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| claim |"))
    for folder in STUDIES:
        judged = any(row["seeds"] for row in json.loads((folder / "verdicts.json").read_text())["claims"])
        assert (folder.name in header) == judged
