import gzip
import io
import shutil
import urllib.error
import urllib.request
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import factories
import numpy as np
import pytest
import sklearn.datasets
import torch
from data_files import DOWNLOADED, IDX, Made, picture, pictures, random_bytes
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from headtohead.options import ConfigError, build_named
from headtohead.training.data import load, view
from headtohead.training.datasets import DATASETS
from headtohead.training.image_files import ImageFiles

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CPU = torch.device("cpu")


def configured(name, **options):
    node = OmegaConf.merge(OmegaConf.load(CONFIGS / f"{name}.yaml"), options)
    return build_named(DATASETS, node, "dataset")


def pooled(name, **options):
    return load(configured(name, **options), CPU)


def tree(folder):
    """Return every path below `folder`, with the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


class Network:
    """A network that answers torchvision's requests for `files` and is unreachable for all others."""

    def __init__(self):
        self.files = {}

    def urlopen(self, request, *_, **__):
        if request.full_url not in self.files:
            raise urllib.error.URLError("network is unreachable")
        response = io.BytesIO(self.files[request.full_url])
        response.url, response.length = request.full_url, len(self.files[request.full_url])
        return response


@pytest.fixture(autouse=True)
def network(monkeypatch):
    network = Network()
    monkeypatch.setattr(urllib.request, "urlopen", network.urlopen)
    return network


# Small files in the formats of the real ones


@pytest.fixture(params=DOWNLOADED)
def made(request, monkeypatch):
    return Made(monkeypatch, request.param)


def check(pool, made):
    np.testing.assert_array_equal(pool.inputs.numpy(), made.images)
    np.testing.assert_array_equal(pool.labels.numpy(), made.labels)
    assert pool.inputs.dtype == torch.uint8
    assert pool.inputs.is_contiguous()
    assert pool.labels.dtype == torch.int64
    assert pool.test.tolist() == list(range(30, 40))
    assert pool.rest.tolist() == list(range(30))
    assert pool.num_classes == {"cifar100": 100, "emnist": 47}.get(made.name, 10)


# Every config


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_name_has_a_config_that_builds_it(name):
    needs = {
        "image_folder": ["dataset.root=somewhere"],
        "table": ["dataset.path=t.csv", "dataset.target=species"],
        "arrays": ["dataset.path=x"],
        "factory": ["dataset.path=x"],
    }
    root = needs.get(name, [])
    with initialize_config_dir(str(CONFIGS.parent), version_base="1.3"):
        config = compose("dataset/" + name, overrides=root)
    assert type(build_named(DATASETS, config.dataset, "dataset")) is DATASETS[name]
    assert (CONFIGS / f"{name}.yaml").read_text().startswith("# ")


def test_every_config_has_a_name():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(DATASETS)


# scikit-learn


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_tables_are_those_of_scikit_learn(name):
    pool, source = pooled(name), getattr(sklearn.datasets, f"load_{name}")()
    np.testing.assert_array_equal(pool.inputs.numpy(), source.data.astype(np.float32))
    np.testing.assert_array_equal(pool.labels.numpy(), source.target)
    assert pool.classes == tuple(source.target_names)
    assert not pool.is_image
    assert pool.input_shape == source.data.shape[1:]


def test_digits_are_images_of_bytes():
    pool, source = pooled("digits"), sklearn.datasets.load_digits()
    np.testing.assert_array_equal(pool.inputs.flatten(1).numpy(), source.data)
    np.testing.assert_array_equal(pool.labels.numpy(), source.target)
    assert pool.inputs.dtype == torch.uint8
    assert pool.input_shape == (1, 8, 8)
    assert pool.is_image
    assert pool.classes == tuple("0123456789")


# torchvision


def test_archives_are_unpacked_offline(made, tmp_path):
    made.write(tmp_path)
    check(pooled(made.name, root=str(tmp_path)), made)
    # Unpacked files are found again without the archives, except for SVHN, whose archives are the data.
    before = tree(tmp_path)
    for path in made.archives:
        if made.name != "svhn":
            (tmp_path / path).unlink()
    check(load(configured(made.name, root=f"{tmp_path}/."), CPU), made)
    assert tree(tmp_path).items() <= before.items()
    assert not list(tmp_path.glob(".download-*"))


def test_a_download_lands_in_the_root(made, tmp_path, network):
    network.files = made.urls
    root = tmp_path / "not" / "yet"
    check(pooled(made.name, root=str(root)), made)
    assert {path: (root / path).read_bytes() for path in made.archives} == made.archives
    assert [path.name for path in tmp_path.iterdir()] == ["not"]


