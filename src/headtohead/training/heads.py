"""Output heads: the meaning of a network's logits.

Shape suffixes: K classes; x any leading axes, such as (B,) examples or (R, B) runs and examples.

A head is small, stateless and final. To add one, write a class here, name it in HEADS and give it a YAML file in
configs/head. Tests that run over HEADS specify what every head must do. Or point `head=factory` at a class of your own.

`joined` makes one head of those of several runs. So an option of type float of a head in HEADS may be a tensor (R, 1),
a number for each run: beside logits it goes through `_over_classes`, and `_is_used` asks whether it is zero. A head of
the user's own always has the numbers of its configuration.
"""

from __future__ import annotations

import copy
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headtohead.late import F, torch
from headtohead.options import ConfigError, build, one_line, require
from headtohead.training.classifiers import Classifier, CosineClassifier, LinearClassifier
from headtohead.training.optimizers import column

if TYPE_CHECKING:
    from torch import Tensor

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
                # A class with no examples, or with all of them, would get an infinite bias.
                floor = prior_K[prior_K > 0].min() / 2
                return self._prior_logits(prior_K.clamp(floor, 1 - floor))

    def _cross_entropy(self, log_q_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Return the cross-entropy of log-probabilities with the smoothed targets, of shape x."""
        return self._smoothed(-log_q_xK.gather(-1, labels_x.unsqueeze(-1)).squeeze(-1), log_q_xK)

    def _smoothed(self, loss_x: Tensor, log_q_xK: Tensor) -> Tensor:
        """Return the cross-entropy with the smoothed targets, given that with the labels."""
        if _is_used(self.label_smoothing):
            loss_x = torch.lerp(loss_x, -log_q_xK.mean(-1), self.label_smoothing)
        return loss_x

    def _cross_entropy_and_gradient(self, log_q_xK: Tensor, labels_x: Tensor) -> Tensor:
        """Return `_cross_entropy`, and overwrite `log_q_xK` with q minus the smoothed targets."""
        target_x1 = labels_x.unsqueeze(-1)
        at_target_x1 = log_q_xK.gather(-1, target_x1)
        loss_x = self._smoothed(-at_target_x1.squeeze(-1), log_q_xK)
        self._subtract_targets(exp(log_q_xK, out=log_q_xK), at_target_x1.expm1_(), target_x1)
        return loss_x

    def _subtract_targets(self, outputs_xK: Tensor, at_target_x1: Tensor, target_x1: Tensor) -> None:
        """Subtract the smoothed targets in place, given the outputs of the target classes minus one."""
        # An output close to one is rounded: subtracting one from it would lose the difference.
        outputs_xK.scatter_(-1, target_x1, at_target_x1)
        if _is_used(self.label_smoothing):
            smoothing = _over_classes(self.label_smoothing)
            outputs_xK.sub_(smoothing / outputs_xK.shape[-1])
            outputs_xK.scatter_add_(-1, target_x1, _filled(smoothing, at_target_x1))


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
    """Softmax with cross-entropy on cosine logits.

    The logits are the cosines of the features and each class's weights over a temperature (Kornblith et al. 2021, "Why
    do better loss functions lead to less transferable features?"), plus a bias, which the paper leaves out.

    Options:
        temperature: temperature of the logits, above zero. A lower temperature allows more confident probabilities.
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
        reduction: "sum" or "mean" of the loss over the classes. The mean is the default of
            `torch.nn.BCEWithLogitsLoss`: it divides the gradient by K.
    """

    reduction: str

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.reduction in ("sum", "mean"), "head.reduction", self.reduction, "accepted: sum, mean")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        target_x1 = labels_x.unsqueeze(-1)
        return self._loss(logits_xK, -logits_xK.gather(-1, target_x1), target_x1)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        target_x1 = labels_x.unsqueeze(-1)
        opposite_x1 = logits_xK.gather(-1, target_x1).neg_()
        missing_x1 = torch.sigmoid(opposite_x1).neg_()
        self._subtract_targets(torch.sigmoid(logits_xK, out=gradient_xK), missing_x1, target_x1)
        if self.reduction == "mean":
            gradient_xK.div_(logits_xK.shape[-1])
        return self._loss(logits_xK, opposite_x1, target_x1)

    def _loss(self, logits_xK: Tensor, opposite_x1: Tensor, target_x1: Tensor) -> Tensor:
        """Return the loss, given the logits of the target classes with the opposite sign."""
        # Binary cross-entropy is softplus(-z) at the target and softplus(z) elsewhere: no cancellation.
        loss_x = _softplus(logits_xK).scatter_(-1, target_x1, _softplus(opposite_x1)).sum(-1)
        if _is_used(self.label_smoothing):
            # The loss is linear in the targets y, through -y z.
            loss_x = loss_x - self.label_smoothing * (opposite_x1.squeeze(-1) + logits_xK.mean(-1))
        return loss_x / logits_xK.shape[-1] if self.reduction == "mean" else loss_x

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_shares(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.sigmoid()

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.logit()


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
class SigmoidSquared(Head):
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

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_shares(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.sigmoid()

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.logit()


@dataclass(frozen=True)
class SigmoidFocal(Head):
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
        smoothing = _over_classes(self.label_smoothing)
        share = smoothing / logits_xK.shape[-1]
        at_target_x1 = _filled(1 - smoothing + share, logits_xK[..., :1])
        targets_xK = _filled(share, logits_xK).scatter(-1, labels_x.unsqueeze(-1), at_target_x1)
        return torch.lerp(self._if_present(-logits_xK), self._if_present(logits_xK), targets_xK).sum(-1)

    def _if_present(self, logits: Tensor) -> Tensor:
        """Return the loss of a present class; for an absent class, pass -z."""
        # (1 - sigma) ** gamma by exp, whose gradient stays finite where 1 - sigma underflows.
        return exp(-_over_classes(self.gamma) * _softplus(logits)) * _softplus(-logits)

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
        target_x1 = labels_x.unsqueeze(-1)
        # A copy, since autograd needs the outputs of the sigmoid.
        errors_xK = exp(log_p_xK).clone()
        self._subtract_targets(errors_xK, log_p_xK.gather(-1, target_x1).expm1(), target_x1)
        return errors_xK

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_softmax(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.softmax(-1)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.log()


@dataclass(frozen=True)
class SoftmaxLogitNormalised(Head):
    """Softmax with cross-entropy on z / (temperature * ||z||).

    The length of the logits has no meaning: the loss is not defined at zero logits, and its gradient falls as they grow
    (Kornblith et al. 2021, "Why do better loss functions lead to less transferable features?").

    Options:
        temperature: inverse length of the logits, above zero. A lower temperature allows more confident probabilities.
    """

    temperature: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "head.temperature", self.temperature, "must be above 0")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._cross_entropy(self.log_probabilities(logits_xK), labels_x)

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_softmax(F.normalize(logits_xK, dim=-1) / _over_classes(self.temperature))

    def activations(self, logits_xK: Tensor) -> Tensor:
        return self.probabilities(logits_xK)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        # log(prior) * temperature, shifted to length one. If the frequencies vary too much, no logits give them; then
        # the nearest direction has no shift.
        log_prior_K = prior_K.log()
        centred_K = (log_prior_K - log_prior_K.mean()) * self.temperature
        shift = (1 - centred_K.square().sum()).clamp(min=0) / len(prior_K)
        return centred_K + shift.sqrt()


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


def _is_used(option: float | Tensor) -> bool:
    """Return whether an option is another number than zero, for any run."""
    return isinstance(option, torch.Tensor) or option != 0


def _over_classes(option: float | Tensor) -> float | Tensor:
    """Return an option with the axes of logits: (R, 1, 1) where it is (R, 1)."""
    return option.unsqueeze(-1) if isinstance(option, torch.Tensor) else option


def _filled(option: float | Tensor, like: Tensor) -> Tensor:
    """Return an option, a number or (R, 1, 1), in the shape of `like`, for reading."""
    return torch.as_tensor(option, dtype=like.dtype, device=like.device).expand(like.shape)


def _softplus(z: Tensor) -> Tensor:
    # PyTorch returns z above the threshold. Its default threshold is too low for double precision.
    return F.softplus(z, threshold=40)


@dataclass(frozen=True)
class Factory:
    """A head of the user's own, before its class is imported.

    Options:
        path: "package.module:Class", a subclass of `Head`, in a module in the working directory or installed.
        options: values of the fields of the class, beside those of every head.
        label_smoothing: see `Head`.
        prior_bias: see `Head`.
    """

    path: str
    options: dict[str, Any]
    label_smoothing: float
    prior_bias: str

    def head(self) -> Head:
        """Import the class and return the head, checked by a call of all that it must have.

        Raises:
            ConfigError: there is no such class, it is no head, or it returns something else than a head does.
        """
        key, accepted = f"head.path={self.path}", "package.module:Class, a subclass of headtohead.training.heads.Head"
        flaw = ""
        try:
            cls = pkgutil.resolve_name(self.path) if ":" in self.path else None
            if not isinstance(cls, type) or not issubclass(cls, Head):
                raise ConfigError(f"{key}: no head; accepted: {accepted}")
            common = {"label_smoothing": self.label_smoothing, "prior_bias": self.prior_bias}
            for name in self.options.keys() & common.keys():
                raise ConfigError(f"head.options.{name}: no option of its own; accepted: head.{name}")
            head = build(cls, {**self.options, **common}, "head.options")
            flaw = _flaw_of(head)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # code of the user may raise anything
            raise ConfigError(f"{key}: {one_line(error)}; accepted: {accepted}") from error
        if flaw:
            raise ConfigError(f"{key}: {flaw}")
        return head


def _flaw_of(head: Head) -> str:
    """Describe what is wrong with the results of a head for a few logits; "" if nothing is."""
    logits_xK = torch.linspace(-2, 2, 12).view(2, 2, 3)
    labels_x, gradient_xK = torch.tensor([[0, 1], [2, 0]]), torch.empty(2, 2, 3)
    log_q_xK = head.log_probabilities(logits_xK)
    found = {
        "loss": (head.loss(logits_xK, labels_x), (2, 2)),
        "loss_and_gradient": (head.loss_and_gradient(logits_xK, labels_x, gradient_xK), (2, 2)),
        "log_probabilities": (log_q_xK, (2, 2, 3)),
        "activations": (head.activations(logits_xK), (2, 2, 3)),
        "initial_bias": (head.initial_bias(torch.tensor([0.2, 0.3, 0.5])), (3,)),
    }
    for name, (result, shape) in found.items():
        if not isinstance(result, torch.Tensor) or result.shape != shape or not result.isfinite().all():
            is_tensor = isinstance(result, torch.Tensor)
            of = f"a tensor of the shape {tuple(result.shape)}" if is_tensor else type(result).__name__
            return f"{name} returned {of} for logits (2, 2, 3); accepted: finite numbers of the shape {shape}"
    if not torch.allclose(log_q_xK.exp().sum(-1), torch.ones(2, 2), atol=1e-4):
        return "log_probabilities returned rows whose probabilities do not sum to one"
    return ""


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


def call_key(head: Head) -> object:
    """Return a key: heads with equal keys can be called at once, by `joined`.

    Heads of HEADS may differ in all numbers. A head of the user's own may do anything with its options, so that only
    equal ones are called at once.
    """
    if type(head) not in HEADS.values():
        return head
    return type(head), {name: value for name, value in vars(head).items() if not isinstance(value, float)}


def joined(heads: Sequence[Head], like: Tensor) -> Head:
    """Return heads of R runs, with equal `call_key`, as one head for calls with logits (R, B, K).

    An option that differs between them becomes a tensor (R, 1), with the type and device of `like`; others stay as they
    are.
    """
    first = heads[0]
    if all(head == first for head in heads):
        return first
    result = copy.copy(first)
    for name, value in vars(first).items():
        values = [getattr(head, name) for head in heads]
        if isinstance(value, float) and any(other != value for other in values):
            # Not by the constructor, which checks numbers.
            vars(result)[name] = column(values, like)
    return result
