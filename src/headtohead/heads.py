"""Output heads: what the logits of a classifier mean.

Shape suffixes: K classes; x any leading axes, such as (B,) examples or (R, B) runs and examples.

A head is small, stateless and final. To add one, write a class here, name it in HEADS and give it a
YAML file in configs/head; the tests that run over HEADS specify the rest.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headtohead.registry import require

# PyTorch's kernel for softmax over the last axis is slow where that is shorter than a vector register.
SHORT = 16


@dataclass(frozen=True)
class Head(ABC):
    """What the logits mean: the loss, the probabilities, the initial bias of the classifier.

    Options:
        label_smoothing: a in [0, 1); the targets are (1 - a) * onehot + a / K, for every head
            (Szegedy et al. 2016), so that their sum over classes is one.
        prior_bias: the initial bias of the classifier: "none" (zeros), "frequencies" (the bias at which
            the head's probabilities are the class frequencies of the training split; Lin et al. 2017,
            section 3.3, for the sigmoid) or "uniform" (the same for equal frequencies).
    """

    label_smoothing: float
    prior_bias: str

    def __post_init__(self):
        require(0 <= self.label_smoothing < 1, "head.label_smoothing", self.label_smoothing, "accepted: [0, 1)")
        choices = ("none", "frequencies", "uniform")
        require(self.prior_bias in choices, "head.prior_bias", self.prior_bias, f"accepted: {', '.join(choices)}")

    @abstractmethod
    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Training loss of each example, of shape x, in nats."""

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        """`loss`, with its gradient at the logits written to `gradient_xK`.

        A head may have a closed form, which saves what autograd spends on small tensors and keeps of large ones.
        """
        with torch.enable_grad():
            leaf_xK = logits_xK.detach().requires_grad_()
            loss_x = self.loss(leaf_xK, labels_x)
            gradient_xK.copy_(torch.autograd.grad(loss_x.sum(), leaf_xK)[0])
        return loss_x.detach()

    @abstractmethod
    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        """Logarithm of `probabilities`, finite wherever the logits are moderate; of shape xK."""

    @abstractmethod
    def activations(self, logits_xK: Tensor) -> Tensor:
        """The head's own outputs, in [0, 1]; their sum over classes need not be one."""

    @abstractmethod
    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        """The constant logits that minimise the expected loss where classes have the frequencies `prior_K`."""

    def probabilities(self, logits_xK: Tensor) -> Tensor:
        """Class probabilities, comparable across heads: rows sum to one. Of shape xK."""
        return self.log_probabilities(logits_xK).exp()

    def initial_bias(self, prior_K: Tensor) -> Tensor:
        """Initial bias of the classifier, of shape (K,), for the training split's class frequencies."""
        match self.prior_bias:
            case "none":
                return torch.zeros_like(prior_K)
            case "uniform":
                return self._prior_logits(torch.full_like(prior_K, 1 / len(prior_K)))
            case _:
                # A class without examples, or with all of them, would get an infinite bias.
                floor = prior_K[prior_K > 0].min() / 2
                return self._prior_logits(prior_K.clamp(floor, 1 - floor))

    def _subtract_targets(self, outputs_xK: Tensor, at_target_x1: Tensor, labels_x: Tensor) -> None:
        """Subtract the smoothed targets in place; `at_target_x1` is the output of the target minus one."""
        target_x1 = labels_x.unsqueeze(-1)
        # Close to one the output is rounded, and the difference from one would be lost.
        outputs_xK.scatter_(-1, target_x1, at_target_x1)
        if self.label_smoothing:
            outputs_xK.sub_(self.label_smoothing / outputs_xK.shape[-1])
            outputs_xK.scatter_add_(-1, target_x1, outputs_xK.new_tensor(self.label_smoothing).expand(target_x1.shape))


@dataclass(frozen=True)
class Softmax(Head):
    """Softmax with cross-entropy."""

    def loss(self, logits_xK, labels_x):
        return self._loss(log_softmax(logits_xK), labels_x)

    def loss_and_gradient(self, logits_xK, labels_x, gradient_xK):
        log_q_xK = log_softmax(logits_xK)
        at_target_x1 = log_q_xK.gather(-1, labels_x.unsqueeze(-1)).expm1_()
        self._subtract_targets(torch.exp(log_q_xK, out=gradient_xK), at_target_x1, labels_x)
        return self._loss(log_q_xK, labels_x)

    def _loss(self, log_q_xK: Tensor, labels_x: Tensor) -> Tensor:
        loss_x = -log_q_xK.gather(-1, labels_x.unsqueeze(-1)).squeeze(-1)
        if self.label_smoothing:
            loss_x = torch.lerp(loss_x, -log_q_xK.mean(-1), self.label_smoothing)
        return loss_x

    def log_probabilities(self, logits_xK):
        return log_softmax(logits_xK)

    def activations(self, logits_xK):
        return logits_xK.softmax(-1)

    def _prior_logits(self, prior_K):
        return prior_K.log()


@dataclass(frozen=True)
class Sigmoid(Head):
    """One sigmoid per class with binary cross-entropy.

    Options:
        reduction: the loss of an example is the "sum" or the "mean" over its classes. The mean is what
            `torch.nn.BCEWithLogitsLoss` does: it divides the gradient by K.
    """

    reduction: str

    def __post_init__(self):
        super().__post_init__()
        require(self.reduction in ("sum", "mean"), "head.reduction", self.reduction, "accepted: sum, mean")

    def loss(self, logits_xK, labels_x):
        # Binary cross-entropy is softplus(-z) at the target and softplus(z) elsewhere: no cancellation.
        target_x1 = labels_x.unsqueeze(-1)
        at_target_x1 = logits_xK.gather(-1, target_x1)
        loss_x = _softplus(logits_xK).scatter_(-1, target_x1, _softplus(-at_target_x1)).sum(-1)
        if self.label_smoothing:
            # The loss is linear in the targets y, through -y z.
            loss_x = loss_x + self.label_smoothing * (at_target_x1.squeeze(-1) - logits_xK.mean(-1))
        return loss_x / logits_xK.shape[-1] if self.reduction == "mean" else loss_x

    def loss_and_gradient(self, logits_xK, labels_x, gradient_xK):
        at_target_x1 = logits_xK.gather(-1, labels_x.unsqueeze(-1)).neg_().sigmoid_().neg_()
        self._subtract_targets(torch.sigmoid(logits_xK, out=gradient_xK), at_target_x1, labels_x)
        if self.reduction == "mean":
            gradient_xK.div_(logits_xK.shape[-1])
        return self.loss(logits_xK, labels_x)

    def log_probabilities(self, logits_xK):
        # sigma / sum(sigma), which stays finite where every sigma underflows.
        return log_softmax(F.logsigmoid(logits_xK))

    def activations(self, logits_xK):
        return logits_xK.sigmoid()

    def _prior_logits(self, prior_K):
        return prior_K.logit()


def log_softmax(logits_xK: Tensor) -> Tensor:
    """`logits_xK.log_softmax(-1)`, fast for few classes too."""
    if logits_xK.shape[-1] < SHORT:
        return logits_xK.movedim(-1, 0).log_softmax(0).movedim(0, -1)
    return logits_xK.log_softmax(-1)


def _softplus(z: Tensor) -> Tensor:
    # Beyond the threshold it is z, which would be wrong in double precision from the default threshold on.
    return F.softplus(z, threshold=40)


HEADS: dict[str, type[Head]] = {"softmax": Softmax, "sigmoid": Sigmoid}
