"""Records on disk and the tables made of them."""

import errno
import json
import math

import numpy as np
import pandas as pd
import pytest

from headtohead.analysis.statistics import best_learning_rates, t_interval
from headtohead.record import run as record


def a_run(**changes):
    fields = {"run": "a", "phase": "search", "arm": "softmax", "head": "softmax", "seed": 0, "lr": 0.1}
    fields |= {"status": "finished", "steps": 10, "wall_s": 0.5, "metrics": {"val_accuracy": 0.9, "val_nll": 0.3}}
    return fields | changes


def test_a_record_is_read_back_as_it_was(tmp_path):
    history = [
        {"step": 0, "train/loss": np.float32(0.1)},
        {"step": 5, "train/loss": np.float32(1 / 3), "val/nll": np.float32(2)},
    ]
    run = a_run(metrics={"val_accuracy": 1 / 3, "test_nll": math.nan})
    record.write_run(tmp_path / "runs" / "a", run, history)
    (read,) = record.read_runs(tmp_path)
    assert read["metrics"] == {"val_accuracy": 1 / 3, "test_nll": None}
    table = record.read_history(tmp_path / "runs" / "a")
    assert list(table.columns) == ["step", "train/loss", "val/nll"]
    assert np.float32(table["train/loss"][1]) == np.float32(1 / 3)
    assert math.isnan(table["val/nll"][0])
    written = record.write_results(tmp_path)
    assert list(written.columns[:9]) == list(record.COLUMNS)
    pd.testing.assert_frame_equal(record.read_results(tmp_path), written, check_dtype=False)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "study.json"
    record.write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        record.write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["study.json"]


def test_a_full_disk_is_told_with_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "study.json"
    record.write_atomically(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*study\.json"):
        record.write_atomically(path, "new")
    assert path.read_text() == "old" and len([*tmp_path.iterdir()]) == 1


def test_without_run_json_there_is_no_run(tmp_path):
    record.write_run(tmp_path / "runs" / "a", a_run(), [])
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "history.csv").write_text("step\n")
    assert [run["run"] for run in record.read_runs(tmp_path)] == ["a"]


def test_json_is_strict():
    text = record.to_json({"a": [1.0, math.inf], "b": {"c": math.nan}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [1.0, None], "b": {"c": None}}


def test_arrays_come_back_and_nothing_else_is_taken_for_them(tmp_path):
    arrays = {"label": np.arange(3), "activations": np.ones((3, 2), np.float32)}
    record.write_arrays(tmp_path / "a.npz", arrays)
    read = record.read_arrays(tmp_path / "a.npz")
    assert read.keys() == arrays.keys() and all((read[name] == arrays[name]).all() for name in arrays)
    for content in (b"", b"PK\x03\x04", (tmp_path / "a.npz").read_bytes()[:40]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises((ValueError, OSError)):
            record.read_arrays(tmp_path / "b.npz")


def test_t_interval_is_that_of_the_textbook():
    """Student's t for n = 4: mean 5, s = 2.582, t = 3.182, so 5 +- 4.108."""
    interval = t_interval(np.array([2.0, 4.0, 6.0, 8.0]))
    assert interval.mean == 5
    assert interval.half_width == pytest.approx(4.108, abs=1e-3)
    assert math.isnan(t_interval(np.array([1.0])).lower)


def test_best_learning_rate_by_accuracy_then_nll():
    def row(arm, lr, accuracy, nll, status="finished"):
        return {"arm": arm, "lr": lr, "val_accuracy": accuracy, "val_nll": nll, "status": status}

    table = pd.DataFrame(
        [
            row("a", 0.1, 0.8, 0.5),
            row("a", 0.1, 0.9, 0.5),
            row("a", 1.0, 0.95, 0.5),
            row("a", 1.0, 0.1, 2.3, "diverged"),
            row("b", 0.1, 0.9, 0.4),
            row("b", 1.0, 0.9, 0.3),
            row("b", 3.0, math.nan, math.nan, "failed"),
        ]
    )
    assert best_learning_rates(table) == {"a": 0.1, "b": 1.0}
    assert best_learning_rates(table[table.status == "failed"]) == {}
