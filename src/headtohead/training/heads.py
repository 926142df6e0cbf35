"""Output heads: what the logits of a classifier mean.

Shape suffixes: K classes; x any leading axes, such as (B,) examples or (R, B) runs and examples.

A head is small, stateless and final. To add one, write a class here, name it in HEADS and give it a
YAML file in configs/head; the tests that run over HEADS specify the rest.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headtohead.options import require
from headtohead.training.classifiers import Classifier, CosineClassifier, LinearClassifier

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

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "head.label_smoothing", self.label_smoothing, "accepted: [0, 1)")
        choices = ("none", "frequencies", "uniform")
        require(self.prior_bias in choices, "head.prior_bias", self.prior_bias, f"accepted: {', '.join(choices)}")

    @property
    def classifier(self) -> Classifier:
        """Kind of the last layer whose logits the head reads."""
        return LinearClassifier()

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
        """Constant logits at which `probabilities` are the class frequencies `prior_K`.

        Where the loss is proper they also minimise the expected loss.
        """

    def probabilities(self, logits_xK: Tensor) -> Tensor:
        """Class probabilities, comparable across heads: rows sum to one. Of shape xK."""
        return exp(self.log_probabilities(logits_xK))

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

    def _cross_entropy(self, log_q_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Of each example, of shape x, from log-probabilities to the smoothed targets."""
        loss_x = -log_q_xK.gather(-1, labels_x.unsqueeze(-1)).squeeze(-1)
        if self.label_smoothing:
            loss_x = torch.lerp(loss_x, -log_q_xK.mean(-1), self.label_smoothing)
        return loss_x

    def _cross_entropy_and_gradient(self, log_q_xK: Tensor, labels_x: Tensor) -> Tensor:
        """`_cross_entropy`, with q less the smoothed targets written over `log_q_xK`."""
        loss_x = self._cross_entropy(log_q_xK, labels_x)
        at_target_x1 = log_q_xK.gather(-1, labels_x.unsqueeze(-1)).expm1_()
        self._subtract_targets(exp(log_q_xK, out=log_q_xK), at_target_x1, labels_x)
        return loss_x

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

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._cross_entropy(log_softmax(logits_xK), labels_x)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        return self._cross_entropy_and_gradient(log_softmax(logits_xK, out=gradient_xK), labels_x)

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_softmax(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.softmax(-1)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.log()


@dataclass(frozen=True)
class SoftmaxCosine(Softmax):
    """Softmax with cross-entropy on the cosines of the features and each class's weights over a temperature
    (Kornblith et al. 2021, "Why do better loss functions lead to less transferable features?").

    The classifier makes these logits; its bias, which the paper leaves out, is added to them.

    Options:
        temperature: above zero; the lower, the surer the probabilities can be.
    """

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "head.temperature", self.temperature, "must be above 0")

    @property
    def classifier(self) -> Classifier:
        return CosineClassifier(self.temperature)


