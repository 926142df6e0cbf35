"""What a result depends on beside its configuration: data, code, files and environment variables."""

import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY
from data_files import IDX, Made
from PIL import Image

from headtohead.runner import resolve, worker
from headtohead.runner.sources import Contents, changes, sources_of, watched_files
from headtohead.training import data

X = "outputs/x"
SHORT = ["name=x", "training.epochs=1", "training.points=3", "training.evaluations=2"]
PICTURES = [*SHORT, "dataset=image_folder", "dataset.size=4", "dataset.workers=0", "model=linear"]


def write_pictures(root, seed=0, count=8):
    """Write pictures of random pixels in one folder per class."""
    rng = np.random.default_rng(seed)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(root / name / f"{index}.bmp")


def set_back(path, to):
    """Give a file the times of another one, as `cp -p` does."""
    stat = os.stat(to)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def relabel(root):
    for one, other in (("a/0.bmp", "b/0.bmp"), ("a/1.bmp", "b/1.bmp")):
        first, second = (root / one).read_bytes(), (root / other).read_bytes()
        (root / one).write_bytes(second)
        (root / other).write_bytes(first)


def replace_with_the_same_size_and_times(root):
    before = root.parent / "before"
    shutil.copy2(root / "a/0.bmp", before)
    (root / "a/0.bmp").write_bytes((root / "a/1.bmp").read_bytes())
    set_back(root / "a/0.bmp", before)


def another_root_of_the_same_sizes_and_times(root):
    root.rename(root.parent / "first")
    write_pictures(root, seed=1)
    for path in sorted(root.rglob("*.bmp")):
        set_back(path, root.parent / "first" / path.relative_to(root))


def touch(root):
    for path in root.rglob("*.bmp"):
        path.touch()


def copy(root):
    shutil.copytree(root, root.parent / "copied")
    shutil.rmtree(root)
    (root.parent / "copied").rename(root)


def link(root):
    root.rename(root.parent / "elsewhere")
    root.symlink_to(root.parent / "elsewhere")


def rename_without_another_order(root):
    (root / "a/0.bmp").rename(root / "a/00.bmp")


@pytest.fixture(scope="module")
def data_sources(config):
    """Return a function from a folder, and the checksums that are known, to its sources and the checksums used."""

    def of(root, known=None, **options):
        settings = [f"{key}={value}" for key, value in options.items()]
        node = config("dataset=image_folder", f"dataset.root={root}", "model=linear", "dataset.size=4", *settings)
        data._load.cache_clear()  # a process loads a folder once
        contents = Contents(known or {})
        return sources_of(node, {}, contents), contents.used

    return of


@pytest.mark.parametrize(
    "change",
    [
        relabel,
        replace_with_the_same_size_and_times,
        another_root_of_the_same_sizes_and_times,
        lambda root: (root / "a/0.bmp").unlink(),
        lambda root: shutil.copy2(root / "a/0.bmp", root / "a/x.bmp"),
        lambda root: (root / "a/7.bmp").rename(root / "b/8.bmp"),
        lambda root: (root / "a").rename(root / "c"),
    ],
    ids=["relabelled", "replaced", "another root", "removed", "added", "moved", "class renamed"],
)
def test_other_files_or_labels_are_other_data(tmp_path, data_sources, change):
    root = tmp_path / "pictures"
    write_pictures(root)
    before, known = data_sources(root)
    change(root)
    assert changes(before, data_sources(root, known)[0]) == ["data of dataset.root: changed"]


@pytest.mark.parametrize("change", [touch, copy, link, rename_without_another_order])
def test_the_same_contents_are_the_same_data(tmp_path, data_sources, change):
    root = tmp_path / "pictures"
    write_pictures(root)
    before, known = data_sources(root)
    change(root)
    assert data_sources(root, known)[0] == before
    assert data_sources(root, known, **{"dataset.stream": "true"})[0] == before


