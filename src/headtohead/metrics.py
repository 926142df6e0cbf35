"""Metrics that mean the same for every head, from probabilities whose rows sum to one.

Shape suffixes: R runs, N examples, K classes.
"""

import math

import torch
from torch import Tensor

from headtohead.heads import Head

# An activation above this counts as the head's claim that the class is present.
ACTIVE = 0.5


def per_example(head: Head, logits_RNK: Tensor, labels_RN: Tensor) -> dict[str, Tensor]:
    """What each example contributes, each of shape (R, N); `summarise` makes metrics of it.

    `loss` is the head's own, without label smoothing's meaning changed: never compare it across heads.
    `nll` is in nats, `brier` is the squared distance between the probabilities and the one-hot label,
    in [0, 2] (Brier 1950).
    """
    log_probabilities_RNK = head.log_probabilities(logits_RNK)
    target_RN = log_probabilities_RNK.gather(-1, labels_RN.unsqueeze(-1)).squeeze(-1)
    probabilities_RNK = log_probabilities_RNK.exp()
    active_RN = (head.activations(logits_RNK) > ACTIVE).sum(-1)
    return {
        "loss": head.loss(logits_RNK, labels_RN),
        "accuracy": (logits_RNK.argmax(-1) == labels_RN).to(logits_RNK.dtype),
        "nll": -target_RN,
        "brier": probabilities_RNK.square().sum(-1) - 2 * target_RN.exp() + 1,
        "confidence": probabilities_RNK.amax(-1),
        "ambiguity/none": (active_RN == 0).to(logits_RNK.dtype),
        "ambiguity/several": (active_RN > 1).to(logits_RNK.dtype),
    }


def summarise(examples: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of each run, each of shape (R,), from what `per_example` returned for all N examples."""
    metrics = {name: value_RN.mean(-1) for name, value_RN in examples.items() if name != "confidence"}
    metrics["ece"] = calibration_error(examples["confidence"], examples["accuracy"])
    return metrics


def calibration_error(confidence_RN: Tensor, correct_RN: Tensor, bins: int = 15) -> Tensor:
    """Debiased expected calibration error of the top class, (R,), over bins of equal mass.

    The square root of the squared l2 calibration error less its plug-in bias (Kumar et al. 2019,
    "Verified uncertainty calibration", section 4.2), zero where the estimate falls below zero. With
    fewer than two examples per bin there are fewer bins.
    """
    num_examples = confidence_RN.shape[-1]
    bins = max(1, min(bins, num_examples // 2))
    order_RN = confidence_RN.argsort(dim=-1, stable=True)
    gaps_RN = (correct_RN - confidence_RN).gather(-1, order_RN)
    sorted_correct_RN = correct_RN.gather(-1, order_RN)
    square_R = torch.zeros_like(confidence_RN[..., 0])
    sizes = [len(part) for part in torch.arange(num_examples).tensor_split(bins)]
    for gap_Rn, hit_Rn in zip(gaps_RN.split(sizes, -1), sorted_correct_RN.split(sizes, -1), strict=True):
        size = gap_Rn.shape[-1]
        rate_R = hit_Rn.mean(-1)
        noise_R = rate_R * (1 - rate_R) / max(size - 1, 1)
        square_R += size / num_examples * (gap_Rn.mean(-1).square() - noise_R)
    return square_R.clamp(min=0).sqrt()


def of_a_guess(num_classes: int) -> dict[str, float]:
    """The metrics that a diverged run counts with: those of a uniform guess, which is calibrated."""
    return {
        "accuracy": 1 / num_classes,
        "nll": math.log(num_classes),
        "brier": 1 - 1 / num_classes,
        "ece": 0.0,
    }
