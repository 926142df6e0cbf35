"""Images that are read from files during training give bitwise the same results as images in memory."""

import multiprocessing
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run, vary
from PIL import Image

from headtohead.options import ConfigError
from headtohead.training import data, memory
from headtohead.training import image_files as files
from headtohead.training.image_files import ImageFiles
from headtohead.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Write a folder of 60 images in three classes: noise around a colour."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, colour in (("red", (180, 60, 60)), ("green", (60, 180, 60)), ("blue", (60, 60, 180))):
        (root / name).mkdir()
        for number in range(20):
            pixels = np.clip(random.normal(colour, 60, (9, 9, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def folder(root, *more):
    return ["dataset=image_folder", f"dataset.root={root}", "dataset.size=8", *more]


@pytest.fixture
def study(config, pictures):
    """Return a function to make runs of two seeds, one with label noise, on augmented images in files or in memory."""
    short = ["model=cnn", "model.widths=[4]", "training.epochs=3", "training.batch_size=8"]
    more = ["training.points=8", "training.evaluations=3", "dataset.crop_padding=1", "dataset.flip=true"]

    def make(stream):
        one = config(*folder(pictures, f"dataset.stream={stream}"), *short, *more)
        noisy = replace(one, dataset=replace(one.dataset, label_noise=0.2))
        return [vary(one, seed=0), vary(noisy, seed=0), vary(one, seed=1)]

    return make


def assert_equal(points, others):
    assert len(points) == len(others)
    for one, other in zip(points, others, strict=True):
        assert one.step == other.step and {*one.values} == {*other.values}
        for name, value_R in one.values.items():
            assert value_R.tobytes() == other.values[name].tobytes(), (one.step, name)


def test_training_from_files_equals_training_from_memory(study):
    assert isinstance(data.load(study("true")[0].dataset, CPU).inputs, ImageFiles)
    assert isinstance(data.load(study("false")[0].dataset, CPU).inputs, torch.Tensor)
    points, outcomes = run(study("true"))
    expected_points, expected = run(study("false"))
    assert_equal(points, expected_points)
    for one, other in zip(outcomes, expected, strict=True):
        assert repr(one.metrics) == repr(other.metrics)
        assert repr(one.curves) == repr(other.curves)


def test_an_interrupted_training_from_files_continues_bitwise(study):
    runs = study("true")
    pool = data.load(runs[0].dataset, CPU)
    whole, _ = run(runs)
    for index, point in enumerate(train(runs, pool, True)):
        if index == 4:  # within an epoch
            state = point.state()
            break
    *points, _ = train(runs, pool, True, state)
    assert_equal(points, whole)


def test_dropout_does_not_depend_on_where_images_come_from(config, pictures):
    common = ["model=mlp", "model.widths=[8]", "model.dropout=0.5", "training.epochs=1", "training.batch_size=8"]
    runs = ([config(*folder(pictures, f"dataset.stream={stream}"), *common)] for stream in ("true", "false"))
    (one, _), (other, _) = map(run, runs)
    assert_equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_has_the_images_of_its_index_and_reads_each_once(workers):
    read = []

    def image(path):
        read.append(path)
        return torch.full((1, 2, 2), int(path), dtype=torch.uint8)

    source = ImageFiles([str(number) for number in range(9)], (1, 2, 2), image, False, workers)
    indices = [torch.tensor([[3, 1, 3], [1, 8, 3]]), torch.tensor([5]), torch.tensor([[0], [0]])]
    for index, images in zip(indices, source.stream(iter(indices)), strict=True):
        assert images.shape == (*index.shape, 1, 2, 2)
        assert torch.equal(images[..., 0, 0, 0], index.to(torch.uint8))
        assert torch.equal(images, source[index])
    # source[index] reads each image once more. Workers read in their own processes.
    assert len(read) == 9 + (5 if workers == 0 else 0)


def test_images_that_do_not_fit_into_memory_stay_on_disk(config, pictures, monkeypatch):
    size = 60 * 3 * 8 * 8
    for most, kind in ((size / files.MEMORY_SHARE, torch.Tensor), (size / files.MEMORY_SHARE - 1, ImageFiles)):
        monkeypatch.setattr(files, "memory", lambda device, most=most: most)
        data._load.cache_clear()
        assert isinstance(data.load(config(*folder(pictures)).dataset, CPU).inputs, kind)
    data._load.cache_clear()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_is_named(config, tmp_path, workers):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "b" / "3.png").write_bytes(b"no image")
    runs = [config(*folder(tmp_path, "dataset.stream=true", f"dataset.workers={workers}"), "model=linear")]
    with pytest.raises(ConfigError, match=r"^dataset\.root=.*cannot read .*3\.png"):
        run(runs)


def test_a_study_reads_files_in_the_processes_of_its_launcher(pictures, tmp_path):
    tables = []
    for name, more in (("files", ["dataset.stream=true"]), ("memory", ["hydra/launcher=basic"])):
        sweep = ["-m", "head=softmax,sigmoid", "seed=0,1", "model=linear", "training.epochs=2", "pack_size=2"]
        command = [sys.executable, "-m", "headtohead", *sweep, *folder(pictures), f"name={name}", *more]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
        table = pd.read_csv(tmp_path / "outputs" / name / "results.csv")
        assert set(table.status) == {"finished"}
        tables.append(table.drop(columns=["run", "wall_s"]))
    pd.testing.assert_frame_equal(*tables, check_exact=True)


# A mount of its own in place of /dev/shm, as small as in a container or smaller.
STARVED = """
import subprocess, sys, torch
subprocess.run(["mount", "-t", "tmpfs", "-o", "size={size}", "tmpfs", "/dev/shm"], check=True)
from headtohead.training.image_files import ImageFiles
paths = [str(number) for number in range(64)]
source = ImageFiles(paths, (3, 64, 64), lambda path: torch.full((3, 64, 64), int(path)).byte(), False, 2)
for images in source.stream(torch.arange(64).repeat(20).view(20, 64)):
    assert images[:, 0, 0, 0].tolist() == list(range(64))
print("read")
"""


@pytest.mark.parametrize("size", ["64k", "4k"])
def test_reading_ahead_needs_no_shared_memory(size):
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", STARVED.format(size=size)]
    if shutil.which("unshare") is None or subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("mounts need a namespace of their own")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("read\n", 0), done.stderr


def test_without_processes_files_are_read_in_this_one(monkeypatch):
    def no_process(self):
        raise BlockingIOError("Resource temporarily unavailable")

    paths = [str(number) for number in range(9)]
    source = ImageFiles(paths, (1, 2, 2), lambda path: torch.full((1, 2, 2), int(path)).byte(), False, 2)
    monkeypatch.setattr(multiprocessing.context.ForkProcess, "start", no_process)
    indices = [torch.tensor([3, 1, 3]), torch.tensor([[8], [0]])]
    read = [images[..., 0, 0, 0].tolist() for images in source.stream(indices)]
    assert read == [[3, 1, 3], [[8], [0]]]


def test_images_that_are_to_be_kept_must_fit(config, pictures, monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda device: 1000)
    with pytest.raises(ConfigError, match=r"^dataset\.stream=false: 0\.0 GiB needed, "):
        data.load(config(*folder(pictures, "dataset.stream=false", "dataset.size=9")).dataset, CPU)