@pytest.mark.parametrize("kind", ["table", "arrays"])
def test_other_groups_are_other_data(tmp_path, monkeypatch, config, kind):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), np.arange(20) % 2
    options = ["dataset.path=x.npz"] if kind == "arrays" else ["dataset.path=x.csv", "dataset.target=y"]
    options += ["dataset.groups=group"] if kind == "table" else []

    def sources(groups):
        np.savez("x.npz", X=x, y=y, groups=groups)
        pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y, "group": groups}).to_csv("x.csv", index=False)
        data._load.cache_clear()
        return sources_of(config(f"dataset={kind}", *options, "model=linear", "dataset.folds=5"), {}, Contents({}))

    before = sources(np.arange(20) // 2)
    assert sources(np.arange(20) // 2) == before
    assert changes(before, sources(np.arange(20) % 10)) == ["data of dataset.path: changed"]


def test_downloaded_files_are_data_and_generated_examples_are_not(tmp_path, monkeypatch, config):
    made = Made(monkeypatch, "mnist")
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for path, content in made.archives.items():
        (raw / Path(path).stem).write_bytes(gzip.decompress(content))

    def now():
        data._load.cache_clear()
        return sources_of(config("dataset=mnist", f"dataset.root={tmp_path}", "model=linear"), {}, Contents({}))

    before = now()
    labels = raw / IDX[1]
    labels.write_bytes(labels.read_bytes()[:-1] + bytes([3]))
    assert changes(before, now()) == ["data of dataset.root: changed"]
    assert sources_of(config("dataset=gaussians", "model=linear"), {}, Contents({})) == {}


def test_files_that_stay_are_not_read_again(tmp_path, monkeypatch):
    (tmp_path / "w.pt").write_bytes(b"weights")
    contents = Contents({})
    checksum = contents.of([tmp_path / "w.pt"])
    monkeypatch.setattr("headtohead.runner.sources.sha256_of", lambda path: pytest.fail("read again"))
    assert Contents(contents.used).of([tmp_path / "w.pt"]) == checksum


def test_a_study_does_not_go_on_with_other_data(command, tmp_path):
    write_pictures(tmp_path / "easy")
    write_pictures(tmp_path / "noise", seed=1)
    assert command(*PICTURES, "dataset.root=easy").status == 0
    refused = command(*PICTURES, "dataset.root=noise")
    assert refused.status == 2 and "(data of dataset.root: changed)" in refused.err and "accept_drift" in refused.err
    refused = command(*PICTURES, "dataset.root=noise", "seed=1")
    assert refused.status == 2, "also with another seed, which would be averaged with the first"
    (path,) = tmp_path.glob(f"{X}/runs/*/run.json")
    written = path.stat().st_mtime_ns
    copy(tmp_path / "easy")
    assert command(*PICTURES, f"dataset.root={tmp_path}/./easy").status == 0
    assert path.stat().st_mtime_ns == written
    accepted = command(*PICTURES, "dataset.root=noise", "accept_drift=true")
    assert accepted.status == 0 and path.stat().st_mtime_ns > written, "a run of other data is another run"


def test_roots_are_arms_of_one_study(command, tmp_path):
    write_pictures(tmp_path / "easy")
    write_pictures(tmp_path / "noise", seed=1)
    result = command(*PICTURES, "dataset.root=easy,noise", "head=softmax,sigmoid")
    assert result.status == 0, result.err
    record = json.loads((tmp_path / X / "study.json").read_text())
    assert [*record["arms"]] == ["root=easy,softmax", "root=easy,sigmoid", "root=noise,softmax", "root=noise,sigmoid"]
    assert [part["arms"] for part in record["data"]] == [[*record["arms"]][:2], [*record["arms"]][2:]]
    assert len({json.dumps(sources) for sources in record["sources"].values()}) == 2


NET = """
import torch
from parts.helper import SIDE

def make(input_shape, num_classes, weights=None):
    from torch import nn
    network = nn.Sequential(nn.Flatten())
    network.add_module("classifier", nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes))
    network.load_state_dict(torch.load("start.pt"))
    return network
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Write a package with a factory that imports a helper and opens a file, and return the command of a study."""
    package = tmp_path / "parts"
    package.mkdir()
    (package / "__init__.py").write_text("from .nets import make\n")
    (package / "nets.py").write_text(NET)
    (package / "helper.py").write_text("SIDE = 8\n")
    write_weights(tmp_path / "start.pt", 0)
    write_weights(tmp_path / "option.pt", 0)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "parts"]:
        monkeypatch.delitem(sys.modules, name)
    return [*SHORT, "model=factory", "model.path=parts:make", "+model.options.weights=option.pt", TINY[-1]]


def write_weights(path, seed):
    weight = torch.randn(10, 64, generator=torch.Generator().manual_seed(seed))
    torch.save({"classifier.weight": weight, "classifier.bias": torch.zeros(10)}, path)


def test_a_study_does_not_go_on_with_other_code_or_weights(command, tmp_path, factory):
    assert command(*factory).status == 0
    (path,) = tmp_path.glob(f"{X}/runs/*/run.json")
    assert {*json.loads(path.read_text())["sources"]} >= {
        "code of parts", "code of parts.nets", "code of parts.helper", "file start.pt", "file of model.options.weights",
        "version of torch",
    }  # fmt: skip
    assert command(*factory).status == 0
    (tmp_path / "parts/helper.py").write_text("SIDE = 9\n")
    refused = command(*factory)
    assert refused.status == 2 and "(code of parts.helper: changed)" in refused.err
    (tmp_path / "parts/helper.py").write_text("SIDE = 8\n")
    for name, source in {"start.pt": "file start.pt", "option.pt": "file of model.options.weights"}.items():
        write_weights(tmp_path / name, 1)
        refused = command(*factory, "seed=1")
        assert refused.status == 2 and f"({source}: changed)" in refused.err
        refused = command("reproduce", "--allow-code", str(path.parent))
        assert refused.status == 2 and f"{source}: changed since the run" in refused.err
        write_weights(tmp_path / name, 0)
    result = command("reproduce", "--allow-code", str(path.parent))
    assert result.status == 0 and "bitwise equal" in result.out


READING = """
from dataclasses import dataclass
from pathlib import Path
from torch import nn
from headtohead.training.heads import Softmax

START = float(Path("start.txt").read_text())

@dataclass(frozen=True)
class Scaled(Softmax):
    file: str = "option.txt"

    def loss(self, logits_xK, labels_x):
        scale = float(Path("called.txt").read_text()) * float(Path(self.file).read_text())
        return scale * super().loss(logits_xK, labels_x)

    def loss_and_gradient(self, logits_xK, labels_x, gradient_xK):
        loss_x = super().loss_and_gradient(logits_xK, labels_x, gradient_xK)
        return loss_x * START

def make(input_shape, num_classes):
    network = nn.Sequential()
    network.add_module("classifier", nn.Linear(*input_shape, num_classes))
    return network

def numbers():
    return [[float(i), i % 3] for i in range(40)], [i % 2 for i in range(40)]
"""


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (
            ["dataset=iris", "head=factory", "head.path=reading:Scaled", "+head.options.file=option.txt"],
            {"start.txt": "file start.txt", "called.txt": "file called.txt", "option.txt": "file of head.options.file"},
        ),
        (
            ["dataset=factory", "dataset.path=reading:numbers", "model=factory", "model.path=reading:make"],
            {"start.txt": "file start.txt"},
        ),
    ],
    ids=["head", "dataset and model"],
)  # fmt: skip
def test_files_that_own_code_reads_are_sources(command, tmp_path, monkeypatch, options, files):
    (tmp_path / "reading.py").write_text(READING)
    for file in ("start.txt", "called.txt", "option.txt"):
        (tmp_path / file).write_text("1")

    def again():
        monkeypatch.delitem(sys.modules, "reading", raising=False)
        return command(*SHORT, "dataset.folds=null", "dataset.test_fraction=0.2", *options)

    assert again().status == 0
    for file, source in files.items():
        (tmp_path / file).write_text("2")
        refused = again()
        assert refused.status == 2 and f"({source}: changed)" in refused.err
        (tmp_path / file).write_text("1")
    kept = again()
    assert kept.status == 0, kept.err


