"""Arrays, functions and heads of the user's own, through the command line."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_digits, load_iris

from headtohead.training import arrays, data, factory

SHORT = ["training.epochs=1", "training.points=3", "training.evaluations=2", "model.widths=[8]"]
ARRAYS = ["name=x", "dataset=arrays", "dataset.path=data.npz", *SHORT]
FACTORY = ["name=x", "dataset=factory", *SHORT]


@pytest.fixture(autouse=True)
def nothing_loaded():
    """Forget data and modules that were loaded from the folders of other tests."""
    data._load.cache_clear()
    yield
    for name in ("mine", "evil"):
        sys.modules.pop(name, None)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return a function that writes the module `mine` into the working directory."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        sys.modules.pop("mine", None)
        data._load.cache_clear()
        (tmp_path / "mine.py").write_text(text)

    return write


def tables(**more):
    """Return the arrays of iris, with others in their place or beside them."""
    bunch = load_iris()
    arrays = {"X": bunch.data, "y": bunch.target} | more
    return {name: array for name, array in arrays.items() if array is not None}


def save(folder, **more):
    data._load.cache_clear()
    np.savez(folder / "data.npz", **tables(**more))


def records(folder, name="x"):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"outputs/{name}/runs/*/run.json"))]


def run_folders(folder):
    return sorted(path.parent for path in folder.glob("outputs/x/runs/*/run.json"))


def test_digits_in_a_file_train_as_digits_do(command, tmp_path):
    """The file holds what scikit-learn has, so that all numbers are bitwise the same, in folds too."""
    digits = load_digits()
    np.savez(tmp_path / "data.npz", X=digits.images.astype(np.uint8), y=digits.target)
    arms = ["head=softmax,sigmoid", "seed=0", *SHORT, "dataset.train_size=64", "dataset.folds=2"]
    assert command("name=known", *arms).status == 0
    result = command("name=x", "dataset=arrays", "dataset.path=data.npz", *arms)
    assert result.status == 0, result.err
    known, own = records(tmp_path, "known"), records(tmp_path)
    assert len(own) == len(known) == 4
    for first, second in zip(known, own, strict=True):
        assert (first["arm"], first["fold"]) == (second["arm"], second["fold"])
        assert first["metrics"] == second["metrics"] and first["blocks"] == second["blocks"]
    result = command("reproduce", str(run_folders(tmp_path)[0]))
    assert result.status == 0 and "equal" in result.out, result.err


def test_arrays_are_read_as_they_are_meant(tmp_path, config):
    def load(*options, **arrays):
        save(tmp_path, **arrays)
        made = config("dataset=arrays", f"dataset.path={tmp_path}/data.npz", "dataset.folds=2", *options)
        return data.load(made.dataset, torch.device("cpu"))

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
    y = np.array(["b", "a", "b", "a", "c", "c"])
    for given in (images, images.transpose(0, 3, 1, 2), (images / 255).astype(np.float32)):
        pool = load(X=given, y=y)
        np.testing.assert_array_equal(pool.inputs.numpy(), images.transpose(0, 3, 1, 2))
        assert pool.classes == ("a", "b", "c") and pool.labels.tolist() == [1, 0, 1, 0, 2, 2] and pool.folds == 2
    assert load(X=images[..., 0], y=y).input_shape == (1, 5, 7)
    assert load(X=np.eye(6, dtype=bool), y=y).inputs.dtype == torch.float32
    assert load(X=np.eye(6), y=y == "a").classes == ("False", "True")
    assert load(X=np.eye(6), y=np.array([-5, 7, 900] * 2)).classes == ("-5", "7", "900")
    named = load(X=np.eye(6), y=np.array([0, 1, 2] * 2), classes=np.array(["z", "y", "x"]))
    assert named.classes == ("z", "y", "x") and named.labels.tolist() == [0, 1, 2] * 2
    named = load(X=np.eye(6), y=y, classes=np.array(["c", "a", "b"]))
    assert named.classes == ("c", "a", "b") and named.labels.tolist() == [2, 1, 2, 1, 0, 0]
    split = load("dataset.folds=null", X=np.eye(6), y=y, X_test=np.ones((2, 6)), y_test=np.array(["c", "b"]))
    assert split.test.tolist() == [6, 7] and split.labels[split.test].tolist() == [2, 1] and split.folds is None


X, Y = load_iris().data, load_iris().target
SPLIT = {"X_test": X[::10], "y_test": Y[::10]}


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"y": Y[:-1]}, [], "150 examples in X and 149 in y"),
        ({"X": np.where(X > 7.8, np.nan, X)}, [], "NaN or infinity in 1 examples of X"),
        ({"X": X * 1e300}, [], "NaN or infinity in 150 examples of X"),
        (
            {"X": (X * 10).astype(int) + 1_700_000_000},
            [],
            "float32 rounds column 0 of X by more than 0.0001",
        ),
        ({"y": np.where(Y == 1, np.nan, Y)}, [], "NaN in 50 labels of y"),
        ({"y": Y / 2}, [], "y has the type float64"),
        ({"y": Y[:, None]}, [], "(150, 1)"),
        ({"y": np.array(["", "a", "b"])[Y]}, [], "no text in 50 labels of y"),
        ({"y": Y.astype(object)}, [], "holds objects, which could run code"),
        ({"X": np.array(["a"] * 150)[:, None]}, [], "X has the type <U1"),
        ({"X": X[:, 0]}, [], "X has the type float64 and the shape (150,)"),
        ({"X": None}, [], "no X; accepted: X, y"),
        ({"y": None}, [], "no y; accepted: X, y"),
        ({"sizes": Y}, [], "holds an array sizes; did you mean classes? accepted: X, X_test"),
        ({"groups": Y}, [], "dataset.folds=5: at most 3, the number of groups"),
        ({"X_tset": X}, [], "holds an array X_tset; did you mean X_test"),
        ({"X": np.zeros((150, 3, 8, 4), np.uint8)}, [], "not on both"),
        ({"X": np.zeros((150, 8, 8, 8), np.uint8)}, [], "1 to 4 channels"),
        ({"X": np.full((150, 8, 8), 0.5)}, [], "of bytes"),
        ({"y": Y * 0}, [], "1 class in y"),
        ({"classes": np.array(["a", "b"])}, [], "the label 2 is not among the classes"),
        ({"classes": np.array(["a", "b", "c", "d"])}, [], "no example in y has the class d"),
        ({"classes": np.array(["a", "b", "b"])}, [], "classes names one twice"),
        (SPLIT, [], "dataset.folds=5: null for"),
        (SPLIT, ["dataset.folds=null", "dataset.test_fraction=0.2"], "dataset.test_fraction=0.2: null for"),
        ({}, ["dataset.folds=null"], "dataset.folds=null: "),
        ({}, ["dataset.test_fraction=0.2"], "give either dataset.folds or dataset.test_fraction"),
        (SPLIT | {"y_test": None}, ["dataset.folds=null"], "no y_test; accepted"),
        (SPLIT | {"X_test": X[::10, :3]}, ["dataset.folds=null"], "the shape (4,) in X, (3,) in X_test"),
        (SPLIT | {"y_test": Y[::10] + 1}, ["dataset.folds=null"], "no example in y has the class 3"),
        (SPLIT | {"y_test": np.array(["a"] * 15)}, ["dataset.folds=null"], "in y_test; accepted: one type"),
        ({}, ["dataset.path=nowhere.npz"], "nowhere.npz: no such file"),
        ({}, ["dataset.path=''"], "dataset.path='': a file"),
        ({}, ["dataset.path=words.npz"], "words.npz: cannot be read"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(command, tmp_path, arrays, options, words):
    save(tmp_path, **arrays)
    (tmp_path / "words.npz").write_text("no archive")
    swapped = [part for part in ARRAYS if not (part.startswith("dataset.path") and "dataset.path" in str(options))]
    result = command(*swapped, *options)
    assert result.status == 2 and words in result.err, result.err
    assert result.err.startswith("headtohead: dataset.") and len(result.err.splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()


PAIR = [*(part.replace("data.npz", "X.npy") for part in ARRAYS), "dataset.labels=y.npy"]


@pytest.mark.parametrize("layout", [(0, 1, 2), (0, 3, 1, 2), (0, 1, 2, 3)])
def test_images_in_a_npy_file_train_as_those_in_memory(command, config, tmp_path, monkeypatch, layout):
    """They stay in the file where the memory is small, whatever the axis of the channels."""
    digits = load_digits()
    images, axes = digits.images.astype(np.uint8), [*layout, *range(len(layout), 3)]
    images = images if len(layout) == 3 else np.stack([images] * 3, axis=3).transpose(axes)
    np.savez(tmp_path / "data.npz", X=images, y=digits.target)
    np.save(tmp_path / "X.npy", images)
    np.save(tmp_path / "y.npy", digits.target)
    arms = ["head=softmax,sigmoid", "seed=0", "dataset.folds=2", "dataset.train_size=64"]
    assert command(*ARRAYS, *arms).status == 0
    for module in (arrays, data):
        monkeypatch.setattr(module, "MEMORY_SHARE", 0)
    result = command("name=y", *PAIR[1:], *arms)
    assert result.status == 0, result.err
    pool = data.load(config(*PAIR, "dataset.folds=2").dataset, torch.device("cpu"))
    assert data._load.cache_info().misses == 2, "it is what the runs were trained on"
    if sys.platform == "linux":
        mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("/X.npy")]
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
        assert any(start <= pool.inputs.data_ptr() < end for start, end in spans)
    for first, second in zip(records(tmp_path), records(tmp_path, "y"), strict=True):
        assert first["metrics"] == second["metrics"] and first["blocks"] == second["blocks"]
        assert first["sources"] == second["sources"]
    result = command("reproduce", str(next(tmp_path.glob("outputs/y/runs/*"))))
    assert result.status == 0 and "equal" in result.out, result.err


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({"y": Y[:-1]}, [], "150 examples in X and 149 in y"),
        ({"X": X.astype(object)}, [], "X.npy: cannot be read: it holds objects, which could run code"),
        ({"y": Y.astype(object)}, [], "y.npy: cannot be read: it holds objects, which could run code"),
        ({"X": np.where(X > 7.8, np.inf, X)}, [], "NaN or infinity in 1 examples of X"),
        ({"y": np.where(Y == 1, np.nan, Y)}, [], "NaN in 50 labels of y"),
        ({"X": None}, [], "X.npy: no such file; accepted: a .npy file that numpy.save wrote"),
        ({"y": None}, [], "dataset.labels="),
        ({}, ["dataset.labels=null"], "dataset.labels=null: a .npy file with the labels of"),
        ({}, ["dataset.path=data.npz"], "dataset.labels="),
        ({}, ["dataset.path=words.npy"], "words.npy: cannot be read"),
        ({}, ["dataset.path=zip.npy"], "zip.npy: holds several arrays"),
    ],
)
def test_pairs_of_files_that_cannot_be_used_are_refused(command, tmp_path, files, options, words):
    save(tmp_path)
    for name, array in ({"X": X, "y": Y} | files).items():
        if array is not None:
            np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    (tmp_path / "words.npy").write_text("no array")
    (tmp_path / "zip.npy").write_bytes((tmp_path / "data.npz").read_bytes())
    given = {option.partition("=")[0] for option in options}
    result = command(*(part for part in PAIR if part.partition("=")[0] not in given), *options)
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1, result.err
    assert not (tmp_path / "outputs").exists()


def test_a_file_that_is_moved_is_the_same_and_another_one_is_drift(command, tmp_path):
    save(tmp_path)
    assert command(*ARRAYS).status == 0
    (folder,) = run_folders(tmp_path)
    written = (folder / "run.json").stat().st_mtime_ns
    (tmp_path / "moved").mkdir()
    (tmp_path / "data.npz").rename(tmp_path / "moved/other.npz")
    moved = [part.replace("data.npz", "moved/other.npz") for part in ARRAYS]
    assert command(*moved).status == 0
    assert (folder / "run.json").stat().st_mtime_ns == written
    save(tmp_path, X=X + 1e-3)
    refused = command(*ARRAYS)
    assert refused.status == 2 and "(data of dataset.path: changed)" in refused.err
    refused = command("reproduce", str(folder))
    assert refused.status == 2 and "data of dataset.path: changed since the run" in refused.err
    (tmp_path / "moved/other.npz").rename(tmp_path / "data.npz")
    data._load.cache_clear()
    result = command("reproduce", str(folder))
    assert result.status == 0 and "bitwise equal" in result.out, "nothing of a file of arrays is run"


TABLE = """
from sklearn.datasets import load_iris

