"""The process that draws charts, against drawing them here."""

from dataclasses import replace

import pytest

from headtohead.analysis.summary import summarise
from headtohead.report.drawing import Drawing
from headtohead.report.figures import FOREST, OF_STUDY, define, draw, panels
from headtohead.report.renderer import Renderer
from headtohead.testing import make_study


@pytest.fixture
def summary(tmp_path):
    return summarise(make_study(tmp_path / "s"))


def test_figures_drawn_in_another_process_are_those_drawn_here(summary, monkeypatch, tmp_path):
    # Modules of the working directory are none of the program's.
    (tmp_path / "pickle.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    with Renderer(pictures=True) as renderer:
        for name in OF_STUDY:
            renderer.send(*define(summary.study, [name]))
        renderer.send(*define(summary.study, [FOREST], panels(summary)))
        drawings, failures = renderer.drawings()
    here, _ = draw(summary.study, [*OF_STUDY, FOREST], panels(summary))
    assert not failures and [replace(drawing, pixels=b"") for drawing in drawings] == here
    assert [drawing.pixels for drawing in drawings] == [drawing.png for drawing in here]
    assert len(drawings) > 5


@pytest.mark.parametrize("when", ["before", "between"])
def test_what_a_killed_process_should_have_drawn_is_drawn_here(summary, when):
    charts, failures = define(summary.study)
    assert not failures
    with Renderer(pictures=False) as renderer:
        if when == "between":
            renderer.send(charts[:2], {})
        renderer._process.kill()
        renderer._process.wait()
        renderer.send(charts[2:] if when == "between" else charts, {"gone": "could not be defined"})
        drawings, failures = renderer.drawings()
    assert [drawing.name for drawing in drawings] == [chart.name for chart in charts]
    assert all(drawing.svg.startswith("<svg") for drawing in drawings)
    assert failures == {"gone": "could not be defined"}


def test_a_chart_that_cannot_be_drawn_is_named(summary):
    charts, _ = define(summary.study, ["seeds"])
    with Renderer(pictures=False) as renderer:
        renderer.send([Drawing("broken", "", "", "", {"vconcat": [{"mark": 1}]}), *charts], {})
        drawings, failures = renderer.drawings()
    assert [drawing.name for drawing in drawings] == ["seeds"]
    assert [*failures] == ["broken"] and failures["broken"]


def test_the_process_ends_where_a_study_cannot_be_read():
    with pytest.raises(RuntimeError), Renderer(pictures=False) as renderer:
        raise RuntimeError
    assert renderer._process.poll() is not None
