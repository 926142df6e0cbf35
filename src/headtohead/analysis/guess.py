"""A guess that looks at no input, and which arms beat it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headtohead.analysis.statistics import Interval, t_interval
from headtohead.analysis.study import Study, by_seed
from headtohead.analysis.text import decimal, plus_minus

# Two-sided 95 % of a normal distribution.
QUANTILE = 1.96


@dataclass(frozen=True)
class Guess:
    """Metrics of a guess on the examples by which arms are compared.

    Attributes:
        split: "test", or "val" where the test set has not been read.
        accuracy: Share of the largest class, which is always named.
        accuracy_error: Standard error of the accuracy of a guess on so few examples; 0 where their number is unknown.
        balanced: Balanced accuracy of any guess.
        balanced_error: Standard error of it, likewise.
        nll: NLL of the shares of the classes as probabilities.
        known: Whether the number of examples of each class is known; else every class counts as equally large.
    """

    split: str
    accuracy: float
    accuracy_error: float
    balanced: float
    balanced_error: float
    nll: float
    known: bool

    @property
    def of_one_class(self) -> bool:
        """Whether all examples are of one class, so that the guess is always right."""
        return self.accuracy == 1

    @property
    def split_name(self) -> str:
        """Name of the split in a sentence."""
        return {"val": "validation"}.get(self.split, self.split)


def guess(study: Study, arm: str) -> Guess:
    """Return what a guess reaches on the data of an arm."""
    split = "test" if study.is_measured("test_accuracy") else "val"
    counts = study.class_counts(arm, split)
    counts_K = np.asarray(counts or [1] * study.record.num_classes[arm], dtype=float)
    counts_K = counts_K[counts_K > 0]
    share_K, classes = counts_K / counts_K.sum(), len(counts_K)
    largest = float(share_K.max())
    accuracy_error = math.sqrt(largest * (1 - largest) / counts_K.sum())
    balanced_error = math.sqrt((1 - 1 / classes) / classes * float((1 / counts_K).sum())) / classes
    return Guess(
        split=split,
        accuracy=largest,
        accuracy_error=accuracy_error if counts else 0.0,
        balanced=1 / classes,
        balanced_error=balanced_error if counts else 0.0,
        nll=float(-(share_K * np.log(share_K)).sum()),
        known=counts is not None,
    )


def beats_by_accuracy(study: Study, arm: str) -> bool:
    """Return whether an arm's accuracy is above that of a guess by more than its interval."""
    level = guess(study, arm)
    return _is_above(final_interval(study, arm, f"{level.split}_accuracy"), level.accuracy, level.accuracy_error)


def beats_a_guess(study: Study, arm: str) -> bool:
    """Return whether an arm beats a guess by accuracy or, as an arm may give up a large class, by balanced accuracy."""
    level = guess(study, arm)
    balanced = final_interval(study, arm, f"{level.split}_balanced_accuracy")
    return beats_by_accuracy(study, arm) or _is_above(balanced, level.balanced, level.balanced_error)


def final_interval(study: Study, arm: str, metric: str) -> Interval:
    """Return the mean and interval of a metric over the seeds of an arm's final runs; NaN where none has it."""
    runs = study.finite.loc[study.final.index]
    runs = runs.loc[runs.arm == arm]
    return t_interval(by_seed(runs, metric))


def nothing_to_recommend(study: Study, leader: str, arms: Sequence[str]) -> str | None:
    """Return a sentence on why no arm is worth using; None where one beats a guess.

    Args:
        leader: Arm that is the best on validation.
        arms: Arms with final runs.
    """
    if any(beats_a_guess(study, arm) for arm in arms):
        return None
    if (study.final.status == "diverged").all():
        return "Use none of the arms: every run to compare by diverged."
    level = guess(study, leader)
    if level.of_one_class:
        return f"Use none of the arms: a guess is always right, as all {level.split_name} examples are of one class."
    reached = plus_minus(final_interval(study, leader, f"{level.split}_accuracy"), 100, 2)
    which = "the largest class" if level.known else "one class"
    return (
        f"Use none of the arms: no arm is shown to beat a guess. Always naming {which} is right for "
        f"{decimal(100 * level.accuracy, 2)} % of the {level.split_name} examples, {leader} for {reached} %."
    )


def _is_above(reached: Interval, level: float, error: float) -> bool:
    """Return whether a mean is above a level by more than its interval over seeds and that over so few examples."""
    if math.isnan(reached.mean):
        return False
    half_width = 0.0 if math.isnan(reached.lower) else reached.half_width
    return reached.mean - math.hypot(half_width, QUANTILE * error) > level + 1e-9
