"""Examples in groups, such as patients: no split, fold or block divides one."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY

from headtohead.options import ConfigError
from headtohead.training import data

CPU = torch.device("cpu")


def patients(count=30, seed=0):
    """Return a table of three classes in which a patient has one to nine rows, not next to each other."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(count), rng.integers(1, 10, count))
    rng.shuffle(patient)
    label = rng.integers(0, 3, len(patient))
    return pd.DataFrame(
        {
            "patient": [f"p{number}" for number in patient],
            "size": label + rng.normal(size=len(patient)),
            "age": patient % 7 + rng.normal(size=len(patient)),
            "kind": np.array(["a", "b", "c"])[label],
        }
    )


@pytest.fixture
def named(tmp_path):
    """Return a function that writes a table and returns the overrides that name it."""

    def call(table, *more):
        data._load.cache_clear()
        table.to_csv(tmp_path / "t.csv", index=False)
        path = tmp_path / "t.csv"
        return ["dataset=table", f"dataset.path={path}", "dataset.target=kind", "dataset.groups=patient", *more]

    return call


@pytest.mark.parametrize("more", [[], ["dataset.folds=3"], ["dataset.folds=null", "dataset.test_fraction=0.25"]])
def test_no_split_divides_a_group(config, named, more):
    table = patients()
    dataset = config(*named(table, *more)).dataset
    pool = data.load(dataset, CPU)
    patient = table.patient.to_numpy()
    assert pool.inputs.shape[1] == 2  # the patient is no input
    tested = []
    for seed in range(3):
        for fold in range(dataset.folds or 1):
            view = data.view(pool, dataset, seed, fold)
            parts = [{*patient[part.numpy()]} for part in (view.train, view.val, view.test)]
            assert all(parts) and sum(map(len, parts)) == len({*patient})
            assert sum(map(len, (view.train, view.val, view.test))) == len(table)
            tested.append(tuple(view.test.tolist()))
    if dataset.folds:
        assert len({*tested}) > dataset.folds  # drawn anew for each seed
    else:
        assert len({*tested}) == 1 and len(tested[0]) / len(table) == pytest.approx(0.25, abs=0.06)
    for block in range(len(pool.block_sizes)):
        inside, outside = patient[pool.block_N == block], patient[(pool.block_N != block) & (pool.block_N >= 0)]
        assert len(inside) and not {*inside} & {*outside}


def test_a_group_may_have_one_given_split_only(config, named):
    table = patients()
    first = table.patient.isin(["p0", "p1", "p2"])
    table["split"] = np.where(first, "test", "train")
    fixed = ["dataset.split_column=split", "dataset.folds=null"]
    pool = data.load(config(*named(table, *fixed)).dataset, CPU)
    assert pool.test.tolist() == np.flatnonzero(first).tolist()
    table.loc[table.patient == "p1", "split"] = ["train"] + ["test"] * int((table.patient == "p1").sum() - 1)
    table.loc[table.patient == "p3", "split"] = "val"
    with pytest.raises(ConfigError, match=r"dataset.groups=1 lie in several splits: each group in one split"):
        data.load(config(*named(table, *fixed)).dataset, CPU)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({}, ["dataset.groups=doctor"], "dataset.groups=doctor: no such column; "),
        ({}, ["dataset.groups=kind"], "dataset.groups=kind: another column than dataset.target=kind"),
        ({"patient": None}, [], "dataset.groups=patient: missing in "),
        ({"patient": "p1"}, [], "dataset.folds=5: at most 1, the number of groups"),
        ({"patient": "p1"}, ["dataset.folds=null", "dataset.test_fraction=0.2"], "dataset.test_fraction=0.2: a share"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_used_are_refused(config, named, change, more, message):
    with pytest.raises(ConfigError) as error:
        data.load(config(*named(patients().assign(**change), *more)).dataset, CPU)
    assert str(error.value).startswith(message)


def test_a_study_of_groups(command, tmp_path, named):
    """The splits of two seeds differ in size, so that their runs are trained in different packs."""
    arms = ["head=softmax,sigmoid", "optimizer.lr=0.1,0.3", "seed=0,1"]
    short = [item for item in TINY if "fold" not in item and "train_size" not in item]
    result = command("name=x", *named(patients()), *short, *arms)
    assert result.status == 0, result.err
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/x/runs/*/run.json")]
    confirmed = [run for run in runs if run["phase"] == "confirm"]
    assert len({(run["arm"], run["seed"], run["fold"]) for run in confirmed}) == 2 * 2 * 5
    by_seed = {}
    for run in confirmed:
        by_seed.setdefault((run["arm"], run["seed"], run["lr"]), []).append(run["blocks"]["size"])
    assert any(len(of_seed) == 5 and sum(map(sum, of_seed)) == len(patients()) for of_seed in by_seed.values())
    again = command("reproduce", str(next(tmp_path.glob("outputs/x/runs/*fold=3*"))))
    assert again.status == 0, again.err


def test_arrays_may_name_groups(config, tmp_path):
    table = patients()
    X, y = table[["size", "age"]].to_numpy(), table.kind.to_numpy().astype(str)
    groups = table.patient.to_numpy().astype(str)
    path = tmp_path / "data.npz"

    def loaded(*more, **arrays):
        data._load.cache_clear()
        np.savez(path, **arrays)
        dataset = config("dataset=arrays", f"dataset.path={path}", *more).dataset
        return dataset, data.load(dataset, CPU)

    dataset, pool = loaded(X=X, y=y, groups=groups)
    view = data.view(pool, dataset, 0, 1)
    assert not {*groups[view.train]} & {*groups[view.test]} and not {*groups[view.train]} & {*groups[view.val]}
    first = np.isin(groups, ["p1", "p2", "p3", "p4"])
    split = {"X": X[~first], "y": y[~first], "X_test": X[first], "y_test": y[first]}
    fixed = "dataset.folds=null"
    _, pool = loaded(fixed, **split, groups=groups[~first], groups_test=groups[first])
    assert len(pool.test) == first.sum()
    for arrays, message in (
        ({"X": X, "y": y, "groups": groups[1:]}, "groups has the type"),
        ({"X": X, "y": y, "groups": X}, "groups has the type"),
        ({"X": X, "y": y, "groups": groups, "groups_test": groups}, "has groups_test but no X_test"),
        ({**split, "groups": groups[~first]}, "no groups_test; accepted: groups and groups_test, or neither"),
        ({**split, "groups": groups[~first], "groups_test": groups[: first.sum()]}, "lie in several splits"),
    ):
        with pytest.raises(ConfigError, match=message):
            loaded(*([fixed] if "X_test" in arrays else []), **arrays)
