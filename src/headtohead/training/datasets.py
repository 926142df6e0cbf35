"""The datasets that a config can name, each a class that reads or generates its examples.

Shapes: N examples, K classes, D features, C channels, H height, W width.
"""

import math
import shutil
import tempfile
from abc import abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headtohead.options import ConfigError, nearest, require
from headtohead.training.data import Dataset, Examples, generator, stratified_order
from headtohead.training.image_files import ImageFiles

# Of the synthetic datasets: a pack's logits grow with runs x batch x classes.
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class WithoutTestSplit(Dataset):
    """A dataset that comes in one piece: a fixed stratified share of it becomes the test split."""

    test_fraction: float  # share of all examples, in (0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.test_fraction < 1,
            "dataset.test_fraction",
            self.test_fraction,
            "strictly between 0 and 1",
        )

    def _split(self, inputs: Tensor | ImageFiles, labels: Tensor, classes: tuple[str, ...]) -> Examples:
        size = round(self.test_fraction * len(labels))
        require(
            0 < size < len(labels),
            "dataset.test_fraction",
            self.test_fraction,
            f"a share of {len(labels)} examples that leaves one or more on both sides",
        )
        # The seed is fixed: were it the run's, a seed would train on what another one is tested on.
        order = stratified_order(labels, generator(0, "test"))
        return Examples(inputs, labels, order[:size], classes)


class Table(WithoutTestSplit):
    """A table that scikit-learn brings along."""

    loader: ClassVar[str]  # function of sklearn.datasets

    def _bunch(self) -> Any:
        from sklearn import datasets  # here, since the import costs a second

        return getattr(datasets, self.loader)()

    def read(self) -> Examples:
        bunch = self._bunch()
        inputs = torch.from_numpy(bunch.data).float()
        return self._split(inputs, torch.from_numpy(bunch.target), tuple(map(str, bunch.target_names)))


class Iris(Table):
    loader = "load_iris"


class Wine(Table):
    loader = "load_wine"


class BreastCancer(Table):
    loader = "load_breast_cancer"


class Digits(Table):
    """Images of 8 x 8 pixels with 17 grey levels."""

    loader = "load_digits"

    def read(self) -> Examples:
        bunch = self._bunch()
        inputs = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
        return self._split(inputs, torch.from_numpy(bunch.target), tuple(map(str, bunch.target_names)))


class Torchvision(Dataset):
    """A dataset that torchvision downloads into `root`, checks and parses."""

    loader: ClassVar[str]  # class of torchvision.datasets
    parts: ClassVar[tuple[dict, dict]] = ({"train": True}, {"train": False})  # its arguments for either split

    def read(self) -> Examples:
        root = Path(self.root)
        require(root.is_dir() or not root.exists(), "dataset.root", self.root, "a folder")
        parts = self._parts(root)
        inputs, labels = zip(*(self._arrays(part) for part in parts), strict=True)
        test = torch.arange(len(labels[0]), len(labels[0]) + len(labels[1]))
        return Examples(torch.cat(inputs), torch.cat(labels), test, self._classes(parts[0]))

    @abstractmethod
    def _archives(self) -> list[tuple[str, str]]:
        """What torchvision downloads: paths below `root` and MD5 sums; one of several sums will do."""

    def _stage(self, archive: Path, staged: Path) -> None:
        """Let torchvision find `archive`, which is intact, at `staged`."""
        staged.symlink_to(archive.resolve())

    @abstractmethod
    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) uint8 images and (N,) labels of a torchvision dataset."""

    def _classes(self, part: Any) -> tuple[str, ...]:
        return tuple(part.classes)

    @property
    def _loader(self) -> Any:
        from torchvision import datasets  # here, since the import costs a second

        return getattr(datasets, self.loader)

    def _parts(self, root: Path) -> list[Any]:
        """torchvision's datasets of the training and the test split, downloaded if they are not in `root`."""
        # torchvision and the parsers under it raise nearly anything on a missing or damaged file.
        try:
            return self._open(root, download=False)
        except Exception:
            pass
        try:
            self._fetch(root)
            return self._open(root, download=False)
        except Exception as error:
            raise self._unavailable(root, error) from error

    def _open(self, root: Path, download: bool) -> list[Any]:
        return [self._loader(root, download=download, **part) for part in self.parts]

    def _fetch(self, root: Path) -> None:
        """Download what is missing and unpack it.

        In a temporary folder, from which whole files are moved into `root`: a failure leaves nothing behind,
        and processes that start at the same time do not read each other's half-written files.
        """
        existing = next(folder for folder in (root, *root.parents) if folder.is_dir())
        with tempfile.TemporaryDirectory(prefix=".download-", dir=existing) as staging:
            for path, md5 in self._archives():
                if _intact(root / path, md5):
                    Path(staging, path).parent.mkdir(parents=True, exist_ok=True)
                    self._stage(root / path, Path(staging, path))
            self._open(Path(staging), download=True)
            for staged in Path(staging).rglob("*"):
                if staged.is_file() and not staged.is_symlink():
                    target = root / staged.relative_to(staging)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(staged, target)

    def _unavailable(self, root: Path, error: Exception) -> ConfigError:
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        message = f"dataset.root={self.root}: no complete {self.loader} there, and no download: {reason}"
        archives = self._archives()
        intact = {path for path, md5 in archives if _intact(root / path, md5)}
        wanted = [
            f"{path} ({'wrong checksum' if (root / path).exists() else 'missing'})"
            for path in dict(archives)
            if path not in intact
        ]
        advice = f"\nput there, or run again when online: {', '.join(wanted)}" if wanted else ""
        return ConfigError(message + advice)


