"""Tables of the user's own through the command line: files of test rows, odd names, and what is refused."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from headtohead.training import data
from headtohead.training.table import encode

SHORT = ["fold=0", "training.epochs=1", "training.points=3", "training.evaluations=2", "model=linear", "seed=0"]
RUN = ["name=x", "dataset=table", "dataset.path=t.csv", "dataset.target=kind", *SHORT]
WITH_TEST = [*RUN, "dataset.test_path=test.csv", "dataset.folds=null"]


def rows(count=40, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array(["red", "blue", "green"])[rng.integers(0, 3, count)]
    return pd.DataFrame(
        {"size": rng.normal(size=count), "colour": words, "kind": np.array([*"xy"])[np.arange(count) % 2]}
    )


def write(folder, content, name="t.csv"):
    data._load.cache_clear()
    content = content.to_csv(index=False) if isinstance(content, pd.DataFrame) else content
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def records(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/x/runs/*/run.json"))]


@pytest.fixture
def refused(command, tmp_path):
    """Return a function that runs a command and returns its error, after which nothing may have been written."""

    def call(*arguments):
        before = sorted(tmp_path.rglob("*"))
        result = command(*arguments)
        assert result.status == 2, result.err
        assert result.err.startswith("headtohead: ") and len(result.err.splitlines()) <= 2, result.err
        assert sorted(tmp_path.rglob("*")) == before
        return result.err

    return call


PLAIN = "size,colour,kind\n" + "".join(f"{n}.5,{'red' if n % 3 else 'blue'},{'xy'[n % 2]}\n" for n in range(20))
LONG = "".join(f"{n}.5,c{n},{'xy'[n % 2]}\n" for n in range(10_000))
BAD = {
    "no such column": (PLAIN, ["dataset.target=knd"], ["dataset.target=knd", "no such column", "did you mean kind"]),
    "no such ignored column": (PLAIN, ["dataset.ignore=[sise]"], ["dataset.ignore=sise", "did you mean size"]),
    "target missing": (PLAIN + "1,red,\n", [], ["dataset.target=kind", "missing in 1 of 21 rows of", "row 21"]),
    "all missing": ("size,colour,kind\n,,x\n,,y\n", [], ["no column is left as an input"]),
    "categories": ("size,colour,kind\n" + LONG, [], ["the column colour has 10,000 different texts", "at most 1000"]),
    "names twice": (PLAIN.replace("colour", "size", 1), [], ["['size'] names several columns"]),
    "semicolons": (PLAIN.replace(",", ";"), [], ["one column, 'size;colour;kind'", "commas in a .csv"]),
    "semicolons and commas": (PLAIN.replace(",", ";").replace(".5", ",5"), [], ["one column, 'size;colour;kind'"]),
    "encoding": (PLAIN.replace("red", "r\xf6t").encode("latin-1"), [], ["not UTF-8", "accepted: UTF-8"]),
    "empty": ("", [], ["the file is empty"]),
    "blank lines": ("\n\n\n", [], ["the file is empty"]),
    "no rows": ("size,colour,kind\n", [], ["names but no rows"]),
    "short row": (PLAIN + "1.5,red\n", [], ["line 22 has 2 values for 3 names"]),
    "long row": (PLAIN + "1.5,red,x,\n", [], ["line 22 has 4 values for 3 names"]),
    "open quote": (PLAIN + '"1.5,red,x\n', [], ["line 22 has 1 values for 3 names"]),
    "infinite": (PLAIN + "inf,red,x\n", [], ["the column size is infinite", "1 rows, such as row 21"]),
    "beyond float32": (PLAIN + "1e39,red,x\n", [], ["the column size is infinite or too large", "below 3e38"]),
    "decimal commas": (re.sub(r"(\d+)\.5,", r'"\1,5",', PLAIN) + "10,red,x\n", [], ["commas, such as 0,5"]),
    "a quantity": (PLAIN, ["dataset.target=size", "dataset.ignore=[kind]"], ["dataset.target=size", "the value 0.5"]),
    "huge labels": (PLAIN.replace("x\n", "1e30\n").replace("y\n", "2e30\n"), [], ["dataset.target=kind", "1e+30"]),
    "one class": (PLAIN.replace("y\n", "x\n"), [], ["1 different values; accepted: 2 to 500"]),
    "too few for folds": (PLAIN + "1,red,z\n1,red,z\n", [], ["dataset.folds=5: at most 2", "the class z"]),
    "no split": (PLAIN, ["dataset.folds=null"], ["dataset.folds=null: 5 or another number", "dataset.test_path"]),
    "two splits": (PLAIN, ["dataset.test_fraction=0.2"], ["give either dataset.folds or dataset.test_fraction"]),
}  # fmt: skip


@pytest.mark.parametrize(("content", "overrides", "said"), BAD.values(), ids=BAD)
def test_a_bad_table_is_refused_before_anything_is_written(refused, tmp_path, content, overrides, said):
    write(tmp_path, content)
    given = {override.partition("=")[0] for override in overrides}
    message = refused(*(part for part in RUN if part.partition("=")[0] not in given), *overrides)
    assert all(part in message for part in said), message


def test_a_parquet_file_without_pyarrow_names_the_extra(refused, tmp_path, monkeypatch):
    for module in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, module, None)
    write(tmp_path, "PAR1", "t.parquet")
    message = refused(*(part.replace("t.csv", "t.parquet") for part in RUN))
    assert message.endswith("t.parquet: a .parquet file needs pyarrow: pip install 'headtohead[parquet]'\n")


@pytest.mark.parametrize("kind", [["1.0", "2.0"], ["True", "False"], ["0", "1"], ["a, b", "c"]], ids=str)
def test_targets_of_every_kind_train(command, tmp_path, kind):
    frame = rows().assign(kind=np.array(kind)[np.arange(40) % 2])
    write(tmp_path, "\ufeff" + frame.to_csv(index=False, lineterminator="\r\n"))
    result = command(*RUN)
    assert result.status == 0, result.err
    classes = json.loads((tmp_path / "outputs/x/study.json").read_text())["classes"]
    assert classes == {"1.0": ["1", "2"], "True": ["False", "True"]}.get(kind[0], kind)


@pytest.mark.parametrize("name", ["the kind", "a.kind", "kind[1]", "kind=1", "kind, or not", "{kind}", "art:\xe4"])
def test_names_of_columns_may_have_any_characters(command, tmp_path, name):
    """Names in quotes, as the grammar asks for, come through the sweep, the record and `reproduce`."""
    write(tmp_path, rows().rename(columns={"kind": name}).assign(**{f"id {name}": np.arange(40)}))
    quoted = [f"dataset.target='{name}'", f"dataset.ignore=['id {name}']", "head=softmax,sigmoid"]
    result = command(*(part for part in RUN if "target" not in part), *quoted)
    assert result.status == 0, result.err
    assert [record["config"]["dataset"]["target"] for record in records(tmp_path)] == [name] * 2
    folder = next(tmp_path.glob("outputs/x/runs/*/run.json")).parent
    again = command("reproduce", str(folder))
    assert again.status == 0 and "equal" in again.out, again.err


def test_rows_of_a_test_file_are_the_test_split(command, tmp_path, config):
    """They are the same numbers as in one file with a column of splits, but for the order of the columns."""
    train, test = rows(), rows(12, seed=1)
    train.loc[[3, 4], "size"] = np.nan
    write(tmp_path, train)
    write(tmp_path, test[["kind", "colour", "size"]], "test.csv")
    result = command(*WITH_TEST, "head=softmax,sigmoid")
    assert result.status == 0, result.err
    separate = records(tmp_path)
    assert len(separate) == 2 and {"dataset.path", "dataset.test_path"} & {*separate[0]["config"]["dataset"]} == set()
    write(tmp_path, pd.concat([train.assign(part="train"), test.assign(part="test")]))
    other = [part for part in WITH_TEST if "test_path" not in part and "name=" not in part]
    result = command(*other, "name=y", "dataset.split_column=part", "head=softmax,sigmoid")
    assert result.status == 0, result.err
    one_file = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/y/runs/*/run.json"))]
    for first, second in zip(separate, one_file, strict=True):
        assert first["metrics"] == second["metrics"] and first["blocks"] == second["blocks"]


def test_a_moved_test_file_is_the_same_and_another_one_is_drift(command, refused, tmp_path):
    write(tmp_path, rows())
    write(tmp_path, rows(12, seed=1), "test.csv")
    assert command(*WITH_TEST).status == 0
    (made,) = records(tmp_path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "test.csv").rename(tmp_path / "moved/u.csv")
    moved = [part.replace("test.csv", "moved/u.csv") for part in WITH_TEST]
    assert command(*moved).status == 0 and records(tmp_path) == [made]
    changed = rows(12, seed=1)
    changed.loc[0, "size"] += 1
    write(tmp_path, changed, "test.csv")
    assert "data of dataset.path: changed" in refused(*WITH_TEST)


def test_what_training_lacks_counts_as_unknown_in_the_test_file(tmp_path, config):
    """An unknown category, and a number that is missing in test rows alone, change no standardised input by itself."""
    train, test = rows(), rows(4, seed=1)
    test.loc[0, "colour"], test.loc[1, "size"] = "violet", np.nan
    write(tmp_path, train)
    write(tmp_path, test, "test.csv")
    paths = [f"dataset.path={tmp_path}/t.csv", f"dataset.test_path={tmp_path}/test.csv"]
    dataset = config("dataset=table", *paths, "dataset.target=kind", "dataset.folds=null").dataset
    pool = data.load(dataset, torch.device("cpu"))
    view = data.view(pool, dataset, 0)
    assert view.test.tolist() == [40, 41, 42, 43]
    ((inputs, _),) = data.evaluation_chunks(pool, [view], "test", torch.float64, 1)
    names = encode(pd.concat([train, test], ignore_index=True).drop(columns="kind"), "").names
    shown = pd.DataFrame(inputs[0], columns=names)
    assert names == ("size", "size (missing)", "colour=blue", "colour=green", "colour=red", "colour=violet")
    assert (shown["colour=violet"] == 0).all() and (shown["size (missing)"] == 0).all() and shown.loc[1, "size"] == 0
    seen = train.iloc[view.train.tolist()]
    for colour in ("blue", "green", "red"):
        is_one = (seen["colour"] == colour).astype(float)
        assert shown.loc[0, f"colour={colour}"] == pytest.approx(-is_one.mean() / is_one.std(ddof=0))


def test_a_number_of_a_test_file_may_be_a_text_of_training(tmp_path, config):
    train = rows(20).assign(code=np.array(["7", "A1"])[np.arange(20) % 2])
    write(tmp_path, train)
    write(tmp_path, rows(4, seed=1).assign(code=7), "test.csv")
    paths = [f"dataset.path={tmp_path}/t.csv", f"dataset.test_path={tmp_path}/test.csv"]
    dataset = config("dataset=table", *paths, "dataset.target=kind", "dataset.folds=null").dataset
    pool = data.load(dataset, torch.device("cpu"))
    assert pool.inputs[-4:, -2:].tolist() == [[1, 0]] * 4


BAD_TEST = {
    "no file": (None, [], ["dataset.test_path=test.csv: no such file"]),
    "missing column": (rows().drop(columns="size"), [], ["dataset.test_path=", "/test.csv: has no column size"]),
    "extra column": (rows().assign(more=1), [], ["dataset.test_path=", "/test.csv: has a column more"]),
    "no target": (rows().drop(columns="kind"), [], ["has no column kind"]),
    "target missing": (rows().assign(kind=[None, *"xyx" * 13]), [], ["dataset.target=kind", "1 of 40", "/test.csv,"]),
    "new class": (rows().replace("x", "z"), [], ["dataset.test_path=", "/test.csv: no row of train has the class z"]),
    "another kind": (rows().assign(size="large"), [], ["column size is of the kind category", "of the kind number"]),
    "empty": ("", [], ["dataset.test_path=", "/test.csv: the file is empty"]),
    "folds": (rows(), ["dataset.folds=5"], ["dataset.folds=5: null", "dataset.test_path=test.csv"]),
    "fraction": (rows(), ["dataset.test_fraction=0.1"], ["dataset.test_fraction=0.1: null"]),
    "column of splits": (rows(), ["dataset.split_column=colour"], ["dataset.test_path=test.csv", "split_column"]),
}  # fmt: skip


@pytest.mark.parametrize(("content", "overrides", "said"), BAD_TEST.values(), ids=BAD_TEST)
def test_a_bad_file_of_test_rows_is_refused(refused, tmp_path, content, overrides, said):
    write(tmp_path, rows())
    if content is not None:
        write(tmp_path, content, "test.csv")
    given = {override.partition("=")[0] for override in overrides}
    message = refused(*(part for part in WITH_TEST if part.partition("=")[0] not in given), *overrides)
    assert all(part in message for part in said), message


def test_large_numbers_keep_the_digits_in_which_they_differ():
    """Seconds of one day, as integers since 1970: float32 alone has one number for every 128 s."""
    seconds = 1_700_000_000 + np.arange(0, 86_400, 7)
    columns = encode(pd.DataFrame({"at": seconds, "small": np.arange(len(seconds)) / 7}), "")
    assert columns.names == ("at less 1700043197", "small")
    np.testing.assert_array_equal(columns.inputs[:, 0].numpy(), (seconds - 1700043197).astype(np.float32))
    np.testing.assert_array_equal(columns.inputs[:, 1].numpy(), (np.arange(len(seconds)) / 7).astype(np.float32))
