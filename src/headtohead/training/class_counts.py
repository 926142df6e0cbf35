"""How many examples of each class the splits of a study have.

Shape suffixes: N examples, K classes.
"""

from dataclasses import dataclass

from torch import Tensor

from headtohead.training.data import Dataset, Pool, view


@dataclass(frozen=True)
class ClassCounts:
    """Number of examples of each class in each split, which is the same for every seed.

    Training labels are counted without label noise.

    Attributes:
        classes: names of the classes.
        train, val, test: number of examples of each class, in the order of `classes`.
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
