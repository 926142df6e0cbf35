"""Tables in files: how columns become numbers, what is fitted to the training examples alone, and what is refused."""

import json
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from headtohead.options import ConfigError
from headtohead.training import data
from headtohead.training.table import classes_of, encode, kind, read_frame

CPU = torch.device("cpu")


def mixed(count=120, seed=0):
    """Return a table of 3 classes with a number, an island, a truth and a date, some of them missing."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 3
    lost = rng.random((3, count)) < 0.15
    days = pd.to_timedelta(rng.integers(0, 900, count) + 200 * label, "D")
    return pd.DataFrame(
        {
            "bill": np.where(lost[0], np.nan, label + rng.normal(size=count)),
            "mass": rng.normal(size=count) * 100 + 4000,
            "island": np.where(lost[1], None, np.array(["a", "b", "c"])[rng.integers(0, 3, count)]),
            "ringed": np.where(lost[2], None, rng.random(count) < 0.5),
            "seen": (pd.Timestamp("2020-01-31") + days).strftime("%Y-%m-%d"),
            "species": np.array(["Gentoo", "Adelie", "Chinstrap"])[label],
        }
    )


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a table, or a text, and returns the overrides that name it."""

    def call(content, name="t.csv", target="species", **options):
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content = content.to_csv(index=False, sep="\t" if name.endswith("tsv") else ",")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        more = [f"dataset.{key}={value}" for key, value in options.items()]
        return ["dataset=table", f"dataset.path={path}", f"dataset.target={target}", *more]

    return call


@pytest.fixture
def refused(config, write):
    """Return a function that writes a table, loads it, and returns the message with which it is refused."""

    def call(content, *overrides, **options):
        with pytest.raises(ConfigError) as error:
            data.load(config(*write(content, **options), *overrides).dataset, CPU)
        message = str(error.value)
        assert message.startswith("dataset.") and len(message.splitlines()) <= 2
        return message

    return call


def test_each_kind_of_column_becomes_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "\ufeff,n, word,truth,day,when,none\n"
        "0,1.5,b,True,2000-01-03,2000-01-01 12:00,\n"
        "1,,a,,,2001-12-31 00:00,NA\n"
        '2,-2,"a, b",False,1999-12-31,2000-01-01 18:00,\n'
        "3,7,,True,2000-02-29,2000-01-01 00:00,\n",
        encoding="utf-8",
    )
    columns = encode(read_frame(str(path)), str(path))
    nan = np.nan
    expected = {
        "n": [1.5, nan, -2, 7],
        "n (missing)": [0, 1, 0, 0],
        "word=a": [0, 1, 0, 0],
        "word=a, b": [0, 0, 1, 0],
        "word=b": [1, 0, 0, 0],
        "word=(missing)": [0, 0, 0, 1],
        "truth": [1, nan, 0, 1],
        "truth (missing)": [0, 1, 0, 0],
        "day days": [2, nan, -1, 59],
        "day year": [2000, nan, 1999, 2000],
        "day month": [1, nan, 12, 2],
        "day day_of_week": [0, nan, 4, 1],
        "day (missing)": [0, 1, 0, 0],
        "when days": [0.5, 730, 0.75, 0],
        "when year": [2000, 2001, 2000, 2000],
        "when month": [1, 12, 1, 1],
        "when day_of_week": [5, 0, 5, 5],
    }
    assert columns.names == tuple(expected)
    np.testing.assert_array_equal(columns.inputs.numpy().T, np.array([*expected.values()], np.float32))
    found = [(part.count, part.reason, part.example) for part in columns.skipped]
    assert found == [(1, "without a name", "column 1"), (1, "without any value", "none")]


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([1.0, 0.0, -1.0], ("-1", "0", "1"), [2, 1, 0]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
    ],
)
def test_classes_are_sorted(values, classes, labels):
    found, names = classes_of(pd.Series(values, name="t"))
    assert names == classes and found.tolist() == labels


def test_a_tsv_is_the_same_table_as_a_csv(config, write):
    pools = [data.load(config(*write(mixed(), name)).dataset, CPU) for name in ("t.csv", "t.tsv")]
    assert torch.equal(*(pool.inputs.nan_to_num(1e9) for pool in pools))
    assert pools[0].classes == pools[1].classes == ("Adelie", "Chinstrap", "Gentoo")


