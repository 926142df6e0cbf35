"""Predictions of runs on the first examples of the test split, and counts that follow from them.

N examples, K classes, T thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from headtohead.late import pd

# Number of thresholds of a precision-recall curve; TensorBoard draws at most 127.
NUM_THRESHOLDS = 101


@dataclass(frozen=True)
class Predictions:
    """Predictions of one run.

    Attributes:
        label: Class of each example, (N,).
        prediction: Class of each example's largest logit, (N,).
        activations: Outputs of the head's own activation function, in [0, 1], (N, K).
        example: Number of each example in the dataset, (N,), none of them twice; its position in the test split in
            records of older releases.
    """

    label: np.ndarray
    prediction: np.ndarray
    activations: np.ndarray
    example: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Predictions:
        """Build predictions from the arrays of a record.

        Raises:
            ValueError: the arrays are no predictions.
        """
        names = ("label", "prediction", "activations")
        lacking = [name for name in names if name not in arrays]
        if lacking:
            raise ValueError(f"holds no {lacking[0]}")
        label, prediction, activations = (arrays[name] for name in names)
        _require_kinds("label", label, "iu")
        _require_kinds("prediction", prediction, "iu")
        _require_kinds("activations", activations, "f")
        if activations.ndim != 2 or not label.shape == prediction.shape == activations.shape[:1]:
            raise ValueError("the shapes of its arrays do not match")
        if not len(label) or activations.shape[1] < 2:
            raise ValueError("holds no example, or a single class")
        if min(label.min(), prediction.min()) < 0 or max(label.max(), prediction.max()) >= activations.shape[1]:
            raise ValueError("it has classes beyond those of its activations")
        example = arrays.get("example", np.arange(len(label)))
        _require_kinds("example", example, "iu")
        if example.shape != label.shape or example.min() < 0 or len(np.unique(example)) < len(example):
            raise ValueError("example: must be a number from 0 on for each example, none of them twice")
        # Counts of pairs of classes would overflow in short integers.
        return cls(label.astype(np.int64), prediction.astype(np.int64), activations, example.astype(np.int64))


@dataclass(frozen=True)
class ShownExamples:
    """Test examples that a report shows.

    Attributes:
        example: Number of each example, as that of `Predictions`, (N,).
        inputs: Images as uint8, (N, C, H, W), or standardised features, (N, D).
    """

    example: np.ndarray
    inputs: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> ShownExamples:
        """Build examples from the arrays of examples.npz.

        Raises:
            ValueError: the arrays are no examples.
        """
        # Older releases called it index.
        arrays = {"example": arrays["index"], **arrays} if "index" in arrays else arrays
        lacking = [name for name in ("example", "inputs") if name not in arrays]
        if lacking:
            raise ValueError(f"holds no {lacking[0]}")
        example, inputs = arrays["example"], arrays["inputs"]
        _require_kinds("example", example, "iu")
        _require_kinds("inputs", inputs, "iuf")
        if example.ndim != 1 or inputs.ndim not in (2, 4) or len(inputs) != len(example) or not inputs.size:
            raise ValueError("the shapes of its arrays do not match")
        if example.min() < 0:
            raise ValueError("example: has numbers below 0")
        return cls(example, inputs)


def _require_kinds(name: str, array: np.ndarray, kinds: str) -> None:
    """Refuse an array of another kind of numbers, or with one that is not finite."""
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name}: holds {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: holds numbers that are not finite")


def same_examples(runs: Iterable[Predictions]) -> bool:
    """Return whether examples of one number are the same to all runs, as they are unless a study sweeps datasets."""
    runs = list(runs)
    labels = pd.concat([pd.DataFrame({"example": run.example, "label": run.label}) for run in runs])
    same_classes = len({run.activations.shape[1] for run in runs}) == 1
    return same_classes and not (labels.groupby("example").label.nunique() > 1).any()


def most_ambiguous(runs: Iterable[Predictions], count: int) -> np.ndarray:
    """Return the numbers of the `count` examples whose two largest activations are closest, on average over runs."""
    gaps = []
    for run in runs:
        top_two_N2 = np.partition(run.activations, -2, axis=1)[:, -2:]
        gaps.append(pd.DataFrame({"example": run.example, "gap": top_two_N2[:, 1] - top_two_N2[:, 0]}))
    mean = pd.concat(gaps).groupby("example", as_index=False).gap.mean()
    return pd.DataFrame(mean).sort_values(["gap", "example"]).example.to_numpy()[:count]


def confusion_counts(runs: Iterable[Predictions]) -> np.ndarray:
    """Count the examples of each label (row) that are predicted as each class (column), (K, K), over all runs."""
    counts, classes = [], 0
    for run in runs:
        classes = run.activations.shape[1]
        counts.append(np.bincount(run.label * classes + run.prediction, minlength=classes**2))
    return np.sum(counts, axis=0).reshape(classes, classes)


def above_thresholds(runs: Iterable[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """Count the examples of a class, and those of all others, whose activation of it reaches each threshold.

    Returns:
        Both counts, (K, T), over all runs. The thresholds divide [0, 1] evenly, upwards from zero.
    """
    counts = []
    for run in runs:
        classes = run.activations.shape[1]
        bin_NK = np.floor(run.activations.astype(float) * (NUM_THRESHOLDS - 1)).astype(int).clip(0, NUM_THRESHOLDS - 1)
        cell_NK = bin_NK + NUM_THRESHOLDS * np.arange(classes)
        is_label_NK = np.arange(classes) == run.label[:, None]
        size = classes * NUM_THRESHOLDS
        both = [np.bincount(cell_NK[chosen], minlength=size) for chosen in (is_label_NK, ~is_label_NK)]
        counts.append(np.reshape(both, (2, classes, NUM_THRESHOLDS)))
    total = np.sum(counts, axis=0)
    positives_KT, negatives_KT = total[..., ::-1].cumsum(-1)[..., ::-1]
    return positives_KT, negatives_KT


def pooled(histograms: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Merge histograms, each as edges and counts, into one; values are taken as even within a bin."""
    histograms = [(np.asarray(edges, dtype=float), np.asarray(counts, dtype=float)) for edges, counts in histograms]
    lowest, highest = min(edges[0] for edges, _ in histograms), max(edges[-1] for edges, _ in histograms)
    grid = np.linspace(lowest, highest, max(len(edges) for edges, _ in histograms))
    below = np.sum([np.interp(grid, edges, np.r_[0, counts.cumsum()]) for edges, counts in histograms], axis=0)
    return grid, np.diff(below)
