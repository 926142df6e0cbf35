"""What `import headtohead` gives, and docs/notebook.md, whose code runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import headtohead
from headtohead.options import ConfigError
from headtohead.testing import make_study

PAGE = (Path(__file__).parents[1] / "docs/notebook.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a study in outputs/digits."""
    root = tmp_path_factory.mktemp("work")
    effects = {"sigmoid": {"test_accuracy": -0.05, "val_accuracy": -0.05}}
    make_study(root / "outputs/digits", seeds=4, lrs=(0.1, 1.0), effects=effects)
    return root


def test_the_page_runs_as_it_stands(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "docs/notebook.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == names["study"].answer.headline and "Use softmax" in printed[0]
    assert names["found"].answer.winner == "softmax"
    assert "the verdict holds for this test split" in str(names["found"].answer)
    assert "they cover new runs and new examples" in printed[-1]
    assert names["schema"]["properties"]["version"]["const"] == 1


def test_a_study_has_its_tables_and_its_answer(folder):
    study = headtohead.load(folder / "outputs/digits")
    assert study.answer.decision == "winner" and study.answer.winner == "softmax"
    written = pd.read_csv(folder / "outputs/digits/results.csv")
    assert set(study.results.run) == set(written.run)
    accuracy = study.verdicts[study.verdicts.claim == "accuracy"]
    assert accuracy.verdict.tolist() == ["supported"] and accuracy.difference.item() == pytest.approx(0.05, abs=0.02)
    assert study.settings.empty and list(study.settings)
    runs = written[(written.phase == "confirm")].set_index("run")
    assert set(study.history.run) <= set(runs.index) and len(study.history) > 100
    first = study.history.iloc[0]
    assert (first.arm, first.seed) == (runs.arm[first.run], runs.seed[first.run])
    assert study.answer.headline in repr(study)


def test_a_notebook_shows_the_answer_and_escapes_names(folder):
    page = headtohead.load(folder / "outputs/digits")._repr_html_()
    assert "Use softmax" in page and "<table" in page and "<svg" in page and "<script" not in page
    frame = pd.DataFrame({"arm": ["<b>", "&"] * 3, "seed": np.arange(6) // 2, "acc": [0.1, 0.2, 0.2, 0.25, 0.3, 0.45]})
    page = headtohead.compare(frame, arm="arm", pair="seed", metric="acc", margin=0.01)._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page


def test_figures_are_found_by_name(folder):
    study = headtohead.load(folder / "outputs/digits")
    assert study.figure("learning_rates").svg.startswith("<svg")
    assert study.figure("forest").spec["vconcat"]
    with pytest.raises(ConfigError, match="figure=learning_rate: no such figure; did you mean learning_rates"):
        study.figure("learning_rate")
    with pytest.raises(ConfigError, match="figure=ladder: cannot be drawn"):
        study.figure("ladder")


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a study's folder"):
        headtohead.load(str(tmp_path))


def test_the_frame_is_left_alone():
    frame = pd.DataFrame({"a": list("xyxy"), "s": [1, 1, 2, 2], "m": [1.0, 2.0, 3.0, 4.5]}, index=[9, 8, 7, 6])
    before = frame.copy()
    found = headtohead.compare(frame, arm="a", pair="s", metric="m", margin=0.1, higher_is_better=False)
    pd.testing.assert_frame_equal(frame, before)
    assert found.verdicts.arm.item() == "x" and found.verdicts.direction.item() == "lower"


ASKED = {"arm": "a", "pair": "s", "metric": "m", "margin": 0.1}


def small() -> pd.DataFrame:
    return pd.DataFrame({"a": list("xyxyxy"), "s": [1, 1, 2, 2, 3, 3], "m": [1.0, 2.0, 3.0, 4.5, 2.0, 3.1]})


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (lambda frame: frame.set_index(["a", "s"]), {}),
        (lambda frame: frame.set_index("s"), {}),
        (lambda frame: frame.groupby(["a", "s"]).mean(), {}),
        (lambda frame: frame.groupby(["a", "s"]).agg(["mean"]), {"metric": "m.mean"}),
        (lambda frame: frame.set_axis([0, 1, 2], axis=1), {"arm": 0, "pair": 1, "metric": 2}),
        (lambda frame: pd.concat([frame, frame[["m", "m"]].set_axis(["x", "x"], axis=1)], axis=1), {}),
        (lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"), {}),
        (lambda frame: frame.astype({"a": "category"}), {}),
        (lambda frame: frame.set_axis([0] * 6), {}),
    ],
)
def test_frames_of_every_shape_give_the_same_verdict(change, asked):
    expected = headtohead.compare(small(), **ASKED).verdicts.iloc[0]
    row = headtohead.compare(change(small()), **ASKED | asked).verdicts.iloc[0]
    assert (row.p, row.difference, row.arm) == (pytest.approx(expected.p), pytest.approx(expected.difference), "x")


def test_settings_may_be_several_columns():
    frame = pd.concat([small().assign(data=data, model=model) for data in "uv" for model in "mn"])
    found = headtohead.compare(frame, **ASKED, setting=["data", "model"])
    assert len(found.verdicts) == 4 and found.settings.settings.item() == 4


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"frame": [1, 2]}, "frame=list: accepted: a DataFrame of pandas"),
        ({"frame": "runs.csv"}, "frame=str"),
        ({"examples": "scores.csv"}, "examples=str"),
        ({"margin": "0.1"}, "must be a positive number"),
        ({"margin": None}, "must be a positive number"),
        ({"look": 1.5}, "must be 1 or more, an integer"),
        ({"look": "2"}, "must be 1 or more, an integer"),
        ({"higher_is_better": "lower"}, "higher_is_better=lower: accepted: True or False"),
        ({"against": 3}, "against=3: no arm of the frame"),
        ({"metric": "accuracy"}, "metric=accuracy: no such column of the frame"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_a_line(asked, said):
    with pytest.raises(ConfigError) as refused:
        headtohead.compare(**{"frame": small()} | ASKED | asked)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def run(code: str, cwd: Path) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=cwd)


def test_importing_the_package_imports_nothing_that_takes_long(folder):
    run("import sys, headtohead; sys.exit(bool({'numpy', 'pandas', 'omegaconf'} & {*sys.modules}))", folder)


def test_neither_torch_nor_hydra_nor_matplotlib_is_needed(folder):
    code = (
        "import sys, headtohead, pandas as pd; headtohead.load('outputs/digits').verdicts;"
        "frame = pd.DataFrame({'a': [*'xyxy'], 's': [1, 1, 2, 2], 'm': [1.0, 2.0, 3.0, 4.5]});"
        "headtohead.compare(frame, arm='a', pair='s', metric='m', margin=0.1);"
        "sys.exit(bool({'torch', 'hydra', 'matplotlib', 'tensorboard'} & {*sys.modules}))"
    )
    run(code, folder)


def test_what_the_package_exports():
    assert {"load", "compare"} <= {*dir(headtohead)}
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = headtohead.lod
