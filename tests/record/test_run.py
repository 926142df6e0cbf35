"""Records of runs on disk and the tables made of them."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from headtohead.options import ConfigError, one_line
from headtohead.record import run as runs
from headtohead.record.files import to_json
from headtohead.record.run import PackInfo, RunRecord
from headtohead.testing import ENVIRONMENT

RUN = RunRecord(
    run="a",
    phase="search",
    arm="softmax",
    head="softmax",
    seed=0,
    lr=0.1,
    status="finished",
    steps=10,
    wall_s=0.5,
    diverged_at=None,
    error=None,
    metrics={"val_accuracy": 1 / 3, "test_nll": math.nan},
    curves={"val": {"reliability": {"confidence": (0.5, math.nan)}}},
    pack=PackInfo(size=2, mode="stacked", chosen_by="planner", threads=1),
    overrides=("head=softmax",),
    config={"optimizer": {"lr": 0.1}, "seed": 0},
    environment=ENVIRONMENT,
)


def test_a_record_is_read_back_as_it_was(tmp_path):
    history = [
        {"step": 0, "train_loss": np.float32(0.1)},
        {"step": 5, "train_loss": np.float32(1 / 3), "val_nll": np.float32(2)},
    ]
    runs.write_run(tmp_path / "runs" / "a", RUN, history)
    read, broken = runs.read_runs(tmp_path)
    assert not broken and list(read) == ["a"]
    curves = {"val": {"reliability": {"confidence": (0.5, None)}}}
    path = tmp_path / "runs" / "a" / "history.csv"
    sums = {"history.csv": hashlib.sha256(path.read_bytes()).hexdigest()}
    files = {"bytes": {"history.csv": path.stat().st_size}, "checksums": sums, "checksum": read["a"].checksum}
    metrics = {"val_accuracy": 1 / 3, "test_nll": None}
    assert read["a"] == replace(RUN, metrics=metrics, curves=curves, **files)
    table = runs.read_history(tmp_path / "runs" / "a")
    assert list(table.columns) == ["step", "train_loss", "val_nll"]
    assert np.float32(table["train_loss"][1]) == np.float32(1 / 3)
    assert math.isnan(table["val_nll"][0])
    written = runs.write_results(tmp_path)
    assert list(written.columns[: len(runs.COLUMNS)]) == list(runs.COLUMNS)
    pd.testing.assert_frame_equal(runs.read_results(tmp_path), written, check_dtype=False)


def test_a_history_has_tags_on_disk(tmp_path):
    runs.write_run(tmp_path / "a", RUN, [{"step": 0, "val_accuracy": 0.5, "val_ambiguity_none": 1.0, "coupling": 0.0}])
    header = (tmp_path / "a" / "history.csv").read_text().splitlines()[0]
    assert header == "step,val/accuracy,ambiguity/none,competition/coupling"


@pytest.mark.parametrize(
    "texts",
    [
        ["step,val/nll\n0,\n5,0.1\n", "step,val/nll\n0,1\n", "step,val/nll\n"],
        ["step,val/nll\n0,1\n5,2", "val/nll,step\n1,0\n", "step,val/nll\r\n3,inf\r\n"],
        ["step,val/nll\n\n0,1\n\n", "step,val/nll\n0,2\n"],
        ["step,val/nll\n0,1,2\n", "step,val/nll\n0,2\n"],
        ["step,val/nll\n0,2\n", "step,val/nll\n0,1,2\n", "step,val/nll\n0\n"],
        ['step,val/nll\n"0\n",1\n', 'step,val/nll\n0,"1\n', "step,val/nll\n0,2\n"],
        ["step,val/nll\n0,word\n", "step,val/nll\n0,2\n", "step,val/nll\n-1,2\n"],
        ["step,val/nll\nTrue,2\n", "step,val/nll\nFalse,2\n", "", "nll\n1\n"],
    ],
)
def test_histories_read_together_are_those_read_one_by_one(tmp_path, texts):
    names = [f"run{place}" for place in range(len(texts))]
    for name, text in zip(names, texts, strict=True):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "history.csv").write_bytes(text.encode())
    together, unreadable = runs.read_histories(tmp_path, [*names, "none"])
    assert {*together, *unreadable} == {*names, "none"} and not {*together} & {*unreadable}
    for name in names:
        if name in unreadable:
            with pytest.raises(ValueError) as refusal:
                runs.read_history(tmp_path / "runs" / name)
            assert unreadable[name] == one_line(refusal.value)
        else:
            alone = runs.read_history(tmp_path / "runs" / name)
            pd.testing.assert_frame_equal(together[name].reset_index(drop=True), alone, check_dtype=False)


def test_without_run_json_there_is_no_run(tmp_path):
    runs.write_run(tmp_path / "runs" / "a", RUN, [])
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "history.csv").write_text("step\n")
    assert list(runs.read_runs(tmp_path)[0]) == ["a"]


def broken_record(folder, change):
    content = {key: value for key, value in (json.loads(to_json(RUN)) | change).items() if value != "gone"}
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "b"}, "run=b: must be the folder's name, a"),
        ({"lr": "fast"}, "lr=fast: must be a number"),
        ({"status": "done"}, "status=done: accepted: diverged, failed, finished"),
        ({"phase": None}, "phase=None: accepted: confirm, run, search"),
        ({"metrics": {"val_nll": []}}, "metrics.val_nll=[]: must be a number, or null"),
        ({"pack": {"size": 1}}, "pack.mode: missing; it needs a value"),
        ({"environment": "gone"}, "environment: missing; it needs a value"),
        (
            {"curves": {"val": {"reliability": {"confidence": [0, "x"]}}}},
            "curves.val.reliability.confidence.1=x: must be a",
        ),
        ({"colour": "red"}, "colour: no such key; did you mean lr or curves? accepted: arm, blocks, bytes,"),
    ],
)
def test_a_broken_record_is_refused_with_key_value_and_what_is_accepted(tmp_path, change, message):
    broken_record(tmp_path / "runs" / "a", change)
    with pytest.raises(ConfigError) as refusal:
        runs.read_run(tmp_path / "runs" / "a")
    assert str(refusal.value).startswith(message)
    assert runs.read_runs(tmp_path) == ({}, {"a": str(refusal.value)})


def test_a_record_of_another_layout_is_refused_whatever_its_keys(tmp_path):
    broken_record(tmp_path / "a", {"version": 2, "colour": "red"})
    with pytest.raises(runs.OtherReleaseError, match=r"^version=2: another release .*; accepted: 1$"):
        runs.read_run(tmp_path / "a")


def test_a_record_of_the_last_release_is_read(tmp_path):
    """Release 0.1 wrote the same layout without its version."""
    broken_record(tmp_path / "a", {"version": "gone"})
    assert runs.read_run(tmp_path / "a").version == 1


@pytest.mark.parametrize(("old", "new"), [('"seed": 0', '"seed": 1'), ("0.3333333333333333", "0.9"), ("head=", "h=")])
def test_a_changed_record_is_told_by_its_checksum(tmp_path, old, new):
    runs.write_run(tmp_path / "a", RUN, [])
    path = tmp_path / "a" / "run.json"
    text = path.read_text()
    path.write_text(json.dumps(dict(reversed(json.loads(text).items()))))
    assert runs.read_run(tmp_path / "a") == runs.read_run(tmp_path / "a"), "layout and order do not matter"
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match="not that of the content"):
        runs.read_run(tmp_path / "a")


def test_a_changed_file_is_named(tmp_path):
    runs.write_run(tmp_path / "a", RUN, [{"step": 0}], {"label": np.arange(3)})
    run = runs.read_run(tmp_path / "a")
    (tmp_path / "a" / "history.csv").write_text("step\n1\n")
    runs.write_arrays(tmp_path / "a" / "predictions.npz", {"label": np.arange(1, 4)})
    assert runs.flaws_of_files(tmp_path / "a", run) == ["history.csv has changed", "predictions.npz has changed"]


def test_a_file_that_lost_bytes_is_named(tmp_path):
    runs.write_run(tmp_path / "a", RUN, [{"step": 0}], {"label": np.arange(3)})
    run = runs.read_run(tmp_path / "a")
    assert runs.flaws_of_files(tmp_path / "a", run) == []
    path = tmp_path / "a" / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-1])
    assert runs.flaws_of_files(tmp_path / "a", run) == ["predictions.npz has lost bytes"]