def make(scale=1.0):
    bunch = load_iris()
    return bunch.data * scale, bunch.target
"""


def test_a_function_gives_data_whose_code_is_a_source(command, tmp_path, mine):
    mine(TABLE)
    study = [*FACTORY, "dataset.path=mine:make", "head=softmax,sigmoid", "dataset.folds=2"]
    result = command(*study, "+dataset.options.scale=2")
    assert result.status == 0, result.err
    found = records(tmp_path)
    assert len(found) == 4
    assert {"code of mine", "data of dataset", "version of scikit-learn"} <= {*found[0]["sources"]}
    folder = run_folders(tmp_path)[0]
    refused = command("reproduce", str(folder))
    assert refused.status == 2 and "would run code from elsewhere, dataset.path=mine:make; " in refused.err
    result = command("reproduce", "--allow-code", str(folder))
    assert result.status == 0 and "equal" in result.out, result.err
    refused = command(*study, "+dataset.options.scale=3")
    assert refused.status == 2 and "dataset.options.scale: 2, now 3" in refused.err
    mine(TABLE.replace("bunch.data * scale", "bunch.data * scale * 1"))
    refused = command(*study, "+dataset.options.scale=2")
    assert refused.status == 2 and "(code of mine: changed)" in refused.err


def test_options_of_a_function_can_be_swept(command, tmp_path, mine):
    mine(TABLE)
    swept = command(*FACTORY, "dataset.path=mine:make", "+dataset.options.scale=1,1.0,2")
    assert swept.status == 0, swept.err
    assert {record["arm"] for record in records(tmp_path)} == {"scale=1", "scale=1.0", "scale=2"}


TORCH = """
import torch
from torch.utils.data import TensorDataset
import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
images, labels = digits.images.astype("uint8"), digits.target