class Mnist(Torchvision):
    loader = "MNIST"

    def _archives(self) -> list[tuple[str, str]]:
        return [(f"{self.loader}/raw/{file}", md5) for file, md5 in self._loader.resources]

    def _stage(self, archive: Path, staged: Path) -> None:
        from torchvision.datasets.utils import extract_archive  # here, since the import costs a second

        extract_archive(archive, staged.parent)

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return part.data[:, None], part.targets


class FashionMnist(Mnist):
    loader = "FashionMNIST"
    # Sums of the archives in Debian's package dataset-fashion-mnist: same files, other gzip headers.
    debian: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
        "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
        "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
        "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
    }

    def _archives(self) -> list[tuple[str, str]]:
        return super()._archives() + [(f"{self.loader}/raw/{file}", md5) for file, md5 in self.debian.items()]


class Kmnist(Mnist):
    loader = "KMNIST"


class Emnist(Torchvision):
    """The split "balanced": digits and letters, 15 of which do not tell upper from lower case."""

    loader = "EMNIST"
    parts = ({"split": "balanced", "train": True}, {"split": "balanced", "train": False})

    def _archives(self) -> list[tuple[str, str]]:
        return [(f"{self.loader}/raw/gzip.zip", self._loader.md5)]

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return part.data.mT[:, None], part.targets  # the files hold columns first


class Cifar10(Torchvision):
    loader = "CIFAR10"

    def _archives(self) -> list[tuple[str, str]]:
        return [(self._loader.filename, self._loader.tgz_md5)]

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)


class Cifar100(Cifar10):
    loader = "CIFAR100"


class Svhn(Torchvision):
    loader = "SVHN"
    parts = ({"split": "train"}, {"split": "test"})

    def _archives(self) -> list[tuple[str, str]]:
        return [tuple(self._loader.split_list[part["split"]][1:]) for part in self.parts]

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(part.data), torch.from_numpy(part.labels)

    def _classes(self, part: Any) -> tuple[str, ...]:
        return tuple("0123456789")


