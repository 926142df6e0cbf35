"""Balance of unequal classes: what the options of heads for it do with the class frequencies of the training split.

Shape suffixes: R runs, K classes; x any further axes, such as the examples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headtohead.training.heads import Head
from headtohead.training.heads.head import bounded


@dataclass(frozen=True)
class Balance:
    """Constants of the runs of a pack; None where no run uses them.

    Attributes:
        in_loss_RK: what the loss adds to the logits.
        in_prediction_RK: what a prediction adds to the logarithms of the probabilities.
        weight_RK: weight of the loss of an example of each class.
    """

    in_loss_RK: Tensor | None
    in_prediction_RK: Tensor | None
    weight_RK: Tensor | None

    @classmethod
    def of(cls, heads: Sequence[Head], counts_RK: Tensor, like: Tensor) -> Balance:
        """Compute the constants from the number of training examples of each class, with the type of `like`."""
        by_name = {
            "in_loss_RK": [_in_loss(head, count_K) for head, count_K in zip(heads, counts_RK, strict=True)],
            "in_prediction_RK": [_in_prediction(head, count_K) for head, count_K in zip(heads, counts_RK, strict=True)],
            "weight_RK": [_weights(head, count_K) for head, count_K in zip(heads, counts_RK, strict=True)],
        }
        neutral = {"in_loss_RK": 0.0, "in_prediction_RK": 0.0, "weight_RK": 1.0}
        used = {}
        for name, rows in by_name.items():
            filled = [torch.full_like(counts_RK[0], neutral[name]) if row is None else row for row in rows]
            used[name] = torch.stack(filled).to(like) if any(row is not None for row in rows) else None
        return cls(**used)

    def part(self, runs: slice) -> Balance:
        """Return the constants of some of the runs."""
        return Balance(
            **{name: value_RK if value_RK is None else value_RK[runs] for name, value_RK in vars(self).items()}
        )

    @property
    def changes_loss(self) -> bool:
        """Whether the loss of a run is another one than that of its head."""
        return self.in_loss_RK is not None or self.weight_RK is not None

    def to_loss(self, logits_RxK: Tensor) -> Tensor:
        """Return the logits that the loss reads."""
        return logits_RxK if self.in_loss_RK is None else logits_RxK + self._along(self.in_loss_RK, logits_RxK)

    def predicted(self, log_q_RxK: Tensor) -> Tensor:
        """Return the logarithms of the predicted probabilities, given those of the head's."""
        if self.in_prediction_RK is None:
            return log_q_RxK
        return (log_q_RxK + self._along(self.in_prediction_RK, log_q_RxK)).log_softmax(-1)

    def scores(self, logits_RxK: Tensor, log_q_RxK: Tensor) -> Tensor:
        """Return scores of which the largest is that of the predicted class, given `predicted`.

        They are the logits of runs whose predictions are not adjusted, since different logits may give equal
        probabilities.
        """
        if self.in_prediction_RK is None:
            return logits_RxK
        is_adjusted_R1 = self.in_prediction_RK.any(-1, keepdim=True)
        return torch.where(self._along(is_adjusted_R1, logits_RxK), log_q_RxK, logits_RxK)

    def weights(self, labels_Rx: Tensor) -> Tensor | None:
        """Return the weight of each example's loss; None where all are 1."""
        return None if self.weight_RK is None else self.weight_RK.gather(1, labels_Rx.flatten(1)).view(labels_Rx.shape)

    @staticmethod
    def _along(constant_RK: Tensor, like_RxK: Tensor) -> Tensor:
        shape = (len(constant_RK), *[1] * (like_RxK.ndim - 2), constant_RK.shape[1])
        return constant_RK.view(shape)


def _in_loss(head: Head, count_K: Tensor) -> Tensor | None:
    return head.tau * head.logits_of(count_K / count_K.sum()) if head.adjustment == "loss" else None


def _in_prediction(head: Head, count_K: Tensor) -> Tensor | None:
    return -head.tau * bounded(count_K / count_K.sum()).log() if head.adjustment == "posthoc" else None


def _weights(head: Head, count_K: Tensor) -> Tensor | None:
    if head.class_weights == "none":
        return None
    number_K = count_K
    if head.class_weights == "effective":
        # 1 - beta ** n, of which no digit is lost near a beta of 1.
        number_K = -torch.expm1(count_K * math.log(head.beta)) / (1 - head.beta) if head.beta else count_K.clamp(max=1)
    weight_K = torch.where(count_K > 0, 1 / number_K.clamp(min=1), 0.0)
    return weight_K * count_K.sum() / (weight_K * count_K).sum()
