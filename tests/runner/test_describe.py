"""The command `headtohead data`: what it says of data, what it finds wrong, and that it does nothing else."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
from data_files import pictures
from test_docs import ROOT, read, table

from headtohead.training import data
from headtohead.training.inspection import check_classes, check_table, describe_column

TABLE = ["dataset=table", "dataset.path=t.csv", "dataset.target=kind"]


@pytest.fixture
def described(command, tmp_path):
    """Return a function that runs `headtohead data`, which writes nothing, and returns what it prints as one line."""

    def call(*overrides, status=0):
        data._load.cache_clear()
        before = sorted(tmp_path.rglob("*"))
        result = command("data", *overrides)
        assert result.status == status, result.err
        assert sorted(tmp_path.rglob("*")) == before
        assert max(map(len, result.out.splitlines()), default=0) <= 80
        assert len(result.err.splitlines()) == (status != 0)
        return " ".join(result.out.split()) + result.err

    return call


def clean(count=120):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": rng.normal(size=count), "colour": rng.choice(["red", "blue"], count)})
    frame["seen"] = (pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(count), "D")).strftime("%Y-%m-%d")
    frame.loc[:4, "size"] = np.nan
    return frame.assign(truth=rng.random(count) < 0.5, kind=np.array(["x", "y", "z"])[np.arange(count) % 3])


def test_a_table_without_flaws(described, tmp_path):
    clean().assign(none=None).to_csv(tmp_path / "t.csv", index=False)
    frame = clean()
    frame.to_csv(tmp_path / "t.csv", index=False)
    out = described(*TABLE)
    low, high = frame["size"].min(), frame["size"].max()
    assert f"size 5 115 number {low:g} to {high:g}" in out
    red = int((frame["colour"] == "red").sum())
    assert re.search(rf"colour 0 2 category .*red \({red}\)", out)
    assert "seen 0 120 date 2020-01-01 to 2020-04-29" in out and "kind 0 3 category, target" in out
    assert "x 40 33.3 %" in out
    assert "data: 120 examples of 9 numbers in 3 classes splits: 72 train, 24 val, 24 test, in each of 5 folds" in out
    assert out.endswith("Nothing looks wrong.")


def test_a_table_in_the_home_folder(described, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("t.csv", "test.csv"):
        clean().to_csv(tmp_path / name, index=False)
    options = ["dataset=table", "dataset.path=~/t.csv", "dataset.target=kind"]
    assert "data: 120 examples" in described(*options)
    assert "data: 240 examples" in described(*options, "dataset.test_path=~/test.csv", "dataset.folds=null")


def test_splits_of_test_files_and_what_is_left_out(described, tmp_path):
    clean().assign(none=None, id=np.arange(120)).to_csv(tmp_path / "t.csv", index=False)
    clean().assign(none=None, id=0)[:10].to_csv(tmp_path / "test.csv", index=False)
    out = described(*TABLE, "dataset.test_path=test.csv", "dataset.folds=null", "dataset.ignore=[id]")
    assert "splits: 90 train, 30 val, 10 test left out: 1 ignored; 1 without any value, such as none" in out
    assert "! empty: The column none has no value." in out
    assert "! duplicates: 10 of 130 examples repeat" in out and "! leak: 10 of 10 test examples" in out


def test_columns_of_splits_and_groups_are_no_inputs(described, tmp_path):
    parts = np.array(["train", "train", "val", "test"])[np.arange(120) // 6 % 4]
    clean().assign(part=parts, patient=np.arange(120) // 6).to_csv(tmp_path / "t.csv", index=False)
    out = described(*TABLE, "dataset.split_column=part", "dataset.groups=patient", "dataset.folds=null")
    assert "category, split" in out and "number, groups" in out and "120 examples of 9 numbers" in out
    assert "splits: 60 train, 30 val, 30 test" in out


def test_what_a_run_refuses_is_refused_after_what_is_known(described, tmp_path):
    frame = clean().assign(name=[f"n{n}" for n in range(120)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    out = described(*TABLE, status=2)
    assert "! identifier: The column name differs in every row" in out
    assert out.endswith("headtohead: dataset.path: the column name has 120 different texts; accepted: at most 100, "
                        "or dataset.ignore=['name'] to leave it out of a file\n")  # fmt: skip
    frame.drop(columns="name").replace({"kind": {"z": "x"}}).assign(kind=["w", "w", *frame["kind"][2:]]).to_csv(
        tmp_path / "t.csv", index=False
    )
    out = described(*TABLE, status=2)
    assert "! small_class: Classes with fewer than 10 examples: w (2)." in out
    assert "dataset.folds=5: at most 2, the number of examples of the class w" in out
    assert "no such column; did you mean kind" in described(*TABLE[:-1], "dataset.target=kid", status=2)


def test_other_datasets(described, tmp_path):
    assert "1,797 examples of images of 1 x 8 x 8 bytes in 10 classes" in described()
    X = np.random.default_rng(0).normal(size=(60, 9))
    X[:, :7], X[30:], X[:, 8] = 2, X[:30], np.arange(60)
    np.savez(tmp_path / "data.npz", X=X, y=np.arange(60) % 2)
    out = described("dataset=arrays", "dataset.path=data.npz")
    assert "60 examples of 9 numbers in 2 classes" in out
    assert "constant: The column number 5 has the same value" in out and "number 6" not in out
    assert "constant: The same holds for 2 columns more." in out and "identifier: The column number 9" in out
    X[:, 8] = 0
    np.savez(tmp_path / "data.npz", X=X, y=np.arange(60) % 7 % 2)
    out = described("dataset=arrays", "dataset.path=data.npz", "dataset.folds=2")
    same = sum(n % 7 % 2 != (n + 30) % 7 % 2 for n in range(30))
    assert "duplicates: 30 of 60 examples" in out and f"conflicts: {same} of the repeated inputs" in out
    pictures(tmp_path / "images")
    assert "images of 3 x 8 x 8 bytes" in described(
        "dataset=image_folder", f"dataset.root={tmp_path}/images", "dataset.size=8", "dataset.stream=true"
    )


def test_the_overrides_of_a_run_are_taken(described, tmp_path, monkeypatch):
    """What is no part of the data may be swept; datasets may not."""
    out = described("dataset=iris", "head=softmax,sigmoid", "seed=0,1", "optimizer.lr=0.1,0.3", "dataset.folds=3")
    assert "splits: 75 train, 25 val, 50 test, in each of 3 folds" in out
    out = described("dataset=iris,wine", status=2)
    assert "dataset=iris, dataset=wine: several datasets; accepted: one value for each key" in out
    assert "dataset.folds=2, dataset.folds=3: several" in described("dataset=iris", "dataset.folds=2,3", status=2)
    assert "no such dataset; did you mean iris" in described("dataset=irs", status=2)
    assert "dataset.tset: no such key" in described("dataset.tset=1", status=2)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own").mkdir()
    (tmp_path / "mine.py").write_text("def make():\n    return [[0.5], [1.5], [1.2], [3.1]], [0, 1, 0, 1]\n")
    (tmp_path / "own/dataset").mkdir()
    (tmp_path / "own/dataset/few.yaml").write_text("defaults: [factory]\npath: mine:make\nval_fraction: 0.5\n")
    own = ["dataset=few", "dataset.folds=2"], ["--config-dir", "own"]
    for arguments in ([*own[0], *own[1]], [*own[1], *own[0]]):
        assert "4 examples of 1 number in" in described(*arguments)


NUMBERS = np.arange(100.0)
KINDS = pd.Series(np.array(["x", "y"])[np.arange(100) % 2])
FOUND = {
    "identifier": [np.arange(100), [f"n{n}" for n in range(100)], NUMBERS],
    "constant": [np.ones(100), ["a"] * 100, [True] * 100],
    "empty": [[np.nan] * 100, [None] * 100],
    "copy": [KINDS.map({"x": 3, "y": 1}), KINDS == "x", KINDS],
    "missing": [[1.5, 2.0, *[np.nan] * 98]],
    "text": [[*map(str, range(49)), *["?"] * 2, *map(str, range(49))], ["1", *map(str, range(99))]],
    "categories": [[f"n{n % 40}" for n in range(100)]],
    None: [NUMBERS / 7, [*range(99), 5], ["a", "b", "c", "d"] * 25, [*np.arange(60.0), *[np.nan] * 40],
           pd.date_range("2020-01-01", periods=100).astype(str), [True, False, False, True] * 25],
}  # fmt: skip
CASES = [(code, values) for code, columns in FOUND.items() for values in columns]


@pytest.mark.parametrize(("code", "values"), CASES, ids=[f"{code}{n}" for n, (code, _) in enumerate(CASES)])
def test_each_check_finds_its_flaw_and_no_other(code, values):
    found = [finding.code for finding in check_table(pd.DataFrame({"a": pd.Series(values)}), KINDS)]
    assert found == ([code] if code else [])


def test_names_and_classes_that_look_wrong():
    rows = pd.DataFrame([[1.5, 2.5, "a"]] * 2 + [[1.0, 0.5, "b"]] * 2, columns=["1.5", "2.5", "a"])
    assert [finding.code for finding in check_table(rows, pd.Series([*"xyyx"]))] == ["names"]
    many = pd.Series(np.arange(1000) % 500)
    assert [finding.code for finding in check_classes(many, is_column=True)] == ["many_classes"]
    assert [finding.text for finding in check_classes(pd.Series([*"abbbbbbbbbb"]), is_column=True)] == [
        "Classes with fewer than 10 examples: a (1)."
    ]
    assert not [*check_classes(many.repeat(10), is_column=False)]


def test_missing_values_are_counted():
    column = describe_column(pd.Series([1.0, np.nan, 1.0, 3.0], name="a"))
    assert (column.kind, column.missing, column.different, column.values) == ("number", 1, 2, "1 to 3")


def test_every_check_is_documented():
    source = (ROOT / "src/headtohead/training/inspection.py").read_text()
    assert set(re.findall(r'Finding\("(\w+)"', source)) == set(table(read("docs/architecture.md"), "check"))
