"""Folders of real images, through the command line: Fashion-MNIST as PNG files."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from headtohead.training import data

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"{DEBIAN} is not installed")

SHORT = ["name=x", "training.points=3", "training.evaluations=2", "training.batch_size=16"]
PNG = ["dataset=image_folder", "dataset.root=png", "dataset.grayscale=true", "dataset.size=28", "dataset.workers=0"]
SPLITS = {"train": 300, "val": 100, "test": 100}


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """Return a folder with train, val and test of PNG files, and the arrays of each split, by class and name."""
    with gzip.open(DEBIAN / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(DEBIAN / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    root, arrays, start = tmp_path_factory.mktemp("fashion"), {}, 0
    for split, count in SPLITS.items():
        chosen = np.arange(start, start + count)
        for number in chosen:
            folder = root / "png" / split / f"class {labels[number]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).save(folder / f"{number:05}.png")
        order = chosen[np.lexsort((chosen, labels[chosen]))]
        arrays[split] = images[order], labels[order]
        start += count
    return root / "png", arrays


@pytest.fixture
def folder(fashion, tmp_path):
    data._load.cache_clear()
    shutil.copytree(fashion[0], tmp_path / "png")
    return tmp_path


def record(folder, name="x"):
    (path,) = folder.glob(f"outputs/{name}/runs/*/run.json")
    return json.loads(path.read_text())


def test_png_files_train_as_the_arrays_in_them(command, folder, fashion):
    shutil.rmtree(folder / "png/val")
    (images, labels), (test_images, test_labels) = fashion[1]["train"], fashion[1]["test"]
    np.savez(folder / "data.npz", X=images, y=labels, X_test=test_images, y_test=test_labels)
    shared = [*SHORT, "training.epochs=3", "head=sigmoid", "dataset.val_fraction=0.1"]
    assert command(*shared, *PNG).status == 0
    arrays = ["name=arrays", "dataset=arrays", "dataset.path=data.npz", "dataset.folds=null"]
    result = command(*shared[1:], *arrays)
    assert result.status == 0, result.err
    own, known = record(folder), record(folder, "arrays")
    assert own["metrics"] == known["metrics"] and own["blocks"] == known["blocks"]
    assert own["metrics"]["test_accuracy"] > 0.5


def test_given_validation_images_are_those_that_validate(command, folder):
    """The validation images of each class are those of another one, so that a good network fails on them."""
    classes = sorted((folder / "png/val").iterdir())
    (folder / "png/val").rename(folder / "moved")
    for one, other in zip(classes, [*classes[1:], classes[0]], strict=True):
        shutil.move(folder / "moved" / one.name, folder / "png/val" / other.name)
    result = command(*SHORT, *PNG, "training.epochs=20", "optimizer.lr=0.01")
    assert result.status == 0, result.err
    found = record(folder)["metrics"]
    assert found["test_accuracy"] > 0.6 and found["val_accuracy"] < 0.1
    (summary,) = json.loads((folder / "outputs/x/study.json").read_text())["data"]
    assert {split: sum(counts) for split, counts in summary["counts"].items()} == SPLITS
    assert "300 train, 100 val, 100 test examples in 10 classes" in result.out


def test_files_that_cannot_be_read_stop_or_are_told(command, folder):
    file = sorted((folder / "png/train/class 3").iterdir())[0]
    file.write_bytes(file.read_bytes()[:200])
    result = command(*SHORT, *PNG, "training.epochs=1")
    assert result.status == 2 and str(file.relative_to(folder)) in result.err and not (folder / "outputs").exists()
    result = command(*SHORT, *PNG, "training.epochs=1", "dataset.on_error=skip")
    assert result.status == 0, result.err
    told = f"1 unreadable, such as train/class 3/{file.name} ("
    assert f"; skipped: {told}" in result.out and "299 train, 100 val" in result.out
    (summary,) = json.loads((folder / "outputs/x/study.json").read_text())["data"]
    assert summary["skipped"][0].startswith(told)
    (run,) = folder.glob("outputs/x/runs/*")
    again = command("reproduce", str(run))
    assert again.status == 0 and "bitwise equal" in again.out, again.err
    file.unlink()
    data._load.cache_clear()
    again = command("reproduce", str(run))
    assert again.status == 0 and "bitwise equal" in again.out, "a file that was left out is no data"


@pytest.mark.parametrize("value", ["ignore", "true", "null"])
def test_other_ways_with_files_that_cannot_be_read_are_refused(command, folder, value):
    result = command(*SHORT, *PNG, f"dataset.on_error={value}")
    assert result.status == 2 and "dataset.on_error=" in result.err and "accepted: skip, stop" in result.err


def test_pretrained_weights_are_fine_tuned_on_png_files(command, folder):
    """Two heads start from the same weights, which their file has; after training both are better than a guess."""
    torch.manual_seed(0)
    torch.save(torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict(), folder / "w.pth")
    model = ["model=torchvision", "model.architecture=shufflenet_v2_x0_5", "model.weights=w.pth", "model.resize=32"]
    result = command(*SHORT, *PNG, *model, "head=softmax,sigmoid", "training.epochs=4", "optimizer=adamw")
    assert result.status == 0, result.err
    runs = [json.loads(path.read_text()) for path in folder.glob("outputs/x/runs/*/run.json")]
    assert {run["arm"] for run in runs} == {"softmax", "sigmoid"}
    assert all(run["metrics"]["train_accuracy"] > 0.3 for run in runs)
    assert len({run["sources"]["file of model.weights"] for run in runs}) == 1
