"""Datasets that a config can name. Each is a class that reads or generates its examples.

What reads them is imported where it is used: none of it is needed to check options.

Shape suffixes: N examples, K classes, D features, C channels, H height, W width.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from headtohead.late import pd, torch
from headtohead.options import ConfigError, nearest, require
from headtohead.training.examples import Dataset, Examples, Skipped
from headtohead.training.memory import require_memory
from headtohead.training.places import require_arrays, require_folder, require_function, require_table
from headtohead.training.splits import generator, split_off

if TYPE_CHECKING:
    from torch import Tensor

    from headtohead.training.image_files import ImageFiles
    from headtohead.training.image_folder import ImageTree

# Largest number of classes of a synthetic dataset: the logits of a pack grow with runs x batch x classes.
MAX_CLASSES = 10_000
# Largest side of the squares to which images are resized, and the most processes that read them.
MAX_SIDE = 4096
MAX_WORKERS = 128
# Value of `dataset.ood` for permuted test inputs.
PERMUTED = "permuted"
# Largest share of the files of images that may be left out because they cannot be read.
MAX_UNREADABLE = 0.05


@dataclass(frozen=True)
class InOnePiece(Dataset):
    """A dataset without an official test split: each seed draws folds, or a fixed share becomes the test split.

    Options:
        folds: number of folds. A seed then is a repetition of as many runs, which test every example once.
        test_fraction: share of all examples in the fixed, stratified test split, in (0, 1). Either is given.
    """

    folds: int | None
    test_fraction: float | None

    may_have_test_split: ClassVar[bool] = False  # whether the source may have one, for which both options are null

    def __post_init__(self) -> None:
        super().__post_init__()
        folds, fraction = self.folds, self.test_fraction
        either = "give either dataset.folds or dataset.test_fraction, and null for the other"
        one_or_none = not (folds and fraction) if self.may_have_test_split else (folds is None) != (fraction is None)
        require(one_or_none, "dataset.folds", folds, f"test_fraction={fraction}; {either}")
        require(folds is None or folds >= 2, "dataset.folds", folds, "2 or more, or null for a fixed test split")
        require(fraction is None or 0 < fraction < 1, "dataset.test_fraction", fraction, "strictly between 0 and 1")

    def _split(self, inputs: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Examples:
        return Examples(inputs, labels, self._test_split(labels), classes)

    def _test_split(self, labels: Tensor, groups: Tensor | None = None) -> Tensor | None:
        """Draw the fixed test split: indices into the labels; None with folds."""
        if self.folds is not None or self.test_fraction is None:
            return None
        # The seed is fixed, so that no run trains on test examples of another run.
        test, rest = split_off(labels, self.test_fraction, generator(0, "test"), groups)
        require(
            len(test) and len(rest),
            "dataset.test_fraction",
            self.test_fraction,
            f"a share of {len(labels)} examples that leaves at least one on both sides",
        )
        return test


class Table(InOnePiece):
    """A table that is part of scikit-learn."""

    file: ClassVar[str]

    def read(self) -> Examples:
        with _of_sklearn(self.file).open() as lines:
            classes = next(lines).strip().split(",")[2:]  # after the numbers of rows and columns
            table = np.loadtxt(lines, delimiter=",")
        inputs, labels = torch.from_numpy(table[:, :-1]).float(), torch.from_numpy(table[:, -1]).long()
        return self._split(inputs, labels, tuple(classes))


class Iris(Table):
    file = "iris.csv"


class Wine(Table):
    file = "wine_data.csv"


class BreastCancer(Table):
    file = "breast_cancer.csv"


class Digits(InOnePiece):
    """Images of 8 x 8 pixels with 17 grey levels, which are part of scikit-learn."""

    @property
    def white(self) -> int:
        return 16

    def read(self) -> Examples:
        table = np.loadtxt(_of_sklearn("digits.csv.gz"), dtype=np.uint8, delimiter=",")
        inputs = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8).copy())
        return self._split(inputs, torch.from_numpy(table[:, -1].astype(np.int64)), tuple("0123456789"))


def _of_sklearn(file: str) -> Path:
    """Return the path of a file of scikit-learn's datasets."""
    # Only the file is read: the import of scikit-learn takes a second and 100 MB in each process.
    spec = find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "datasets", "data", file)


