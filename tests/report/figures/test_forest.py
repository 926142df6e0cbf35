"""The forest figure: its rows are the verdicts, and a side of zero means the same in every panel."""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from specs import domain, encodings, kind, layers, rows_of

from headtohead.analysis.summary import summarise
from headtohead.report.figures.forest import MOST_ROWS, forest, plots
from headtohead.report.figures.style import WIDTH, draw_figure
from headtohead.testing import ACCURACY, make_study

LOSS = ACCURACY | {"metric": "test_nll", "direction": "lower", "margin": 0.02, "weight": 0.25}
CLAIMS = {"accuracy": ACCURACY | {"weight": 0.25}, "loss": LOSS}
# Softmax is better by both metrics.
EFFECTS = {"sigmoid": {"test_accuracy": -0.01, "test_nll": 0.03}, "sigmoid_mean": {"test_accuracy": -0.03}}


def words(panel):
    return [(layer["mark"].get("align"), rows[0]["text"]) for layer, rows in layers(panel) if kind(layer) == "text"
            and "text" in rows[0]]  # fmt: skip


def drawn(summary):
    return forest(plots(summary), summary.study.arms)


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "study"
    arms = ("sigmoid", "softmax", "sigmoid_mean")
    return summarise(make_study(folder, arms=arms, seeds=6, claims=CLAIMS, effects=EFFECTS))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    arms = {
        f"classes={k},{head}": [f"dataset.classes={k}", f"head={head}"]
        for k in (2, 5, 10)
        for head in ("softmax", "sigmoid")
    }
    return summarise(make_study(tmp_path_factory.mktemp("outputs") / "study", arms=arms, seeds=4, claims=CLAIMS))


def test_a_row_is_the_verdict_on_an_arm_with_its_interval_and_margin(summary):
    figure = drawn(summary)
    assert [panel["title"] for panel in figure.panels] == ["Test accuracy", "Test NLL (lower is better)"]
    for panel, metric, factor in zip(figure.panels, ("test_accuracy", "test_nll"), (100, 1), strict=True):
        verdicts = [row for row in summary.verdicts if row.metric == metric]
        rows = rows_of(panel, "point")
        assert [row["label"] for row in rows] == ["against sigmoid", "against sigmoid_mean"]
        for row, verdict in zip(rows, verdicts, strict=True):
            shown = (row["mean"], row["low"], row["high"])
            expected = factor * np.array([verdict.difference, verdict.lower, verdict.upper])
            assert shown == pytest.approx(expected, rel=1e-4) and row["seeds"] == 6
            numbers = [float(text.replace("−", "-")) for text in re.findall(r"[+−]?[\d.]+", row["interval"])]
            assert numbers == pytest.approx(expected, abs=0.02 * abs(expected).max())
        margin = factor * CLAIMS["accuracy" if factor == 100 else "loss"]["margin"]
        assert rows_of(panel, "rect") == [{"low": pytest.approx(-margin), "high": pytest.approx(margin)}]
        low, high = domain(panel, "x")
        assert low < min(-margin, *(row["low"] for row in rows)) and high > max(margin, *(row["high"] for row in rows))


def test_the_better_arm_stands_on_its_side_in_every_panel(summary):
    """In the drawing itself: by the places of marks, lines and words in pixels."""
    drawing = draw_figure("forest", lambda: drawn(summary))
    assert ("left", "← favours the other") in words(drawn(summary).panels[0])
    root = ElementTree.fromstring(drawing.svg)
    places = texts_by_place(root)
    for side in [text for text in places if text[0] == "favours softmax →"]:
        other = [text for text in places if text[0] == "← favours the other" and text[2] == side[2]]
        assert any(text[1] < side[1] for text in other)
    # Accuracy: the difference is positive, and the axis ascends. Loss: it is negative, and the axis descends.
    accuracy, loss = drawn(summary).panels
    assert all(row["mean"] > 0 for row in rows_of(accuracy, "point"))
    assert not any(of["scale"]["reverse"] for of in encodings(accuracy, "x"))
    assert rows_of(loss, "point")[0]["mean"] < 0 and all(of["scale"]["reverse"] for of in encodings(loss, "x"))
    ticks = [(x, float(text.replace("−", "-"))) for text, x, _ in places if re.fullmatch(r"−?[\d.]+", text)]
    of_loss = [value for x, value in sorted(ticks) if x > WIDTH / 2]
    assert len(of_loss) > 2 and of_loss == sorted(of_loss, reverse=True)