@dataclass(frozen=True)
class ImageFolder(WithoutTestSplit):
    """Image files under `root`, in a folder per class, squeezed into squares.

    With `root/train` and `root/test` (or `root/val`), each holding the folders of all classes, these are the
    training and test splits; otherwise `test_fraction` of all files is the test split.
    """

    size: int  # pixels along each side
    grayscale: bool  # one channel instead of three
    stream: bool | None  # read files anew at every epoch; None: if they would take over a quarter of the memory
    workers: int  # processes that read files; 0: the one that trains

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size >= 1, "dataset.size", self.size, "1 or more pixels")
        require(self.workers >= 0, "dataset.workers", self.workers, "0 or more processes")

    def read(self) -> Examples:
        root = Path(self.root)
        require(root.is_dir(), "dataset.root", self.root, "an existing folder, with a folder of images per class")
        held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
        if held_out is None or not (root / "train").is_dir():
            paths, labels, classes = self._files(root)
            return self._split(self._images(paths), labels, classes)
        paths, labels, classes = self._files(root / "train")
        test_paths, test_labels, test_classes = self._files(held_out)
        require(
            classes == test_classes,
            f"dataset.root={held_out}: classes",
            ", ".join(test_classes),
            f"those of train: {', '.join(classes)}",
        )
        test = torch.arange(len(labels), len(labels) + len(test_labels))
        return Examples(self._images(paths + test_paths), torch.cat([labels, test_labels]), test, classes)

    def _files(self, folder: Path) -> tuple[list[str], Tensor, tuple[str, ...]]:
        from torchvision import datasets  # here, since the import costs a second

        readable = tuple(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)
        try:
            files = datasets.ImageFolder(folder, is_valid_file=lambda path: path.lower().endswith(readable))
        except FileNotFoundError as error:
            raise ConfigError(f"dataset.root={self.root}: {error}") from error
        return [path for path, _ in files.samples], torch.tensor(files.targets), tuple(files.classes)

    def _images(self, paths: list[str]) -> ImageFiles:
        shape = (1 if self.grayscale else 3, self.size, self.size)
        keep = None if self.stream is None else not self.stream
        return ImageFiles(paths, shape, self._pixels, keep, self.workers)

    def _pixels(self, path: str) -> Tensor:
        try:
            with Image.open(path) as file:
                image = file.convert("L" if self.grayscale else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ConfigError(f"dataset.root={self.root}: cannot read {path}: {error}") from error
        pixels = torch.from_numpy(np.array(image.resize((self.size, self.size), Image.Resampling.BILINEAR)))
        return pixels.view(self.size, self.size, -1).permute(2, 0, 1)


@dataclass(frozen=True)
class Gaussians(WithoutTestSplit):
    """Isotropic Gaussians of unit variance around random means: a problem of known difficulty."""

    classes: int
    dimensions: int
    separation: float  # expected distance between the means of two classes, in standard deviations
    examples: int  # of all classes together, as many of each as possible
    problem_seed: int  # of the means and the examples; the runs' own seeds do not change them

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.classes <= MAX_CLASSES, "dataset.classes", self.classes, f"from 2 to {MAX_CLASSES}")
        require(self.dimensions >= 1, "dataset.dimensions", self.dimensions, "1 or more")
        require(0 <= self.separation < math.inf, "dataset.separation", self.separation, "finite, 0 or more")
        require(self.examples >= self.classes, "dataset.examples", self.examples, "at least one per class")
        require(self.problem_seed >= 0, "dataset.problem_seed", self.problem_seed, "0 or more")

    def read(self) -> Examples:
        stream = generator(self.problem_seed, "gaussians")
        means_KD = self._scale() * torch.randn(self.classes, self.dimensions, generator=stream)
        labels_N = torch.arange(self.examples) % self.classes
        inputs_ND = means_KD[labels_N] + torch.randn(self.examples, self.dimensions, generator=stream)
        return self._split(inputs_ND, labels_N, tuple(map(str, range(self.classes))))

    def _scale(self) -> float:
        """Standard deviation of the coordinates of a mean, given the expected distance between two means."""
        # The distance is sqrt(2) * scale times a chi variable of `dimensions` degrees of freedom.
        half = self.dimensions / 2
        chi = math.sqrt(2) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half))
        return self.separation / (math.sqrt(2) * chi)


