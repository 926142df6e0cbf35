"""Counts of the examples of each class in each split, and of test examples that a network may have seen.

Shape suffixes: N examples, K classes.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headtohead.late import torch
from headtohead.training.data import Dataset, Pool, in_parts, view
from headtohead.training.image_files import ImageFiles

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ClassCounts:
    """Number of examples of each class in each split, which is the same for every seed.

    Training labels are counted without label noise.

    Attributes:
        classes: names of the classes.
        train, val, test: number of examples of each class, in the order of `classes`. With folds, `train` and `val` are
            those of the first fold, and `test` those of all folds.
    """

    classes: tuple[str, ...]
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def class_counts(pool: Pool, dataset: Dataset) -> ClassCounts:
    """Count the examples of each class in each split of a dataset.

    Raises:
        ConfigError: there are too few examples for the splits.
    """

    def count(index_N: Tensor) -> tuple[int, ...]:
        return tuple(pool.labels[index_N].bincount(minlength=pool.num_classes).tolist())

    drawn = view(pool, dataset, seed=0)
    return ClassCounts(pool.classes, train=count(drawn.train), val=count(drawn.val), test=count(pool.test))


def seen_test_examples(pool: Pool) -> int:
    """Count the test examples whose inputs also occur outside the test split, so that a network may know them.

    With folds these are all examples that occur more than once. Files count as the same where their contents are.
    """
    others = pool.rest if pool.val is None else torch.cat([pool.rest, pool.val])
    tested, outside = digests(pool, [pool.test, others])
    known = Counter(outside)
    # With folds an example occurs outside the test split of its own fold as itself.
    return sum(known[row] > (pool.folds is not None) for row in tested)


def digests(pool: Pool, parts: Sequence[Tensor]) -> list[list[bytes]]:
    """Return for each part, indices into the pool, digests of its inputs, which are equal where the inputs are."""
    if isinstance(pool.inputs, torch.Tensor) or not pool.files:
        return [[*_rows(pool.inputs, part)] for part in parts]
    paths = [[pool.files[int(index)] for index in part] for part in parts]
    # Files of a size of their own need not be read.
    sizes = {path: os.stat(path).st_size for part in paths for path in part}
    count = Counter(sizes.values())
    known = {path: _digest(path) if count[size] > 1 else path.encode() for path, size in sizes.items()}
    return [[known[path] for path in part] for part in paths]


def _rows(inputs: Tensor | ImageFiles, index_N: Tensor) -> Iterator[bytes]:
    """Yield a digest of each example."""
    for part in in_parts(inputs, index_N):
        for row in part.flatten(1).cpu().numpy():
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
