"""Folders from elsewhere: whatever a file of a study holds, one line names it, and a report or a refusal follows."""

import json
import os
import random
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headtohead.analysis.study import read_study
from headtohead.analysis.summary import Summary, summarise
from headtohead.options import ConfigError
from headtohead.record import files
from headtohead.record.files import write_arrays
from headtohead.report.dashboard import write_curves
from headtohead.report.render import write_report
from headtohead.testing import ACCURACY, make_study, without_checksums

CLASSES, EXAMPLES = 10, 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A small finished study with predictions and examples."""
    study = make_study(tmp_path_factory.mktemp("outputs") / "s", seeds=2, lrs=(0.1, 1.0), claims={"accuracy": ACCURACY})
    rng = np.random.default_rng(0)
    for run in read_study(study).final.run:
        write_arrays(study / "runs" / run / "predictions.npz", predictions(rng))
    write_arrays(study / "examples.npz", {"index": np.arange(3), "inputs": rng.normal(size=(3, 5))})
    return without_checksums(study)


@pytest.fixture
def study(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s"))


def predictions(rng: np.random.Generator) -> dict[str, np.ndarray]:
    activations = rng.uniform(size=(EXAMPLES, CLASSES)).astype(np.float32)
    return {"label": np.arange(EXAMPLES) % CLASSES, "prediction": activations.argmax(1), "activations": activations}


def final_run(study: Path) -> Path:
    return study / "runs" / json.loads((study / "study.json").read_text())["runs"]["confirm"][0]


def warned(study: Path) -> list[str]:
    return [check.text for check in summarise(study).checks if check.kind == "warning"]


# What stands in place of a file


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        server.bind(path.name)
        os.chdir(here)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(path if target == "itself" else target)

    return make


def text(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


STAND_INS: dict[str, Callable[[Path], object]] = {
    "a pipe": pipe,
    "a socket": bound_socket,
    "a folder": folder,
    "a link to nothing": link("nowhere"),
    "a link to itself": link("itself"),
    "a link to a device": link("/dev/zero"),
    "nothing": text(b""),
    "zeros": text(b"\0" * 1000),
    "UTF-16": text("{}".encode("utf-16")),
    "Latin-1": text(b'{"name": "\xfc"}'),
    "deep lists": text(b"[" * 100_000),
    "deep objects": text(b'{"a":' * 900 + b"1" + b"}" * 900),
}
NAMED = {
    "run.json": "Broken record: runs/",
    "history.csv": "Broken history: runs/",
    "predictions.npz": "Broken predictions: runs/",
    "examples.npz": "Broken examples: examples.npz",
}


@pytest.mark.parametrize("name", ["study.json", "results.csv", *NAMED])
def test_what_is_no_such_file_is_named_and_left_out_or_refused(study, name):
    path = study / name if name in ("study.json", "results.csv", "examples.npz") else final_run(study) / name
    content = path.read_bytes()
    for stand_in, put in STAND_INS.items():
        put(path)
        if name in ("study.json", "results.csv"):
            if name == "results.csv" and stand_in in ("a link to nothing", "a link to itself"):
                continue  # written anew from the records
            with pytest.raises(ConfigError) as refused:
                summarise(study)
            assert str(study) in str(refused.value) and len(str(refused.value).splitlines()) == 1, stand_in
        elif name == "run.json" and stand_in.startswith("a link to") and "device" not in stand_in:
            assert any("no record" in line or "Broken record" in line for line in [*warned(study), "no record"])
        else:
            (line,) = [line for line in warned(study) if NAMED[name] in line]
            assert len(line.splitlines()) == 1 and len(line) < 600, stand_in
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(content)
    assert not any("Broken" in line for line in warned(study))


def test_a_file_that_may_not_be_read_is_named(study, monkeypatch):
    real = os.open
    locked = final_run(study) / "predictions.npz"

    def refuse(path, *arguments, **options):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(files.os, "open", refuse)
    assert any("Broken predictions" in line and "Permission denied" in line for line in warned(study))


# Arrays


ARRAYS: dict[str, dict[str, np.ndarray | None]] = {
    "text": {"label": np.array(["a"] * EXAMPLES)},
    "complex": {"label": np.zeros(EXAMPLES, complex)},
    "fractions": {"label": np.full(EXAMPLES, 0.5)},
    "unknown": {"activations": np.full((EXAMPLES, CLASSES), np.nan)},
    "infinite": {"activations": np.full((EXAMPLES, CLASSES), np.inf)},
    "negative": {"prediction": np.full(EXAMPLES, -1)},
    "beyond": {"label": np.full(EXAMPLES, CLASSES)},
    "short": {"prediction": np.zeros(3, int)},
    "deep": {"activations": np.zeros((EXAMPLES, CLASSES, 1))},
    "flat": {"activations": np.zeros(EXAMPLES)},
    "scalar": {"label": np.array(3)},
    "dates": {"label": np.zeros(EXAMPLES, "datetime64[s]")},
    "records": {"label": np.zeros(EXAMPLES, [("a", int)])},
    "other classes": {"label": np.zeros(EXAMPLES, int), "activations": np.zeros((EXAMPLES, 3))},
    "one class": {"label": np.zeros(EXAMPLES, int), "activations": np.zeros((EXAMPLES, 1))},
    "empty": {"label": np.zeros(0, int), "prediction": np.zeros(0, int), "activations": np.zeros((0, CLASSES))},
    "absent": {"label": None},
}


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
def test_predictions_that_are_none_are_named(study, change):
    path = final_run(study) / "predictions.npz"
    arrays = predictions(np.random.default_rng(0)) | change
    write_arrays(path, {name: array for name, array in arrays.items() if array is not None})
    assert path.parent.name in read_study(study).unreadable_predictions
    assert path.parent.name not in read_study(study).predictions


@pytest.mark.parametrize("kind", ["uint8", "int16", ">i8", "uint64"])
def test_labels_of_any_integer_kind_are_counted_alike(study, kind):
    path = final_run(study) / "predictions.npz"
    arrays = predictions(np.random.default_rng(0))
    write_arrays(path, arrays | {name: arrays[name].astype(kind) for name in ("label", "prediction")})
    read = read_study(study).predictions[path.parent.name]
    assert (read.label == arrays["label"]).all() and (read.label * 1000 >= read.label).all()


EXAMPLE_ARRAYS = {
    "text": {"inputs": np.array([["a"]] * 3)},
    "cubes": {"inputs": np.zeros((3, 4, 4))},
    "too few": {"inputs": np.zeros((2, 5))},
    "without features": {"inputs": np.zeros((3, 0))},
    "unknown": {"inputs": np.full((3, 5), np.nan)},
    "fractions": {"index": np.full(3, 0.5)},
    "negative": {"index": np.full(3, -1)},
    "square": {"index": np.zeros((3, 1), int)},
}


@pytest.mark.parametrize("change", EXAMPLE_ARRAYS.values(), ids=EXAMPLE_ARRAYS)
def test_examples_that_are_none_are_named(study, change):
    write_arrays(study / "examples.npz", {"index": np.arange(3), "inputs": np.zeros((3, 5))} | change)
    assert read_study(study).unreadable_examples and read_study(study).examples is None


def test_what_would_unpack_to_more_than_memory_is_not_unpacked(study, monkeypatch):
    path = study / "examples.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inputs.npy", bytes(10**6))
    monkeypatch.setattr(files, "MOST_BYTES", 10**5)
    assert path.stat().st_size < 10**5
    reason = read_study(study).unreadable_examples
    assert reason and "unpacks to 1000000 bytes" in reason


def test_an_array_that_claims_to_be_huge_is_none(study):
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999999,), }"
    with zipfile.ZipFile(study / "examples.npz", "w") as file:
        file.writestr("index.npy", header.ljust(127) + b"\n")
    assert read_study(study).unreadable_examples


def test_objects_are_never_unpickled(study, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.savez(study / "examples.npz", index=np.array([Trap()], dtype=object), inputs=np.zeros((1, 5)))
    assert read_study(study).unreadable_examples and not (tmp_path / "sprung").exists()


# JSON and tables


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"seed": ', '"seed": 1, "seed": ', "seed: more than one value"),
        ('"lr": ', '"lr": 1e999, "x": ', "inf"),
        ('"lr": ', '"lr": NaN, "x": ', "NaN is no number in JSON"),
        ('"seed": ', '"seed": 1' + "0" * 30 + ', "x": ', "must be below"),
        ('"wall_s": ', '"wall_s": 1' + "0" * 400 + ', "x": ', "must be a number"),
        ('"arm": "sigmoid"', '"arm": "\\ud800"', "UnicodeEncodeError"),
        ('"arm": "sigmoid"', '"arm": "another\\n"', "arm=another : no arm of the study"),
        ('"steps": ', '"steps": "' + "9" * 5000 + '", "x": ', "must be an integer"),
        ('"metrics": {', '"metrics": {"run": 1.0, ', "is the name of another column"),
    ],
)
def test_a_record_with_a_value_that_none_can_have_is_named(study, old, new, reason):
    path = final_run(study) / "run.json"
    content = path.read_text()
    assert old in content
    changed = content.replace(old, new, 1)
    if '"x": ' in new:  # the old value goes
        changed = "\n".join(line.split(', "x": ')[0] + "," if '"x": ' in line else line for line in changed.split("\n"))
    path.write_text(changed)
    (line,) = [line for line in warned(study) if "Broken record" in line]
    assert reason in line and len(line) < 600 and "\n" not in line


def test_a_mark_that_editors_put_first_does_not_matter(study):
    before = summarise(study)
    for path in (study / "study.json", final_run(study) / "run.json", final_run(study) / "history.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    after = summarise(study)
    assert after.verdicts == before.verdicts and after.checks == before.checks


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("step,step\n0,1\n", "step.1"),
        ("step,val/accuracy,val_accuracy\n0,1,1\n", "more than once"),
        ("step,lr\n-1,1\n", "step: must be integers"),
        ("step,lr\n0.5,1\n", "step: must be integers"),
        ("step,lr\n,1\n", "step: must be integers"),
        ("step,lr\n1e300,1\n", "step: must be integers"),
        ("step,lr\n0,true\n", "lr: no numbers"),
        ('step,lr\n0,"1\n', "ParserError"),
    ],
)
def test_a_history_that_is_no_table_over_steps_is_named(study, content, reason):
    run = final_run(study)
    (run / "history.csv").write_text(content)
    found = read_study(study).unreadable_histories
    if reason == "step.1":
        assert not found  # a column that nobody asks for
    else:
        assert reason in found[run.name]


@pytest.mark.parametrize("arm", ["1", "None", "true", "nan", "NA", "1e3"])
def test_an_arm_may_be_called_like_a_number_or_like_nothing(tmp_path, arm):
    arms = {"softmax": ["head=softmax"], arm: ["head=sigmoid"]}
    study = make_study(tmp_path / "s", seeds=2, lrs=(0.1, 1.0), arms=arms, claims={"accuracy": ACCURACY}, records=False)
    summary = summarise(study)
    assert [row.arm for row in summary.arms] == ["softmax", arm] and summary.arms[1].seeds == 2


# All of it at once, at random


def corrupt(path: Path, rng: random.Random) -> None:
    """Damage a file as a disk, a transfer, an editor or a stranger would."""
    content = bytearray(path.read_bytes())
    kind = rng.randrange(7)
    place = rng.randrange(len(content))
    if kind == 0:
        content = content[:place]
    elif kind == 1:
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == 2:
        content[place:place] = content[: rng.randrange(len(content))]
    elif kind == 3:
        digits = [at for at, byte in enumerate(content) if 48 <= byte <= 57] or [0]
        for at in rng.sample(digits, min(len(digits), 5)):
            content[at : at + 1] = rng.choice([b"-1", b"1e999", b"9" * 40, b"null", b'"x"', b"0", b"[]", b"\xff"])
    elif kind == 4:
        del content[place : place + rng.randrange(1, 200)]
    elif kind == 5:
        old, new = rng.choice(
            [(b"softmax", b"sigmoid"), (b":", b"::"), (b"{", b"["), (b",", b",,"), (b"\n", b""), (b'"', b"'")]
        )
        content = bytearray(bytes(content).replace(old, new, rng.randrange(1, 4)))
    else:
        path.unlink()
        return
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("seed", range(10))
def test_a_corrupted_folder_gives_a_report_or_a_refusal_of_one_line(whole, tmp_path, seed):
    rng = random.Random(seed)
    reported = 0
    for trial in range(10):
        study = Path(shutil.copytree(whole, tmp_path / f"{trial}"))
        paths = sorted(path for path in study.rglob("*") if path.is_file() and path.stat().st_size)
        favourites = [path for path in paths if path.parent == study] * 4
        chosen = rng.sample([*paths, *favourites], rng.randrange(1, 4))
        for path in {*chosen}:
            corrupt(path, rng)
        summary = summary_or_refusal(study)
        if isinstance(summary, str):
            assert str(study) in summary and len(summary.splitlines()) == 1 and len(summary) < 1000
            continue
        assert summary.answer.headline and all(len(check.text.splitlines()) == 1 for check in summary.checks)
        write_curves(summary.study)
        if not reported and seed < 4:  # the slow part
            write_report(study)
        reported += 1
    assert reported


def summary_or_refusal(study: Path) -> Summary | str:
    try:
        return summarise(study)
    except ConfigError as refusal:
        return str(refusal)
