"""The figure of a ladder, and its table in the report."""

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from specs import rows_of

from headtohead.analysis.ladder import ladder_rows
from headtohead.analysis.study import read_study
from headtohead.analysis.text import in_percent
from headtohead.report.figures.ladder import ladder
from headtohead.report.render import write_report
from headtohead.testing import ACCURACY, make_study

RUNGS = ["sigmoid_mean", "sigmoid", "sigmoid_prior", "softmax"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("outputs") / "steps", arms=sorted(RUNGS), seeds=4)
    path = study / "study.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"protocol": content["protocol"] | {"ladder": RUNGS}}))
    return study


def test_a_panel_draws_each_step_and_the_total_in_the_unit_of_its_metric(study):
    figure = ladder(read_study(study))
    rows = ladder_rows(read_study(study))
    assert [panel["title"] for panel in figure.panels] == [row.claim for row in rows]
    for panel, row in zip(figure.panels, rows, strict=True):
        factor = 100 if in_percent(row.definition.metric) else 1
        shown = rows_of(panel, "point")
        intervals = [*row.steps, row.total]
        for name, of in (("mean", "mean"), ("low", "lower"), ("high", "upper")):
            expected = [factor * getattr(interval, of) for interval in intervals]
            np.testing.assert_allclose([row.get(name, math.nan) for row in shown], expected, rtol=1e-4)
        margin = factor * row.definition.margin
        assert rows_of(panel, "rect") == [{"low": -margin, "high": margin}]
    assert [row["label"] for row in rows_of(figure.panels[0], "point")] == [*(f"→ {arm}" for arm in RUNGS[1:]), "total"]
    assert figure.caption.startswith("Look at ")


def test_the_report_shows_the_ladder(study):
    _, drawings = write_report(study)
    drawing = next(drawing for drawing in drawings if drawing.name == "ladder")
    assert len(drawing.svg.encode()) < 100_000 and (study / "figures" / "ladder.svg").is_file()
    assert "sigmoid_mean" in " ".join(ElementTree.fromstring(drawing.svg).itertext())
    markdown, html = ((study / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "html"))
    row = next(row for row in ladder_rows(read_study(study)) if row.claim == "accuracy")
    (line,) = [line for line in markdown.splitlines() if line.startswith("| accuracy |") and line.count("[") == 4]
    cells = [cell.strip().replace("−", "-") for cell in line.split("|")[5:9]]
    shown = np.array([float(cell.split()[0]) for cell in cells])
    np.testing.assert_allclose(shown, [100 * step.mean for step in (*row.steps, row.total)], atol=0.0051)
    assert "sigmoid_mean → sigmoid |" in markdown and 'id="ladder"' in html and 'id="figure-ladder"' in html


def test_a_study_without_a_ladder_shows_none(tmp_path):
    study = make_study(tmp_path / "study", seeds=2, claims={"accuracy": ACCURACY})
    _, drawings = write_report(study)
    assert "ladder" not in {drawing.name for drawing in drawings}
    assert "The ladder" not in (study / "report.md").read_text()