@dataclass(frozen=True)
class Downloaded(Dataset):
    """A dataset that torchvision downloads into `root`, checks and parses."""

    root: str

    place = "root"
    loader: ClassVar[str]  # name of a class of torchvision.datasets
    parts: ClassVar[tuple[dict, dict]] = (
        {"train": True},
        {"train": False},
    )  # arguments for the training and test split

    def read(self) -> Examples:
        root = Path(self.root)
        require(os.path.isdir(root) or not os.path.lexists(root), "dataset.root", self.root, "a folder")
        parts = self._parts(root)
        inputs, labels = zip(*(self._arrays(part) for part in parts), strict=True)
        test = torch.arange(len(labels[0]), len(labels[0]) + len(labels[1]))
        return Examples(torch.cat(inputs), torch.cat(labels), test, self._classes(parts[0]))

    @abstractmethod
    def _archives(self) -> list[tuple[str, str]]:
        """List the files that torchvision downloads: paths below `root` and accepted MD5 sums.

        A path with several accepted sums is listed several times.
        """

    def _stage(self, archive: Path, staged: Path) -> None:
        """Make the intact `archive` available to torchvision at `staged`."""
        staged.symlink_to(archive.resolve())

    @abstractmethod
    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        """Return the images (N, C, H, W), uint8, and labels (N,) of a torchvision dataset."""

    def _classes(self, part: Any) -> tuple[str, ...]:
        return tuple(part.classes)

    @property
    def _loader(self) -> Any:
        from torchvision import datasets  # a late import, since it takes a second

        return getattr(datasets, self.loader)

    def _parts(self, root: Path) -> list[Any]:
        """Return torchvision's datasets of the training and the test split, downloaded if they are not in `root`."""
        # torchvision and its parsers raise errors of many types for a missing or damaged file.
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
        """Download missing files and unpack them.

        Files are written to a temporary folder and moved into `root` when they are complete. So a failure leaves
        nothing behind, and processes that start at the same time do not read incomplete files of each other.
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
        missing = [
            f"{path} ({'wrong checksum' if (root / path).exists() else 'missing'})"
            for path in dict(archives)
            if path not in intact
        ]
        advice = f"\nput there, or run again when online: {', '.join(missing)}" if missing else ""
        return ConfigError(message + advice)


class Mnist(Downloaded):
    loader = "MNIST"

    def _archives(self) -> list[tuple[str, str]]:
        return [(f"{self.loader}/raw/{file}", md5) for file, md5 in self._loader.resources]

    def _stage(self, archive: Path, staged: Path) -> None:
        from torchvision.datasets.utils import extract_archive  # a late import, since it takes a second

        extract_archive(archive, staged.parent)

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return part.data[:, None], part.targets


class FashionMnist(Mnist):
    loader = "FashionMNIST"
    # MD5 sums of the archives in Debian's package dataset-fashion-mnist, which have other gzip headers.
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


class Emnist(Downloaded):
    """The split "balanced" of EMNIST: digits and letters; 15 letters have one class for upper and lower case."""

    loader = "EMNIST"
    parts = ({"split": "balanced", "train": True}, {"split": "balanced", "train": False})

    def _archives(self) -> list[tuple[str, str]]:
        return [(f"{self.loader}/raw/gzip.zip", self._loader.md5)]

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return part.data.mT[:, None], part.targets  # the files hold columns first


class Cifar10(Downloaded):
    loader = "CIFAR10"

    def _archives(self) -> list[tuple[str, str]]:
        return [(self._loader.filename, self._loader.tgz_md5)]

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)


class Cifar100(Cifar10):
    loader = "CIFAR100"


class Svhn(Downloaded):
    loader = "SVHN"
    parts = ({"split": "train"}, {"split": "test"})

    def _archives(self) -> list[tuple[str, str]]:
        return [tuple(self._loader.split_list[part["split"]][1:]) for part in self.parts]

    def _arrays(self, part: Any) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(part.data), torch.from_numpy(part.labels)

    def _classes(self, part: Any) -> tuple[str, ...]:
        return tuple("0123456789")


@dataclass(frozen=True)
class ImageFolder(InOnePiece):
    """Image files under `root` with one folder per class, resized to squares.

    If there are `root/train` and `root/val` or `root/test`, each with the folders of all classes, they are the splits.
    `image_folder.SPLITS` has the names that they may have. Without `root/val`, `val_fraction` of the examples outside
    the test split validate; without `root/test`, `test_fraction` of the examples outside `root/val` is the test split.
    Folds need a folder without splits.

    Options:
        size: side in pixels to which images are resized.
        grayscale: whether images have one channel instead of three.
        stream: whether files are read again at every epoch; None does so if they need over a quarter of the memory.
        workers: number of processes that read files; 0 reads them in the process that trains.
        max_megapixels: the largest image that is read, in millions of pixels.
        on_error: "stop" at a file that cannot be read, or "skip" such files, for which all are read once more before
            training, as long as they are at most MAX_UNREADABLE of all.
    """

    root: str
    size: int
    grayscale: bool
    stream: bool | None
    workers: int
    max_megapixels: int
    on_error: Literal["stop", "skip"]

    place = "root"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.size <= MAX_SIDE, "dataset.size", self.size, f"from 1 to {MAX_SIDE} pixels")
        require(0 <= self.workers <= MAX_WORKERS, "dataset.workers", self.workers, f"from 0 to {MAX_WORKERS} processes")
        require(self.max_megapixels >= 1, "dataset.max_megapixels", self.max_megapixels, "1 or more")

    def require_place(self) -> None:
        require_folder(self.root)

    def read(self) -> Examples:
        from headtohead.training.image_folder import read_tree

        self.require_place()
        tree = read_tree(Path(self.root))
        if self.on_error == "skip":
            tree = self._readable(tree)
        paths = [path for files in tree.files.values() for path, _ in files]
        labels = torch.tensor([label for files in tree.files.values() for _, label in files])
        sizes = [len(files) for files in tree.files.values()]
        index = dict(zip(tree.files, torch.arange(len(paths)).split(sizes), strict=True))
        splits = [name for name in index if name]
        has_folds = f"null for {self.root}, which has splits of its own ({', '.join(splits)})"
        require(self.folds is None or not splits, "dataset.folds", self.folds, has_folds)
        test = index.get("test")
        if test is None:
            drawn_from = index["train"] if "train" in index else index[None]
            drawn = self._test_split(labels[drawn_from])
            test = None if drawn is None else drawn_from[drawn]
        return Examples(self._images(paths), labels, test, tree.classes, tree.skipped, index.get("val"))

    def _readable(self, tree: ImageTree) -> ImageTree:
        """Return the tree without the files that cannot be read."""
        paths = [path for files in tree.files.values() for path, _ in files]
        broken = {path: error for path, error in zip(paths, self._images(paths).errors(), strict=True) if error}
        if not broken:
            return tree
        path, error = next(iter(broken.items()))
        reason = str(error).rpartition(path)[2].lstrip(": ")
        example = f"{os.path.relpath(path, self.root)} ({reason})"
        found = f"{len(broken)} of {len(paths)} files cannot be read, such as {example}"
        accepted = f"accepted: at most {MAX_UNREADABLE:.0%} of them"
        require(len(broken) <= MAX_UNREADABLE * len(paths), "dataset.on_error", self.on_error, f"{found}; {accepted}")
        files = {split: [file for file in of_split if file[0] not in broken] for split, of_split in tree.files.items()}
        for of_split in files.values():
            lost = {*range(len(tree.classes))} - {label for _, label in of_split}
            empty = ", ".join(tree.classes[label] for label in sorted(lost))
            require(not lost, "dataset.on_error", self.on_error, f"{found}; they are all images of {empty} in a split")
        return replace(tree, files=files, skipped=(*tree.skipped, Skipped("unreadable", len(broken), example)))

    def _images(self, paths: list[str]) -> ImageFiles:
        from headtohead.training.image_files import ImageFiles

        shape = (1 if self.grayscale else 3, self.size, self.size)
        keep = None if self.stream is None else not self.stream
        return ImageFiles(paths, shape, self._pixels, keep, self.workers)

    def _pixels(self, path: str) -> Tensor:
        from headtohead.training import decoding

        try:
            image = decoding.read_picture(path, "L" if self.grayscale else "RGB", self.size, self.max_megapixels)
        except OSError as error:
            raise ConfigError(f"dataset.root={self.root}: {error}") from error
        resized = image.resize((self.size, self.size), decoding.Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized))
        return pixels.view(self.size, self.size, -1).permute(2, 0, 1)


@dataclass(frozen=True)
class _OfArrays(InOnePiece):
    """Arrays of the user's own, with their test split if they have one: see `arrays.examples_of`.

    Options:
        path: where the arrays come from.
    """

    path: str

    may_have_test_split = True

    def _split_as_asked(self, examples: Examples) -> Examples:
        """Return examples with the split that the options ask for."""
        if examples.test is None:
            either = f"5 or another number, or a dataset.test_fraction, for {self.path}, which has no X_test"
            require(self.folds is not None or self.test_fraction is not None, "dataset.folds", "null", either)
            return examples._replace(test=self._test_split(examples.labels, examples.groups))
        for key, value in (("folds", self.folds), ("test_fraction", self.test_fraction)):
            has_split = f"null for {self.path}, which has a test split of its own (X_test)"
            require(value is None, f"dataset.{key}", value, has_split)
        return examples


@dataclass(frozen=True)
class Arrays(_OfArrays):
    """Arrays in a file that `numpy.savez` wrote: X and y, and optionally the others of `places.NAMES`.

    Options:
        labels: y in a .npy file of its own where `path` is one with X, which need not fit into memory if it holds
            images of bytes; None for a .npz file.
    """

    labels: str | None

    place = "path"
    more_places = ("labels",)

    def require_place(self) -> None:
        require_arrays(self.path, self.labels)

    def read(self) -> Examples:
        from headtohead.training import arrays

        self.require_place()
        found = arrays.read_npz(self.path) if self.labels is None else arrays.read_npy(self.path, self.labels)
        return self._split_as_asked(arrays.examples_of(found, self.path))


@dataclass(frozen=True, eq=False)
class Factory(_OfArrays):
    """Arrays, a DataFrame or a dataset that a function of the user's own returns: see `factory.examples_of`.

    Options:
        path: "package.module:function", in a module that Python can import.
        options: keyword arguments of the function.
        workers: number of processes that read images which do not fit into memory; 0 reads them in the process that
            trains.
    """

    options: dict[str, Any]
    workers: int

    by_own_code = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.workers <= MAX_WORKERS, "dataset.workers", self.workers, f"from 0 to {MAX_WORKERS} processes")

    def require_place(self) -> None:
        require_function(self.path)

    def read(self) -> Examples:
        from headtohead.training import factory

        return self._split_as_asked(factory.examples_of(self.path, self.options, self.workers))

    # A dictionary has no hash, and to a function 1 and 1.0 may differ.
    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True)
class TableFile(InOnePiece):
    """A table in a file: a row per example, a column with its class, and columns of inputs.

    Options:
        path: a .csv, .tsv or .parquet file.
        target: the column of classes: text, whole numbers, or true and false.
        ignore: columns that are no inputs.
        split_column: a column that says train, val or test for each row, by a name of `image_folder.SPLITS`, in place
            of folds and of `test_fraction`; without val, `val_fraction` of the train rows validate. None draws the
            splits.
        test_path: a file of the same columns whose rows are the test split; None where `path` has all rows.
        groups: a column that says which rows belong together, such as those of one patient. No split, fold or block
            divides a group, and the column is no input. None without groups.
    """

    path: str
    target: str
    ignore: tuple[str, ...]
    split_column: str | None
    test_path: str | None
    groups: str | None

    place = "path"
    more_places = ("test_path",)
    may_have_test_split = True

    def __post_init__(self) -> None:
        super().__post_init__()
        key, split = "dataset.split_column", self.split_column
        require(self.target not in self.ignore, "dataset.ignore", [*self.ignore], f"holds the target {self.target}")
        other = f"another column than dataset.target={self.target} and those of dataset.ignore"
        require(split is None or split not in (self.target, *self.ignore), key, split, other)
        other = f"another column than dataset.target={self.target} and dataset.split_column={split}"
        require(self.groups is None or self.groups not in (self.target, split), "dataset.groups", self.groups, other)
        one = "accepted: null, as dataset.split_column has the test split"
        require(split is None or self.test_path is None, "dataset.test_path", self.test_path, one)
        given = {key: split, "dataset.test_path": self.test_path}
        given = [f"{name}={value}" for name, value in given.items() if value is not None]
        for name, value in (("folds", self.folds), ("test_fraction", self.test_fraction)):
            require(
                not given or value is None, f"dataset.{name}", value, f"null, as {''.join(given)} has the test split"
            )
        either = "5 or another number, a dataset.test_fraction, a dataset.split_column or a dataset.test_path"
        require(given or self.folds or self.test_fraction, "dataset.folds", "null", either)

    def require_place(self) -> None:
        require_table(self.path, "dataset.path")
        if self.test_path is not None:
            require_table(self.test_path, "dataset.test_path")

    def rows(self) -> tuple[pd.DataFrame, int]:
        """Read the rows of all files, those of `test_path` last, without the ignored columns.

        Returns:
            The rows, and the number of those before the rows of `test_path`.
        """
        from headtohead.training import table

        frame = table.read_frame(self.path)
        table.column(frame, "dataset.target", self.target, self.path)
        for name in self.ignore:
            require(name in frame, "dataset.ignore", name, f"no such column; {nearest(name, frame.columns)}")
        left_out = [name for name in self.ignore if name != self.groups]
        frame = frame.drop(columns=left_out)
        if self.test_path is None:
            return frame, len(frame)
        texts = [str(name) for name, values in frame.items() if table.kind(values) == "category"]
        test = table.read_frame(self.test_path, "dataset.test_path", texts)
        both = table.joined(frame, test.drop(columns=left_out, errors="ignore"), self.test_path)
        table.column(test, "dataset.target", self.target, self.test_path)
        return both, len(frame)

    def read(self) -> Examples:
        from headtohead.training import table

        frame, trained = self.rows()
        labels, classes = table.classes_of(frame.loc[:, self.target])
        val = groups = None
        if self.groups is not None:
            groups = table.numbered(table.column(frame, "dataset.groups", self.groups, self.path))
        if self.test_path is not None:
            table.require_trained(labels[:trained], classes, "dataset.test_path", self.test_path)
            test = torch.arange(trained, len(frame))
        elif self.split_column is None:
            test = self._test_split(labels, groups)
        else:
            splits = table.column(frame, "dataset.split_column", self.split_column, self.path)
            test, val = table.given_splits(splits, labels, classes)
        no_inputs = (self.target, self.split_column, self.groups)
        inputs = frame.loc[:, [name not in no_inputs for name in frame]]
        if self.split_column is None:
            table.refuse_splits(inputs)
        columns = table.encode(inputs, self.path)
        return Examples(columns.inputs, labels, test, classes, columns.skipped, val, groups, may_lack=True)


@dataclass(frozen=True)
class Gaussians(InOnePiece):
    """Isotropic Gaussians of unit variance around random means: a problem of known difficulty.

    Options:
        classes: number of classes.
        dimensions: number of features.
        separation: expected distance between the means of two classes, in standard deviations.
        examples: number of examples of all classes together, divided as evenly as possible.
        problem_seed: seed of the means and the examples, which do not depend on the seeds of runs.
    """

    classes: int
    dimensions: int
    separation: float
    examples: int
    problem_seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.classes <= MAX_CLASSES, "dataset.classes", self.classes, f"from 2 to {MAX_CLASSES}")
        require(self.dimensions >= 1, "dataset.dimensions", self.dimensions, "1 or more")
        require(0 <= self.separation < math.inf, "dataset.separation", self.separation, "finite, 0 or more")
        require(self.examples >= self.classes, "dataset.examples", self.examples, "at least one per class")
        require(self.problem_seed >= 0, "dataset.problem_seed", self.problem_seed, "0 or more")

    def read(self) -> Examples:
        require_memory(
            4 * self.examples * self.dimensions,
            torch.device("cpu"),
            "dataset.examples",
            f"{self.examples} dataset.dimensions={self.dimensions}",
        )
        stream = generator(self.problem_seed, "gaussians")
        means_KD = self._scale() * torch.randn(self.classes, self.dimensions, generator=stream)
        labels_N = torch.arange(self.examples) % self.classes
        inputs_ND = means_KD[labels_N] + torch.randn(self.examples, self.dimensions, generator=stream)
        return self._split(inputs_ND, labels_N, tuple(map(str, range(self.classes))))

    def _scale(self) -> float:
        """Return the standard deviation of a mean's coordinates that gives the expected distance between two means."""
        # The distance is sqrt(2) * scale times a chi variable of `dimensions` degrees of freedom.
        half = self.dimensions / 2
        chi = math.sqrt(2) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half))
        return self.separation / (math.sqrt(2) * chi)


