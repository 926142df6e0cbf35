"""What a head is, and the numerics that heads share.

Shape suffixes: K classes; x any leading axes, such as (B,) examples or (R, B) runs and examples.

`joined` makes one head of those of several runs. So an option of type float of a head in HEADS may be a tensor (R, 1),
a number for each run: beside logits it goes through `over_classes`, and `is_used` asks whether it is zero. A head of
the user's own always has the numbers of its configuration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headtohead.late import F, torch
from headtohead.options import require
from headtohead.training.classifiers import Classifier, LinearClassifier

if TYPE_CHECKING:
    from torch import Tensor

# Options of every head that are words.
CHOICES = {
    "prior_bias": ("none", "frequencies", "uniform"),
    "adjustment": ("none", "posthoc", "loss"),
    "class_weights": ("none", "inverse", "effective"),
}
# Options of every head that no method of it reads: `balance.Balance` does.
BALANCING = ("adjustment", "tau", "class_weights", "beta")

# Below this many classes, PyTorch's softmax over the last axis is slow: a row does not fill a vector register.
FEW_CLASSES = 16


@dataclass(frozen=True)
class Head(ABC):
    """Meaning of the logits: the loss, the probabilities and the initial bias of the classifier.

    Options:
        label_smoothing: amount a in [0, 1). The targets are (1 - a) * onehot + a / K for every head (Szegedy et al.
            2016), so that their sum over classes is one.
        prior_bias: initial bias of the classifier: "none" (zeros), "frequencies" (the bias at which the head's
            probabilities are the class frequencies of the training split; Lin et al. 2017, section 3.3, for the
            sigmoid) or "uniform" (the same for equal frequencies).
        adjustment: how rare classes get their share, by the class frequencies of the training split (Menon et al. 2021,
            "Long-tail learning via logit adjustment"): "none", "posthoc" (predicted probabilities are divided by the
            frequencies) or "loss" (the loss reads the logits plus those at which the head's probabilities are the
            frequencies; for softmax with tau 1 the balanced softmax of Ren et al. 2020, for the sigmoid the balanced
            binary cross-entropy of Xu et al. 2023).
        tau: strength of the adjustment: the power of the frequencies.
        class_weights: weight of an example's loss by its class: "none", "inverse" (the inverse of the class's number
            of examples) or "effective" (the inverse of its effective number, (1 - beta ** n) / (1 - beta); Cui et al.
            2019). The mean weight of a training example is 1.
        beta: number in [0, 1) of the effective number: 0 gives every class the same weight, near 1 the inverse one.
    """

    label_smoothing: float
    prior_bias: str
    adjustment: str
    tau: float
    class_weights: str
    beta: float

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "head.label_smoothing", self.label_smoothing, "accepted: [0, 1)")
        for key, choices in CHOICES.items():
            require(getattr(self, key) in choices, f"head.{key}", getattr(self, key), f"accepted: {', '.join(choices)}")
        require(self.tau >= 0, "head.tau", self.tau, "must not be below 0")
        require(0 <= self.beta < 1, "head.beta", self.beta, "accepted: [0, 1)")

    @property
    def classifier(self) -> Classifier:
        """Kind of the last layer whose logits the head reads."""
        return LinearClassifier()

    @abstractmethod
    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Return the training loss of each example, of shape x, in nats."""

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        """Return `loss`, and write its gradient at the logits to `gradient_xK`.

        A head may override this with a closed form, which needs less time for small tensors and less memory for large
        ones than autograd.
        """
        with torch.enable_grad():
            leaf_xK = logits_xK.detach().requires_grad_()
            loss_x = self.loss(leaf_xK, labels_x)
            gradient_xK.copy_(torch.autograd.grad(loss_x.sum(), leaf_xK)[0])
        return loss_x.detach()

    @abstractmethod
    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        """Return the logarithm of `probabilities`, of shape xK, finite wherever the logits are moderate."""

    @abstractmethod
    def activations(self, logits_xK: Tensor) -> Tensor:
        """Return the head's own outputs, of shape xK, in [0, 1]; their sum over classes need not be one."""

    def energy(self, logits_xK: Tensor) -> Tensor:
        """Return a score of each example, of shape x, that is high for inputs like those of training.

        It is the negative free energy of softmax, logsumexp(z) (Liu et al. 2020), and of one sigmoid per class the
        joint one, the sum of softplus(z) (Wang et al. 2021).
        """
        return logits_xK.logsumexp(-1)

    @abstractmethod
    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        """Return constant logits, of shape (K,), at which `probabilities` are the class frequencies `prior_K`.

        If the loss is proper, they also minimise the expected loss.
        """

    def probabilities(self, logits_xK: Tensor) -> Tensor:
        """Return class probabilities, of shape xK. Rows sum to one, so that heads can be compared."""
        return exp(self.log_probabilities(logits_xK))

    def initial_bias(self, prior_K: Tensor) -> Tensor:
        """Return the initial bias of the classifier, of shape (K,), for the training split's class frequencies."""
        match self.prior_bias:
            case "none":
                return torch.zeros_like(prior_K)
            case "uniform":
                return self._prior_logits(torch.full_like(prior_K, 1 / len(prior_K)))
            case _:
                return self.logits_of(prior_K)

    def logits_of(self, prior_K: Tensor) -> Tensor:
        """Return constant logits, of shape (K,), at which `probabilities` are the class frequencies `prior_K`."""
        return self._prior_logits(bounded(prior_K))

    def _cross_entropy(self, log_q_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Return the cross-entropy of log-probabilities with the smoothed targets, of shape x."""
        return self._smoothed(-log_q_xK.gather(-1, labels_x.unsqueeze(-1)).squeeze(-1), log_q_xK)

    def _smoothed(self, loss_x: Tensor, log_q_xK: Tensor) -> Tensor:
        """Return the cross-entropy with the smoothed targets, given that with the labels."""
        if is_used(self.label_smoothing):
            loss_x = torch.lerp(loss_x, -log_q_xK.mean(-1), self.label_smoothing)
        return loss_x

    def _cross_entropy_and_gradient(self, log_q_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Return `_cross_entropy`, and overwrite `log_q_xK` with q minus the smoothed targets."""
        target_x1 = labels_x.unsqueeze(-1)
        at_target_x1 = log_q_xK.gather(-1, target_x1)
        loss_x = self._smoothed(-at_target_x1.squeeze(-1), log_q_xK)
        self._subtract_targets(exp(log_q_xK, out=log_q_xK), at_target_x1.expm1_(), target_x1)
        return loss_x

    def _share(self, num_classes: int) -> float:
        """Return the share of the label smoothing that each class gets."""
        return 1 / num_classes

    def _targets(self, like_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Return the smoothed targets, with the shape and type of `like_xK`."""
        smoothing = over_classes(self.label_smoothing)
        share = smoothing * self._share(like_xK.shape[-1])
        at_target_x1 = filled(1 - smoothing + share, like_xK[..., :1])
        return filled(share, like_xK).scatter(-1, labels_x.unsqueeze(-1), at_target_x1)

    def _subtract_targets(self, outputs_xK: Tensor, at_target_x1: Tensor, target_x1: Tensor) -> None:
        """Subtract the smoothed targets in place, given the outputs of the target classes minus one."""
        # An output close to one is rounded: subtracting one from it would lose the difference.
        outputs_xK.scatter_(-1, target_x1, at_target_x1)
        if is_used(self.label_smoothing):
            smoothing = over_classes(self.label_smoothing)
            outputs_xK.sub_(smoothing * self._share(outputs_xK.shape[-1]))
            outputs_xK.scatter_add_(-1, target_x1, filled(smoothing, at_target_x1))


def bounded(prior_K: Tensor) -> Tensor:
    """Return class frequencies of which none is 0 or 1, whose logits would be infinite."""
    floor = prior_K[prior_K > 0].min() / 2
    return prior_K.clamp(floor, 1 - floor)


def log_shares(logits_xK: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the logarithm of sigma / sum(sigma), of shape xK, finite where every sigma underflows."""
    return log_softmax(F.logsigmoid(logits_xK), out)


def log_softmax(logits_xK: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `logits_xK.log_softmax(-1)`; it is fast for few classes too."""
    if logits_xK.shape[-1] < FEW_CLASSES:
        classes_first = None if out is None else out.movedim(-1, 0)
        return torch.log_softmax(logits_xK.movedim(-1, 0), 0, out=classes_first).movedim(0, -1)
    return torch.log_softmax(logits_xK, -1, out=out)


def exp(log_p: Tensor, out: Tensor | None = None) -> Tensor:
    """Return `log_p.exp()`, with results below the normal range of floating point raised to its lower end.

    Below it PyTorch's kernel takes up to a hundred times as long, and confident runs have many such numbers.
    """
    # A little above the lower end, so that products with inputs and weights stay in the range.
    floor = 0.9 * math.log(torch.finfo(log_p.dtype).tiny)
    return torch.clamp(log_p, min=floor, out=out).exp_()


def is_used(option: float | Tensor) -> bool:
    """Return whether an option is another number than zero, for any run."""
    return isinstance(option, torch.Tensor) or option != 0


def over_classes(option: float | Tensor) -> float | Tensor:
    """Return an option with the axes of logits: (R, 1, 1) where it is (R, 1)."""
    return option.unsqueeze(-1) if isinstance(option, torch.Tensor) else option


def filled(option: float | Tensor, like: Tensor) -> Tensor:
    """Return an option, a number or (R, 1, 1), in the shape of `like`, for reading."""
    return torch.as_tensor(option, dtype=like.dtype, device=like.device).expand(like.shape)


def softplus(z: Tensor) -> Tensor:
    # PyTorch returns z above the threshold. Its default threshold is too low for double precision.
    return F.softplus(z, threshold=40)
