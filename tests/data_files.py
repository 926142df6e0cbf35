"""Small files in the formats that datasets read: archives for torchvision and folders of images."""

import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile

import numpy as np
import scipy.io
import torchvision.datasets
from PIL import Image

from headtohead.training.datasets import DATASETS

IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


class Made:
    """A downloadable dataset of 30 training and 10 test examples: its archives and their contents."""

    def __init__(self, monkeypatch, name):
        self.name, self.loader = name, getattr(torchvision.datasets, DATASETS[name].loader)
        self.archives, self.urls = {}, {}
        side, channels = (32, 3) if name in ("cifar10", "cifar100", "svhn") else (28, 1)
        self.images = random_bytes(40, channels, side, side)
        self.labels = np.arange(40, dtype=np.uint8) % {"cifar100": 100, "emnist": 47}.get(name, 10)
        getattr(self, {"emnist": "emnist", "svhn": "svhn"}.get(name, "cifar" if "cifar" in name else "mnist"))(
            monkeypatch
        )

    def idx_files(self):
        yield from (self.images[:30, 0], self.labels[:30], self.images[30:, 0], self.labels[30:])

    def mnist(self, monkeypatch):
        resources = []
        for file, array in zip(IDX, self.idx_files(), strict=True):
            content = gzip.compress(idx(array), mtime=0)
            resources.append((f"{file}.gz", md5(content)))
            self.archives[f"{self.loader.__name__}/raw/{file}.gz"] = content
            self.urls[f"http://mirror/{file}.gz"] = content
        monkeypatch.setattr(self.loader, "resources", resources)
        monkeypatch.setattr(self.loader, "mirrors", ["http://gone/", "http://mirror/"])

    def emnist(self, monkeypatch):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for file, array in zip(IDX, self.idx_files(), strict=True):
                array = array.swapaxes(1, 2) if array.ndim == 3 else array
                name = f"gzip/emnist-balanced-{file.replace('t10k', 'test')}.gz"
                archive.writestr(name, gzip.compress(idx(np.ascontiguousarray(array))))
        self.archives["EMNIST/raw/gzip.zip"] = packed.getvalue()
        self.urls[self.loader.url] = packed.getvalue()
        monkeypatch.setattr(self.loader, "md5", md5(packed.getvalue()))

    def cifar(self, monkeypatch):
        key = "labels" if self.name == "cifar10" else "fine_labels"
        classes = [f"class {number}" for number in range(10 if self.name == "cifar10" else 100)]
        per_file = 30 // len(self.loader.train_list)
        packed, lists = io.BytesIO(), {"train_list": [], "test_list": []}
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:

            def add(name, content):
                content = pickle.dumps(content)
                member = tarfile.TarInfo(f"{self.loader.base_folder}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                return [name, md5(content)]

            for part, first, size in (("train_list", 0, per_file), ("test_list", 30, 10)):
                for number, (name, _) in enumerate(getattr(self.loader, part)):
                    rows = slice(first + number * size, first + (number + 1) * size)
                    content = {"data": self.images[rows].reshape(size, -1), key: self.labels[rows].tolist()}
                    lists[part].append(add(name, content))
            meta = dict(self.loader.meta)
            meta["md5"] = add(meta["filename"], {meta["key"]: classes})[1]
        self.archives[self.loader.filename] = packed.getvalue()
        self.urls[self.loader.url] = packed.getvalue()
        for attribute, value in (*lists.items(), ("meta", meta), ("tgz_md5", md5(packed.getvalue()))):
            monkeypatch.setattr(self.loader, attribute, value)

    def svhn(self, monkeypatch):
        split_list = dict(self.loader.split_list)
        for split, rows in (("train", slice(0, 30)), ("test", slice(30, 40))):
            labels = np.where(self.labels[rows] == 0, 10, self.labels[rows])
            content = io.BytesIO()
            scipy.io.savemat(content, {"X": self.images[rows].transpose(2, 3, 1, 0), "y": labels[:, None]})
            url, file, _ = split_list[split]
            split_list[split] = [url, file, md5(content.getvalue())]
            self.archives[file] = self.urls[url] = content.getvalue()
        monkeypatch.setattr(self.loader, "split_list", split_list)

    def write(self, root):
        for path, content in self.archives.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)


DOWNLOADED = ("mnist", "fashion_mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn")


def picture(folder, name, colour, size=(12, 10), mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image.convert(mode).save(folder / name)


def pictures(root, classes=("red", "green", "blue"), count=4):
    for number in range(count):
        for name, suffix in zip(classes, ("png", "jpeg", "bmp"), strict=False):
            picture(root / name, f"{number}.{suffix}", name)
