"""Folders of images as people lay them out, with what systems leave in them."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from data_files import picture, pictures
from PIL import Image

from headtohead.options import ConfigError
from headtohead.training import data
from headtohead.training.class_counts import class_counts
from headtohead.training.data import Skipped
from headtohead.training.decoding import readable_suffixes
from headtohead.training.image_folder import read_tree, split_of

CPU = torch.device("cpu")


def refused(root):
    with pytest.raises(ConfigError, match=rf"^dataset\.root={root}") as caught:
        read_tree(root)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def sizes(tree):
    return {split: len(files) for split, files in tree.files.items()}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("TRAIN", "train"), ("Training", "train"), ("training_set", "train"),
        ("TrainData", "train"), ("train-images", "train"), ("trainset", "train"),
        ("val", "val"), ("Valid", "val"), ("validation", "val"),
        ("validation_data", "val"), ("valset", "val"), ("dev", "val"), ("eval", "val"), ("test", "test"),
        ("Testing", "test"), ("test set", "test"), ("TEST_IMAGES", "test"), ("testset", "test"),
        ("trains", None), ("data", None), ("set", None), ("test1", None), ("train_a", None), ("cat", None),
        ("evaluate", None), ("traintest", None), ("train_test", None), ("valley", None), ("contest", None),
    ],
)  # fmt: skip
def test_names_of_splits(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training_set"])
@pytest.mark.parametrize("val", [None, "val", "valid", "Validation", "dev", "eval", "validation_set"])
@pytest.mark.parametrize("test", [None, "test", "Test", "testing", "test_set"])
def test_folders_of_splits_are_the_splits(tmp_path, train, val, test):
    names = {"train": (train, 5), "val": (val, 2), "test": (test, 3)}
    for name, count in names.values():
        if name:
            pictures(tmp_path / name, count=count)
    tree = read_tree(tmp_path)
    assert tree.classes == ("blue", "green", "red")
    assert sizes(tree) == {split: 3 * count for split, (name, count) in names.items() if name}
    for split, files in tree.files.items():
        for path, label in files:
            assert Path(path).relative_to(tmp_path).parts[:2] == (names[split][0], tree.classes[label])


@pytest.fixture
def loaded(config):
    """Return a function from a folder and options to the dataset and its pool."""

    def load(root, *options):
        dataset = config("dataset=image_folder", f"dataset.root={root}", "dataset.size=8", *options).dataset
        return dataset, data.load(dataset, CPU)

    return load


def test_given_splits_are_those_of_every_seed(loaded, tmp_path):
    for name, count in (("train", 6), ("valid", 2), ("test", 3)):
        pictures(tmp_path / name, count=count)
    dataset, pool = loaded(tmp_path)
    assert pool.test.tolist() == list(range(24, 33))
    for seed in range(3):
        view = data.view(pool, dataset, seed)
        assert view.val.tolist() == list(range(18, 24))
        assert view.train.sort().values.tolist() == list(range(18))
    counts = class_counts(pool, dataset)
    assert (counts.train, counts.val, counts.test) == ((6,) * 3, (2,) * 3, (3,) * 3)


def test_splits_that_are_not_given_are_drawn_from_the_training_folder(loaded, tmp_path):
    pictures(tmp_path / "train", count=20)
    pictures(tmp_path / "val", count=5)
    dataset, pool = loaded(tmp_path, "dataset.test_fraction=0.25")
    counts = class_counts(pool, dataset)
    assert (counts.train, counts.val, counts.test) == ((15,) * 3, (5,) * 3, (5,) * 3)
    assert set(pool.test.tolist()) <= set(range(60))
    (tmp_path / "val").rename(tmp_path / "test")
    data._load.cache_clear()
    dataset, pool = loaded(tmp_path, "dataset.val_fraction=0.25")
    counts = class_counts(pool, dataset)
    assert (counts.train, counts.val, counts.test) == ((15,) * 3, (5,) * 3, (5,) * 3)
    assert pool.test.tolist() == list(range(60, 75))


def test_a_folder_train_alone_is_a_split_of_classes(loaded, tmp_path):
    pictures(tmp_path / "Train", count=10)
    dataset, pool = loaded(tmp_path)
    assert pool.classes == ("blue", "green", "red")
    assert class_counts(pool, dataset).test == (2, 2, 2)


@pytest.mark.parametrize("names", [("train", "bus"), ("test", "control"), ("val", "peak", "ridge")])
def test_a_class_may_have_the_name_of_a_split(tmp_path, names):
    for name in names:
        picture(tmp_path / name, "0.png", "red")
    assert read_tree(tmp_path).classes == tuple(sorted(names))


def test_what_lies_beside_splits_is_told(tmp_path):
    for name in ("train", "test", "unlabelled"):
        pictures(tmp_path / name)
    (tmp_path / "labels.csv").touch()
    picture(tmp_path / "train", "lost.png", "red")
    tree = read_tree(tmp_path)
    assert tree.classes == ("blue", "green", "red")
    assert tree.skipped == (
        Skipped("beside the folders of the splits", 2, "unlabelled/"),
        Skipped("beside the folders of the classes", 1, "train/lost.png"),
    )


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b", "val/a", "val/b", "valid/a", "valid/b"), "val and valid name the same split"),
        (("train/a", "train/b", "Train/a", "Train/b", "test/a", "test/b"), "Train and train name the same split"),
        (("val/a", "val/b", "test/a", "test/b"), "test and val without train"),
        (("train/a", "train/b", "test/a"), "classes=a: those of train: a, b"),
        (("train/a", "train/b", "test/a", "test/B"), "classes=B, a: those of train: a, b"),
        (("train/a", "train/b", "val/a", "val/b", "test/a", "test/b", "test/c"), "classes=a, b, c: those of train"),
        (("fold1/a", "fold1/b", "fold2/a", "fold2/b"), "fold1, fold2 all hold the folders a, b"),
        (("part1/a", "part1/b", "part2/a"), "part1, part2 all hold the folders a, b"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "cat, dog all hold the folders test, train"),
        (("train/f1/a", "train/f1/b", "train/f2/a", "train/f2/b", "test/f1/a", "test/f2/a"), "f1, f2 all hold"),
        (("pets/cat", "pets/dog"), r"1 class, pets; accepted: 2 or more; did you mean .*/pets\?$"),
    ],
)
def test_folders_that_may_mean_several_things_are_refused(tmp_path, folders, message):
    for folder in folders:
        picture(tmp_path / folder, "0.png", "red")
    assert re.search(message, refused(tmp_path))


def test_images_directly_in_folders_of_splits_are_refused(tmp_path):
    for name in ("train", "test"):
        picture(tmp_path / name, "0.png", "red")
    assert "cannot find any class folder" in refused(tmp_path)


def test_folders_within_a_class_belong_to_it(tmp_path):
    # Tiny ImageNet has a folder images in each class, and others sort by year or beside.
    for name in ("cat", "dog"):
        picture(tmp_path / "a" / name / "images", "0.png", "red")
        for year in ("2020", "2021"):
            picture(tmp_path / "b" / name / year, "0.png", "red")
        picture(tmp_path / "b" / name, "0.png", "red")
    assert sizes(read_tree(tmp_path / "a")) == {None: 2}
    assert sizes(read_tree(tmp_path / "b")) == {None: 6}


HIDDEN = [
    ".ipynb_checkpoints", ".git", ".cache", "__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN",
    "System Volume Information", ".Trash-1000", "#recycle", "@Recycle",
]  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("splits", [False, True])
def test_folders_of_systems_are_no_data(tmp_path, name, splits):
    parts = [tmp_path / "train", tmp_path / "test"] if splits else [tmp_path]
    for part in parts:
        pictures(part)
        for place in {tmp_path, part, part / "red"}:
            picture(place / name, "0-checkpoint.png", "red")
            picture(place / name / "deeper", "1.png", "red")
    tree = read_tree(tmp_path)
    assert tree.classes == ("blue", "green", "red")
    assert sum(sizes(tree).values()) == 12 * len(parts)
    (skipped,) = tree.skipped
    assert (skipped.reason, skipped.count) == ("hidden or of the system", 5 if splits else 2)
    assert skipped.example == f"{name}/"


def test_files_that_are_no_images_are_told_by_their_suffix(tmp_path):
    pictures(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".0.jpg"):
        (tmp_path / "red" / name).write_bytes(b"no image")
    for name in ("IMG_1.HEIC", "IMG_2.heic", "notes.txt", "clip.mp4", "model.h5", "README"):
        (tmp_path / "green" / name).write_bytes(b"no image")
    tree = read_tree(tmp_path)
    assert sizes(tree) == {None: 12}
    found = {one.reason: (one.count, one.example) for one in tree.skipped}
    heif = found.pop(".heic files need the package pillow-heif", None)
    assert heif == (2, "green/IMG_1.HEIC") or ".heic" in readable_suffixes()
    assert found == {
        "hidden or of the system": (5, "red/.0.jpg"),
        ".txt files are not read": (1, "green/notes.txt"),
        ".mp4 files are not read": (1, "green/clip.mp4"),
        ".h5 files are not read": (1, "green/model.h5"),
        "files without a suffix are not read": (1, "green/README"),
    }


def test_a_class_without_an_image_is_refused_with_what_it_holds(tmp_path):
    pictures(tmp_path)
    (tmp_path / "yellow").mkdir()
    assert refused(tmp_path).endswith("no image in yellow")
    (tmp_path / "yellow" / "0.raw").touch()
    assert refused(tmp_path).endswith("no image in yellow (1 .raw files are not read)")


def test_a_pipe_is_not_waited_for(tmp_path):
    pictures(tmp_path)
    os.mkfifo(tmp_path / "red" / "pipe.png")
    assert read_tree(tmp_path).skipped == (Skipped("neither files nor folders", 1, "red/pipe.png"),)


def test_links_are_followed_once(tmp_path):
    pictures(tmp_path / "root")
    (tmp_path / "root" / "red" / "up").symlink_to(tmp_path / "root" / "red")
    (tmp_path / "root" / "red" / "self").symlink_to("self")
    picture(tmp_path / "elsewhere", "0.png", "red")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "linked.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    tree = read_tree(tmp_path / "root")
    assert tree.classes == ("blue", "green", "linked", "red")
    assert sizes(tree) == {None: 13}


def test_a_link_to_nothing_is_a_file_that_cannot_be_read(loaded, tmp_path):
    pictures(tmp_path)
    (tmp_path / "red" / "gone.png").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"cannot read .*red/gone\.png: No such file"):
        loaded(tmp_path)


@pytest.fixture
def damaged(tmp_path):
    """Return a folder of 60 images, of which an empty one, a truncated one and a link to nothing cannot be read."""
    pictures(tmp_path / "all", count=20)
    root = tmp_path / "all"
    (root / "blue/3.bmp").write_bytes(b"")
    (root / "green/0.jpeg").write_bytes((root / "green/1.jpeg").read_bytes()[:300])
    (root / "red/7.png").unlink()
    (root / "red/7.png").symlink_to("nowhere")
    return root


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("workers", [0, 2])
def test_files_that_cannot_be_read_are_left_out_where_that_is_asked(loaded, tmp_path, damaged, stream, workers):
    options = [f"dataset.stream={stream}", f"dataset.workers={workers}"]
    _, pool = loaded(damaged, "dataset.on_error=skip", *options)
    assert pool.skipped == (Skipped("unreadable", 3, "blue/3.bmp (it is empty)"),)
    data.verify(pool)
    shutil.copytree(damaged, tmp_path / "whole", symlinks=True)
    for name in ("blue/3.bmp", "green/0.jpeg", "red/7.png"):
        (tmp_path / "whole" / name).unlink()
    _, expected = loaded(tmp_path / "whole", *options)
    assert pool.labels.tolist() == expected.labels.tolist() and pool.test.tolist() == expected.test.tolist()
    index = torch.arange(57)
    assert torch.equal(pool.inputs[index], expected.inputs[index])


def test_more_than_a_few_files_that_cannot_be_read_are_refused(loaded, damaged):
    (damaged / "red/8.png").write_bytes(b"no image")
    found = r"4 of 60 files cannot be read, such as blue/3\.bmp \(it is empty\); accepted: at most 5%"
    with pytest.raises(ConfigError, match=rf"^dataset\.on_error=skip: {found} of them$"):
        loaded(damaged, "dataset.on_error=skip")


def test_a_class_that_cannot_be_read_is_refused(loaded, tmp_path):
    pictures(tmp_path, count=20)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/0.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"^dataset\.on_error=skip: 1 of 61 .* all images of tiny"):
        loaded(tmp_path, "dataset.on_error=skip")


def test_an_image_above_the_limit_is_left_out_as_well(loaded, tmp_path):
    pictures(tmp_path, count=20)
    Image.new("L", (1500, 1000)).save(tmp_path / "red/large.png")
    _, pool = loaded(tmp_path, "dataset.on_error=skip", "dataset.max_megapixels=1")
    assert pool.skipped == (Skipped("unreadable", 1, "red/large.png (has 2 megapixels)"),)


def test_names_of_classes_are_text(tmp_path):
    for name in ("ünï", "with space", "日本"):
        picture(tmp_path / name, "0.png", "red")
    assert len(read_tree(tmp_path).classes) == 3
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    assert "is not UTF-8" in refused(tmp_path)


def test_files_come_in_the_order_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    for name in ("b", "a", "B"):
        for folder in ("", "x", "x-y", "x/z", "é"):
            for number in ("10", "9", "a"):
                picture(tmp_path / name / folder, f"{number}.png", "red")
    assert read_tree(tmp_path).files[None] == ImageFolder(tmp_path).samples
