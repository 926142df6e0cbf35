"""Output heads: the meaning of a network's logits.

A head is small, stateless and final. To add one, write a class beside those here, name it in HEADS and give it a YAML
file in configs/head. Tests that run over HEADS specify what every head must do. Or point `head=factory` at a class of
your own.
"""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headtohead.late import torch
from headtohead.options import ConfigError, build, one_line
from headtohead.training.heads.head import BALANCING, Head
from headtohead.training.heads.linear import LinearSquared
from headtohead.training.heads.sigmoid import (
    Sigmoid,
    SigmoidAsymmetric,
    SigmoidCosine,
    SigmoidFocal,
    SigmoidNormalised,
    SigmoidSquared,
)
from headtohead.training.heads.softmax import (
    OneLogit,
    Softmax,
    SoftmaxBinary,
    SoftmaxCosine,
    SoftmaxFocal,
    SoftmaxLogitNormalised,
    SoftmaxPoly,
    SoftmaxSquared,
)
from headtohead.training.optimizers import column

if TYPE_CHECKING:
    from torch import Tensor


HEADS: dict[str, type[Head]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "sigmoid_normalised": SigmoidNormalised,
    "sigmoid_squared": SigmoidSquared,
    "sigmoid_focal": SigmoidFocal,
    "softmax_squared": SoftmaxSquared,
    "softmax_logit_normalised": SoftmaxLogitNormalised,
    "softmax_cosine": SoftmaxCosine,
    "softmax_focal": SoftmaxFocal,
    "softmax_poly": SoftmaxPoly,
    "softmax_binary": SoftmaxBinary,
    "sigmoid_asymmetric": SigmoidAsymmetric,
    "sigmoid_cosine": SigmoidCosine,
    "one_logit": OneLogit,
    "linear_squared": LinearSquared,
}


@dataclass(frozen=True)
class Factory:
    """A head of the user's own, before its class is imported.

    Options:
        path: "package.module:Class", a subclass of `Head`, in a module in the working directory or installed.
        options: values of the fields of the class, beside those of every head, which are named here as in `Head`.
    """

    path: str
    options: dict[str, Any]
    label_smoothing: float
    prior_bias: str
    adjustment: str
    tau: float
    class_weights: str
    beta: float

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
            common = {name: value for name, value in vars(self).items() if name not in ("path", "options")}
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


def call_key(head: Head) -> object:
    """Return a key: heads with equal keys can be called at once, by `joined`.

    Heads of HEADS may differ in all numbers. A head of the user's own may do anything with its options, so that only
    equal ones are called at once.
    """
    if type(head) not in HEADS.values():
        return head
    options = {name: value for name, value in vars(head).items() if not isinstance(value, float)}
    return type(head), {name: value for name, value in options.items() if name not in BALANCING}


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