def test_imports_that_fail_are_not_followed(tmp_path, monkeypatch, config):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tried.py").write_text(
        "try:\n    from . import beside\nexcept ImportError:\n    import beside\n"
        "def later():\n    import half, raising.part\n"
        "def make():\n    return [[0.0], [1.0]] * 10, [0, 1] * 10\n"
    )
    (tmp_path / "raising").mkdir()
    for path, text in {"beside.py": "", "half.py": "def (", "raising/__init__.py": "1 / 0"}.items():
        (tmp_path / path).write_text(text)
    run = config("dataset=factory", "dataset.path=tried:make", "model=linear")
    names = {name for name in sources_of(run, {}, Contents({})) if name.startswith("code")}
    assert names == {"code of tried", "code of beside", "code of half", "code of raising"}


def test_files_that_others_open_are_not_those_of_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").write_text("x")
    opened = set()
    with watched_files(opened):
        (tmp_path / "w").read_text()
        (tmp_path / "written").write_text("x")
        open(os.__file__).close()
        open("/proc/self/stat").close()
    (tmp_path / "written").read_text()
    assert opened == {"w"}


def test_options_that_name_files_or_folders_are_sources(tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    for path in ("w.pt", "shards/a/0", "outputs/x/run.json", "a"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    texts = {
        "one": "w.pt", "all": "shards", "list": "[w.pt,word]", "deep": "{in:[./shards/a/0]}",
        "word": "relu", "here": ".", "studies": "outputs", "nobody": "'~nobody/x'", "long": "'" + "x" * 5000 + "'",
    }  # fmt: skip
    options = [f"+model.options.{key}={text}" for key, text in texts.items()]
    run = config("dataset=iris", "model=factory", "model.path=factories:few", *options)

    def now():
        return sources_of(run, {}, Contents({}))

    before = now()
    keys = ("one", "all", "list", "deep.in")
    assert {name for name in before if name.startswith("file")} == {f"file of model.options.{key}" for key in keys}
    (tmp_path / "shards/a/0").write_text("changed")
    (tmp_path / "shards/b").write_text("new")
    assert changes(before, now()) == ["file of model.options.all: changed", "file of model.options.deep.in: changed"]


def test_data_that_change_under_way_are_refused_by_the_worker(command, tmp_path, monkeypatch):
    write_pictures(tmp_path / "easy")
    prepare = worker.prepare_process

    def prepare_then_change(threads):
        prepare(threads)
        relabel(tmp_path / "easy")
        data._load.cache_clear()

    monkeypatch.setattr(worker, "prepare_process", prepare_then_change)
    result = command(*PICTURES, "dataset.root=easy")
    assert result.status == 1 and "data of dataset.root: changed since the study began" in result.err


def test_values_of_environment_variables_are_used_but_not_written(command, tmp_path, monkeypatch):
    monkeypatch.setenv("DECAY", "0.015625")
    expressions = {"weight_decay": "${oc.env:DECAY}", "momentum": "${optimizer.weight_decay}"}
    arguments = [*SHORT, *(f"optimizer.{key}={text}" for key, text in expressions.items()), *TINY[-2:]]
    assert command(*arguments).status == 0
    (path,) = tmp_path.glob(f"{X}/runs/*/run.json")
    assert json.loads(path.read_text())["config"]["optimizer"].items() >= expressions.items()
    for file in (file for file in (tmp_path / X).rglob("*") if file.is_file()):
        assert b"0.015625" not in file.read_bytes(), file
    assert command("reproduce", str(path.parent)).status == 0
    monkeypatch.setenv("DECAY", "0.5")
    for function in vars(resolve).values():  # a process composes an arm once
        getattr(function, "cache_clear", int)()
    refused = command(*arguments)
    assert refused.status == 2 and "(environment variable of optimizer.weight_decay: changed" in refused.err
    monkeypatch.delenv("DECAY")
    refused = command("reproduce", str(path.parent))
    assert refused.status == 2 and "DECAY" in refused.err
