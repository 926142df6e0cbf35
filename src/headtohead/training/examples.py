"""Options common to all datasets, and the examples that a dataset reads.

Shape suffixes: N examples, K classes, D features, C channels, H height, W width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from headtohead.options import require

if TYPE_CHECKING:
    from torch import Tensor

    from headtohead.training.image_files import ImageFiles

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Skipped:
    """Files, folders or columns of a source that are left out for one reason.

    Attributes:
        reason: why, such as "hidden".
        count: how many.
        example: the path or the name of the first of them.
    """

    reason: str
    count: int
    example: str


class Examples(NamedTuple):
    """All examples of a dataset's source, on the CPU or in files."""

    inputs: Tensor | ImageFiles  # (N, D) float32 for tables, (N, C, H, W) uint8 for images; NaN only if `may_lack`
    labels: Tensor  # (N,) integers in [0, K)
    test: Tensor | None  # (N_test,) indices of the test split, the same for every seed; None: each seed draws folds
    classes: tuple[str, ...]  # K names
    skipped: tuple[Skipped, ...] = ()  # what the source has beside the examples
    val: Tensor | None = None  # (N_val,) indices of the validation split, for every seed; None: each seed draws its own
    groups: Tensor | None = None  # (N,) integers: the group of each example, which no split divides; None without
    may_lack: bool = False  # whether NaN in the inputs are missing values


@dataclass(frozen=True)
class Dataset(ABC):
    """Options common to all datasets, on the use of the examples outside the test split.

    A dataset that reads files names, as `place`, its option that says where they are, and as `more_places` the options
    that may name others.

    Options:
        train_size: number of training examples; None takes all that remain.
        val_fraction: share of the examples outside the test split that validate, in (0, 1).
        label_noise: share of the training labels that are replaced by another class, drawn uniformly, in [0, 1].
        imbalance: number of training examples of the first class per example of the last class, at least 1. Class c
            keeps n_0 * imbalance^(-c/(K-1)) examples (Cui et al. 2019); 1 keeps all.
        crop_padding: number of pixels by which training images are zero-padded before a random crop; 0 does not crop.
        flip: whether to mirror half of the training images, drawn anew at every epoch.
        ood: out-of-distribution inputs that confidence should tell from test inputs: "permuted" (test inputs with their
            features in another order), another dataset with inputs of the same shape, or None for no such metric.
        unknown_classes: classes that are kept out of training, and that confidence should tell from the others in the
            test: their names, or how many of the last ones; 0 keeps none out.
    """

    train_size: int | None
    val_fraction: float
    label_noise: float
    imbalance: float
    crop_padding: int
    flip: bool
    ood: str | None
    unknown_classes: int | tuple[str, ...]

    place: ClassVar[str | None] = None
    more_places: ClassVar[tuple[str, ...]] = ()
    by_own_code: ClassVar[bool] = False  # whether code of the user's makes the examples, which may change

    @property
    def white(self) -> int:
        """The largest value of a pixel of images."""
        return 255

    def __post_init__(self) -> None:
        if self.place is not None:
            where = getattr(self, self.place)
            accepted = "a folder" if self.place == "root" else "a file"
            require(where.strip() != "", f"dataset.{self.place}", repr(where), accepted)
        require(
            self.train_size is None or self.train_size >= 1,
            "dataset.train_size",
            self.train_size,
            "1 or more, or null for all that remain",
        )
        require(0 < self.val_fraction < 1, "dataset.val_fraction", self.val_fraction, "strictly between 0 and 1")
        require(0 <= self.label_noise <= 1, "dataset.label_noise", self.label_noise, "from 0 to 1")
        require(1 <= self.imbalance < math.inf, "dataset.imbalance", self.imbalance, "1 or more, and finite")
        unknown, accepted = self.unknown_classes, "0 or more, or a list of names"
        require(not isinstance(unknown, int) or unknown >= 0, "dataset.unknown_classes", unknown, accepted)
        require(self.crop_padding >= 0, "dataset.crop_padding", self.crop_padding, "0 or more pixels")

    def require_place(self) -> None:  # noqa: B027 most datasets have no place that must be there
        """Refuse files, folders and modules that are not there, before anything is read.

        Raises:
            ConfigError: with what is missing.
        """

    @abstractmethod
    def read(self) -> Examples:
        """Read or generate all examples. The result depends only on the options.

        Raises:
            ConfigError: the data is missing or damaged, or does not fit the options.
        """
