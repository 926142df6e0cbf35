"""Heads on softmax.

Shape suffixes: K classes; x any leading axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headtohead.late import F, torch
from headtohead.options import require
from headtohead.training.classifiers import Classifier, CosineClassifier, OneLogitClassifier
from headtohead.training.heads.head import Head, exp, log_softmax, over_classes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SoftmaxLink(Head):
    """Softmax as the link from logits to probabilities, whatever the loss."""

    def log_probabilities(self, logits_xK: Tensor) -> Tensor:
        return log_softmax(logits_xK)

    def activations(self, logits_xK: Tensor) -> Tensor:
        return logits_xK.softmax(-1)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        return prior_K.log()


@dataclass(frozen=True)
class Softmax(SoftmaxLink):
    """Softmax with cross-entropy."""

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._cross_entropy(log_softmax(logits_xK), labels_x)

    def loss_and_gradient(self, logits_xK: Tensor, labels_x: Tensor, gradient_xK: Tensor) -> Tensor:
        return self._cross_entropy_and_gradient(log_softmax(logits_xK, out=gradient_xK), labels_x)


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
class SoftmaxSquared(SoftmaxLink):
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
        return log_softmax(F.normalize(logits_xK, dim=-1) / over_classes(self.temperature))

    def activations(self, logits_xK: Tensor) -> Tensor:
        return self.probabilities(logits_xK)

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        # log(prior) * temperature, shifted to length one. If the frequencies vary too much, no logits give them; then
        # the nearest direction has no shift.
        log_prior_K = prior_K.log()
        centred_K = (log_prior_K - log_prior_K.mean()) * self.temperature
        shift = (1 - centred_K.square().sum()).clamp(min=0) / len(prior_K)
        return centred_K + shift.sqrt()


@dataclass(frozen=True)
class SoftmaxFocal(SoftmaxLink):
    """Softmax with the focal loss (Lin et al. 2017; for softmax Mukhoti et al. 2020), without class weights.

    The loss is not proper: at its minimum the probabilities are not the class frequencies, but have their order
    (Charoenphakdee et al. 2021). The prior bias is that of softmax.

    Options:
        gamma: focusing parameter. The loss of a class with the probability p is multiplied by (1 - p) ** gamma; 0 is
            cross-entropy.
    """

    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma >= 0, "head.gamma", self.gamma, "must not be below 0")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        return self._cross_entropy(self._focused(log_softmax(logits_xK)), labels_x)

    def _focused(self, log_p_xK: Tensor) -> Tensor:
        # log(1 - p) is bounded, so that its gradient stays finite where p rounds to one.
        absent_xK = -exp(log_p_xK).clamp(max=1 - torch.finfo(log_p_xK.dtype).eps)
        return exp(over_classes(self.gamma) * absent_xK.log1p()) * log_p_xK


@dataclass(frozen=True)
class SoftmaxPoly(SoftmaxLink):
    """Softmax with the Poly-1 loss: cross-entropy plus epsilon * (1 - p) of the target class (Leng et al. 2022).

    The probability p of smoothed targets y is their product with the probabilities, sum(y * p).

    Options:
        epsilon: weight of the additional term, -1 or more; 0 is cross-entropy.
    """

    epsilon: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epsilon >= -1, "head.epsilon", self.epsilon, "must not be below -1")

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        log_p_xK = log_softmax(logits_xK)
        # expm1, so that rounding makes no loss negative where p is near one.
        missing_x = -self._targets(log_p_xK, labels_x).mul(log_p_xK.expm1()).sum(-1)
        return self._cross_entropy(log_p_xK, labels_x) + self.epsilon * missing_x


@dataclass(frozen=True)
class SoftmaxBinary(SoftmaxLink):
    """Softmax followed by binary cross-entropy, summed over classes.

    This is what Keras computes for `activation="softmax"` with `loss="binary_crossentropy"`, but for its mean over
    classes.
    """

    def loss(self, logits_xK: Tensor, labels_x: Tensor) -> Tensor:
        log_p_xK = log_softmax(logits_xK)
        # log(1 - p) is bounded, so that its gradient stays finite where p rounds to one.
        absent_xK = (-exp(log_p_xK).clamp(max=1 - torch.finfo(log_p_xK.dtype).eps)).log1p()
        return -torch.lerp(absent_xK, log_p_xK, self._targets(log_p_xK, labels_x)).sum(-1)


@dataclass(frozen=True)
class OneLogit(Softmax):
    """One logit z for two classes with binary cross-entropy: the second class has the probability sigma(z).

    It is softmax on the logits (0, z).
    """

    @property
    def classifier(self) -> Classifier:
        return OneLogitClassifier()

    def _prior_logits(self, prior_K: Tensor) -> Tensor:
        log_prior_K = prior_K.log()
        return log_prior_K - log_prior_K[0]
