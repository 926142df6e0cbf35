"""Figures of studies at the edges of what can be drawn, and of one that cannot."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from specs import marks

from headtohead.analysis.study import read_study
from headtohead.record.files import write_arrays
from headtohead.report import figures
from headtohead.report.dashboard import write_curves, write_dashboard
from headtohead.report.figures import draw
from headtohead.report.render import write_report
from headtohead.testing import ACCURACY, make_study


def make(folder: Path, **options) -> Path:
    return make_study(folder, **{"seeds": 2, "lrs": (0.1, 1.0), "claims": {"accuracy": ACCURACY}} | options)


def histories(study: Path, change) -> None:
    for path in study.glob("runs/*/history.csv"):
        table = pd.read_csv(path)
        change(table).to_csv(path, index=False)


def metrics(study: Path, **values: float | None) -> None:
    for path in study.glob("runs/*/run.json"):
        content = json.loads(path.read_text())
        content["metrics"] = {name: values.get(name, value) for name, value in content["metrics"].items()}
        path.write_text(json.dumps(content))


def losses(value: float):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        columns = [name for name in table if "loss" in name or "nll" in name or "grad_norm" in name]
        return table.assign(**dict.fromkeys(columns, value))

    return change


def numbers(value: float):
    return lambda table: table.assign(**{name: value for name in table if name not in ("step", "epoch")})


@pytest.mark.parametrize(
    "change",
    [losses(0.0), losses(1e-320), losses(1e300), losses(np.inf), numbers(np.nan)],
    ids=["zero", "denormal", "huge", "infinite", "unknown"],
)
def test_losses_without_a_logarithm_or_a_value_cost_no_figure(tmp_path, change):
    study = make(tmp_path / "study")
    histories(study, change)
    assert_whole(study)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 0)])
def test_one_logged_point_or_none_costs_no_figure(tmp_path, rows):
    study = make(tmp_path / "study")
    histories(study, lambda table: table.iloc[rows])
    assert_whole(study)


@pytest.mark.parametrize(
    "values",
    [
        {"val_nll": 0.0, "test_nll": 0.0},
        {"val_nll": 1e300, "test_nll": 1e300},
        {"val_accuracy": 1.0, "test_accuracy": 1.0, "val_nll": 0.0, "test_nll": 0.0},
    ],
    ids=["certain", "huge", "all right"],
)
def test_equal_or_extreme_final_metrics_cost_no_figure(tmp_path, values):
    study = make(tmp_path / "study")
    metrics(study, **values)
    assert_whole(study)


@pytest.mark.parametrize(
    "options",
    [
        {"lrs": (5e-324, 1e-323), "best_lr": 1e-323},
        {"lrs": (1.0, 1e300), "best_lr": 1.0},
        {"diverged": [(None, None, None)]},
        {"failed": [("sigmoid", None, None)]},
        {"seeds": 1, "tuned": False},
        {"tuned": False, "diverged": [(None, None, None)]},
    ],
    ids=str,
)
def test_extreme_rates_and_runs_cost_no_figure(tmp_path, options):
    assert_whole(make(tmp_path / "study", **options))


def test_a_wide_example_is_a_line_and_a_narrow_one_has_bars(tmp_path):
    study = make(tmp_path / "study")
    for width in (5, 20_000):
        with_predictions(study, np.random.default_rng(0).normal(size=(2, width)))
        drawing = next(drawing for drawing in draw(read_study(study))[0] if drawing.name == "ambiguous_examples")
        assert len(drawing.svg) < 100_000
        bars = [rows for mark, rows in marks(drawing) if mark == "rule" and len(rows) == width]
        assert len(bars) == (2 if width == 5 else 0)


def test_names_of_classes_are_text_whatever_they_hold(tmp_path):
    study = make(tmp_path / "study")
    with_predictions(study, np.zeros((2, 5)))
    names = ["it's", '"a"', "a\\", "[0]", "<b>", "$x$", "a, b", "datum.x", "😀", "é"]
    read = read_study(study)
    drawings, failures = draw(replace(read, record=replace(read.record, classes=names)), ["confusion"])
    assert not failures
    words = [*ElementTree.fromstring(drawings[0].svg).itertext()]
    assert all(words.count(name) == 4 for name in names), "at both axes of both arms"


def test_a_figure_that_cannot_be_drawn_fails_alone_and_is_named(tmp_path, monkeypatch):
    study = make(tmp_path / "study")
    every = {drawing.name for drawing in draw(read_study(study))[0]}

    def broken(study):
        raise ArithmeticError("as\nif <b>")

    monkeypatch.setitem(figures.OF_STUDY, "gradients", broken)
    summary, drawings = write_report(study)
    assert {drawing.name for drawing in drawings} == every - {"gradients"} | {"forest"}
    warnings = [check.text for check in summary.checks if check.kind == "warning"]
    assert "The figure gradients could not be drawn (ArithmeticError: as)." in warnings
    for name in ("report.html", "report.md"):
        assert "figure gradients could not be drawn" in (study / name).read_text()
    kinds = [check.kind for check in summary.checks]
    assert kinds == sorted(kinds, reverse=True), "warnings come first"


def test_a_picture_or_a_distribution_that_fails_costs_the_page_nothing_else(tmp_path):
    study = make(tmp_path / "study")
    for path in study.glob("runs/*/run.json"):
        content = json.loads(path.read_text())
        if content["curves"]:
            content["curves"]["histograms"] = {"weights@x": {"edges": [0.0], "counts": [1.0, None]}}
            path.write_text(json.dumps(content))
    summary, drawings = write_report(study)
    write_dashboard(summary, [replace(drawings[0], svg="<svg"), drawings[1]])
    assert {path.name for path in (study / "arms").iterdir()} == {"softmax", "sigmoid", "all arms"}
    written = b"".join(path.read_bytes() for path in (study / "arms" / "all arms").glob("*tfevents*"))
    assert f"figures/02 {drawings[1].name}".encode() in written
    assert b"verdicts" in written and b"could not be drawn" in written


def with_predictions(study: Path, inputs: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(20) % 10
    for run in read_study(study).final.run:
        activations = rng.uniform(size=(20, 10)).astype(np.float32)
        arrays = {"label": label, "prediction": activations.argmax(1), "activations": activations}
        write_arrays(study / "runs" / run / "predictions.npz", arrays)
    write_arrays(study / "examples.npz", {"index": np.arange(len(inputs)), "inputs": inputs})


def assert_whole(study: Path) -> None:
    """Assert that no figure fails, that each can be parsed, and that the page of TensorBoard is written."""
    read = read_study(study)
    drawings, failures = draw(read)
    assert not failures
    for drawing in drawings:
        assert "nan" not in " ".join(ElementTree.fromstring(drawing.svg).itertext()).lower().split()
    write_curves(read)
