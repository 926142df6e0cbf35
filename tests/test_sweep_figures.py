"""The figures over what a study sweeps, their numbers computed anew from results.csv."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from studies import make_study

from headtohead.report import evidence
from headtohead.study import read_study
from headtohead.sweep_figures import MOST_PAIRS, shared_rate

CONTEXTS = {
    f"classes={classes},{head}": [f"dataset.classes={classes}", f"head={head}"]
    for classes in (2, 10)
    for head in ("softmax", "sigmoid", "sigmoid_mean")
}


def read(study):
    results = pd.read_csv(study / "results.csv")
    return results[results.phase == "search"], results[results.phase == "confirm"]


def shown(study):
    return evidence(read_study(study))


def titles(figure):
    return [axis.get_title() or axis.get_title("left") for axis in figure.axes]


def words(axis):
    return [text.get_text() for text in axis.texts]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Each arm has a best rate of its own; runs failed and diverged in both phases."""
    return make_study(
        tmp_path_factory.mktemp("outputs") / "study",
        arms=("softmax", "sigmoid", "sigmoid_mean"),
        seeds=5,
        best_lr={"softmax": 0.1, "sigmoid": 0.1, "sigmoid_mean": 1.0},
        effects={"sigmoid": {"val_accuracy": -0.01}},
        failed=[("sigmoid", 0.01, 3), ("softmax", 0.1, 9)],
        diverged=[("sigmoid", 1.0, 2), ("sigmoid_mean", None, 6)],
        claims={},
    )


# What one shared learning rate would have said


def test_differences_at_a_shared_rate_and_at_each_arms_own(study):
    figure, _ = shared_rate(shown(study))
    search, confirm = read(study)
    at_once = 100 * search.pivot(index=["lr", "seed"], columns="arm", values="val_accuracy")
    own = 100 * confirm.pivot(index="seed", columns="arm", values="val_accuracy")
    assert titles(figure) == ["sigmoid", "sigmoid_mean"]
    for axis, arm in zip(figure.axes, titles(figure), strict=True):
        expected = (at_once["softmax"] - at_once[arm]).dropna()
        dots, means, own_mean, zero = axis.lines
        seen = dots.get_ydata()[::3][~np.isnan(dots.get_ydata()[::3])]
        assert sorted(seen) == pytest.approx(sorted(expected))
        assert len(seen) == 15 - (arm == "sigmoid")
        by_rate = expected.groupby("lr").mean()
        assert list(means.get_xdata()) == list(by_rate.index)
        np.testing.assert_allclose(means.get_ydata(), by_rate)
        pairs = own[["softmax", arm]].dropna()
        assert len(pairs) == 4
        interval = stats.ttest_rel(pairs["softmax"], pairs[arm]).confidence_interval(0.95)
        (band,) = axis.patches
        assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((interval.low, interval.high))
        assert own_mean.get_ydata()[0] == pytest.approx((pairs["softmax"] - pairs[arm]).mean())
        assert set(zero.get_ydata()) == {0}
        assert words(axis) == ["softmax ahead", f"{arm} ahead"]
        low, high = axis.get_ylim()
        assert min(-low, high) > 5 * np.abs(seen).max()


def test_only_arms_that_differ_in_the_head_alone_are_compared(tmp_path):
    figure, _ = shared_rate(shown(make_study(tmp_path / "study", arms=CONTEXTS, seeds=2, claims={})))
    assert titles(figure) == [arm for arm in CONTEXTS if not arm.endswith("softmax")]
    assert [words(axis)[0] for axis in figure.axes] == ["softmax ahead"] * 4


def test_a_single_seed_has_a_difference_without_a_band(tmp_path):
    (axis,) = shared_rate(shown(make_study(tmp_path / "study", seeds=1, claims={})))[0].axes
    assert np.isfinite(axis.lines[2].get_ydata()).all()


def test_of_many_pairs_the_first_are_shown_and_the_caption_says_so(tmp_path):
    arms = ["softmax", *(f"sigmoid_{number}" for number in range(MOST_PAIRS + 2))]
    figure, caption = shared_rate(shown(make_study(tmp_path / "study", arms=arms, seeds=2, claims={})))
    assert titles(figure) == arms[1 : MOST_PAIRS + 1]
    assert caption.endswith(f"the first {MOST_PAIRS} of {MOST_PAIRS + 2} pairs of arms.")


def test_without_two_rates_or_two_heads_there_is_no_shared_rate(study, tmp_path):
    whole = shown(study)
    for rows in (whole.searched[:0], whole.searched[whole.searched.lr == 0.1]):
        assert shared_rate(replace(whole, searched=rows)) is None
    assert shared_rate(replace(whole, final=whole.final[:0])) is None
    assert shared_rate(replace(whole, final=whole.final[whole.final.arm == "softmax"])) is None
    arms = {f"dropout={share}": [f"model.dropout={share}"] for share in (0.0, 0.1)}
    assert shared_rate(shown(make_study(tmp_path / "study", arms=arms, seeds=2, claims={}))) is None