@dataclass(frozen=True)
class Composite(Dataset):
    """Images of a base dataset side by side. Every combination of their classes is a class.

    Test composites consist of the base's test examples, all others of its other examples. A base without an official
    test split gets the fixed one of `test_fraction`. One image may occur both in training and in validation composites.

    Options:
        root: folder of a base that is downloaded.
        base: name of a dataset of images.
        images: number of images in a composite.
        train_examples: number of composites outside the test split, divided among classes as evenly as possible.
        test_examples: number of composites in the test split.
        problem_seed: seed of the choice of images, which does not depend on the seeds of runs.
        test_fraction: share of a base's examples in its test split, in (0, 1), if it has no official one.
    """

    test_fraction: float
    root: str
    base: str
    images: int
    train_examples: int
    test_examples: int
    problem_seed: int

    place = "root"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.base in COMPOSITE_BASES, "dataset.base", self.base, nearest(self.base, COMPOSITE_BASES))
        most = int(math.log2(MAX_CLASSES))
        require(1 <= self.images <= most, "dataset.images", self.images, f"from 1 to {most}")
        require(self.train_examples >= 2, "dataset.train_examples", self.train_examples, "2 or more")
        require(self.test_examples >= 1, "dataset.test_examples", self.test_examples, "1 or more")
        require(self.problem_seed >= 0, "dataset.problem_seed", self.problem_seed, "0 or more")
        require(not self.flip, "dataset.flip", self.flip, "must be false: mirroring changes the class")

    @property
    def white(self) -> int:
        return 16 if self.base == "digits" else 255

    def read(self) -> Examples:
        base_class = DATASETS[self.base]
        # A composite has no folds, since its examples share images.
        options: dict[str, Any] = {field.name: getattr(self, field.name, None) for field in fields(base_class)}
        base = base_class(**options).read()
        assert base.test is not None
        count = len(base.classes) ** self.images
        require(count <= MAX_CLASSES, "dataset.images", self.images, f"{count} classes, more than {MAX_CLASSES}")
        for key in ("train_examples", "test_examples"):
            examples = getattr(self, key)
            size = examples * self.images * math.prod(base.inputs.shape[1:])
            require_memory(size, torch.device("cpu"), f"dataset.{key}", examples)
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
        """Compose examples from the usable images: inputs (N, C, H, images * W) and labels (N,)."""
        count = len(base.classes) ** self.images
        rounds = [torch.randperm(count, generator=stream) for _ in range(math.ceil(examples / count))]
        labels_N = torch.cat(rounds)[:examples]
        parts = _combination(labels_N, len(base.classes), self.images)
        by_class = usable[base.labels[usable].argsort(stable=True)]
        size_K = base.labels[usable].bincount(minlength=len(base.classes))
        require(int(size_K.min()) >= 1, "dataset.base", self.base, "a base dataset that has all classes in both splits")
        start_K = size_K.cumsum(0) - size_K
        drawn = (torch.rand(parts.shape, generator=stream, dtype=torch.float64) * size_K[parts]).long()
        chosen = by_class[start_K[parts] + drawn]
        return torch.cat([base.inputs[column] for column in chosen.unbind(1)], dim=3), labels_N