def test_links_to_archives_are_accepted(made, tmp_path):
    made.write(tmp_path / "elsewhere")
    for path in made.archives:
        link = tmp_path / "root" / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "elsewhere" / path)
    before = tree(tmp_path / "elsewhere")
    check(pooled(made.name, root=str(tmp_path / "root")), made)
    assert tree(tmp_path / "elsewhere") == before
    assert all((tmp_path / "root" / path).is_symlink() for path in made.archives)


def refused(made, root, parent):
    """Check that loading fails with at most two lines and changes nothing on disk; return the message."""
    before = tree(parent)
    with pytest.raises(ConfigError) as caught:
        pooled(made.name, root=str(root))
    message = str(caught.value)
    assert message.startswith(f"dataset.root={root}: ")
    assert len(message.splitlines()) <= 2
    assert tree(parent) == before
    return message


def test_a_missing_or_empty_root_is_refused(made, tmp_path):
    for root in (tmp_path / "missing" / "data", tmp_path):
        message = refused(made, root, tmp_path)
        assert "network is unreachable" in message
        for path in made.archives:
            assert f"{path} (missing)" in message


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: content[:-1] + b"?", lambda _: b""])
def test_damaged_archives_are_refused_by_name(made, tmp_path, damage):
    made.write(tmp_path)
    path, content = list(made.archives.items())[-1]
    (tmp_path / path).write_bytes(damage(content))
    assert f"{path} (wrong checksum)" in refused(made, tmp_path, tmp_path)


def test_a_damaged_archive_is_downloaded_anew(made, tmp_path, network):
    made.write(tmp_path)
    (tmp_path / list(made.archives)[-1]).write_bytes(b"damaged")
    network.files = made.urls
    check(pooled(made.name, root=str(tmp_path)), made)


def test_an_interrupted_download_leaves_nothing_behind(made, tmp_path, network):
    network.files = {url: content[:-20] for url, content in made.urls.items()}
    message = refused(made, tmp_path / "data", tmp_path)
    assert "(missing)" in message


def test_a_root_that_is_a_file_is_refused(made, tmp_path):
    (tmp_path / "data").write_text("a file")
    assert "a folder" in refused(made, tmp_path / "data", tmp_path)


@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_truncated_unpacked_file_is_refused_or_unpacked_again(size, tmp_path, monkeypatch):
    made = Made(monkeypatch, "mnist")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path, content in made.archives.items():
        (raw / Path(path).stem).write_bytes(gzip.decompress(content))
    (raw / IDX[0]).write_bytes((raw / IDX[0]).read_bytes()[:size])
    refused(made, tmp_path, tmp_path)
    made.write(tmp_path)
    check(pooled("mnist", root=str(tmp_path)), made)


