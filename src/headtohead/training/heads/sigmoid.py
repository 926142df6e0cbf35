"""Heads on one sigmoid per class.

Shape suffixes: K classes; x any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headtohead.late import F, torch
from headtohead.options import require
from headtohead.training.classifiers import Classifier, LearntCosineClassifier
from headtohead.training.heads.head import Head, exp, is_used, log_shares, over_classes, softplus

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SigmoidPerClass(Head):
    """One sigmoid per class, whatever the loss."""

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_shares(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.sigmoid()

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.logit()

    def energy(self, logits_xK: Tensor) -> Tensor:
        return softplus(logits_xK).sum(-1)


@dataclass(frozen=True)
class Sigmoid(SigmoidPerClass):
    """One sigmoid per class with binary cross-entropy.

    Options:
        reduction: "sum" or "mean" of the loss over the classes. The mean is the default of
            `torch.nn.BCEWithLogitsLoss`: it divides the gradient by K.
        pos_weight: weight of the loss of a present class, as in `torch.nn.BCEWithLogitsLoss`; an absent class has the
            weight 1.
        smoothed_over: what label smoothing a moves the targets to: "classes" (a / K, so that they sum to one; timm's
            form) or "two" (a / 2 for each class, absent or present; Keras's form).
    """

    reduction: str
    pos_weight: float
    smoothed_over: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction in ("sum", "mean"), "head.reduction", self.reduction, "accepted: sum, mean")
        require(self.pos_weight > 0, "head.pos_weight", self.pos_weight, "must be above 0")
        choices = ("classes", "two")
        require(self.smoothed_over in choices, "head.smoothed_over", self.smoothed_over, "accepted: classes, two")

    def _share(self, num_classes: int) -> float:
        return 1 / (num_classes if self.smoothed_over == "classes" else 2)

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        target_x1 = labels_x.unsqueeze(-1)
        if self._is_weighted:
            return self._weighted_loss(logits_xK, self._targets(logits_xK, labels_x))
        return self._loss(logits_xK, -logits_xK.gather(-1, target_x1), target_x1)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        target_x1 = labels_x.unsqueeze(-1)
        if self._is_weighted:
            targets_xK = self._targets(logits_xK, labels_x)
            present_xK = torch.sigmoid(-logits_xK).mul_(-over_classes(self.pos_weight))
            torch.lerp(torch.sigmoid(logits_xK), present_xK, targets_xK, out=gradient_xK)
            if self.reduction == "mean":
                gradient_xK.div_(logits_xK.shape[-1])
            return self._weighted_loss(logits_xK, targets_xK)
        opposite_x1 = logits_xK.gather(-1, target_x1).neg_()
        missing_x1 = torch.sigmoid(opposite_x1).neg_()
        self._subtract_targets(torch.sigmoid(logits_xK, out=gradient_xK), missing_x1, target_x1)
        if self.reduction == "mean":
            gradient_xK.div_(logits_xK.shape[-1])
        return self._loss(logits_xK, opposite_x1, target_x1)

    def _loss(self, logits_xK: Tensor, opposite_x1: Tensor, target_x1: Tensor) -> Tensor:
        """Return the loss, given the logits of the target classes with the opposite sign."""
        # Binary cross-entropy is softplus(-z) at the target and softplus(z) elsewhere: no cancellation.
        loss_x = softplus(logits_xK).scatter_(-1, target_x1, softplus(opposite_x1)).sum(-1)
        if is_used(self.label_smoothing):
            # The loss is linear in the targets y, through -y z.
            added_x = logits_xK.sum(-1) * self._share(logits_xK.shape[-1])
            loss_x = loss_x - self.label_smoothing * (opposite_x1.squeeze(-1) + added_x)
        return loss_x / logits_xK.shape[-1] if self.reduction == "mean" else loss_x

    @property
    def _is_weighted(self) -> bool:
        return isinstance(self.pos_weight, torch.Tensor) or self.pos_weight != 1

    def _weighted_loss(self, logits_xK: Tensor, targets_xK: Tensor) -> Tensor:
        present_xK = over_classes(self.pos_weight) * softplus(-logits_xK)
        loss_x = torch.lerp(softplus(logits_xK), present_xK, targets_xK).sum(-1)
        return loss_x / logits_xK.shape[-1] if self.reduction == "mean" else loss_x


@dataclass(frozen=True)
class SigmoidCosine(Sigmoid):
    """One sigmoid per class with binary cross-entropy on cosine logits with a learnt temperature.

    The logits are the cosines of the features and each class's weights over a temperature, plus a bias; both are learnt
    (Zhai et al. 2023, "Sigmoid loss for language image pre-training", where one bias serves all classes).

    Options:
        temperature: temperature at the start, above zero.
    """

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "head.temperature", self.temperature, "must be above 0")

    @property
    def classifier(self) -> Classifier:
        return LearntCosineClassifier(self.temperature)


@dataclass(frozen=True)
class SigmoidNormalised(Head):
    """One sigmoid per class, normalised to probabilities q and trained by their negative log-likelihood.

    It differs from the sigmoid only in competition, and from softmax only in the link: the gradient is
    (q - y) * (1 - sigma), which vanishes where every sigma approaches one.
    """

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._cross_entropy(log_shares(logits_xK), labels_x)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        loss_x = self._cross_entropy_and_gradient(log_shares(logits_xK, out=gradient_xK), labels_x)
        gradient_xK.mul_(torch.sigmoid(-logits_xK))
        return loss_x

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_shares(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        # Only the ratios of the sigmoids are trained: a single sigmoid has no meaning.
        return exp(log_shares(logits_xK))

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        # Many logits give these shares. At those of the sigmoid head, the sigmoids themselves are the shares.
        return prior_K.logit()


@dataclass(frozen=True)
class SigmoidSquared(SigmoidPerClass):
    """One sigmoid per class with the squared error to its target, summed over classes.

    Its gradient 2 (sigma - y) sigma' vanishes where the sigmoid is confident and wrong, as is often claimed of binary
    cross-entropy.
    """

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._errors(logits_xK, labels_x).square().sum(-1)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        errors_xK = self._errors(logits_xK, labels_x)
        # A product of sigmoids, since 1 - sigma would be rounded where sigma approaches one.
        slope_xK = torch.sigmoid(-logits_xK).mul_(torch.sigmoid(logits_xK))
        torch.mul(errors_xK, slope_xK, out=gradient_xK).mul_(2)
        return errors_xK.square().sum(-1)

    def _errors(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        target_x1 = labels_x.unsqueeze(-1)
        # A copy, since autograd needs the outputs of the sigmoid.
        errors_xK = logits_xK.sigmoid().clone()
        self._subtract_targets(errors_xK, -torch.sigmoid(-logits_xK.gather(-1, target_x1)), target_x1)
        return errors_xK


@dataclass(frozen=True)
class SigmoidFocal(SigmoidPerClass):
    """One sigmoid per class with the focal loss, summed over classes, without class weights.

    The loss (Lin et al. 2017, "Focal loss for dense object detection") is not proper: at its minimum, sigma lies
    between the class frequency and one half. The prior bias is that of the paper's section 3.3, at which sigma is the
    frequency. A smoothed target weighs the losses of a present and an absent class, as in binary cross-entropy.

    Options:
        gamma: focusing parameter. The loss of a class whose target has the probability p is multiplied by
            (1 - p) ** gamma; 0 is binary cross-entropy.
    """

    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma >= 0, "head.gamma", self.gamma, "must not be below 0")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        targets_xK = self._targets(logits_xK, labels_x)
        return torch.lerp(self._if_present(-logits_xK), self._if_present(logits_xK), targets_xK).sum(-1)

    def _if_present(self, logits: Tensor) -> Tensor:
        """Return the loss of a present class; for an absent class, pass -z."""
        # (1 - sigma) ** gamma by exp, whose gradient stays finite where 1 - sigma underflows.
        return exp(-over_classes(self.gamma) * softplus(logits)) * softplus(-logits)


@dataclass(frozen=True)
class SigmoidAsymmetric(SigmoidPerClass):
    """One sigmoid per class with the asymmetric loss, summed over classes (Ridnik et al. 2021).

    It is a focal loss with a focusing parameter for present and one for absent classes, whose probability is shifted:
    an absent class with a probability below the clip has no loss. The loss is not proper; its prior bias is that of the
    sigmoid.

    Options:
        gamma_present: focusing parameter of the target class.
        gamma_absent: focusing parameter of the other classes.
        clip: what is subtracted from the probabilities of absent classes, in [0, 1).
    """

    gamma_present: float
    gamma_absent: float
    clip: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma_present >= 0, "head.gamma_present", self.gamma_present, "must not be below 0")
        require(self.gamma_absent >= 0, "head.gamma_absent", self.gamma_absent, "must not be below 0")
        require(0 <= self.clip < 1, "head.clip", self.clip, "accepted: [0, 1)")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        log_p_xK, log_q_xK = F.logsigmoid(logits_xK), F.logsigmoid(-logits_xK)
        present_xK = exp(over_classes(self.gamma_present) * log_q_xK) * log_p_xK
        shifted_xK = (exp(log_p_xK) - over_classes(self.clip)).clamp(min=0)
        clipped_xK = (exp(log_q_xK) + over_classes(self.clip)).clamp(max=1)
        # x ** gamma has no finite gradient at 0 for a gamma below 1, and none is needed: the loss is 0 there.
        tiny = torch.finfo(logits_xK.dtype).tiny
        focus_xK = exp(over_classes(self.gamma_absent) * shifted_xK.clamp(min=tiny).log())
        if not is_used(self.clip):
            clipped_log_xK = log_q_xK
        else:
            clipped_log_xK = clipped_xK.clamp(min=tiny).log()
        absent_xK = focus_xK * clipped_log_xK
        return -torch.lerp(absent_xK, present_xK, self._targets(logits_xK, labels_x)).sum(-1)
