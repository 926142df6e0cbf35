import json

import numpy as np
import pandas as pd
import pytest

from headtohead.options import ConfigError
from headtohead.record.tables import read_frame

TABLE = pd.DataFrame({"head": ["a", "b"], "seed": [0, 1], "accuracy": [0.5, 0.25]})


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path):
    with pytest.raises(ConfigError) as error:
        read_frame(path)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"runs={path}: ") and "accepted" in message
    return message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "head,seed,accuracy\na,0,0.5\nb,1,0.25\n"),
        ("t.csv", "\ufeffhead;seed;accuracy\r\na;0;0.5\r\nb;1;0.25"),
        ("t.tsv", "head\tseed\taccuracy\n\na\t0\t0.5\nb\t1\t0.25\n"),
        ("t.jsonl", '{"head": "a", "seed": 0, "accuracy": 0.5}\n{"head": "b", "seed": 1, "accuracy": 0.25}\n'),
    ],
)
def test_tables_of_every_kind_are_the_same(tmp_path, name, text):
    frame = read_frame(write(tmp_path / name, text))
    assert frame.astype(str).to_numpy().tolist() == TABLE.astype(str).to_numpy().tolist()
    assert list(frame) == list(TABLE)


def test_parquet_is_read_with_its_index(tmp_path):
    pytest.importorskip("pyarrow")
    TABLE.set_index("head").to_parquet(tmp_path / "t.parquet")
    frame = read_frame(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(frame[list(TABLE)].reset_index(drop=True), TABLE, check_dtype=False)
    assert list(frame.index) == [1, 2]


def test_rows_have_the_numbers_of_an_editor(tmp_path):
    frame = read_frame(write(tmp_path / "t.csv", 'a,b\n\n1,2\n"3\n4",5\n6,7\n'))
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[frame.index[0] - 1] == "1,2" and lines[frame.index[-1] - 1] == "6,7"


def test_an_arm_may_be_called_none_and_an_empty_cell_is_missing(tmp_path):
    frame = read_frame(write(tmp_path / "t.csv", "arm,x\nNone,NA\nnull,\n007,1e3\n"))
    assert frame.arm.tolist() == ["None", "null", "007"]
    assert frame.x.isna().tolist() == [False, True, False]


def test_columns_of_dictionaries_become_columns(tmp_path):
    """The table that W&B's documentation exports by its API."""
    runs = [({"loss": float("nan"), "best": {"accuracy": 0.5}}, {"head": "a", "optimizer": {"lr": 0.1}}, "run-1")]
    runs += [({"loss": 0.5, "best": {"accuracy": 0.6}}, {"head": "nan-b", "optimizer": {"lr": 0.2}}, "run-2")]
    pd.DataFrame(runs, columns=["summary", "config", "name"]).to_csv(tmp_path / "project.csv")
    frame = read_frame(tmp_path / "project.csv")
    assert frame["config.head"].tolist() == ["a", "nan-b"]
    assert frame["config.optimizer.lr"].tolist() == [0.1, 0.2]
    assert frame["summary.best.accuracy"].tolist() == [0.5, 0.6]
    assert np.isnan(frame["summary.loss"].astype(float)).tolist() == [True, False]


def test_nested_lines_become_dotted_columns(tmp_path):
    line = json.dumps({"config": {"head": "a", "lr": {"max": 1}}, "metrics": {"accuracy": 0.5}})
    frame = read_frame(write(tmp_path / "t.jsonl", line))
    assert list(frame) == ["config.head", "config.lr.max", "metrics.accuracy"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", " \n\n", "is empty"),
        ("t.csv", "only\n1\n2\n", "has one column, 'only'"),
        ("t.csv", "a,b\n1,2\n3\n", "line 3 has 1 values for 2 names"),
        ("t.csv", "a,b\n1,2,3\n", "line 2 has 3 values for 2 names"),
        ("t.csv", b"a,b\n\xff\xfe,1\n", "not UTF-8"),
        ("t.csv", b"a,b\n\0,1\n", "holds no text"),
        ("t.csv", 'a,b\n"' + "x" * 200_000 + '",2\n', "line 2 cannot be read"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "line 2 is no JSON"),
        ("t.jsonl", "[1, 2]\n", "line 1 holds no object"),
        ("t.jsonl", "[" * 100_000, "line 1 is no JSON"),
        ("t.parquet", b"PAR1 nothing", "cannot be read"),
        ("t.xlsx", "x", "accepted"),
        ("t", "x", "accepted"),
    ],
)
def test_what_is_no_table_is_refused_in_a_line(tmp_path, name, text, said):
    assert said in refusal(write(tmp_path / name, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "t.csv")
    (tmp_path / "folder.csv").mkdir()
    refusal(tmp_path / "folder.csv")
