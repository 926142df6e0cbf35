"""The figures of a study's tuning, their numbers computed anew from results.csv."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from headtohead.analysis.study import read_study
from headtohead.analysis.tuning import expected_best
from headtohead.record.study import Range
from headtohead.report.figures.style import arm_style
from headtohead.report.figures.tuning import budget, tuned_settings
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


def points(axis):
    """Return the points of each colour, and the rings of each colour."""
    found = {}
    for line in axis.lines:
        kind = "ring" if line.get_markerfacecolor() == "none" else "point"
        found.setdefault((kind, to_hex(line.get_color() if kind == "point" else line.get_markeredgecolor())), line)
    return found


def test_the_budget_figure_shows_the_expected_best_of_each_arm(study):
    figure, caption = budget(read_study(study))
    assert len(figure.axes) == 2 and "80 %" in caption
    for axis, metric, factor in zip(figure.axes, ("val_accuracy", "val_nll"), (100, 1 / math.log(10)), strict=True):
        assert axis.get_xscale() == "log"
        for arm, line in zip(("softmax", "sigmoid"), axis.lines, strict=False):
            curve = expected_best(trials_of(study, arm)[metric].to_numpy(), metric == "val_accuracy")
            assert line.get_color() == arm_style(["softmax", "sigmoid"], arm)["color"]
            np.testing.assert_allclose(line.get_xdata(), range(1, 21))
            np.testing.assert_allclose(line.get_ydata(), factor * curve["mean"])
            # The best of all trials is in sight.
            low, high = axis.get_ylim()
            assert low <= line.get_ydata()[-1] <= high


def test_each_setting_has_a_panel_of_either_metric_with_a_ring_at_the_chosen_trial(study):
    whole = read_study(study)
    figure, _ = tuned_settings(whole)
    assert [axis.get_xlabel() for axis in figure.axes[1::2]] == [*SPACE]
    colours = {arm: arm_style(["softmax", "sigmoid"], arm)["color"].lower() for arm in ("softmax", "sigmoid")}
    for place, axis in enumerate(figure.axes):
        setting, metric = [*SPACE][place // 2], ("val_accuracy", "val_nll")[place % 2]
        factor = 100 if metric == "val_accuracy" else 1 / math.log(10)
        assert axis.get_xscale() == ("log" if SPACE[setting].log else "linear")
        low, high = axis.get_xlim()
        assert low < SPACE[setting].low and SPACE[setting].high < high
        drawn = points(axis)
        for arm, colour in colours.items():
            if (arm, setting) == ("sigmoid", "head.temperature"):
                assert ("point", colour) not in drawn
                continue
            trials, line = trials_of(study, arm), drawn["point", colour]
            expected = sorted(zip(trials[setting], factor * trials[metric], strict=True))
            np.testing.assert_allclose(sorted(zip(*line.get_data(), strict=True)), expected)
            best = trials.loc[whole.best_by(metric)[arm].number]
            np.testing.assert_allclose(drawn["ring", colour].get_data(), [[best[setting]], [factor * best[metric]]])


def test_many_settings_take_further_rows(tmp_path):
    space = {f"optimizer.momentum{place}": Range(0, 1, False) for place in range(7)}
    many = make_study(tmp_path / "many", seeds=2, space=space, trials=8, claims={}, records=False)
    figure, _ = tuned_settings(read_study(many))
    lower = [axis.get_position() for axis in figure.axes[1::2]]
    assert len({round(frame.y0, 6) for frame in lower}) == 2 and all(frame.y0 > 0 and frame.x1 <= 1 for frame in lower)


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
