"""A ladder of arms: its steps against scipy, and that they sum to the difference between its ends."""

import json

import pandas as pd
import pytest
from conftest import TINY
from scipy import stats

from headtohead.analysis.ladder import ladder_rows
from headtohead.analysis.study import read_study
from headtohead.options import ConfigError
from headtohead.testing import ACCURACY, make_study

RUNGS = ["sigmoid_mean", "sigmoid", "sigmoid_prior", "softmax"]


def with_ladder(folder, ladder=RUNGS, **options):
    study = make_study(folder, arms=("softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean"), **options)
    path = study / "study.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"protocol": content["protocol"] | {"ladder": ladder}}))
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Failed runs leave two seeds out of the confirm phase of some arms, and a cell out of the search."""
    failed = [("sigmoid", 0.1, 7), ("softmax", 0.1, 9), ("sigmoid", 1.0, 2)]
    effects = {"sigmoid_mean": {"test_accuracy": -0.02, "backbone_cv": 0.3}}
    return with_ladder(tmp_path_factory.mktemp("outputs") / "steps", seeds=6, failed=failed, effects=effects)


def test_steps_cover_the_seeds_that_all_arms_share_and_the_test_examples(study):
    results = pd.read_csv(study / "results.csv")
    rows = {row.claim: row for row in ladder_rows(read_study(study))}
    for claim, metric in (("accuracy", "test_accuracy"), ("loss_nll", "test_nll")):
        table = results[results.phase == "confirm"].pivot(index="seed", columns="arm", values=metric).dropna()
        assert list(table.index) == [6, 8, 10, 11] and rows[claim].seeds == 4
        pairs = [*zip(RUNGS[1:], RUNGS[:-1], strict=True), (RUNGS[-1], RUNGS[0])]
        for interval, (arm, before) in zip((*rows[claim].steps, rows[claim].total), pairs, strict=True):
            expected = stats.ttest_rel(table[arm], table[before]).confidence_interval(0.95)
            assert interval.mean == pytest.approx((table[arm] - table[before]).mean())
            # The choice of test examples adds to the error over seeds, and to the degrees of freedom.
            assert interval.upper - interval.lower > 0.9 * (expected.high - expected.low)


def test_a_metric_of_the_search_leaves_out_what_any_arm_lacks(study):
    results = pd.read_csv(study / "results.csv")
    cells = results[results.phase == "search"].pivot(index=["lr", "seed"], columns="arm", values="backbone_cv")
    table = cells.dropna().groupby("seed").mean()
    assert len(cells.dropna()) < len(cells)
    row = next(row for row in ladder_rows(read_study(study)) if row.claim == "stability_gradients")
    expected = stats.ttest_rel(table["sigmoid"], table["sigmoid_mean"]).confidence_interval(0.95)
    assert row.steps[0][1:] == pytest.approx((expected.low, expected.high))


def test_steps_sum_to_the_total_in_every_claim_of_the_study(study):
    claims = json.loads((study / "study.json").read_text())["claims"]
    rows = ladder_rows(read_study(study))
    assert [row.claim for row in rows] == list(claims)
    for row in rows:
        assert sum(step.mean for step in row.steps) == pytest.approx(row.total.mean, abs=1e-12), row.claim


def test_a_study_without_a_ladder_has_no_rows(tmp_path):
    assert ladder_rows(read_study(make_study(tmp_path / "study", seeds=2, claims={"accuracy": ACCURACY}))) == []


def test_a_ladder_whose_arms_share_no_seed_has_no_rows(tmp_path):
    failed = [("sigmoid", None, seed) for seed in (3, 4, 5)]
    study = with_ladder(tmp_path / "study", seeds=3, failed=failed, claims={"accuracy": ACCURACY})
    assert ladder_rows(read_study(study)) == []


@pytest.mark.parametrize("ladder", ["softmax", ["softmax", "other"], [["softmax"]], 1])
def test_a_broken_ladder_is_refused(tmp_path, ladder):
    study = with_ladder(tmp_path / "study", ladder, seeds=2, records=False)
    with pytest.raises(ConfigError, match=r"protocol\.ladder"):
        read_study(study)


@pytest.mark.parametrize(
    ("ladder", "expected"),
    [
        ("[sigmoid,softmx]", "softmx: no arm of the study; did you mean softmax? accepted: sigmoid, softmax"),
        ("[sigmoid]", "none of them twice"),
        ("[sigmoid,sigmoid]", "none of them twice"),
    ],
)
def test_a_ladder_of_other_arms_is_refused_before_any_work(command, tmp_path, ladder, expected):
    refused = command("-m", "name=x", "head=softmax,sigmoid", "seed=0,1", f"protocol.ladder={ladder}", *TINY)
    assert refused.status == 2
    assert "protocol.ladder" in refused.err and expected in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_ladder_can_be_added_later(command, tmp_path):
    sweep = ["-m", "name=x", "head=softmax,sigmoid", "seed=0,1", *TINY]
    assert command(*sweep).status == 0
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/x/runs/*/run.json")}
    result = command(*sweep, "protocol.ladder=[sigmoid,softmax]")
    assert result.status == 0, result.err
    assert runs == {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/x/runs/*/run.json")}
    assert json.loads((tmp_path / "outputs/x/study.json").read_text())["protocol"]["ladder"] == ["sigmoid", "softmax"]
    assert "The ladder" in (tmp_path / "outputs/x/report.md").read_text()
