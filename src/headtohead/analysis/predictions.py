"""What runs said of the first examples of the test split, and what follows from it, as arrays.

N examples, K classes, T thresholds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

# Thresholds of a precision-recall curve; TensorBoard draws at most 127.
THRESHOLDS = 101


@dataclass(frozen=True)
class Predictions:
    """Of one run.

    Attributes:
        label: (N,) of each example.
        prediction: (N,) the class of the largest logit.
        activations: (N, K) the head's own outputs, in [0, 1].
    """

    label: np.ndarray
    prediction: np.ndarray
    activations: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Predictions":
        """From the arrays of a record.

        Raises:
            ValueError: they are not predictions.
        """
        names = ("label", "prediction", "activations")
        lacking = [name for name in names if name not in arrays]
        if lacking:
            raise ValueError(f"holds no {lacking[0]}")
        label, prediction, activations = (arrays[name] for name in names)
        if activations.ndim != 2 or not label.shape == prediction.shape == activations.shape[:1]:
            raise ValueError("its arrays do not belong together")
        if min(label.min(), prediction.min()) < 0 or max(label.max(), prediction.max()) >= activations.shape[1]:
            raise ValueError("its classes are not those of its activations")
        return cls(label, prediction, activations)


@dataclass(frozen=True)
class Picked:
    """Test examples to look at.

    Attributes:
        index: (N,) their places in the test split.
        inputs: (N, C, H, W) uint8 images, or (N, D) standardised features.
    """

    index: np.ndarray
    inputs: np.ndarray


def same_examples(runs: Iterable[Predictions]) -> bool:
    """Whether all runs were asked about the same examples, as they are unless a study sweeps datasets."""
    first, *others = runs
    return all(run.activations.shape == first.activations.shape and (run.label == first.label).all() for run in others)


def most_ambiguous(runs: Iterable[Predictions], count: int) -> np.ndarray:
    """Places of the examples whose two largest activations are closest, on average over the runs."""
    runs = list(runs)
    top = [np.partition(run.activations, -2, axis=1)[:, -2:] for run in runs]
    gap_N = np.mean([pair[:, 1] - pair[:, 0] for pair in top], axis=0)
    return np.argsort(gap_N, kind="stable")[:count]


def confusion(runs: Iterable[Predictions]) -> np.ndarray:
    """(K, K) how many examples of each label (row) were predicted as each class (column), over all runs."""
    counted = []
    for run in runs:
        classes = run.activations.shape[1]
        counted.append(np.bincount(run.label * classes + run.prediction, minlength=classes**2))
    return np.sum(counted, axis=0).reshape(classes, classes)


def above_thresholds(runs: Iterable[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """How many examples of a class, and of all others, have an activation of it that reaches each threshold.

    Returns:
        (K, T) each, over all runs, for THRESHOLDS thresholds that divide [0, 1] evenly, upwards.
    """
    counted = []
    for run in runs:
        classes = run.activations.shape[1]
        bin_NK = np.floor(run.activations.astype(float) * (THRESHOLDS - 1)).astype(int).clip(0, THRESHOLDS - 1)
        cell_NK = bin_NK + THRESHOLDS * np.arange(classes)
        is_label_NK = np.arange(classes) == run.label[:, None]
        counts = [
            np.bincount(cell_NK[chosen], minlength=classes * THRESHOLDS) for chosen in (is_label_NK, ~is_label_NK)
        ]
        counted.append(np.reshape(counts, (2, classes, THRESHOLDS)))
    total = np.sum(counted, axis=0)
    positives_KT, negatives_KT = total[..., ::-1].cumsum(-1)[..., ::-1]
    return positives_KT, negatives_KT


def pooled(histograms: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One histogram, edges and counts, of several: their values are taken as even within each bin."""
    histograms = [(np.asarray(edges, dtype=float), np.asarray(counts, dtype=float)) for edges, counts in histograms]
    lowest, highest = min(edges[0] for edges, _ in histograms), max(edges[-1] for edges, _ in histograms)
    grid = np.linspace(lowest, highest, max(len(edges) for edges, _ in histograms))
    below = sum(np.interp(grid, edges, np.r_[0, counts.cumsum()]) for edges, counts in histograms)
    return grid, np.diff(below)