def test_labels_beyond_the_classes_are_refused(tmp_path, monkeypatch):
    made = Made(monkeypatch, "kmnist")
    made.labels[3] = 10
    made.mnist(monkeypatch)
    made.write(tmp_path)
    with pytest.raises(ConfigError, match=r"dataset labels=0\.\.10: 0\.\.9"):
        pooled("kmnist", root=str(tmp_path))


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason=f"{DEBIAN_FASHION_MNIST} is not installed")
def test_the_real_fashion_mnist(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEBIAN_FASHION_MNIST.glob("*.gz"):
        (raw / path.name).symlink_to(path)
    dataset = configured("fashion_mnist", root=str(tmp_path))
    pool = load(dataset, CPU)
    assert len(list(raw.glob("*.gz"))) == 4
    assert pool.inputs.shape == (70_000, 1, 28, 28)
    assert pool.labels[pool.rest].bincount().tolist() == [6000] * 10
    assert pool.labels[pool.test].bincount().tolist() == [1000] * 10
    assert pool.classes[9] == "Ankle boot"
    one = view(pool, dataset, 0)
    assert pool.labels[one.val].bincount().tolist() == [600] * 10
    # The mean and standard deviation that are in common use, of all 60,000 images.
    assert abs(one.mean.item() / 255 - 0.2860) < 0.001
    assert abs(one.std.item() / 255 - 0.3530) < 0.001


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason=f"{DEBIAN_FASHION_MNIST} is not installed")
def test_one_damaged_file_of_the_real_fashion_mnist_is_the_one_that_is_named(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    shutil.copytree(DEBIAN_FASHION_MNIST, raw)
    damaged = raw / f"{IDX[3]}.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=rf"online: FashionMNIST/raw/{damaged.name} \(wrong checksum\)$"):
        pooled("fashion_mnist", root=str(tmp_path))
    assert len(list(tmp_path.rglob("*"))) == 6


# Image folders


def test_a_folder_per_class_becomes_images(tmp_path):
    pictures(tmp_path)
    picture(tmp_path / "blue" / "deeper", "animated.GIF", "blue")
    picture(tmp_path / "blue", "grey.png", "blue", mode="L")
    (tmp_path / "red" / "notes.txt").write_text("no image")
    pool = pooled("image_folder", root=str(tmp_path), size=8)
    assert pool.inputs.shape == (14, 3, 8, 8)
    assert pool.inputs.dtype == torch.uint8
    assert pool.classes == ("blue", "green", "red")
    assert pool.labels.bincount().tolist() == [6, 4, 4]
    assert len(pool.test) == round(0.2 * 14)
    red = pool.inputs[pool.labels == 2].flatten(2).double().mean((0, 2))
    assert red[0] > 250
    assert red[1:].max() < 5


def test_grayscale_has_one_channel_and_pixels_keep_their_place(tmp_path):
    pixels = random_bytes(6, 6)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    pool = pooled("image_folder", root=str(tmp_path), size=6, grayscale=True)
    assert pool.inputs.shape == (6, 1, 6, 6)
    np.testing.assert_array_equal(pool.inputs[0, 0].numpy(), pixels)


def test_train_and_test_folders_are_the_official_split(tmp_path):
    pictures(tmp_path / "train", count=5)
    pictures(tmp_path / "test", count=2)
    pool = pooled("image_folder", root=str(tmp_path))
    assert pool.classes == ("blue", "green", "red")
    assert pool.test.tolist() == list(range(15, 21))
    assert pool.labels[pool.test].bincount().tolist() == [2, 2, 2]


def test_a_class_may_be_called_train(tmp_path):
    for name, colour in (("train", "red"), ("bus", "blue")):
        for number in range(4):
            picture(tmp_path / name, f"{number}.png", colour)
    assert pooled("image_folder", root=str(tmp_path)).classes == ("bus", "train")


def folder_refused(root):
    with pytest.raises(ConfigError, match=r"^dataset") as caught:
        pooled("image_folder", root=str(root))
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


def test_image_folders_that_cannot_be_read_are_refused(tmp_path):
    assert "an existing folder" in folder_refused(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "any class folder" in folder_refused(tmp_path / "empty")
    pictures(tmp_path / "one", classes=("red",))
    assert "1 class" in folder_refused(tmp_path / "one")
    pictures(tmp_path / "hollow")
    (tmp_path / "hollow" / "yellow").mkdir()
    assert "yellow" in folder_refused(tmp_path / "hollow")


@pytest.mark.parametrize("suffix", ["png", "jpeg", "gif", "bmp", "tiff"])
def test_a_damaged_image_is_named(tmp_path, suffix):
    pictures(tmp_path)
    broken = tmp_path / "red" / f"broken.{suffix}"
    Image.fromarray(random_bytes(40, 40, 3)).save(broken)
    broken.write_bytes(broken.read_bytes()[:400])
    assert str(broken) in folder_refused(tmp_path)
    broken.write_bytes(b"no image at all")
    (tmp_path / "again").symlink_to(tmp_path / "red")
    assert str(broken.name) in folder_refused(tmp_path)


def test_a_test_folder_of_other_classes_is_refused(tmp_path):
    pictures(tmp_path / "train")
    pictures(tmp_path / "test", classes=("red", "green"))
    assert "those of train: blue, green, red" in folder_refused(tmp_path)


# Gaussians


@pytest.mark.parametrize(
    ("dimensions", "separation", "classes", "per_class"),
    [(1, 3.0, 2000, 10), (2, 5.0, 2000, 10), (50, 4.0, 100, 1000)],
)
def test_separation_is_the_expected_distance_between_means(dimensions, separation, classes, per_class):
    options = {"dimensions": dimensions, "separation": separation, "classes": classes}
    pool = pooled("gaussians", **options, examples=classes * per_class)
    inputs = pool.inputs[pool.labels.argsort(stable=True)].double().view(classes, per_class, dimensions)
    means = inputs.mean(1)
    assert abs(torch.pdist(means).mean().item() / separation - 1) < 0.05
    assert abs((inputs - means[:, None]).square().mean().item() * per_class / (per_class - 1) - 1) < 0.02


def test_gaussians_are_a_fixed_problem_with_even_classes():
    pool = pooled("gaussians", classes=7, examples=100)
    assert sorted(pool.labels.bincount().tolist()) == [14] * 5 + [15] * 2
    assert torch.equal(pool.inputs, configured("gaussians", classes=7, examples=100).read().inputs)
    other = configured("gaussians", classes=7, examples=100, problem_seed=1).read()
    assert not torch.equal(pool.inputs, other.inputs)


def test_gaussians_have_up_to_ten_thousand_classes():
    pool = pooled("gaussians", classes=10_000, dimensions=8, examples=30_000)
    assert pool.num_classes == 10_000
    assert pool.labels.unique().numel() == 10_000


# Composites


def base_examples(pool, base, width):
    """Find the base example in each part of each composite, (N, images)."""
    rows = {bytes(image.flatten().numpy()): number for number, image in enumerate(base.inputs)}
    parts = pool.inputs.unflatten(-1, (-1, width)).unbind(-2)
    return torch.tensor([[rows[bytes(image.flatten().numpy())] for image in part] for part in parts]).T


@pytest.mark.parametrize("images", [1, 2, 3])
def test_composites_show_the_digits_of_their_label(images):
    base = pooled("digits")
    pool = pooled("composite", images=images, train_examples=2000, test_examples=300)
    assert pool.input_shape == (1, 8, 8 * images)
    assert pool.inputs.dtype == torch.uint8
    assert pool.num_classes == 10**images
    assert pool.test.tolist() == list(range(2000, 2300))
    parts = base_examples(pool, base, 8)
    for label, examples in zip(pool.labels.tolist(), parts, strict=True):
        assert pool.classes[label].split(" ") == [str(base.labels[example].item()) for example in examples]
    assert set(parts[pool.test].flatten().tolist()) <= set(base.test.tolist())
    assert set(parts[pool.rest].flatten().tolist()) <= set(base.rest.tolist())


def test_composites_are_even_over_classes_and_draw_all_images():
    base = pooled("digits", folds=None, test_fraction=0.2)
    pool = pooled("composite", train_examples=20_050, test_examples=100)
    counts = pool.labels[pool.rest].bincount(minlength=100)
    assert set(counts.tolist()) == {200, 201}
    assert pool.labels[pool.test].bincount(minlength=100).tolist() == [1] * 100
    parts = base_examples(pool, base, 8)
    for column in parts[pool.rest].T:
        assert len(column.unique()) == len(base.rest)


def test_composites_of_a_downloaded_base_keep_its_official_split(tmp_path, monkeypatch):
    made = Made(monkeypatch, "cifar10")
    made.write(tmp_path)
    options = {"base": "cifar10", "root": str(tmp_path), "train_examples": 150, "test_examples": 50}
    pool, base = pooled("composite", **options), pooled("cifar10", root=str(tmp_path))
    assert pool.input_shape == (3, 32, 64)
    assert pool.classes[12] == "class 1 class 2"
    parts = base_examples(pool, base, 32)
    assert set(parts[pool.test].flatten().tolist()) <= set(range(30, 40))
    assert set(parts[pool.rest].flatten().tolist()) <= set(range(30))


# Options


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gaussians", {"classes": 1}, "dataset.classes=1: "),
        ("gaussians", {"classes": 10_001}, "dataset.classes=10001: "),
        ("gaussians", {"dimensions": 0}, "dataset.dimensions=0: "),
        ("gaussians", {"separation": -1.0}, "dataset.separation=-1.0: "),
        ("gaussians", {"separation": float("inf")}, "dataset.separation=inf: "),
        ("gaussians", {"examples": 9}, "dataset.examples=9: "),
        ("gaussians", {"problem_seed": -1}, "dataset.problem_seed=-1: "),
        ("composite", {"base": "iris"}, "dataset.base=iris: "),
        ("composite", {"base": "minst"}, "dataset.base=minst: did you mean .*mnist"),
        ("composite", {"images": 0}, "dataset.images=0: from 1 to 13"),
        ("composite", {"images": 5}, "dataset.images=5: 100000 classes"),
        ("composite", {"train_examples": 1}, "dataset.train_examples=1: "),
        ("composite", {"test_examples": 0}, "dataset.test_examples=0: "),
        ("composite", {"test_fraction": 0.003}, "dataset.base=digits: "),
        ("composite", {"problem_seed": -1}, "dataset.problem_seed=-1: "),
        ("image_folder", {"size": 2**32, "root": "data"}, "dataset.size=4294967296: "),
        ("image_folder", {"workers": 2**32, "root": "data"}, "dataset.workers=4294967296: "),
        ("image_folder", {"workers": -1, "root": "data"}, "dataset.workers=-1: "),
        ("image_folder", {"max_megapixels": 0, "root": "data"}, "dataset.max_megapixels=0: "),
        ("gaussians", {"examples": 10**12}, "dataset.examples=1000000000000 dataset.dimensions=20: "),
        ("gaussians", {"dimensions": 10**12}, "dataset.examples=5000 dataset.dimensions=1000000000000: "),
        ("composite", {"train_examples": 10**12}, "dataset.train_examples=1000000000000: "),
        ("image_folder", {"size": 0, "root": "data"}, "dataset.size=0: "),
        ("image_folder", {}, "dataset.root.*[Mm]issing"),
        ("digits", {"folds": None, "test_fraction": 0.0}, "dataset.test_fraction=0.0: "),
        ("digits", {"test_fraction": 0.2}, "dataset.folds=5: test_fraction=0.2; give either"),
        ("digits", {"folds": None}, "dataset.folds=None: test_fraction=None; give either"),
        ("digits", {"folds": 1}, "dataset.folds=1: 2 or more, or null"),
        ("mnist", {"folds": 5}, "dataset.folds: no such key"),
        ("mnist", {"test_fraction": 0.5}, "dataset.test_fraction: no such key"),
    ],
)
def test_options_out_of_range_are_refused_by_name(name, options, message):
    with pytest.raises(ConfigError, match=message):
        pooled(name, **options)


