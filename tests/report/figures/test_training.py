"""The figures: complete, small, legible without colour, and the same for the same records."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import altair
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from specs import axis_title, domain, encodings, rows_of

from headtohead.analysis.study import read_study
from headtohead.report.figures import draw, sweeps
from headtohead.report.figures import training as figures
from headtohead.report.figures.style import COLOURS, draw_figure, keys
from headtohead.testing import make_study

ARMS = ("softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "digits"
    effects = {"sigmoid_mean": {"delay": 100.0}}
    return make_study(folder, arms=ARMS, seeds=5, effects=effects, diverged=[("sigmoid", 0.1, 7)], claims={})


@pytest.fixture(scope="module")
def shown(study):
    return read_study(study)


@pytest.fixture(scope="module")
def drawings(shown):
    return {drawing.name: drawing for drawing in draw(shown)[0]}


def colours(svg: str) -> set[str]:
    return {colour.lower() for colour in re.findall(r'(?:stroke|fill)="(#[0-9a-fA-F]{6})"', svg)}


def test_every_figure_is_drawn_small_and_well_formed(drawings):
    expected = {"learning_rates", "training", "gradients", "seeds", "reliability", "ambiguity", "time_to_target"}
    assert set(drawings) == expected | {"shared_rate"}
    for drawing in drawings.values():
        assert len(drawing.svg.encode()) < 100_000
        root = ElementTree.fromstring(drawing.svg)
        assert root.tag.endswith("svg") and root.get("aria-label") == drawing.title
        assert "<metadata" not in drawing.svg and "<image" not in drawing.svg
        assert drawing.caption.startswith("Look at ") and drawing.caption.endswith(".")
        words = " ".join(root.itertext())
        assert drawing.title in words and all(arm in words for arm in ARMS)


def test_every_chart_is_one_of_vega_lite(drawings):
    for drawing in drawings.values():
        altair.Chart.from_dict(drawing.spec, validate=True)
        # JSON has no number that is not finite.
        assert json.loads(json.dumps(drawing.spec, allow_nan=False))["title"]["text"] == drawing.title


def test_an_arm_has_its_colour_in_every_figure(drawings):
    wanted = {key.colour for key in keys(ARMS)}
    assert len(wanted) == len(ARMS)
    for drawing in drawings.values():
        assert colours(drawing.svg) & {*COLOURS} == wanted
        assert [key["colour"] for key in drawing.spec["usermeta"]["legend"] if key["arm"] >= 0] in ([], [*COLOURS[:4]])


def test_a_study_of_many_and_long_arms_keeps_its_figures_legible(tmp_path):
    arms = {f"softmax,dropout=0.{i},widths=[128,128,128]_$": ["head=softmax", f"model.dropout=0.{i}"] for i in range(9)}
    study = make_study(tmp_path / "study", arms=arms, seeds=2, claims={})
    drawings, failures = draw(read_study(study))
    assert not failures
    for drawing in drawings:
        assert len(drawing.svg.encode()) < 150_000


def test_the_same_records_give_the_same_bytes(shown, drawings):
    again = {drawing.name: drawing.svg for drawing in draw(shown)[0]}
    assert again == {name: drawing.svg for name, drawing in drawings.items()}


def test_ids_differ_between_figures(drawings):
    ids = [name for drawing in drawings.values() for name in re.findall(r'\bid="([^"]+)"', drawing.svg)]
    assert len(ids) == len(set(ids))
    for drawing in drawings.values():
        own = set(re.findall(r'\bid="([^"]+)"', drawing.svg))
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing.svg)) <= own


def test_a_study_without_the_records_has_no_such_figure(shown):
    results = shown.results
    assert sweeps.learning_rates(replace(shown, results=results[results.lr == 0.1])) is None
    elsewhere = replace(shown, folder=shown.folder / "nowhere")
    assert all(make(elsewhere) is None for make in (figures.training, figures.gradients, figures.time_to_target))
    without = replace(shown, records={name: replace(run, curves=None) for name, run in shown.records.items()})
    assert all(make(without) is None for make in (figures.reliability, figures.ambiguity))
    assert figures.seeds(replace(shown, results=results.drop(columns=["test_accuracy", "test_nll"]))) is None
    assert figures.time_to_target(replace(shown, results=results[results.phase == "confirm"])) is None
    assert draw(replace(shown, results=results.iloc[:0])) == ([], {})


def test_losses_are_not_normalised_where_arms_differ_in_their_classes(shown):
    record = replace(shown.record, num_classes=shown.record.num_classes | {"softmax": 3})
    figure = sweeps.learning_rates(replace(shown, record=record))
    assert axis_title(figure.panels[1], "y") == "validation NLL, nats"


def history(study, shown, arm, metric):
    runs = shown.final[(shown.final.arm == arm) & (shown.final.status == "finished")].run
    return pd.concat(
        [pd.read_csv(study / "runs" / run / "history.csv").set_index("step")[metric] for run in runs], axis=1
    )


def test_curves_are_means_with_their_interval_and_saturated_accuracies_are_errors(study, shown):
    figure = figures.training(shown)
    assert [panel["title"] for panel in figure.panels] == ["Training error", "Validation error", "Validation loss"]
    rows = [row for row in rows_of(figure.panels[1], "line") if row["arm"] == 0]
    values = 100 - 100 * history(study, shown, "softmax", "val/accuracy").dropna()
    for row in rows[1:]:
        of_step = values.loc[row["x"]]
        assert row["y"] == pytest.approx(of_step.mean(), rel=1e-4) and row["seeds"] == 5
        low, high = stats.t.interval(0.95, 4, loc=of_step.mean(), scale=stats.sem(of_step))
        assert (row["low"], row["high"]) == pytest.approx((max(low, 0), min(high, 100)), rel=1e-4)
    losses = np.log(history(study, shown, "softmax", "val/nll").dropna() / math.log(10))
    for row in [row for row in rows_of(figure.panels[2], "line") if row["arm"] == 0]:
        assert row["y"] == pytest.approx(math.exp(losses.loc[row["x"]].mean()), rel=1e-4)
    assert {of["scale"]["type"] for of in encodings(figure.panels[2], "y")} == {"log"}
    assert domain(figure.panels[0], "y")[0] == 0


def test_each_seed_is_a_point_of_its_arm(study, shown):
    figure = figures.seeds(shown)
    results = pd.read_csv(study / "results.csv")
    confirm = results[(results.phase == "confirm") & (results.arm == "sigmoid_prior")].set_index("seed")
    for panel, metric, factor in zip(
        figure.panels, ("test_accuracy", "test_nll"), (100, 1 / math.log(10)), strict=True
    ):
        seen = {row["seed"]: row["y"] for row in rows_of(panel, "point") if row["arm"] == 2}
        assert seen == pytest.approx((factor * confirm[metric]).to_dict(), rel=1e-4)
        mean = next(row["mean"] for row in rows_of(panel, "tick") if row["arm"] == 2)
        assert mean == pytest.approx(factor * confirm[metric].mean(), rel=1e-4)


def test_arms_that_are_the_same_run_by_run_are_said_to_be(shown):
    tables = shown.results.copy()
    softmax = tables[tables.arm == "softmax"].sort_values(["phase", "lr", "seed"])
    places = tables[tables.arm == "sigmoid_mean"].sort_values(["phase", "lr", "seed"]).index
    metrics = [name for name in tables if name.startswith(("val_", "test_"))]
    tables.loc[places, metrics] = softmax[metrics].to_numpy()
    same = replace(shown, results=tables)
    for name, make in (("seeds", figures.seeds), ("learning_rates", sweeps.learning_rates)):
        assert "Exactly" not in draw_figure(name, lambda make=make: make(shown)).caption
        caption = draw_figure(name, lambda make=make: make(same)).caption
        assert caption.endswith("Exactly the same in every point: softmax and sigmoid_mean.")


def test_a_diverged_run_counts_as_a_guess_in_the_curves(study, shown):
    tables = shown.over_steps("val_nll", math.log(10))
    assert tables["sigmoid"][7].iloc[-1] == pytest.approx(math.log(10))
    assert not tables["softmax"].isna().any(axis=None)


def test_the_target_is_the_claims_and_unreached_runs_are_censored(study, shown, drawings):
    results = pd.read_csv(study / "results.csv")
    search = results[results.phase == "search"]
    target = 0.95 * search.groupby(["arm", "lr"]).val_accuracy.mean().max()
    assert shown.target == pytest.approx(target)
    words = " ".join(ElementTree.fromstring(drawings["time_to_target"].svg).itertext())
    assert f"validation accuracy of {100 * target:.1f} %" in words
    assert "softmax: 5 of 5" in words and "sigmoid: 4 of 5" in words
    runs = json.loads((study / "study.json").read_text())["runs"]
    reached = 0
    for run in runs["confirm"]:
        if "sigmoid_mean" in run:
            reached += (pd.read_csv(study / "runs" / run / "history.csv")["val/accuracy"] >= target).any()
    assert f"sigmoid_mean: {reached} of 5" in words
