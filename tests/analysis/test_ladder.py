"""A ladder of arms: its steps against scipy, and that they sum to the difference of its ends."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from scipy import stats

from headtohead.analysis.ladder import climbs
from headtohead.analysis.study import read_study
from headtohead.options import ConfigError
from headtohead.report.render import write_report
from headtohead.testing import ACCURACY, make_study

RUNGS = ["sigmoid_mean", "sigmoid", "sigmoid_prior", "softmax"]


def with_ladder(folder, ladder=RUNGS, **options):
    study = make_study(folder, arms=("softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean"), **options)
    path = study / "study.json"
    asked = json.loads(path.read_text())
    path.write_text(json.dumps(asked | {"protocol": asked["protocol"] | {"ladder": ladder}}))
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Runs that failed leave two seeds out of the confirm phase of some arms, and a cell out of the search."""
    failed = [("sigmoid", 0.1, 7), ("softmax", 0.1, 9), ("sigmoid", 1.0, 2)]
    effects = {"sigmoid_mean": {"test_accuracy": -0.02, "backbone_cv": 0.3}}
    return with_ladder(tmp_path_factory.mktemp("outputs") / "steps", seeds=6, failed=failed, effects=effects)


def test_steps_are_paired_t_intervals_over_the_seeds_that_all_arms_share(study):
    results = pd.read_csv(study / "results.csv")
    found = {climb.claim: climb for climb in climbs(read_study(study))}
    for claim, metric, seeds in (("accuracy", "test_accuracy", [6, 8, 10, 11]), ("loss_nll", "test_nll", None)):
        table = results[results.phase == "confirm"].pivot(index="seed", columns="arm", values=metric).dropna()
        assert list(table.index) == (seeds or [6, 8, 10, 11]) and found[claim].seeds == 4
        pairs = [*zip(RUNGS[1:], RUNGS[:-1], strict=True), (RUNGS[-1], RUNGS[0])]
        for interval, (arm, before) in zip((*found[claim].steps, found[claim].total), pairs, strict=True):
            expected = stats.ttest_rel(table[arm], table[before]).confidence_interval(0.95)
            assert interval.mean == pytest.approx((table[arm] - table[before]).mean())
            assert (interval.lower, interval.upper) == pytest.approx((expected.low, expected.high))


def test_a_metric_of_the_search_leaves_out_what_any_arm_lacks(study):
    results = pd.read_csv(study / "results.csv")
    cells = results[results.phase == "search"].pivot(index=["lr", "seed"], columns="arm", values="backbone_cv")
    table = cells.dropna().groupby("seed").mean()
    assert len(cells.dropna()) < len(cells)
    climb = next(climb for climb in climbs(read_study(study)) if climb.claim == "stability_gradients")
    expected = stats.ttest_rel(table["sigmoid"], table["sigmoid_mean"]).confidence_interval(0.95)
    assert climb.steps[0][1:] == pytest.approx((expected.low, expected.high))


def test_steps_sum_to_the_total_in_every_claim_of_the_study(study):
    asked = json.loads((study / "study.json").read_text())
    found = climbs(read_study(study))
    assert [climb.claim for climb in found] == list(asked["claims"])
    for climb in found:
        assert sum(step.mean for step in climb.steps) == pytest.approx(climb.total.mean, abs=1e-12), climb.claim


def test_the_report_shows_the_ladder(study):
    _, drawings = write_report(study)
    drawing = next(drawing for drawing in drawings if drawing.name == "ladder")
    assert len(drawing.svg.encode()) < 300_000 and (study / "figures" / "ladder.svg").is_file()
    markdown, html = ((study / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))
    climb = next(climb for climb in climbs(read_study(study)) if climb.claim == "accuracy")
    (row,) = [line for line in markdown.splitlines() if line.startswith("| accuracy |") and line.count("[") == 4]
    cells = [cell.strip().replace("−", "-") for cell in row.split("|")[5:9]]
    shown = np.array([float(cell.split()[0]) for cell in cells])
    np.testing.assert_allclose(shown, [100 * step.mean for step in (*climb.steps, climb.total)], atol=0.0051)
    assert "sigmoid_mean → sigmoid |" in markdown and 'id="ladder"' in html and 'id="figure-ladder"' in html


def test_a_study_without_a_ladder_shows_none(tmp_path):
    study = make_study(tmp_path / "study", seeds=2, claims={"accuracy": ACCURACY})
    _, drawings = write_report(study)
    assert climbs(read_study(study)) == []
    assert "ladder" not in {drawing.name for drawing in drawings}
    assert "The ladder" not in (study / "report.md").read_text()


def test_a_ladder_whose_arms_share_no_seed_is_left_out(tmp_path):
    failed = [("sigmoid", None, seed) for seed in (3, 4, 5)]
    study = with_ladder(tmp_path / "study", seeds=3, failed=failed, claims={"accuracy": ACCURACY})
    write_report(study)
    assert climbs(read_study(study)) == []


@pytest.mark.parametrize("ladder", ["softmax", ["softmax", "other"], [["softmax"]], 1])
def test_a_broken_ladder_is_refused(tmp_path, ladder):
    study = with_ladder(tmp_path / "study", ladder, seeds=2, records=False)
    with pytest.raises(ConfigError, match=r"protocol\.ladder"):
        read_study(study)


@pytest.mark.parametrize(
    ("ladder", "expected"),
    [
        ("[sigmoid,softmx]", "softmx is no arm; did you mean softmax? accepted: sigmoid, softmax"),
        ("[sigmoid]", "two arms or more"),
        ("[sigmoid,sigmoid]", "none of them twice"),
    ],
)
def test_a_ladder_of_other_arms_is_refused_before_any_work(command, tmp_path, ladder, expected):
    refused = command("-m", "name=x", "head=softmax,sigmoid", "seed=0,1", f"protocol.ladder={ladder}", *TINY)
    assert refused.status == 2
    assert "protocol.ladder" in refused.err and expected in refused.err
    assert list(tmp_path.iterdir()) == []


def test_a_ladder_can_be_asked_for_later(command, tmp_path):
    sweep = ["-m", "name=x", "head=softmax,sigmoid", "seed=0,1", *TINY]
    assert command(*sweep).status == 0
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/x/runs/*/run.json")}
    result = command(*sweep, "protocol.ladder=[sigmoid,softmax]")
    assert result.status == 0, result.err
    assert runs == {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/x/runs/*/run.json")}
    assert json.loads((tmp_path / "outputs/x/study.json").read_text())["protocol"]["ladder"] == ["sigmoid", "softmax"]
    assert "The ladder" in (tmp_path / "outputs/x/report.md").read_text()