def test_datasets_with_equal_options_are_different():
    tables = [configured(name, val_fraction=0.2) for name in ("iris", "wine", "breast_cancer")]
    for first, second in combinations(tables, 2):
        assert first != second


# Keys

IN_FOLDS = ("digits", "iris", "wine", "breast_cancer", "table", "arrays", "factory")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, [{}]) for name in sorted(DATASETS) if name not in ("composite", *IN_FOLDS)),
        *((name, [{}, {"folds": None, "test_fraction": 0.2}]) for name in IN_FOLDS),
        ("composite", [{}, {"base": "cifar10"}]),
    ],
)
def test_a_dataset_has_no_key_that_it_does_not_read(name, options, tmp_path, monkeypatch):
    """A key that changes nothing would let its user believe that it does."""
    downloaded = "cifar10" if name == "composite" else name
    if downloaded in DOWNLOADED:
        Made(monkeypatch, downloaded).write(tmp_path)
    pictures(tmp_path)
    np.savez(tmp_path / "data.npz", **dict(zip("Xy", factories.table(), strict=True)))
    (tmp_path / "t.csv").write_text("a,species\n1,x\n2,y\n3,x\n4,y\n5,x\n6,y\n7,x\n8,y\n")
    read, keys = set(), {field.name for field in fields(DATASETS[name])}

    class Traced(DATASETS[name]):
        reading = False

        def __getattribute__(self, key):
            if type(self).reading:
                read.add(key)
            return super().__getattribute__(key)

    for more in options:
        places = {"arrays": f"{tmp_path}/data.npz", "factory": "factories:table", "table": f"{tmp_path}/t.csv"}
        needs = {"root": str(tmp_path), "path": places.get(name), "target": "species"}
        root = {key: needs[key] for key in needs.keys() & keys}
        Traced.reading = False  # the checks of the options read all
        dataset = Traced(**vars(configured(name, **root)) | more)
        Traced.reading = True
        inputs = dataset.read().inputs
        if isinstance(inputs, ImageFiles):
            inputs[torch.arange(2)]
    # These say how the examples are used.
    used = {"train_size", "val_fraction", "label_noise", "imbalance", "crop_padding", "flip", "ood", "unknown_classes"}
    assert keys - used <= read


def test_a_key_that_a_dataset_does_not_read_is_refused():
    for name in ("iris", "wine", "breast_cancer", "digits", "gaussians"):
        with pytest.raises(ConfigError, match=r"^dataset\.root: no such key; "):
            configured(name, root="mine.csv")