def _combination(numbers_N: Tensor, base: int, length: int) -> Tensor:
    """Return the classes that each number encodes, (N, length): its digits in `base`, most significant first."""
    return numbers_N[:, None] // base ** torch.arange(length - 1, -1, -1) % base


def _intact(path: Path, md5: str) -> bool:
    """Return whether a file exists and has this MD5 sum."""
    from torchvision.datasets.utils import check_integrity  # a late import, since it takes a second

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
    "arrays": Arrays,
    "factory": Factory,
    "table": TableFile,
    "gaussians": Gaussians,
    "composite": Composite,
}

COMPOSITE_BASES = [name for name, kind in DATASETS.items() if issubclass(kind, Digits | Downloaded)]


def ood_dataset(dataset: Dataset) -> Dataset | None:
    """Return the dataset of OOD inputs that `dataset.ood` names, with the options of `dataset`.

    This is `dataset` itself if its inputs are to be permuted, and None without OOD inputs.

    Raises:
        ConfigError: there is no such dataset, or it needs options that `dataset` lacks.
    """
    if dataset.ood is None or dataset.ood == PERMUTED:
        return dataset if dataset.ood else None
    options = {**vars(dataset), "ood": None, "unknown_classes": 0}
    known = [PERMUTED] + [name for name, cls in DATASETS.items() if {f.name for f in fields(cls)} <= options.keys()]
    require(dataset.ood in known, "dataset.ood", dataset.ood, nearest(dataset.ood, known))
    cls = DATASETS[dataset.ood]
    values: dict[str, Any] = {field.name: options[field.name] for field in fields(cls)}
    return cls(**values)