@dataclass(frozen=True)
class Composite(WithoutTestSplit):
    """Images of a base dataset side by side; every combination of their classes is a class of its own.

    Composites for testing are made of the base's test examples, all others of the rest. A base without an
    official test split gets the fixed one of `test_fraction`. One image serves in many composites, of which
    some may train and others validate.
    """

    base: str  # name of a dataset of images
    images: int  # per composite
    train_examples: int  # composites outside the test split, as many of each class as possible
    test_examples: int  # composites in the test split
    problem_seed: int  # of the choice of images; the runs' own seeds do not change it

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.base in COMPOSITE_BASES, "dataset.base", self.base, nearest(self.base, COMPOSITE_BASES))
        most = int(math.log2(MAX_CLASSES))
        require(1 <= self.images <= most, "dataset.images", self.images, f"from 1 to {most}")
        require(self.train_examples >= 2, "dataset.train_examples", self.train_examples, "2 or more")
        require(self.test_examples >= 1, "dataset.test_examples", self.test_examples, "1 or more")
        require(self.problem_seed >= 0, "dataset.problem_seed", self.problem_seed, "0 or more")
        require(not self.flip, "dataset.flip", self.flip, "false: mirroring changes the class")

    def read(self) -> Examples:
        base_class = DATASETS[self.base]
        base = base_class(**{field.name: getattr(self, field.name) for field in fields(base_class)}).read()
        count = len(base.classes) ** self.images
        require(count <= MAX_CLASSES, "dataset.images", self.images, f"{count} classes, more than {MAX_CLASSES}")
        is_test_N = torch.zeros(len(base.labels), dtype=torch.bool)
        is_test_N[base.test] = True
        stream = generator(self.problem_seed, "composite")
        inputs, labels = zip(
            self._compose(base, (~is_test_N).nonzero().flatten(), self.train_examples, stream),
            self._compose(base, is_test_N.nonzero().flatten(), self.test_examples, stream),
            strict=True,
        )
        names = np.array(base.classes)[_combination(torch.arange(count), len(base.classes), self.images)]
        test = torch.arange(self.train_examples, self.train_examples + self.test_examples)
        return Examples(torch.cat(inputs), torch.cat(labels), test, tuple(map(" ".join, names)))

    def _compose(self, base: Examples, usable: Tensor, examples: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """`examples` composites of the `usable` images: (N, C, H, images * W) and (N,) labels."""
        count = len(base.classes) ** self.images
        rounds = [torch.randperm(count, generator=stream) for _ in range(math.ceil(examples / count))]
        labels_N = torch.cat(rounds)[:examples]
        parts = _combination(labels_N, len(base.classes), self.images)
        by_class = usable[base.labels[usable].argsort(stable=True)]
        size_K = base.labels[usable].bincount(minlength=len(base.classes))
        require(int(size_K.min()) >= 1, "dataset.base", self.base, "a base with all classes in both splits")
        start_K = size_K.cumsum(0) - size_K
        drawn = (torch.rand(parts.shape, generator=stream, dtype=torch.float64) * size_K[parts]).long()
        chosen = by_class[start_K[parts] + drawn]
        return torch.cat([base.inputs[column] for column in chosen.unbind(1)], dim=3), labels_N


def _combination(numbers_N: Tensor, base: int, length: int) -> Tensor:
    """(N, length): the classes that each number stands for, its digits in `base`, most significant first."""
    return numbers_N[:, None] // base ** torch.arange(length - 1, -1, -1) % base


def _intact(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity  # here, since the import costs a second

    return check_integrity(path, md5)


DATASETS: dict[str, type[Dataset]] = {
    "digits": Digits,
    "iris": Iris,
    "wine": Wine,
    "breast_cancer": BreastCancer,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "kmnist": Kmnist,
    "emnist": Emnist,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "svhn": Svhn,
    "image_folder": ImageFolder,
    "gaussians": Gaussians,
    "composite": Composite,
}

COMPOSITE_BASES = [name for name, kind in DATASETS.items() if issubclass(kind, Digits | Torchvision)]
