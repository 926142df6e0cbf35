"""Heads on the logits themselves.

Shape suffixes: K classes; x any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headtohead.late import torch
from headtohead.options import require
from headtohead.training.heads.head import Head, filled, over_classes

if TYPE_CHECKING:
    from torch import Tensor

# The least probability of a class, as a share of the equal one.
LEAST = 0.1


@dataclass(frozen=True)
class LinearSquared(Head):
    """The squared error of the logits to the targets, averaged over classes (Hui and Belkin 2021).

    At the minimum of its expectation a class with the probability p has the logit weight * target * p / (weight * p + 1
    - p). So probabilities follow from the logits, but for those outside of [0, target]; they are at least 0.1 / K, and
    divided by their sum.

    Options:
        weight: weight of the error of the labelled class, above zero; the paper's k.
        target: target of the labelled class, above zero; the paper's M.
    """

    weight: float
    target: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.weight > 0, "head.weight", self.weight, "must be above 0")
        require(self.target > 0, "head.target", self.target, "must be above 0")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        weight_xK, error_xK = self._weighted_errors(logits_xK, labels_x)
        return (weight_xK * error_xK.square()).mean(-1)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        weight_xK, error_xK = self._weighted_errors(logits_xK, labels_x)
        torch.mul(weight_xK, error_xK, out=gradient_xK)
        loss_x = (gradient_xK * error_xK).mean(-1)
        gradient_xK.mul_(2 / logits_xK.shape[-1])
        return loss_x

    def _weighted_errors(self, logits_xK: Tensor, labels_x: Tensor) -> tuple[Tensor, Tensor]:
        target_x1, one = labels_x.unsqueeze(-1), torch.ones_like(logits_xK)
        weight_xK = one.scatter(-1, target_x1, filled(over_classes(self.weight), logits_xK[..., :1]))
        return weight_xK, logits_xK - over_classes(self.target) * self._targets(logits_xK, labels_x)

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        weight, target = over_classes(self.weight), over_classes(self.target)
        share_xK = (logits_xK / target).clamp(0, 1)
        p_xK = (share_xK / (weight - (weight - 1) * share_xK)).clamp(min=LEAST / logits_xK.shape[-1])
        return (p_xK / p_xK.sum(-1, keepdim=True)).log()

    def activations(self, logits_xK: Tensor) -> Tensor:
        return self.probabilities(logits_xK)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return self.weight * self.target * prior_K / (self.weight * prior_K + 1 - prior_K)