def test_missing_numbers_become_the_mean_of_the_training_examples_alone(config, write):
    """Other values outside the training split change nothing in it."""
    frame = mixed()
    made = config(*write(frame, folds="null", test_fraction=0.3))
    pool = data.load(made.dataset, CPU)
    view = data.view(pool, made.dataset, 0)
    column = frame["bill"].to_numpy(np.float32)[view.train].astype(float)
    filled = np.where(np.isnan(column), np.nanmean(column), column)
    assert view.mean[0].item() == pytest.approx(filled.mean(), rel=1e-12)
    assert view.std[0].item() == pytest.approx(filled.std(), rel=1e-12)
    ((inputs, _),) = data.evaluation_chunks(pool, [view], "train", torch.float64, 1)
    assert inputs.isfinite().all()
    np.testing.assert_allclose(inputs[0, :, 0], (filled - filled.mean()) / filled.std(), atol=1e-9)
    others = frame.copy()
    others.loc[[*view.val.tolist(), *view.test.tolist()], "bill"] = 1e6
    other = data.view(data.load(config(*write(others, "u.csv", folds="null", test_fraction=0.3)).dataset, CPU),
                      made.dataset, 0)  # fmt: skip
    assert torch.equal(view.mean, other.mean) and torch.equal(view.std, other.std)


def test_a_column_that_the_training_examples_lack_is_zero_everywhere():
    inputs = torch.tensor([[1.0, torch.nan], [2.0, torch.nan], [3.0, 9.0]])
    empty = torch.tensor([], dtype=torch.long)
    train, test = torch.tensor([0, 1]), torch.tensor([2])
    view = data.View(train, train, empty, test, torch.ones(2).double() / 2, inputs)
    mean, std = view.mean.clone(), view.std.clone()
    assert mean.tolist() == [1.5, 0] and std.tolist() == [0.5, np.inf]
    assert data._standardised(inputs, mean, std.reciprocal(), True)[:, 1].tolist() == [0, 0, 0]


def test_a_complete_table_is_scaled_as_ever(config, write):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(90, 4)).astype(np.float32), columns=[*"abcd"]).assign(t=np.arange(90) % 3)
    made = config(*write(frame, target="t"))
    pool = data.load(made.dataset, CPU)
    view = data.view(pool, made.dataset, 0)
    assert not pool.lacks
    std, mean = torch.std_mean(pool.inputs[view.train].double(), dim=0, correction=0)
    assert torch.equal(view.mean, mean) and torch.equal(view.std, std)
    ((inputs, _),) = data.evaluation_chunks(pool, [view], "test", torch.float32, 1)
    assert torch.equal(inputs[0], (pool.inputs[view.test] - mean.float()) * std.reciprocal().float())


@pytest.mark.parametrize("has_test_file", [False, True])
def test_converged_linear_model_equals_scikit_learn(config, write, has_test_file):
    """Imputation, encoding and scaling are those of a pipeline that is fitted to the same training rows.

    There are numbers, a category, truths and dates, some missing; the file of test rows has an unknown category.
    """
    frame, decay = mixed(), 0.03
    frame.loc[::9, "seen"] = None
    overrides = write(frame)
    if has_test_file:
        frame.loc[100::5, "island"] = "unknown"
        paths = [write(rows, name)[1] for rows, name in ((frame[:90], "t.csv"), (frame[90:], "u.csv"))]
        overrides = [*overrides, paths[1].replace("path", "test_path", 1), "dataset.folds=null"]
    ours = config(
        *overrides, "model=linear", "head=softmax", "precision=float64", "training.epochs=3000",
        "training.batch_size=100000", "training.schedule=constant", "training.warmup=0", "training.points=1",
        "training.evaluations=1", "optimizer.lr=0.3", f"optimizer.weight_decay={decay}",
    )  # fmt: skip
    _, (outcome,) = run([ours])
    view = data.view(data.load(ours.dataset, CPU), ours.dataset, 0)
    time = pd.to_datetime(frame["seen"])
    frame["days"] = (time - pd.Timestamp("2000-01-01")).dt.days
    frame[["year", "month", "weekday"]] = np.stack([time.dt.year, time.dt.month, time.dt.day_of_week], axis=1)
    numbers = ["bill", "mass", "ringed", "days"]
    frame[numbers] = frame[numbers].astype(np.float32)
    oracle = make_pipeline(
        make_column_transformer(
            (SimpleImputer(add_indicator=True), numbers),
            (SimpleImputer(), ["year", "month", "weekday"]),
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["island"]),
        ),
        StandardScaler(),
        LogisticRegression(tol=1e-10, max_iter=5000, C=1 / (decay * len(view.train))),
    )
    oracle.fit(frame.iloc[view.train], frame["species"].iloc[view.train])
    for split, index in (("val", view.val), ("test", view.test)):
        rows = frame.iloc[index]
        assert not has_test_file or split == "val" or (rows["island"] == "unknown").any()
        probabilities = oracle.predict_proba(rows)
        at = np.searchsorted(oracle.classes_, rows["species"].to_numpy(str))
        assert outcome.metrics[f"{split}_nll"] == pytest.approx(
            -np.log(probabilities[np.arange(len(index)), at]).mean(), rel=1e-6
        )


