"""Files on disk: whole or not there, and strict."""

import errno
import json
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from headtohead.options import ConfigError
from headtohead.record import files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "study.json"
    files.write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["study.json"]


def test_a_full_disk_is_told_with_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "study.json"
    files.write_atomically(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*study\.json"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old" and len([*tmp_path.iterdir()]) == 1


def test_json_is_strict():
    text = files.to_json({"a": [1.0, math.inf], "b": {"c": math.nan}})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [1.0, None], "b": {"c": None}}


def test_arrays_come_back_and_nothing_else_is_taken_for_them(tmp_path):
    arrays = {"label": np.arange(3), "activations": np.ones((3, 2), np.float32)}
    files.write_arrays(tmp_path / "a.npz", arrays)
    read = files.read_arrays(tmp_path / "a.npz")
    assert read.keys() == arrays.keys() and all((read[name] == arrays[name]).all() for name in arrays)
    for content in (b"", b"PK\x03\x04", (tmp_path / "a.npz").read_bytes()[:40]):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises((ValueError, OSError)):
            files.read_arrays(tmp_path / "b.npz")


@dataclass(frozen=True)
class Pair:
    left: float
    right: tuple[float, ...]


def test_dataclasses_are_encoded_by_their_fields():
    assert json.loads(files.to_json({"a": Pair(1.0, (math.inf,))})) == {"a": {"left": 1.0, "right": [None]}}


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff"])
def test_anything_but_a_json_object_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ConfigError):
        files.read_json(tmp_path / "a.json")


def test_differences_name_dotted_keys():
    before = {"a": {"b": 1, "c": (1, 2)}, "d": math.nan, "e": 0}
    now = {"a": {"b": 2, "c": [1, 2]}, "d": None, "f": 0}
    assert files.differences(before, now) == ["a.b: 1, now 2", "e: 0, now nothing", "f: nothing, now 0"]
    assert files.differences(before, now, ignore={"a.b", "f"}) == ["e: 0, now nothing"]
    assert files.differences(Pair(1.0, ()), Pair(2.0, ())) == ["left: 1.0, now 2.0"]


def test_folder_names_are_short_and_told_apart():
    assert files.folder_name("head=softmax,a=1.5") == "head=softmax,a=1.5"
    assert re.fullmatch(r"head=softmax,a=_1,_2__x-[0-9a-f]{12}", files.folder_name("head=softmax,a=[1, 2]/x"))
    long = [files.folder_name("x" * 300 + end) for end in "ab"]
    assert long[0] != long[1] and all(len(name) < 256 for name in long)
