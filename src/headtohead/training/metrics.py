"""Metrics that are comparable across heads, since they use probabilities whose rows sum to one.

`per_example` reduces logits to a few values per example. All metrics are computed from these values, so that memory
grows with the number of examples, not with examples x classes.

Shape suffixes: R runs, N examples, K classes, T thresholds; x any leading axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from headtohead.late import torch
from headtohead.training.heads import Head
from headtohead.training.heads.head import exp

if TYPE_CHECKING:
    from torch import Tensor

# A class with an activation above this counts as active.
ACTIVE = 0.5
# Thresholds at which ambiguity is measured, and from which the shared threshold is chosen.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
# An activation p with p(1 - p) below this counts as saturated: it hardly depends on its logit.
SATURATED = 0.01
# Largest number of bins of the calibration error and the reliability diagram.
BINS = 15
# Number of classes in a block of `top_class`, and the number of classes from which on it looks at blocks.
BLOCK, MANY = 128, 2048

# Share of the most confident examples on which the selective accuracy is measured.
COVERAGE = 0.9
# Accuracy that decided examples are to have, for `decided_99`.
PRECISION = 0.99
# By how much the most frequent class must exceed the rarest one for thirds of the classes to have an accuracy.
UNEQUAL = 2

# Metrics that are followed during training, in the order of `summarise`.
FOLLOWED = ("loss", "accuracy", "nll", "brier", "ece", "ambiguity_none", "ambiguity_several")

# All metrics of a split, those of `summarise_fully` and the calibrated NLL of `evaluate`.
OF_A_SPLIT = (
    *FOLLOWED,
    *("macro_f1", "balanced_accuracy", "misclassification_auroc", "aurc", "ambiguity_error", "exact_match"),
    *("saturated", "binary_accuracy", "selective_accuracy", "decided_99", "decided_99_accuracy"),
    *("frequent_accuracy", "middle_accuracy", "rare_accuracy", "nll_calibrated", "ece_calibrated"),
)
# Scores that tell test inputs from others, by the name of their AUROC.
SCORES = ("auroc", "activation_auroc", "energy_auroc")

# Shifts of test inputs that are images; those of tables have the first alone.
SHIFTS = ("noise", "blur", "contrast")

# Values of each example, (R, N), by name.
PerExample: TypeAlias = "dict[str, Tensor]"


def recorded_metrics(is_image: bool, has_ood: bool, has_unknown: bool, test: bool) -> list[str]:
    """List the final metrics of a run, as `loop.train` returns them, without training.

    Args:
        is_image: whether the inputs are images.
        has_ood: whether the dataset names OOD inputs.
        has_unknown: whether classes are kept out of training.
        test: whether the run reads the test split.
    """
    names = [f"val_{name}" for name in OF_A_SPLIT]
    if test:
        shifts = SHIFTS if is_image else SHIFTS[:1]
        names += [f"test_{name}" for name in OF_A_SPLIT] + ["gap_accuracy", "gap_nll"]
        names += [*(f"shift_{kind}_accuracy" for kind in shifts), "shift_accuracy", "shift_nll"]
        names += [f"ood_{name}" for name in SCORES if has_ood]
        names += [f"unknown_{name}" for name in SCORES if has_unknown] + ["noise_fitted"]
    names += ["train_loss", "train_accuracy", "grad_norm_mean", "grad_norm_max", "grad_norm_cv"]
    names += ["grad_norm_logits_init", "grad_norm_backbone_init", "backbone_cv", "loss_spikes", "coupling", "row_sum"]
    return [*names, "hessian_eigenvalue", "edge_of_stability"]


def per_example(
    head: Head,
    logits_RNK: Tensor,
    labels_RN: Tensor,
    log_q_RNK: Tensor | None = None,
    score_RNK: Tensor | None = None,
) -> PerExample:
    """Return the values of each example from which metrics are computed, each of shape (R, N).

    `loss` is the head's own and not comparable across heads. `nll` is in nats. `brier` is the squared distance between
    the probabilities and the one-hot label, in [0, 2] (Brier 1950). `first` and `second` are the two largest
    activations, from which the ambiguity at any threshold follows.

    Args:
        log_q_RNK: logarithms of the predicted probabilities; None takes those of the head.
        score_RNK: scores of which the largest is that of the predicted class; None takes the logits.
    """
    log_probabilities_RNK = head.log_probabilities(logits_RNK) if log_q_RNK is None else log_q_RNK
    target_RN = log_probabilities_RNK.gather(-1, labels_RN.unsqueeze(-1)).squeeze(-1)
    probabilities_RNK = exp(log_probabilities_RNK)
    activations_RNK = head.activations(logits_RNK)
    first_RN, second_RN = activations_RNK.topk(2, dim=-1).values.unbind(-1)
    is_active_RNK = activations_RNK > ACTIVE
    is_found_RN = is_active_RNK.gather(-1, labels_RN.unsqueeze(-1)).squeeze(-1)
    mistakes_RN = is_active_RNK.sum(-1) + 1 - 2 * is_found_RN.long()
    prediction_RN = top_class(logits_RNK if score_RNK is None else score_RNK)
    return {
        "label": labels_RN,
        "prediction": prediction_RN,
        "accuracy": (prediction_RN == labels_RN).to(logits_RNK.dtype),
        "loss": head.loss(logits_RNK, labels_RN),
        "nll": -target_RN,
        "brier": probabilities_RNK.square().sum(-1) - 2 * target_RN.exp() + 1,
        "confidence": probabilities_RNK.amax(-1),
        "first": first_RN,
        "second": second_RN,
        "saturated": (activations_RNK * (1 - activations_RNK) < SATURATED).to(logits_RNK.dtype).mean(-1),
        "binary_accuracy": 1 - mistakes_RN.to(logits_RNK.dtype) / logits_RNK.shape[-1],
    }


def summarise(examples: PerExample) -> dict[str, Tensor]:
    """Return the metrics that are followed during training, each (R,)."""
    metrics = {name: examples[name].mean(-1) for name in ("loss", "accuracy", "nll", "brier")}
    metrics["ece"] = calibration_error(examples["confidence"], examples["accuracy"])
    metrics["ambiguity_none"] = (examples["first"] <= ACTIVE).to(examples["first"].dtype).mean(-1)
    metrics["ambiguity_several"] = (examples["second"] > ACTIVE).to(examples["first"].dtype).mean(-1)
    return metrics


@dataclass(frozen=True)
class Reference:
    """What metrics of a split take from other splits.

    Attributes:
        threshold_R: result of `best_threshold` on the validation split.
        decisive_R: result of `decisive_confidence` on the validation split.
        count_RK: number of training examples of each class.
    """

    threshold_R: Tensor
    decisive_R: Tensor
    count_RK: Tensor

    def part(self, runs_r: Tensor) -> Reference:
        """Return what belongs to some of the runs, given by their numbers."""
        return Reference(self.threshold_R[runs_r], self.decisive_R[runs_r], self.count_RK[runs_r])


def summarise_fully(examples: PerExample, reference: Reference) -> dict[str, Tensor]:
    """Return all metrics of finished runs, each (R,); NaN where a metric is not defined."""
    num_classes = reference.count_RK.shape[-1]
    correct_RN, confidence_RN = examples["accuracy"], examples["confidence"]
    ambiguous_RN = (examples["first"] <= ACTIVE) | (examples["second"] > ACTIVE)
    is_decided_RN = (confidence_RN >= reference.decisive_R.unsqueeze(-1)).to(correct_RN.dtype)
    return summarise(examples) | {
        "macro_f1": macro_f1(examples, num_classes),
        "balanced_accuracy": balanced_accuracy(examples, num_classes),
        "misclassification_auroc": auroc(confidence_RN, correct_RN > 0),
        "aurc": risk_coverage_area(confidence_RN, correct_RN),
        "ambiguity_error": ((1 - correct_RN) * ambiguous_RN).sum(-1) / ambiguous_RN.sum(-1),
        "exact_match": exact_match(examples, reference.threshold_R.unsqueeze(-1)).squeeze(-1),
        "saturated": examples["saturated"].mean(-1),
        "binary_accuracy": examples["binary_accuracy"].mean(-1),
        "selective_accuracy": selective_accuracy(confidence_RN, correct_RN),
        "decided_99": is_decided_RN.mean(-1),
        "decided_99_accuracy": (is_decided_RN * correct_RN).sum(-1) / is_decided_RN.sum(-1),
        **thirds(examples, reference.count_RK),
    }


def curves(examples: PerExample) -> list[dict[str, Any]]:
    """Return the curves of each run: a reliability diagram and the ambiguity at each threshold."""
    bins = _bins(examples["confidence"].shape[-1])
    order_RN = examples["confidence"].argsort(dim=-1, stable=True)
    confidence, accuracy = (
        [part.mean(-1) for part in examples[name].gather(-1, order_RN).tensor_split(bins, -1)]
        for name in ("confidence", "accuracy")
    )
    none = [(examples["first"] <= threshold).double().mean(-1) for threshold in THRESHOLDS]
    several = [(examples["second"] > threshold).double().mean(-1) for threshold in THRESHOLDS]
    confidence, accuracy, none, several = (
        torch.stack(values, -1).tolist() for values in (confidence, accuracy, none, several)
    )
    return [
        {
            "reliability": {"confidence": confidence[run], "accuracy": accuracy[run]},
            "ambiguity": {"threshold": list(THRESHOLDS), "none": none[run], "several": several[run]},
        }
        for run in range(len(confidence))
    ]


def best_threshold(examples: PerExample) -> Tensor:
    """Return the threshold at which the label is the only active class for most examples, (R,)."""
    thresholds_T = torch.tensor(THRESHOLDS, dtype=examples["first"].dtype, device=examples["first"].device)
    matches_RT = exact_match(examples, thresholds_T.expand(len(examples["first"]), -1))
    return thresholds_T[matches_RT.argmax(-1)]


def exact_match(examples: PerExample, thresholds_RT: Tensor) -> Tensor:
    """Return the share of examples whose label is the only active class, at thresholds for all classes, (R, T)."""
    shares = []
    for threshold_R1 in thresholds_RT.split(1, dim=-1):
        alone_RN = (examples["first"] > threshold_R1) & (examples["second"] <= threshold_R1)
        shares.append((alone_RN * examples["accuracy"]).mean(-1))
    return torch.stack(shares, -1)


def fit_temperature(log_probabilities_RNK: Tensor, labels_RN: Tensor, iterations: int = 30) -> Tensor:
    """Return the temperature t of each run, (R,), at which softmax(log q / t) has the lowest NLL (Guo et al. 2017).

    The method is Newton's on 1/t, in which the NLL is convex, with steps of at most a factor of two. t is limited to
    [1/20, 20], since it would go to zero for a run without errors.
    """
    log_q_RNK = log_probabilities_RNK.double()
    target_RN = log_q_RNK.gather(-1, labels_RN.unsqueeze(-1)).squeeze(-1)
    beta_R = torch.ones_like(log_q_RNK[:, 0, 0])
    for _ in range(iterations):
        p_RNK = (log_q_RNK * beta_R[:, None, None]).softmax(-1)
        mean_RN = (p_RNK * log_q_RNK).sum(-1)
        variance_RN = (p_RNK * log_q_RNK.square()).sum(-1) - mean_RN.square()
        gradient_R, curvature_R = (mean_RN - target_RN).mean(-1), variance_RN.mean(-1)
        step_R = gradient_R / curvature_R.clamp(min=1e-12)
        beta_R = (beta_R - step_R).clamp(beta_R / 2, beta_R * 2).clamp(1 / 20, 20)
    return (1 / beta_R).to(log_probabilities_RNK.dtype)


def top_class(logits_xK: Tensor) -> Tensor:
    """Return `logits_xK.argmax(-1)`, of shape x; it is fast for many classes too."""
    num_classes = logits_xK.shape[-1]
    if num_classes < MANY:
        return logits_xK.max(-1).indices  # in half the time of argmax
    # amax is many times as fast as both: find the first block with the largest logit, then the logit in the block.
    blocks, rest = divmod(num_classes, BLOCK)
    tops_xT = logits_xK[..., : blocks * BLOCK].unflatten(-1, (blocks, BLOCK)).amax(-1)
    if rest:
        tops_xT = torch.cat([tops_xT, logits_xK[..., -rest:].amax(-1, keepdim=True)], -1)
    # All blocks have one size, so that the last may overlap with the one before.
    start_x1 = (tops_xT.max(-1, keepdim=True).indices * BLOCK).clamp(max=num_classes - BLOCK)
    block_xB = logits_xK.gather(-1, start_x1 + torch.arange(BLOCK, device=logits_xK.device))
    return start_x1.squeeze(-1) + block_xB.max(-1).indices


def calibration_error(confidence_RN: Tensor, correct_RN: Tensor) -> Tensor:
    """Return the debiased expected calibration error of the top class, (R,), over 15 bins of equal mass.

    It is the square root of the squared l2 calibration error minus its plug-in bias (Kumar et al. 2019, "Verified
    uncertainty calibration", section 4.2), or zero if the estimate is negative. Each bin has two examples or more, so
    that few examples have fewer bins.
    """
    num_examples = confidence_RN.shape[-1]
    order_RN = confidence_RN.argsort(dim=-1, stable=True)
    gaps = (correct_RN - confidence_RN).gather(-1, order_RN).tensor_split(_bins(num_examples), -1)
    hits = correct_RN.gather(-1, order_RN).tensor_split(_bins(num_examples), -1)
    square_R = torch.zeros_like(confidence_RN[..., 0])
    for gap_Rn, hit_Rn in zip(gaps, hits, strict=True):
        size, rate_R = gap_Rn.shape[-1], hit_Rn.mean(-1)
        noise_R = rate_R * (1 - rate_R) / max(size - 1, 1)
        square_R += size / num_examples * (gap_Rn.mean(-1).square() - noise_R)
    return square_R.clamp(min=0).sqrt()


def auroc(score_RN: Tensor, positive_RN: Tensor) -> Tensor:
    """Return the area under the ROC curve, (R,): the probability that a positive scores above a negative.

    Ties count half. The result is NaN for a run whose examples are all positive or all negative.
    """
    sorted_RN = score_RN.contiguous().sort(dim=-1).values
    below_RN = torch.searchsorted(sorted_RN, score_RN.contiguous(), right=False)
    not_above_RN = torch.searchsorted(sorted_RN, score_RN.contiguous(), right=True)
    rank_RN = (below_RN + not_above_RN + 1).double() / 2
    positives_R = positive_RN.sum(-1).double()
    negatives_R = positive_RN.shape[-1] - positives_R
    wins_R = (rank_RN * positive_RN).sum(-1) - positives_R * (positives_R + 1) / 2
    return (wins_R / (positives_R * negatives_R)).to(score_RN.dtype)


def risk_coverage_area(confidence_RN: Tensor, correct_RN: Tensor) -> Tensor:
    """Return the mean error among the k most confident examples, averaged over all k, (R,) (Geifman et al. 2019)."""
    order_RN = confidence_RN.argsort(dim=-1, descending=True, stable=True)
    errors_RN = (1 - correct_RN).gather(-1, order_RN).cumsum(-1)
    return (errors_RN / torch.arange(1, errors_RN.shape[-1] + 1, device=errors_RN.device)).mean(-1)


def selective_accuracy(confidence_RN: Tensor, correct_RN: Tensor) -> Tensor:
    """Return the accuracy of the 90 % most confident examples, (R,)."""
    count = max(1, round(COVERAGE * correct_RN.shape[-1]))
    order_RN = confidence_RN.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return correct_RN.gather(-1, order_RN).mean(-1)


def decisive_confidence(examples: PerExample) -> Tensor:
    """Return the lowest confidence from which on 99 % of the predictions are correct, (R,); infinity if there is none.

    Examples of equal confidence are decided together.
    """
    confidence_RN, order_RN = examples["confidence"].sort(dim=-1, descending=True, stable=True)
    correct_RN = examples["accuracy"].gather(-1, order_RN).cumsum(-1)
    counts_N = torch.arange(1, correct_RN.shape[-1] + 1, device=correct_RN.device)
    is_last_RN = torch.ones_like(confidence_RN, dtype=torch.bool)
    is_last_RN[..., :-1] = confidence_RN[..., :-1] > confidence_RN[..., 1:]
    reaches_RN = is_last_RN & (correct_RN >= PRECISION * counts_N - 1e-6)
    return confidence_RN.masked_fill(~reaches_RN, math.inf).amin(-1)


def thirds(examples: PerExample, count_RK: Tensor) -> dict[str, Tensor]:
    """Return the mean recall of the most frequent, the middle and the rarest third of the classes in training, (R,).

    They are NaN where the most frequent class has less than twice the examples of the rarest, or none of the test
    examples is of the third.
    """
    true_RK, _, hit_RK = _counts(examples, count_RK.shape[-1])
    order_RK = count_RK.argsort(dim=-1, descending=True, stable=True)
    true_RK, hit_RK = true_RK.gather(-1, order_RK), hit_RK.gather(-1, order_RK)
    is_unequal_R = count_RK.amax(-1) >= UNEQUAL * count_RK.amin(-1)
    result = {}
    names = ("frequent_accuracy", "middle_accuracy", "rare_accuracy")
    parts = zip(names, true_RK.tensor_split(3, -1), hit_RK.tensor_split(3, -1), strict=True)
    for name, true_Rk, hit_Rk in parts:
        recall_R = (hit_Rk / true_Rk.clamp(min=1)).sum(-1) / (true_Rk > 0).sum(-1)
        result[name] = recall_R.masked_fill(~is_unequal_R, math.nan)
    return result


def scores(head: Head, logits_RNK: Tensor, log_q_RNK: Tensor) -> dict[str, Tensor]:
    """Return scores of examples that are high for inputs like those of training, each (R, N), by their name in SCORES.

    They are the confidence (Hendrycks and Gimpel 2017), the head's own largest activation, and its energy.
    """
    others_RNK = log_q_RNK.scatter(-1, top_class(log_q_RNK).unsqueeze(-1), -torch.inf)
    logits_RNK = logits_RNK.double()
    return {
        # -log(1 - x), which orders examples whose confidence or activation x rounds to one.
        "auroc": -others_RNK.logsumexp(-1),
        "activation_auroc": -torch.log1p(-head.activations(logits_RNK).amax(-1)),
        "energy_auroc": head.energy(logits_RNK),
    }


def macro_f1(examples: PerExample, num_classes: int) -> Tensor:
    """Return the mean F1 of the classes that occur among labels or predictions, (R,)."""
    true_RK, predicted_RK, hit_RK = _counts(examples, num_classes)
    occurs_RK = true_RK + predicted_RK
    return (2 * hit_RK / occurs_RK.clamp(min=1)).sum(-1) / (occurs_RK > 0).sum(-1)


def balanced_accuracy(examples: PerExample, num_classes: int) -> Tensor:
    """Return the mean recall of the classes that occur among the labels, (R,)."""
    true_RK, _, hit_RK = _counts(examples, num_classes)
    return (hit_RK / true_RK.clamp(min=1)).sum(-1) / (true_RK > 0).sum(-1)


def chance_level(num_classes: int) -> dict[str, float]:
    """Return the metrics of a uniform guess, which is calibrated. A diverged run counts with them.

    The macro F1 is that on classes of equal size, which is the highest that such a guess can expect.
    """
    return {
        "accuracy": 1 / num_classes,
        "balanced_accuracy": 1 / num_classes,
        "macro_f1": 1 / num_classes,
        "nll": math.log(num_classes),
        "brier": 1 - 1 / num_classes,
        "ece": 0.0,
        "ece_calibrated": 0.0,
        "nll_calibrated": math.log(num_classes),
        "selective_accuracy": 1 / num_classes,
        "decided_99": 0.0,
    }


def _bins(num_examples: int) -> int:
    return max(1, min(BINS, num_examples // 2))


def _counts(examples: PerExample, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count the examples of each class, (R, K): those with the label, with the prediction, and with both."""
    correct_RN = examples["accuracy"]
    zeros_RK = correct_RN.new_zeros(len(correct_RN), num_classes)
    ones_RN = torch.ones_like(correct_RN)
    label_RN, prediction_RN = examples["label"].expand(correct_RN.shape), examples["prediction"]
    return (
        zeros_RK.scatter_add(1, label_RN, ones_RN),
        zeros_RK.scatter_add(1, prediction_RN, ones_RN),
        zeros_RK.scatter_add(1, label_RN, correct_RN),
    )
