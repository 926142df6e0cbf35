"""The figures: complete, small, legible without colour, and the same for the same records."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from headtohead.analysis.study import read_study
from headtohead.report.figures import draw, sweeps
from headtohead.report.figures import training as figures
from headtohead.report.figures.style import COLOURS, arm_style
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
    return {colour.lower() for colour in re.findall(r"(?:stroke|fill): (#[0-9a-fA-F]{6})", svg)}


def test_every_figure_is_drawn_small_and_well_formed(drawings):
    expected = {"learning_rates", "training", "gradients", "seeds", "reliability", "ambiguity", "time_to_target"}
    assert set(drawings) == expected | {"shared_rate"}
    for drawing in drawings.values():
        assert len(drawing.svg.encode()) < 150_000
        root = ElementTree.fromstring(drawing.svg)
        assert root.tag.endswith("svg") and root.get("aria-label") == drawing.title
        assert "<metadata" not in drawing.svg and "<image" not in drawing.svg
        assert drawing.caption.startswith("Look at ") and drawing.caption.endswith(".")
        words = " ".join(root.itertext())
        assert drawing.title in words and all(arm in words for arm in ARMS)


def test_an_arm_has_its_colour_in_every_figure(drawings):
    wanted = {to_hex(arm_style(ARMS, arm)["color"]) for arm in ARMS}
    assert len(wanted) == len(ARMS)
    palette = {to_hex(colour) for colour in COLOURS if colour != "#000000"}
    for drawing in drawings.values():
        assert colours(drawing.svg) & palette == wanted


def test_a_study_of_many_and_long_arms_keeps_its_figures_legible(tmp_path):
    arms = {f"softmax,dropout=0.{i},widths=[128,128,128]_$": ["head=softmax", f"model.dropout=0.{i}"] for i in range(9)}
    study = make_study(tmp_path / "study", arms=arms, seeds=2, claims={})
    for drawing in draw(read_study(study))[0]:
        assert len(drawing.svg.encode()) < 150_000


def test_the_same_records_give_the_same_bytes_and_leave_matplotlib_alone(shown, drawings):
    before = dict(mpl.rcParams)
    again = {drawing.name: drawing.svg for drawing in draw(shown)[0]}
    assert again == {name: drawing.svg for name, drawing in drawings.items()}
    assert dict(mpl.rcParams) == before


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
    figure, _ = sweeps.learning_rates(replace(shown, record=record))
    assert figure.axes[1].get_ylabel() == "validation NLL, nats"


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