@dataclass(frozen=True)
class Sigmoid(Head):
    """One sigmoid per class with binary cross-entropy.

    Options:
        reduction: the loss of an example is the "sum" or the "mean" over its classes. The mean is what
            `torch.nn.BCEWithLogitsLoss` does: it divides the gradient by K.
    """

    reduction: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction in ("sum", "mean"), "head.reduction", self.reduction, "accepted: sum, mean")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        # Binary cross-entropy is softplus(-z) at the target and softplus(z) elsewhere: no cancellation.
        target_x1 = labels_x.unsqueeze(-1)
        at_target_x1 = logits_xK.gather(-1, target_x1)
        loss_x = _softplus(logits_xK).scatter_(-1, target_x1, _softplus(-at_target_x1)).sum(-1)
        if self.label_smoothing:
            # The loss is linear in the targets y, through -y z.
            loss_x = loss_x + self.label_smoothing * (at_target_x1.squeeze(-1) - logits_xK.mean(-1))
        return loss_x / logits_xK.shape[-1] if self.reduction == "mean" else loss_x

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        at_target_x1 = logits_xK.gather(-1, labels_x.unsqueeze(-1)).neg_().sigmoid_().neg_()
        self._subtract_targets(torch.sigmoid(logits_xK, out=gradient_xK), at_target_x1, labels_x)
        if self.reduction == "mean":
            gradient_xK.div_(logits_xK.shape[-1])
        return self.loss(logits_xK, labels_x)

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_shares(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.sigmoid()

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.logit()


@dataclass(frozen=True)
class SigmoidNormalised(Head):
    """One sigmoid per class, normalised to probabilities q and trained by their negative log-likelihood.

    What separates it from the sigmoid is competition alone, and from softmax the link: the gradient is
    (q - y) * (1 - sigma), so that it vanishes where every sigma nears one.
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
        # Only the ratios of the sigmoids are trained: none has a meaning of its own.
        return exp(log_shares(logits_xK))

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        # Of the many with these shares those of the sigmoid head, where the shares are the sigmoids.
        return prior_K.logit()


@dataclass(frozen=True)
class SigmoidSquared(Head):
    """One sigmoid per class with the squared error to its target, summed over classes.

    Its gradient 2 (sigma - y) sigma' vanishes where the sigmoid is sure, and wrong: what is often said of
    binary cross-entropy.
    """

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._errors(logits_xK, labels_x).square().sum(-1)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        errors_xK = self._errors(logits_xK, labels_x)
        # As a product: 1 - sigma would be rounded where sigma nears one.
        slope_xK = torch.sigmoid(-logits_xK).mul_(torch.sigmoid(logits_xK))
        torch.mul(errors_xK, slope_xK, out=gradient_xK).mul_(2)
        return errors_xK.square().sum(-1)

    def _errors(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        at_target_x1 = -torch.sigmoid(-logits_xK.gather(-1, labels_x.unsqueeze(-1)))
        # A copy, since autograd keeps the outputs.
        errors_xK = logits_xK.sigmoid().clone()
        self._subtract_targets(errors_xK, at_target_x1, labels_x)
        return errors_xK

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_shares(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.sigmoid()

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.logit()


@dataclass(frozen=True)
class SigmoidFocal(Head):
    """One sigmoid per class with the focal loss, summed over classes (Lin et al. 2017, "Focal loss for dense
    object detection"), without its weights of classes.

    The loss is not proper: its minimum draws sigma from the class frequency towards one half. The prior bias
    is that of the paper's section 3.3, at which sigma is the frequency. A smoothed target weighs the losses of
    a present and an absent class, as in binary cross-entropy.

    Options:
        gamma: a class whose target has the probability p counts by (1 - p) ** gamma; 0 is binary cross-entropy.
    """

    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma >= 0, "head.gamma", self.gamma, "must not be below 0")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        share = self.label_smoothing / logits_xK.shape[-1]
        targets_xK = torch.full_like(logits_xK, share)
        targets_xK = targets_xK.scatter(-1, labels_x.unsqueeze(-1), 1 - self.label_smoothing + share)
        return torch.lerp(self._if_present(-logits_xK), self._if_present(logits_xK), targets_xK).sum(-1)

    def _if_present(self, logits: Tensor) -> Tensor:
        """The loss of a class that is present; of one that is absent it is that of -z."""
        # (1 - sigma) ** gamma as exp, whose gradient stays finite where 1 - sigma underflows.
        return exp(-self.gamma * _softplus(logits)) * _softplus(-logits)

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_shares(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.sigmoid()

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.logit()


@dataclass(frozen=True)
class SoftmaxSquared(Head):
    """Softmax with the squared error to the targets, summed over classes: the Brier score."""

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._errors(log_softmax(logits_xK), labels_x).square().sum(-1)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        log_p_xK = log_softmax(logits_xK)
        errors_xK = self._errors(log_p_xK, labels_x)
        p_xK = exp(log_p_xK)
        mean_x1 = (p_xK * errors_xK).sum(-1, keepdim=True)
        torch.sub(errors_xK, mean_x1, out=gradient_xK).mul_(p_xK).mul_(2)
        return errors_xK.square().sum(-1)

    def _errors(self, log_p_xK: Tensor, labels_x: Tensor) -> Tensor:
        at_target_x1 = log_p_xK.gather(-1, labels_x.unsqueeze(-1)).expm1()
        # A copy, since autograd keeps the outputs.
        errors_xK = exp(log_p_xK).clone()
        self._subtract_targets(errors_xK, at_target_x1, labels_x)
        return errors_xK

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_softmax(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.softmax(-1)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.log()


@dataclass(frozen=True)
class SoftmaxLogitNormalised(Head):
    """Softmax with cross-entropy on z / (temperature * ||z||) (Kornblith et al. 2021, "Why do better loss
    functions lead to less transferable features?").

    The length of the logits means nothing: the loss is not defined at zero logits, and its gradient falls as
    they grow.

    Options:
        temperature: above zero; the lower, the surer the probabilities can be.
    """

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "head.temperature", self.temperature, "must be above 0")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._cross_entropy(self.log_probabilities(logits_xK), labels_x)

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_softmax(F.normalize(logits_xK, dim=-1) / self.temperature)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return self.probabilities(logits_xK)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        # log(prior) * temperature, shifted to length one. Frequencies that vary too much are out of reach;
        # then without a shift it is the nearest direction.
        log_prior_K = prior_K.log()
        centred_K = (log_prior_K - log_prior_K.mean()) * self.temperature
        shift = (1 - centred_K.square().sum()).clamp(min=0) / len(prior_K)
        return centred_K + shift.sqrt()


def log_shares(logits_xK: Tensor, out: Tensor | None = None) -> Tensor:
    """Logarithm of sigma / sum(sigma), finite where every sigma underflows."""
    return log_softmax(F.logsigmoid(logits_xK), out)


def log_softmax(logits_xK: Tensor, out: Tensor | None = None) -> Tensor:
    """`logits_xK.log_softmax(-1)`, fast for few classes too."""
    if logits_xK.shape[-1] < SHORT:
        classes_first = None if out is None else out.movedim(-1, 0)
        return torch.log_softmax(logits_xK.movedim(-1, 0), 0, out=classes_first).movedim(0, -1)
    return torch.log_softmax(logits_xK, -1, out=out)


def exp(log_p: Tensor, out: Tensor | None = None) -> Tensor:
    """`log_p.exp()`, with what would leave the normal range raised to its edge.

    Beyond it PyTorch's kernel takes up to a hundred times as long, and sure runs have many such numbers.
    """
    # Not quite the edge, so that what is divided by the size of a batch stays within.
    floor = 0.9 * math.log(torch.finfo(log_p.dtype).tiny)
    return torch.clamp(log_p, min=floor, out=out).exp_()


def _softplus(z: Tensor) -> Tensor:
    # Beyond the threshold it is z, which would be wrong in double precision from the default threshold on.
    return F.softplus(z, threshold=40)


HEADS: dict[str, type[Head]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "sigmoid_normalised": SigmoidNormalised,
    "sigmoid_squared": SigmoidSquared,
    "sigmoid_focal": SigmoidFocal,
    "softmax_squared": SoftmaxSquared,
    "softmax_logit_normalised": SoftmaxLogitNormalised,
    "softmax_cosine": SoftmaxCosine,
}
