"""A recorded run is trained again and compared with its record."""

import json

import pytest
from conftest import TINY

from headtohead.runner.reproduce import named_code
from headtohead.testing import make_study, without_checksums


def runs_of(study):
    return sorted(path.parent for path in study.glob("runs/*/run.json"))


def test_a_run_alone_is_bitwise_what_it_was(command, tmp_path):
    assert command("name=one", "seed=3", "model.dropout=0.2", *TINY).status == 0
    (folder,) = runs_of(tmp_path / "outputs/one")
    result = command("reproduce", str(folder))
    assert result.status == 0, result.err
    assert "bitwise equal in all" in result.out and "environment" not in result.out


def test_a_run_of_a_pack_is_equal_within_the_bound_or_the_difference_is_named(command, tmp_path):
    arguments = ["-m", "name=many", "head=softmax,sigmoid", "optimizer.lr=0.1,0.3", "seed=0,1", "precision=float64"]
    assert command(*arguments, *TINY).status == 0
    for folder in runs_of(tmp_path / "outputs/many"):
        result = command("reproduce", str(folder))
        assert result.status == 0, result.out
        assert "bitwise equal in all" in result.out or "equal within 1e-09" in result.out
    path = folder / "run.json"
    run = json.loads(path.read_text())
    run["metrics"]["val_accuracy"] += 0.01
    run["environment"]["versions"]["torch"], run["checksum"] = "1.0", ""
    path.write_text(json.dumps(run))
    result = command("reproduce", str(folder))
    assert result.status == 1
    assert "different in 1 of" in result.out and "val_accuracy" in result.out
    assert "environment: versions.torch: 1.0, now" in result.out


def test_a_folder_without_a_record_is_refused(command, tmp_path):
    result = command("reproduce", "nowhere")
    assert result.status == 2 and "nowhere: no record of a run; accepted:" in result.err
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{")
    result = command("reproduce", "broken")
    assert result.status == 2 and "broken: its record is broken (JSONDecodeError: " in result.err


def test_code_from_elsewhere_runs_only_where_it_is_allowed(command, tmp_path):
    study = ["name=x", "model=factory", "model.path=factories:modest"]
    assert command(*study, *TINY[:3], *TINY[-2:]).status == 0
    (folder,) = runs_of(tmp_path / "outputs/x")
    refused = command("reproduce", str(folder))
    assert refused.status == 2 and "would run code from elsewhere, model.path=factories:modest" in refused.err
    assert "accepted: --allow-code" in refused.err and len(refused.err.splitlines()) == 1
    assert command("reproduce", "--allow-code", str(folder)).status == 0


def test_the_path_of_a_table_is_no_code():
    assert named_code({"dataset": {"name": "table", "path": "t.csv"}}) == []
    for key, name in (("dataset", "factory"), ("model", "table")):
        assert named_code({key: {"name": name, "path": "evil:make"}}) == [f"{key}.path=evil:make"]


EVIL = """
from pathlib import Path
Path("sprung").touch()
"""


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"name": "factory", "path": "evil:make", "options": {}}, "model.path=evil:make"),
        ("${oc.decode:'{name: factory, path: evil:make, options: {}}'}", "model.path=evil:make"),
        ({"name": "linear", "_target_": "evil.make"}, "model._target_=evil.make"),
        ({"name": "torchvision", "architecture": "resnet18", "options": {"weights": "/evil.pt"}, "resize": None},
         "model.options.weights=/evil.pt"),
        ({"name": "torchvision", "architecture": "resnet18", "options": {"layers": [{"file": "/evil.pt"}]}},
         "model.options.layers.file=/evil.pt"),
    ],
)  # fmt: skip
def test_an_edited_record_runs_nothing(command, tmp_path, monkeypatch, model, named):
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    path = make_study(tmp_path / "study", seeds=1) / "runs"
    path = sorted(path.glob("*/run.json"))[0]
    run = json.loads(path.read_text())
    run["config"] |= {"model": model}
    path.write_text(json.dumps(run | {"checksum": ""}))
    refused = command("reproduce", str(path.parent))
    assert refused.status == 2 and f"would run code from elsewhere, {named}; " in refused.err
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("lacking", [("model", "freeze"), ("protocol", "metric"), ("protocol", "until_decided")])
def test_a_record_from_before_an_option_is_run_without_it(command, tmp_path, lacking):
    assert command("name=x", "head=softmax", "seed=0", *TINY).status == 0
    (folder,) = runs_of(without_checksums(tmp_path / "outputs/x"))
    record = json.loads((folder / "run.json").read_text())
    group, option = lacking
    del record["config"][group][option]
    (folder / "run.json").write_text(json.dumps(record))
    result = command("reproduce", str(folder))
    assert result.status == 0, result.err
    assert "bitwise equal" in result.out