def arrays():
    return images, labels

def tensors():
    return torch.from_numpy(images), torch.from_numpy(labels)

def pairs():
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))

class AsTexts(torch.utils.data.Dataset):
    def __len__(self):
        return len(labels)

    def __getitem__(self, index):
        return images[index][None] / 255, str(labels[index])

def split():
    return images[:1000], labels[:1000].tolist(), images[1000:], labels[1000:].tolist()
"""


def test_arrays_tensors_and_datasets_of_pytorch_are_the_same_data(tmp_path, monkeypatch, mine, config):
    mine(TORCH)
    monkeypatch.syspath_prepend(tmp_path)

    def load(name, *options):
        made = config("dataset=factory", f"dataset.path=mine:{name}", *options)
        return data.load(made.dataset, torch.device("cpu"))

    digits = data.load(config("dataset=digits").dataset, torch.device("cpu"))
    for name in ("arrays", "tensors", "pairs", "AsTexts"):
        pool = load(name)
        assert torch.equal(pool.inputs, digits.inputs) and torch.equal(pool.labels, digits.labels), name
        assert pool.classes == digits.classes and pool.folds == 5
    pool = load("split", "dataset.folds=null")
    assert torch.equal(pool.inputs, digits.inputs) and pool.test.tolist() == [*range(1000, 1797)]


WRONG = """
import numpy as np
from torch.utils.data import Dataset

