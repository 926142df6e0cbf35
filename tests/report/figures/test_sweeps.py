"""The figures over what a study sweeps, their numbers computed anew from results.csv."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from specs import axis_title, domain, encodings, kind, layers, rows_of

from headtohead.analysis.study import read_study
from headtohead.report.figures.sweeps import MOST_PAIRS, learning_rates, shared_rate, swept_number
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
    return [panel["title"] for panel in figure.panels]


def words(panel):
    return [rows[0]["text"] for layer, rows in layers(panel) if kind(layer) == "text"]


def reference(panel):
    """Return the values of the horizontal lines of a panel."""
    return [rows[0]["v"] for layer, rows in layers(panel) if kind(layer) == "rule" and "y" in layer["encoding"]]


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
    figure = shared_rate(read_study(study))
    search, confirm = phases(study)
    at_once = 100 * search.pivot(index=["lr", "seed"], columns="arm", values="val_accuracy")
    own = 100 * confirm.pivot(index="seed", columns="arm", values="val_accuracy")
    assert titles(figure) == ["sigmoid", "sigmoid_mean"]
    for panel, arm in zip(figure.panels, titles(figure), strict=True):
        expected = (at_once["softmax"] - at_once[arm]).dropna()
        seen = [row["y"] for row in rows_of(panel, "point")]
        assert sorted(seen) == pytest.approx(sorted(expected), rel=1e-4)
        assert len(seen) == 15 - (arm == "sigmoid")
        by_rate = expected.groupby("lr").mean()
        means = rows_of(panel, "line")
        assert [row["x"] for row in means] == list(by_rate.index)
        np.testing.assert_allclose([row["y"] for row in means], by_rate, rtol=1e-4)
        pairs = own[["softmax", arm]].dropna()
        assert len(pairs) == 4
        interval = stats.ttest_rel(pairs["softmax"], pairs[arm]).confidence_interval(0.95)
        (band,) = rows_of(panel, "rect")
        assert (band["low"], band["high"]) == pytest.approx((interval.low, interval.high), rel=1e-4)
        own_mean, zero = reference(panel)
        assert own_mean == pytest.approx((pairs["softmax"] - pairs[arm]).mean(), rel=1e-4)
        assert zero == 0
        assert words(panel) == ["softmax ahead", f"{arm} ahead"]
        low, high = domain(panel, "y")
        assert min(-low, high) > 5 * np.abs(seen).max()


def test_only_arms_that_differ_in_the_head_alone_are_compared(tmp_path):
    figure = shared_rate(read_study(make_study(tmp_path / "study", arms=CONTEXTS, seeds=2, claims={})))
    assert titles(figure) == [arm for arm in CONTEXTS if not arm.endswith("softmax")]
    assert [words(panel)[0] for panel in figure.panels] == ["softmax ahead"] * 4


def test_a_single_seed_has_a_difference_without_a_band(tmp_path):
    (panel,) = shared_rate(read_study(make_study(tmp_path / "study", seeds=1, claims={}))).panels
    assert np.isfinite(reference(panel)).all() and "rect" not in {kind(layer) for layer, _ in layers(panel)}


def test_of_many_pairs_the_first_are_shown_and_the_caption_says_so(tmp_path):
    arms = ["softmax", *(f"sigmoid_{number}" for number in range(MOST_PAIRS + 2))]
    figure = shared_rate(read_study(make_study(tmp_path / "study", arms=arms, seeds=2, claims={})))
    assert titles(figure) == arms[1 : MOST_PAIRS + 1]
    assert figure.caption.endswith(f"the first {MOST_PAIRS} of {MOST_PAIRS + 2} pairs of arms.")


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
    figure = swept_number(replace(whole, record=replace(whole.record, num_classes=num_classes)))
    _, confirm = phases(classes)
    heads = ["softmax", "sigmoid", "sigmoid_mean"]
    assert [key.label for key in figure.legend] == heads
    assert "dataset.classes" in figure.caption and "dataset.classes" in figure.title
    for panel, metric in zip(figure.panels, ("test_accuracy", "test_nll"), strict=True):
        rows = {(row["arm"], int(row["x"])): row for row in rows_of(panel, "line")}
        assert [*rows] == [(place, count) for place in range(3) for count in (2, 10)]
        for (place, count), row in rows.items():
            runs = confirm[(confirm.arm == f"classes={count},{heads[place]}") & (confirm.status != "failed")]
            assert len(runs) == (3 if (count, heads[place]) == (2, "sigmoid") else 4) == row["seeds"]
            values = runs[metric] * (100 if metric == "test_accuracy" else 1 / math.log(count))
            assert row["y"] == pytest.approx(values.mean(), rel=1e-4)
            expected = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
            assert (row["low"], row["high"]) == pytest.approx(expected, rel=1e-4)
        assert {of["scale"].get("type", "linear") for of in encodings(panel, "x")} == {"linear"}
    assert axis_title(figure.panels[1], "y") == "test NLL / ln K"


@pytest.mark.parametrize(
    ("values", "scale"), [((1, 10), "log"), ((1, 9), "linear"), ((0, 100), "linear"), ((0.01, 1.5), "log")]
)
def test_values_that_span_a_decade_stand_on_a_logarithmic_axis(tmp_path, values, scale):
    arms = {
        f"weight_decay={value:g},{head}": [f"+optimizer.weight_decay={value}", f"head={head}"]
        for value in values
        for head in ("softmax", "sigmoid")
    }
    figure = swept_number(read_study(make_study(tmp_path / "study", arms=arms, seeds=2, claims={})))
    for panel in figure.panels:
        for of in encodings(panel, "x"):
            assert of["scale"].get("type", "linear") == scale and of["title"] == "optimizer.weight_decay"
            assert of["axis"]["values"] == [*values]


def test_whatever_else_differs_tells_the_lines_apart(tmp_path):
    arms = {
        f"{model},{head},noise={noise}": [f"model={model}", f"head={head}", f"dataset.label_noise={noise}"]
        for model in ("mlp", "cnn")
        for head in ("softmax", "sigmoid")
        for noise in (0.0, 0.2)
    }
    figure = swept_number(read_study(make_study(tmp_path / "study", arms=arms, seeds=2, claims={})))
    assert [key.label for key in figure.legend] == ["mlp,softmax", "mlp,sigmoid", "cnn,softmax", "cnn,sigmoid"]
    assert len({key.colour for key in figure.legend}) == 4
    assert {row["arm"] for row in rows_of(figure.panels[0], "line")} == {0, 1, 2, 3}


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


# Over the learning rate


def test_accuracies_near_100_percent_are_drawn_as_errors_on_an_axis_that_holds_zero(study):
    figure = learning_rates(read_study(study))
    search, _ = phases(study)
    kept = search[search.status != "failed"]
    error, loss = figure.panels
    assert error["title"] == "Error" and "100 % minus it" in figure.caption
    assert domain(error, "y")[0] == 0 and {of["scale"]["type"] for of in encodings(error, "y")} == {"symlog"}
    arms = ["softmax", "sigmoid", "sigmoid_mean"]
    for row in rows_of(error, "line"):
        runs = kept[(kept.arm == arms[row["arm"]]) & np.isclose(kept.lr, row["place"])]
        assert row["y"] == pytest.approx(100 - 100 * runs.val_accuracy.mean(), rel=1e-4)
    for row in rows_of(loss, "line"):
        runs = kept[(kept.arm == arms[row["arm"]]) & np.isclose(kept.lr, row["place"])]
        assert row["y"] == pytest.approx(np.exp(np.log(runs.val_nll / np.log(10)).mean()), rel=1e-3)
    best = {row["arm"]: row["place"] for row in rows_of(error, "line") if row.get("ring")}
    assert best == {0: 0.1, 1: 0.1, 2: 1.0}


def test_accuracies_far_from_100_percent_stay_accuracies(tmp_path):
    effects = {arm: {"val_accuracy": -0.4} for arm in ("softmax", "sigmoid")}
    figure = learning_rates(read_study(make_study(tmp_path / "study", seeds=3, effects=effects, claims={})))
    assert figure.panels[0]["title"] == "Accuracy" and "100 %" not in figure.caption
    assert max(row["y"] for row in rows_of(figure.panels[0], "line")) == pytest.approx(56, abs=2)