def test_a_column_may_give_the_splits(config, write):
    split = np.array(["train", "train", "val", "test"])[np.arange(120) // 3 % 4]
    frame = mixed().assign(part=split)
    made = config(*write(frame, split_column="part", folds="null"))
    pool = data.load(made.dataset, CPU)
    view = data.view(pool, made.dataset, 0)
    for index, name in ((view.train, "train"), (view.val, "val"), (view.test, "test")):
        assert sorted(index.tolist()) == np.flatnonzero(split == name).tolist()
    assert pool.inputs.shape[1] == encode(frame.drop(columns=["species", "part"]), "").inputs.shape[1]


PLAIN = "a,b,species\n1,2,x\n3,4,y\n"
BAD = {
    "no file": (PLAIN, {}, ["dataset.path=nowhere.csv"], ["dataset.path=", "nowhere.csv", "no such file"]),
    "kind of file": (PLAIN, {"name": "t.xlsx"}, [], ["t.xlsx", "a .csv, .tsv or .parquet file"]),
    "no path": (PLAIN, {}, ["dataset.path=' '"], ["dataset.path=' '", "a file"]),
    "no target": (PLAIN, {"target": "specis"}, [], ["dataset.target=specis", "no such column", "did you mean species"]),
    "no ignored column": (PLAIN, {"ignore": "[c]"}, [], ["dataset.ignore=c", "no such column", "a, b, species"]),
    "ignored target": (PLAIN, {"ignore": "[a,species]"}, [], ["dataset.ignore=", "holds the target species"]),
    "all ignored": (PLAIN, {"ignore": "[a,b]"}, [], ["dataset.path=", "no column is left"]),
    "empty": ("", {}, [], ["dataset.path=", "the file is empty"]),
    "no rows": ("a,b,species\n", {}, [], ["dataset.path=", "names but no rows"]),
    "delimiter": (PLAIN.replace(",", ";"), {}, [], ["dataset.path=", "one column, 'a;b;species'", "commas"]),
    "tabs": (PLAIN, {"name": "t.tsv"}, [], ["one column, 'a,b,species'", "tabs in a .tsv"]),
    "encoding": (PLAIN.replace("x", "é").encode("latin-1"), {}, [], ["dataset.path=", "not UTF-8"]),
    "UTF-16": (PLAIN.encode("utf-16"), {}, [], ["dataset.path=", "not UTF-8"]),
    "twice": ("a,a,species\n1,2,x\n3,4,y\n", {}, [], ["dataset.path=", "['a'] names several columns"]),
    "long row": ("a,b,species\n1,2,x\n3,4,y,5\n", {}, [], ["dataset.path=", "cannot be read", "line 3"]),
    "long rows": ("a,b,species\n1,2,x,1\n3,4,y,5\n", {}, [], ["dataset.path=", "cannot be read"]),
    "quotes": ('a,b,species\n1,"2,x\n3,4,y\n', {}, [], ["dataset.path=", "cannot be read"]),
    "infinite": ("a,b,species\n1,2,x\n3,inf,y\n", {}, [], ["the column b is infinite", "1 rows, such as row 2"]),
    "too large": ("a,b,species\n1,2,x\n1e39,3,y\n", {}, [], ["the column a is infinite or too large"]),
    "lost targets": (PLAIN + "5,6,\n7,8,NA\n", {}, [], ["dataset.target=species", "missing in 2 of 4 rows", "row 3"]),
    "quantity": ("a,species\n1,2.5\n3,1\n", {}, [], ["dataset.target=species", "has the value 2.5"]),
    "one class": ("a,species\n1,x\n3,x\n", {}, [], ["1 different values; accepted: 2 to 500"]),
    "split and folds": (PLAIN, {"split_column": "b"}, [], ["dataset.folds=5", "null", "dataset.split_column=b"]),
}  # fmt: skip


@pytest.mark.parametrize(("content", "options", "overrides", "said"), BAD.values(), ids=BAD)
def test_a_bad_table_is_refused(refused, content, options, overrides, said):
    message = refused(content, *overrides, **options)
    assert all(part in message for part in said), message


def test_a_target_of_too_many_classes_is_refused(refused):
    frame = pd.DataFrame({"a": np.arange(1002.0), "species": np.arange(1002) // 2})
    assert "501 different values; accepted: 2 to 500 classes" in refused(frame)


def test_text_of_too_many_categories_is_refused(config, write, refused):
    frame = pd.DataFrame({"a": np.arange(300) % 101, "species": np.arange(300) % 2})
    frame["a"] = "n" + frame["a"].astype(str)
    message = refused(frame)
    assert "the column a has 101 different texts; accepted: at most 100, or dataset.ignore=['a']" in message
    longer = pd.concat([frame] * 4)
    assert data.load(config(*write(longer, "longer.csv")).dataset, CPU).inputs.shape == (1200, 101)


def test_usual_names_of_splits_are_known_in_any_case(config, write):
    split = np.array(["Train", "TRAINING", "valid", "Test_Set"])[np.arange(120) // 3 % 4]
    made = config(*write(mixed().assign(part=split), split_column="part", folds="null"))
    view = data.view(data.load(made.dataset, CPU), made.dataset, 0)
    assert sorted(view.test.tolist()) == np.flatnonzero(split == "Test_Set").tolist()
    assert sorted(view.val.tolist()) == np.flatnonzero(split == "valid").tolist()


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Validation", "Test")])
def test_a_column_of_splits_is_no_input(refused, config, write, names):
    frame = mixed().assign(part=np.array(names)[np.arange(120) % len(names)])
    message = refused(frame)
    assert (
        message.startswith("dataset.split_column=null: the column part says ") and "dataset.ignore=['part']" in message
    )
    assert len(data.load(config(*write(frame, ignore="[part]")).dataset, CPU).labels) == 120


def test_a_category_that_is_called_train_is_an_input(config, write):
    frame = mixed().assign(travel=np.array(["train", "bus"])[np.arange(120) % 2])
    assert len(data.load(config(*write(frame)).dataset, CPU).labels) == 120


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (["train", "train", "test", "x"], "has the values test, train, x"),
        (["train"] * 4, "has the values train; accepted: train and test"),
        (["train", "test", "train", "test"], "no row of train has the class y"),
        (["train", "test", "train", None], "missing in 1 of 4 rows"),
    ],
)
def test_a_bad_column_of_splits_is_refused(refused, split, said):
    frame = pd.DataFrame({"a": [1, 2, 3, 4], "part": split, "species": [*"xyxy"]})
    message = refused(frame, split_column="part", folds="null")
    assert "dataset.split_column=part" in message and said in message


def test_a_split_column_is_neither_the_target_nor_ignored(refused):
    for options in ({"split_column": "species"}, {"split_column": "b", "ignore": "[b]"}):
        message = refused(PLAIN, folds="null", **options)
        assert "dataset.split_column=" in message and "another column than" in message


def test_a_parquet_file_without_pyarrow_is_refused(refused, monkeypatch):
    for module in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "needs pyarrow: pip install 'headtohead[parquet]'" in refused(b"PAR1", name="t.parquet")


def test_a_parquet_file_is_the_same_table_as_a_csv(config, write):
    pytest.importorskip("pyarrow")
    overrides = write(mixed())
    path = overrides[1].removeprefix("dataset.path=").replace(".csv", ".parquet")
    mixed().to_parquet(path)
    pools = [data.load(config(*overrides, f"dataset.path={place}").dataset, CPU)
             for place in (path, path.replace(".parquet", ".csv"))]  # fmt: skip
    assert torch.equal(*(pool.inputs.nan_to_num(1e9) for pool in pools))


def test_the_types_of_parquet_are_the_kinds_of_a_csv(config, write, tmp_path):
    pytest.importorskip("pyarrow")
    number = np.arange(60)
    frame = pd.DataFrame({
        "category": pd.Categorical(np.array(["a", "b", "c"])[number % 3]),
        "integer": pd.array([None if n % 7 == 0 else n % 5 for n in number], dtype="Int64"),
        "truth": pd.array([None if n % 9 == 0 else n % 2 == 1 for n in number], dtype="boolean"),
        "time": pd.date_range("2020-01-01", periods=60),
        "decimal": [Decimal(f"{n}.25") for n in number],
        "span": pd.to_timedelta(number, "h"),
        "list": [[n % 2, 3] for n in number],
    }).set_index(pd.Index(np.array(["u", "v"])[number % 2], name="species"))  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    read = read_frame(str(tmp_path / "t.parquet"))
    assert {name: kind(values) for name, values in read.items()} == {
        "species": "category", "category": "category", "integer": "number", "truth": "truth", "time": "date",
        "decimal": "number", "span": "number", "list": "category",
    }  # fmt: skip
    assert read["decimal"].tolist() == (number + 0.25).tolist()
    np.testing.assert_allclose(read["span"], number / 24)
    overrides = write(read.drop(columns="time").assign(time=read["time"].astype(str)))
    path = f"dataset.path={tmp_path}/t.parquet"
    pools = [data.load(config(*overrides, *more).dataset, CPU) for more in ([], [path])]
    assert pools[0].classes == pools[1].classes == ("u", "v")
    columns = [sorted(map(tuple, pool.inputs.nan_to_num(1e9).T.tolist())) for pool in pools]
    np.testing.assert_allclose(*columns, rtol=1e-6)


STUDY = ["dataset=table", "model=linear", "head=softmax,sigmoid", "seed=0,1", "name=x",
         "training.epochs=3", "training.points=3", "training.evaluations=2", "dataset.folds=2"]  # fmt: skip

SPECIES = "dataset.target=species"


def records(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("outputs/x/runs/*/run.json")}


def test_a_study_of_a_table(command, tmp_path, monkeypatch):
    """It trains all folds, can be reproduced, goes on where the file is moved, and refuses another content."""
    monkeypatch.setenv("HOME", str(tmp_path))
    mixed().assign(empty=None).to_csv(tmp_path / "t.csv", index=False)
    first = command(*STUDY, SPECIES, "dataset.path=~/t.csv")
    assert first.status == 0, first.err
    made = records(tmp_path)
    assert len(made) == 8
    for record in made.values():
        assert record["status"] == "finished" and record["config"]["dataset"]["path"] == "~/t.csv"
        assert {"test_accuracy", "ood_auroc"} <= record["metrics"].keys()
    assert "1 without any value, such as empty" in (tmp_path / "outputs/x/report.md").read_text()
    with np.load(tmp_path / "outputs/x/examples.npz") as examples:
        assert np.isfinite(examples["inputs"]).all()
    again = command("reproduce", f"outputs/x/runs/{min(made)}")
    assert again.status == 0, again.out + again.err
    assert "bitwise equal" in again.out or "equal within" in again.out
    (tmp_path / "t.csv").rename(tmp_path / "moved.csv")
    assert command(*STUDY, SPECIES, f"dataset.path={tmp_path}/moved.csv").status == 0
    assert records(tmp_path) == made
    changed = mixed()
    changed.loc[0, "mass"] += 1
    changed.assign(empty=None).to_csv(tmp_path / "changed.csv", index=False)
    refused = command(*STUDY, SPECIES, "dataset.path=changed.csv")
    assert refused.status == 2 and "data of dataset.path: changed" in refused.err, refused.err


def test_a_missing_column_ends_the_command_before_anything_is_written(command, tmp_path):
    mixed().to_csv(tmp_path / "t.csv", index=False)
    result = command(*STUDY, "dataset.path=t.csv", "dataset.target=specie")
    assert result.status == 2 and "did you mean species" in result.err and len(result.err.splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()
