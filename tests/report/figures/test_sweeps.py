"""The figures over what a study sweeps, their numbers computed anew from results.csv."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from headtohead.analysis.study import read_study
from headtohead.report.figures.sweeps import MOST_PAIRS, shared_rate, swept_number
from headtohead.testing import make_study

CONTEXTS = {
    f"classes={classes},{head}": [f"dataset.classes={classes}", f"head={head}"]
    for classes in (2, 10)
    for head in ("softmax", "sigmoid", "sigmoid_mean")
}


def phases(study):
    results = pd.read_csv(study / "results.csv")
    return results[results.phase == "search"], results[results.phase == "confirm"]


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


# Differences at one shared learning rate


def test_differences_at_a_shared_rate_and_at_each_arms_own(study):
    figure, _ = shared_rate(read_study(study))
    search, confirm = phases(study)
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
    figure, _ = shared_rate(read_study(make_study(tmp_path / "study", arms=CONTEXTS, seeds=2, claims={})))
    assert titles(figure) == [arm for arm in CONTEXTS if not arm.endswith("softmax")]
    assert [words(axis)[0] for axis in figure.axes] == ["softmax ahead"] * 4


def test_a_single_seed_has_a_difference_without_a_band(tmp_path):
    (axis,) = shared_rate(read_study(make_study(tmp_path / "study", seeds=1, claims={})))[0].axes
    assert np.isfinite(axis.lines[2].get_ydata()).all()


def test_of_many_pairs_the_first_are_shown_and_the_caption_says_so(tmp_path):
    arms = ["softmax", *(f"sigmoid_{number}" for number in range(MOST_PAIRS + 2))]
    figure, caption = shared_rate(read_study(make_study(tmp_path / "study", arms=arms, seeds=2, claims={})))
    assert titles(figure) == arms[1 : MOST_PAIRS + 1]
    assert caption.endswith(f"the first {MOST_PAIRS} of {MOST_PAIRS + 2} pairs of arms.")


def test_without_two_rates_or_two_heads_there_is_no_shared_rate(study, tmp_path):
    whole = read_study(study)
    results = whole.results
    searched, confirmed = results[results.phase == "search"], results[results.phase == "confirm"]
    softmax = confirmed[confirmed.arm == "softmax"]
    kept = (confirmed, pd.concat([searched[searched.lr == 0.1], confirmed]), pd.concat([searched, softmax]))
    for rows in (*kept, results[:0]):
        assert shared_rate(replace(whole, results=rows)) is None
    arms = {f"dropout={share}": [f"model.dropout={share}"] for share in (0.0, 0.1)}
    assert shared_rate(read_study(make_study(tmp_path / "study", arms=arms, seeds=2, claims={}))) is None


# Over a setting


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A study over the number of classes; a run diverged, and another failed."""
    return make_study(
        tmp_path_factory.mktemp("outputs") / "classes",
        arms=CONTEXTS,
        seeds=4,
        effects={arm: {"test_accuracy": -0.02 * place} for place, arm in enumerate(CONTEXTS)},
        failed=[("classes=2,sigmoid", None, 5)],
        diverged=[("classes=10,sigmoid", 0.1, 6)],
        claims={},
    )


def test_lines_are_means_with_their_interval_at_each_value(classes):
    whole = read_study(classes)
    num_classes = {arm: int(arm.partition(",")[0].removeprefix("classes=")) for arm in CONTEXTS}
    figure, caption = swept_number(replace(whole, record=replace(whole.record, num_classes=num_classes)))
    _, confirm = phases(classes)
    heads = ["softmax", "sigmoid", "sigmoid_mean"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == heads
    assert "dataset.classes" in caption and "dataset.classes" in figure.get_suptitle()
    for axis, metric in zip(figure.axes, ("test_accuracy", "test_nll"), strict=True):
        for head, line, band in zip(heads, axis.lines, axis.collections, strict=True):
            assert list(line.get_xdata()) == [2, 10]
            corners = band.get_paths()[0].vertices
            for count, mean in zip((2, 10), line.get_ydata(), strict=True):
                runs = confirm[(confirm.arm == f"classes={count},{head}") & (confirm.status != "failed")]
                assert len(runs) == (3 if (count, head) == (2, "sigmoid") else 4)
                values = runs[metric] * (100 if metric == "test_accuracy" else 1 / math.log(count))
                assert mean == pytest.approx(values.mean())
                expected = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
                heights = corners[corners[:, 0] == count, 1]
                assert (heights.min(), heights.max()) == pytest.approx(expected)
        assert axis.get_xscale() == "linear"
    assert figure.axes[1].get_ylabel() == "test NLL / ln K"


@pytest.mark.parametrize(
    ("values", "scale"), [((1, 10), "log"), ((1, 9), "linear"), ((0, 100), "linear"), ((0.01, 1.5), "log")]
)
def test_values_that_span_a_decade_stand_on_a_logarithmic_axis(tmp_path, values, scale):
    arms = {
        f"weight_decay={value:g},{head}": [f"+optimizer.weight_decay={value}", f"head={head}"]
        for value in values
        for head in ("softmax", "sigmoid")
    }
    figure, _ = swept_number(read_study(make_study(tmp_path / "study", arms=arms, seeds=2, claims={})))
    for axis in figure.axes:
        assert axis.get_xscale() == scale and axis.get_xlabel() == "optimizer.weight_decay"
        assert [tick.get_text() for tick in axis.get_xticklabels()] == [f"{value:g}" for value in values]


def test_whatever_else_differs_tells_the_lines_apart(tmp_path):
    arms = {
        f"{model},{head},noise={noise}": [f"model={model}", f"head={head}", f"dataset.label_noise={noise}"]
        for model in ("mlp", "cnn")
        for head in ("softmax", "sigmoid")
        for noise in (0.0, 0.2)
    }
    figure, _ = swept_number(read_study(make_study(tmp_path / "study", arms=arms, seeds=2, claims={})))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["mlp,softmax", "mlp,sigmoid", "cnn,softmax", "cnn,sigmoid"]
    assert len({line.get_color() for line in figure.axes[0].lines}) == 4


def test_without_one_number_that_differs_there_is_nothing_to_draw_over(study, classes):
    assert swept_number(read_study(study)) is None
    whole = read_study(classes)
    arms = whole.record.arms
    heads = {arm: ("dataset.classes=2", f"head={arm}") for arm in arms}
    twice = {arm: (*given, f"dataset.images={100 * len(given[1])}") for arm, given in arms.items()}
    words = {arm: (*given[1:], f"dataset={given[0][-1]}_classes") for arm, given in arms.items()}
    alone = {arm: given[:1] for arm, given in arms.items()}
    some = {arm: given if "sigmoid" in arm else given[1:] for arm, given in arms.items()}
    for overrides in (heads, twice, words, alone, some):
        assert swept_number(replace(whole, record=replace(whole.record, arms=overrides))) is None
    results = whole.results
    for rows in (results.drop(columns="test_nll"), results.assign(test_accuracy=np.nan), results[:0]):
        assert swept_number(replace(whole, results=rows)) is None
