"""The figures of a study's tuning, their numbers computed anew from results.csv."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from specs import axis_title, domain, encodings, rows_of

from headtohead.analysis.study import read_study
from headtohead.analysis.tuning import expected_best
from headtohead.record.study import Range
from headtohead.report.figures.tuning import ACROSS, budget, tuned_settings
from headtohead.testing import make_study

SPACE = {
    "optimizer.lr": Range(0.001, 1, True),
    "training.warmup": Range(0, 0.3, False),
    "head.temperature": Range(0.5, 2, True),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Arms of which one lacks a setting, and whose NLL is best at another rate than their accuracy."""
    return make_study(
        tmp_path_factory.mktemp("tuning") / "study",
        seeds=3,
        space=SPACE,
        trials=20,
        optima={"training.warmup": 0.4},
        best_lr_of_nll=0.01,
        lacks={"sigmoid": ["head.temperature"]},
        records=False,
    )


def trials_of(study, arm):
    table = pd.read_csv(study / "results.csv")
    of_arm = table[(table.phase == "search") & (table.arm == arm)].groupby("trial")
    return of_arm[["val_accuracy", "val_nll", *SPACE]].mean()


def test_the_budget_figure_shows_the_expected_best_of_each_arm(study):
    figure = budget(read_study(study))
    assert len(figure.panels) == 2 and "80 %" in figure.caption
    for panel, metric, factor in zip(figure.panels, ("val_accuracy", "val_nll"), (100, 1 / math.log(10)), strict=True):
        assert {of["scale"]["type"] for of in encodings(panel, "x")} == {"log"}
        for place, arm in enumerate(("softmax", "sigmoid")):
            curve = expected_best(trials_of(study, arm)[metric].to_numpy(), metric == "val_accuracy")
            rows = [row for row in rows_of(panel, "line") if row["arm"] == place]
            assert [row["x"] for row in rows] == [*range(1, 21)]
            for name, of in (("y", "mean"), ("low", "lower"), ("high", "upper")):
                np.testing.assert_allclose([row[name] for row in rows], factor * curve[of], rtol=1e-4)
            # The best of all trials is in sight.
            low, high = domain(panel, "y")
            assert low <= rows[-1]["y"] <= high


def test_each_setting_has_a_panel_of_either_metric_with_a_ring_at_the_chosen_trial(study):
    whole = read_study(study)
    figure = tuned_settings(whole)
    assert [panel["title"] for panel in figure.panels] == [*SPACE, *SPACE]
    for position, panel in enumerate(figure.panels):
        setting, metric = [*SPACE][position % 3], ("val_accuracy", "val_nll")[position // 3]
        factor = 100 if metric == "val_accuracy" else 1 / math.log(10)
        kinds = {of["scale"].get("type", "linear") for of in encodings(panel, "x")}
        assert kinds == {"log" if SPACE[setting].log else "linear"}
        low, high = domain(panel, "x")
        assert low < SPACE[setting].low and SPACE[setting].high < high
        points = rows_of(panel, "point")
        for place, arm in enumerate(("softmax", "sigmoid")):
            rows = [row for row in points if row["arm"] == place]
            if (arm, setting) == ("sigmoid", "head.temperature"):
                assert not rows
                continue
            trials = trials_of(study, arm)
            expected = sorted(zip(trials[setting], factor * trials[metric], strict=True))
            np.testing.assert_allclose(sorted((row["x"], row["y"]) for row in rows), expected, rtol=1e-4)
            best = trials.loc[whole.best_by(metric)[arm].number]
            (ring,) = [row for row in rows if row.get("ring")]
            np.testing.assert_allclose((ring["x"], ring["y"]), (best[setting], factor * best[metric]), rtol=1e-4)


def test_many_settings_take_further_rows(tmp_path):
    space = {f"optimizer.momentum{place}": Range(0, 1, False) for place in range(7)}
    many = make_study(tmp_path / "many", seeds=2, space=space, trials=8, claims={}, records=False)
    figure = tuned_settings(read_study(many))
    assert figure.across == ACROSS and len(figure.panels) == 14
    # A row of accuracies stands above the row of the same settings' losses.
    names = [(panel["title"], axis_title(panel, "y").split()[1].rstrip(",")) for panel in figure.panels]
    assert names[:ACROSS] == [(key, "accuracy") for key in [*space][:ACROSS]]
    assert names[ACROSS : 2 * ACROSS] == [(key, "NLL") for key in [*space][:ACROSS]]


def test_without_a_space_or_trials_there_is_no_figure(tmp_path, study):
    grid = read_study(make_study(tmp_path / "grid", seeds=2, claims={}, records=False))
    assert budget(grid) is None and tuned_settings(grid) is None
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "study.json").write_text(json.dumps(json.loads((study / "study.json").read_text())))
    assert budget(read_study(begun)) is None and tuned_settings(read_study(begun)) is None


def test_a_study_of_diverged_runs_is_drawn(tmp_path):
    lost = make_study(
        tmp_path / "lost", seeds=2, space=SPACE, trials=8, diverged=[("sigmoid", None, None)], claims={}, records=False
    )
    for figure in (budget, tuned_settings):
        assert figure(read_study(lost)) is not None