def texts_by_place(root):
    """Return the texts of an SVG with their places, in the order of the file."""
    found = []

    def visit(element, x, y):
        moved = re.match(r"translate\((-?[\d.]+),(-?[\d.]+)\)", element.get("transform", ""))
        if moved:
            x, y = x + float(moved[1]), y + float(moved[2])
        if element.tag.endswith("}text"):
            found.append((element.text, x, y))
        for child in element:
            visit(child, x, y)

    visit(root, 0, 0)
    return found


def test_settings_are_rows_under_which_their_mean_stands_with_its_prediction(settings):
    figure = drawn(settings)
    assert len(figure.panels) == 2
    for panel, row in zip(figure.panels, settings.settings, strict=True):
        factor = 100 if row.metric == "test_accuracy" else 1
        *each, mean = rows_of(panel, "point")
        assert [row["label"] for row in each] == ["classes=2", "classes=5", "classes=10"]
        assert mean["shape"] == "diamond" and mean["label"] == "mean of 3 settings"
        assert mean["mean"] == pytest.approx(np.mean([row["mean"] for row in each]), rel=1e-3, abs=1e-6)
        ends = (mean["from"], mean["to"])
        assert ends == pytest.approx((factor * row.predicted_lower, factor * row.predicted_upper), rel=1e-4)
        assert mean["from"] < mean["low"] and mean["high"] < mean["to"]
        assert ("right", "favours softmax →") in words(panel) and ("left", "← favours sigmoid") in words(panel)
    assert "new setting" in figure.caption and {"expected in a new setting"} <= {key.label for key in figure.legend}


def test_a_study_without_claims_shows_the_comparisons_of_its_answer(tmp_path):
    arms = {f"dropout={share}": [f"model.dropout={share}"] for share in (0.0, 0.1, 0.2)}
    summary = summarise(make_study(tmp_path / "study", arms=arms, seeds=4, claims={}))
    (panel,) = drawn(summary).panels
    shown = [row["label"].removeprefix("against ") for row in rows_of(panel, "point")]
    assert shown == [row.versus for row in summary.answer.comparisons] and len(shown) == 2
    leader = summary.answer.comparisons[0].arm
    assert ("right", f"favours {leader} →") in words(panel)


def test_where_nothing_was_compared_there_is_no_figure(tmp_path):
    summary = summarise(make_study(tmp_path / "study", arms=("softmax",), seeds=2, claims={}))
    assert drawn(summary) is None


def test_of_many_rows_the_first_are_shown_with_the_summary(settings):
    plot = plots(settings)[0]
    many = replace(plot, rows=[replace(plot.rows[0], label=f"setting {place}") for place in range(MOST_ROWS + 9)])
    figure = forest([many], settings.study.arms)
    rows = rows_of(figure.panels[0], "point")
    assert len(rows) == MOST_ROWS + 1 and rows[-1]["shape"] == "diamond" and f"first {MOST_ROWS}" in figure.caption


def test_an_interval_that_is_unknown_or_huge_costs_nothing(settings):
    plot = plots(settings)[0]
    rows = [
        replace(plot.rows[0], interval=plot.rows[0].interval._replace(mean=mean, lower=lower, upper=upper))
        for mean, lower, upper in ((0.1, math.nan, math.nan), (0.1, -math.inf, math.inf), (1e300, -1e300, 1e308))
    ]
    drawing = draw_figure("forest", lambda: forest([replace(plot, rows=rows)], settings.study.arms))
    assert "NaN" not in drawing.svg and len(drawing.svg) < 100_000