class Ragged(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return [0.0] * (1 + index), 0

class Lonely(Ragged):
    def __getitem__(self, index):
        return {"pixels": 1}

class Unlucky(Ragged):
    def __getitem__(self, index):
        if index == 3:
            raise ValueError("no luck")
        return [0.0], 0

class Endless(Ragged):
    def __len__(self):
        return 10**15

def raising():
    raise RuntimeError("no connection\\nat all")

def nothing():
    pass

def another():
    return np.random.default_rng().normal(size=(40, 2)), [0, 1] * 20

def three():
    return [1], [2], [3]

def dictionary():
    return {"X": [1]}

def short():
    return [[1.0], [2.0]], [1]

def objects():
    return [[1.0], [2.0]], [None, "a"]
"""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("raising", "raised RuntimeError: no connection"),
        ("nothing", "returned nothing; accepted: (X, y)"),
        ("three", "returned a tuple"),
        ("dictionary", "returned a dict"),
        ("short", "2 examples in X and 1 in y"),
        ("objects", "y has the type object"),
        ("Ragged", "inputs of the shapes (1,) and (2,)"),
        ("Lonely", "returned a dataset of dict with the keys pixels"),
        ("Unlucky", "item 3 raised ValueError: no luck"),
        ("another", "gives other data at a second call; accepted: the same"),
        ("Endless", "GiB needed"),
        ("absent", "has no attribute 'absent'"),
    ],
)
def test_functions_that_give_no_data_are_refused(command, tmp_path, mine, path, words):
    mine(WRONG)
    result = command(*FACTORY, f"dataset.path=mine:{path}")
    assert result.status == 2 and words in result.err, result.err
    assert result.err.startswith(f"headtohead: dataset.path=mine:{path}: ") and len(result.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["dataset.path=mine"], "dataset.path=mine: accepted: package.module:function"),
        (["dataset.path=nowhere_at_all:f"], "dataset.path=nowhere_at_all:f: ModuleNotFoundError"),
        (["dataset.path=mine:make", "+dataset.options.other=1"], "raised TypeError"),
        ([], "dataset.path: missing"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(command, tmp_path, mine, options, words):
    mine(TABLE)
    result = command(*FACTORY, *options)
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1, result.err
    assert not (tmp_path / "outputs").exists()


ELSEWHERE = """
import os

def make():
    return [[float(number), float(os.getpid() == int(os.environ["FIRST"]))] for number in range(40)], [0, 1] * 20
"""


def test_data_of_another_process_are_not_trained_on(command, tmp_path, mine, monkeypatch, fresh_workers):
    """A function may give one process the same data at every call, and another process others."""
    mine(ELSEWHERE)
    monkeypatch.setenv("FIRST", str(os.getpid()))
    study = [*FACTORY, "dataset.path=mine:make", "head=softmax,sigmoid", "pack_size=1", "fold=0"]
    result = command(*study, "hydra.launcher.n_jobs=2")
    assert result.status == 1 and "data of dataset: changed since the study began" in result.err, result.err
    assert {record["status"] for record in records(tmp_path)} == {"failed"}
    get_reusable_executor().shutdown(wait=True)


FRAMES = """
import pandas as pd

def frame(rows=60):
    number = range(rows)
    columns = {"a": [n % 7 if n % 5 else None for n in number], "b": ["x" if n % 2 else "y" for n in number]}
    return pd.DataFrame(columns | {"kind": ["cat" if n % 3 else "dog" for n in number]}), "kind"
"""


def test_a_frame_trains_as_its_table_does(command, tmp_path, mine, monkeypatch):
    mine(FRAMES)
    monkeypatch.syspath_prepend(tmp_path)
    frame, _ = importlib.import_module("mine").frame()
    frame.to_csv(tmp_path / "frame.csv", index=False)
    arms = ["head=softmax,sigmoid", "seed=0", "dataset.val_fraction=0.25", "dataset.folds=2", *SHORT]
    assert command("name=known", "dataset=table", "dataset.path=frame.csv", "dataset.target=kind", *arms).status == 0
    result = command("name=x", "dataset=factory", "dataset.path=mine:frame", "+dataset.options.rows=60", *arms)
    assert result.status == 0, result.err
    known, own = records(tmp_path, "known"), records(tmp_path)
    assert len(own) == len(known) == 4
    for first, second in zip(known, own, strict=True):
        assert first["metrics"] == second["metrics"] and first["blocks"] == second["blocks"]
    refused = command("name=y", "dataset=factory", "dataset.path=mine:frame", "+dataset.options.rows=0")
    assert refused.status == 2 and "names but no rows" in refused.err and not (tmp_path / "outputs/y").exists()


STREAM = """
import numpy as np
from sklearn.datasets import load_digits

class Digits:
    images, labels = load_digits().images.astype("uint8")[:200], load_digits().target[:200]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": self.labels[index]}
"""


def test_streamed_images_train_as_those_in_memory(command, tmp_path, mine, monkeypatch):
    mine(STREAM)
    options = ["dataset=factory", "dataset.path=mine:Digits", "head=softmax,sigmoid", "fold=0", *SHORT]
    assert command("name=known", *options).status == 0
    data._load.cache_clear()
    monkeypatch.setattr(factory, "memory", lambda device: 1)
    result = command("name=x", *options)
    assert result.status == 0, result.err
    for first, second in zip(records(tmp_path, "known"), records(tmp_path), strict=True):
        assert first["metrics"] == second["metrics"] and first["sources"] == second["sources"]
    result = command("name=y", *options, "dataset.workers=-1")
    assert result.status == 2 and "dataset.workers=-1: from 0 to 128 processes" in result.err


HEAD = """
from dataclasses import dataclass
from torch.nn import functional as F
from headtohead.training.heads import Head, Softmax

@dataclass(frozen=True)
class Written(Head):
    def loss(self, logits_xK, labels_x):
        return -logits_xK.log_softmax(-1).gather(-1, labels_x.unsqueeze(-1)).squeeze(-1)

    def log_probabilities(self, logits_xK):
        return logits_xK.log_softmax(-1)

    def activations(self, logits_xK):
        return logits_xK.softmax(-1)

    def _prior_logits(self, prior_K):
        return prior_K.log()

@dataclass(frozen=True)
class Scaled(Softmax):
    scale: float

    def loss_and_gradient(self, logits_xK, labels_x, gradient_xK):
        loss_x = super().loss_and_gradient(logits_xK, labels_x, gradient_xK)
        gradient_xK.mul_(self.scale)
        return loss_x * self.scale

class Half(Head):
    def loss(self, logits_xK, labels_x):
        return logits_xK.sum()

class Summed(Written):
    def loss(self, logits_xK, labels_x):
        return super().loss(logits_xK, labels_x).mean()

class Unnormalised(Written):
    def log_probabilities(self, logits_xK):
        return logits_xK

class Raising(Written):
    def activations(self, logits_xK):
        raise RuntimeError("not today")

class Quitting(Written):
    def loss_and_gradient(self, logits_xK, labels_x, gradient_xK):
        if logits_xK.numel() > 12:
            raise SystemExit(0)
        return super().loss_and_gradient(logits_xK, labels_x, gradient_xK)

class Leaving(Written):
    def activations(self, logits_xK):
        raise SystemExit(3)

def function():
    pass
"""
OWN_HEAD = ["name=x", *SHORT, "dataset.folds=null", "dataset.test_fraction=0.2", "dataset.train_size=64"]


def test_a_head_of_ones_own_is_compared_like_any_other(command, tmp_path, mine):
    """It computes softmax with cross-entropy by other code, so that the results agree up to rounding."""
    mine(HEAD)
    claim = "+claims.accuracy.favours=factory"
    study = [*OWN_HEAD, "head=softmax,factory", "head.path=mine:Written", "seed=0,1", "precision=float64"]
    result = command(*study, claim.lstrip("+"))
    assert result.status == 0, result.err
    found = records(tmp_path)
    assert {(record["arm"], record["head"]) for record in found} == {("softmax", "softmax"), ("factory", "factory")}
    by_arm = {(record["arm"], record["seed"]): record for record in found}
    for seed in (0, 1):
        softmax, own = by_arm["softmax", seed], by_arm["factory", seed]
        assert softmax["metrics"]["test_nll"] == pytest.approx(own["metrics"]["test_nll"], rel=1e-9)
        assert "code of mine" in own["sources"] and "code of mine" not in softmax["sources"]
        assert "head.path" not in softmax["run"]
    verdicts = json.loads((tmp_path / "outputs/x/verdicts.json").read_text())
    assert "factory" in json.dumps(verdicts)
    for folder in run_folders(tmp_path):
        result = command("reproduce", str(folder))
        assert result.status == (2 if "factory" in folder.name else 0)
        assert result.status == 0 or "would run code from elsewhere, head.path=mine:Written; " in result.err
    result = command("reproduce", "--allow-code", str(folder))
    assert result.status == 0 and "equal" in result.out, result.err
    mine(HEAD.replace("not today", "not this year"))
    refused = command(*study, claim.lstrip("+"))
    assert refused.status == 2 and "(code of mine: changed)" in refused.err


def test_heads_of_ones_own_with_options_train_in_one_pack(command, tmp_path, mine):
    """A loss times c at the learning rate r is the loss at the rate c r."""
    mine(HEAD)
    common = [*OWN_HEAD, "head=factory", "head.path=mine:Scaled", "precision=float64"]
    result = command(*common, "+head.options.scale=1.0,0.5", "optimizer.lr=0.1")
    assert result.status == 0, result.err
    half = next(record for record in records(tmp_path) if record["arm"] == "scale=0.5")
    assert half["pack"]["size"] == 2
    assert command("name=y", *OWN_HEAD[1:], "head=softmax", "optimizer.lr=0.05", "precision=float64").status == 0
    (softmax,) = records(tmp_path, "y")
    assert half["metrics"]["test_nll"] == pytest.approx(softmax["metrics"]["test_nll"], rel=1e-9)
    again = command(*common, "+head.options.scale=1,1.0", "name=z")
    assert again.status == 2


def test_a_head_that_ends_the_process_while_it_trains_fails_its_run(command, tmp_path, mine):
    mine(HEAD)
    result = command(*OWN_HEAD, "head=factory", "head.path=mine:Quitting")
    assert result.status == 1 and "SystemExit: 0" in result.err
    assert [record["status"] for record in records(tmp_path)] == ["failed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["head.path=mine"], "head.path=mine: no head; accepted: package.module:Class"),
        (["head.path=mine:function"], "head.path=mine:function: no head"),
        (["head.path=mine:absent"], "head.path=mine:absent: AttributeError"),
        (["head.path=nowhere_at_all:Head"], "head.path=nowhere_at_all:Head: ModuleNotFoundError"),
        (["head.path=mine:Half"], "head.path=mine:Half: TypeError: Can't instantiate abstract class"),
        (["head.path=mine:Summed"], "head.path=mine:Summed: loss returned a tensor of the shape ()"),
        (["head.path=mine:Unnormalised"], "do not sum to one"),
        (["head.path=mine:Raising"], "head.path=mine:Raising: RuntimeError: not today"),
        (["head.path=mine:Leaving"], "head.path=mine:Leaving: SystemExit: 3"),
        (["head.path=mine:Written", "+head.options.label_smoothing=0.5"], "accepted: head.label_smoothing"),
        (["head.path=mine:Scaled"], "head.options.scale: missing"),
        (["head.path=mine:Scaled", "+head.options.scale=much"], "head.options.scale=much: must be a number"),
        (["head.path=mine:Written", "+head.options.other=1"], "head.options.other: no such key"),
        (["head.path=mine:Written", "head.label_smoothing=2"], "head.label_smoothing=2"),
        ([], "head.path: missing"),
        (["head=softmax,sigmoid", "head.path=mine:Written"], "no arm has a head of your own"),
        (["head=softmax", "head.path=mine:Written"], "head.path"),
    ],
)
def test_heads_that_are_none_are_refused(command, tmp_path, mine, options, words):
    mine(HEAD)
    chosen = [] if options and options[0].startswith("head=") else ["head=factory"]
    result = command(*OWN_HEAD, *chosen, *options)
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1, result.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "edit",
    [
        {"head": {"name": "factory", "path": "evil:Head", "options": {}, "label_smoothing": 0.0, "prior_bias": "none"}},
        {"head": "${oc.decode:'{name: factory, path: evil:Head, options: {}}'}"},
        {"dataset": {"name": "factory", "path": "evil:make", "options": {}}},
        {"dataset": {"name": "${oc.decode:factory}", "path": "evil:make", "options": {}}},
        {"dataset": {"name": "arrays", "path": "data.npz", "_target_": "evil.make"}},
    ],
)
def test_an_edited_record_imports_nothing_from_the_working_directory(command, tmp_path, edit):
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('sprung').touch()\n")
    assert command("name=x", *SHORT, "dataset.train_size=64", "fold=0").status == 0
    (folder,) = run_folders(tmp_path)
    run = json.loads((folder / "run.json").read_text())
    run["config"] |= edit
    (folder / "run.json").write_text(json.dumps(run | {"checksum": ""}))
    refused = command("reproduce", str(folder))
    assert refused.status == 2 and "would run code from elsewhere" in refused.err and "evil" in refused.err
    assert not (tmp_path / "sprung").exists()


def test_modules_beside_the_command_are_found_by_its_workers(tmp_path):
    """The console script does not look in the working directory by itself, nor do the processes of joblib."""
    (tmp_path / "mine.py").write_text(TABLE)
    script = f"import sys; sys.path = [p for p in sys.path if p]; sys.argv[1:] = {[*FACTORY, 'dataset.path=mine:make']}"
    script += "; sys.argv += ['head=softmax,sigmoid', 'pack_size=1', 'fold=0', 'hydra.launcher.n_jobs=2']"
    code = f"{script}\nfrom headtohead import cli\nif __name__ == '__main__':\n    cli.main()\n"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/start.py").write_text(code)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "elsewhere/start.py"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert len(records(tmp_path)) >= 2
