"""Checks of a study that no other file of tests covers."""

import pandas as pd
import pytest

from headtohead.analysis.checks import run_checks
from headtohead.analysis.study import read_study
from headtohead.testing import make_study


@pytest.fixture
def altered(tmp_path):
    """Return a function that sets the test metrics of one arm from another's in a study, and returns its checks."""

    def change(factor, others=0):
        folder = make_study(tmp_path / "study", arms=("softmax", "sigmoid", "sigmoid_mean"), seeds=10, records=False)
        table = pd.read_csv(folder / "results.csv").set_index(["phase", "lr", "seed", "fold"])
        ours, theirs = table.arm == "sigmoid_mean", table[table.arm == "sigmoid"]
        kept = table.index.get_level_values("seed").isin(range(10, 10 + others))
        for metric in ("test_accuracy", "test_nll"):
            table.loc[ours & ~kept, metric] = theirs[metric][~kept[table.arm == "sigmoid"]] * (
                factor if metric == "test_nll" else 1
            )
        table.reset_index().to_csv(folder / "results.csv", index=False)
        return [check.text for check in run_checks(read_study(folder), []) if "same run by run" in check.text]

    return change


@pytest.mark.parametrize(
    ("factor", "others", "said"),
    [
        (1.0, 0, "identical test results in all 10 pairs"),
        (1.00001, 0, "the same test results but for rounding in all 10 pairs"),
        (1.0, 1, "the same test results but for rounding in 9 of 10 pairs"),
    ],
)
def test_arms_that_are_the_same_run_by_run_are_told(altered, factor, others, said):
    (text,) = altered(factor, others)
    assert text == f"sigmoid and sigmoid_mean are the same run by run: {said}. Count them as one."


@pytest.mark.parametrize(("factor", "others"), [(1.01, 0), (1.0, 2)])
def test_arms_that_differ_in_more_are_not(altered, factor, others):
    assert altered(factor, others) == []
