"""Optimisers of a pack: the arithmetic of torch.optim, with options of each run.

Shape suffixes: R runs, P parameters of one run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from headtohead.late import torch
from headtohead.options import require

if TYPE_CHECKING:
    from torch import Tensor

# From this many parameters on, updating runs one by one is faster on the CPU than one batched update.
FUSED_FROM = 10_000


class Updater(Protocol):
    """An update rule for the parameters of all runs of a pack, in place.

    Attributes:
        state: tensors that the next update depends on.
    """

    state: dict[str, Tensor]

    def step(self, gradients_RP: Tensor, lr_R1: Tensor) -> None:
        """Update the parameters with each run's learning rate. May overwrite the gradients."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """Options common to all optimisers.

    Options:
        lr: learning rate, before the schedule.
        weight_decay: coefficient of the decay of weights; biases and norms do not decay.
        clip_norm: largest Euclidean norm of the gradient, which is scaled down to it; None does not clip.
    """

    lr: float
    weight_decay: float
    clip_norm: float | None

    def __post_init__(self) -> None:
        require(0 < self.lr < float("inf"), "optimizer.lr", self.lr, "must be above 0 and finite")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "must not be below 0")
        valid = self.clip_norm is None or self.clip_norm > 0
        require(valid, "optimizer.clip_norm", self.clip_norm, "must be above 0, or null for no clipping")

    @staticmethod
    @abstractmethod
    def updater(runs: Sequence[Optimizer], parameters_RP: Tensor, decayed: slice) -> Updater:
        """Return an updater of the parameters of R runs.

        Args:
            runs: options of each run, all of this class.
            parameters_RP: parameters, updated in place.
            decayed: columns that weight decay applies to.
        """


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent as in `torch.optim.SGD`, with momentum and coupled weight decay.

    Options:
        momentum: decay rate of the running sum of gradients, in [0, 1).
        nesterov: whether to use Nesterov momentum.
    """

    momentum: float
    nesterov: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "accepted: [0, 1)")
        valid = self.momentum > 0 or not self.nesterov
        require(valid, "optimizer.nesterov", self.nesterov, "needs optimizer.momentum above 0")

    @staticmethod
    def updater(runs: Sequence[Optimizer], parameters_RP: Tensor, decayed: slice) -> Updater:
        return _SGDUpdater(cast(Sequence[SGD], runs), parameters_RP, decayed)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) as in `torch.optim.AdamW`.

    Options:
        beta1: decay rate of the mean of gradients, in [0, 1).
        beta2: decay rate of the mean of squared gradients, in [0, 1).
        eps: term added to the denominator.
    """

    beta1: float
    beta2: float
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.beta1 < 1, "optimizer.beta1", self.beta1, "accepted: [0, 1)")
        require(0 <= self.beta2 < 1, "optimizer.beta2", self.beta2, "accepted: [0, 1)")
        require(self.eps > 0, "optimizer.eps", self.eps, "must be above 0")

    @staticmethod
    def updater(runs: Sequence[Optimizer], parameters_RP: Tensor, decayed: slice) -> Updater:
        return _AdamWUpdater(cast(Sequence[AdamW], runs), parameters_RP, decayed)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adamw": AdamW}


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one number per run as a tensor of shape (R, 1), with the type and device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


class _SGDUpdater:
    def __init__(self, runs: Sequence[SGD], parameters_RP: Tensor, decayed: slice):
        self.parameters_RP = parameters_RP
        self.decayed = decayed
        self.decay_R1 = column([run.weight_decay for run in runs], parameters_RP)
        self.momentum_R1 = column([run.momentum for run in runs], parameters_RP)
        self.nesterov_R1 = column([run.nesterov for run in runs], parameters_RP)
        self.decays = any(run.weight_decay for run in runs)
        self.nesterov = any(run.nesterov for run in runs)
        has_momentum = any(run.momentum for run in runs)
        self.state = {"momentum": torch.zeros_like(parameters_RP)} if has_momentum else {}

    def step(self, gradients_RP: Tensor, lr_R1: Tensor) -> None:
        direction_RP = gradients_RP
        if self.decays:
            direction_RP[:, self.decayed].addcmul_(self.parameters_RP[:, self.decayed], self.decay_R1)
        if self.state:
            momentum_RP = self.state["momentum"]
            torch.addcmul(direction_RP, momentum_RP, self.momentum_R1, out=momentum_RP)
            if self.nesterov:
                lookahead_RP = torch.addcmul(direction_RP, momentum_RP, self.momentum_R1)
                direction_RP = torch.where(self.nesterov_R1 > 0, lookahead_RP, momentum_RP)
            else:
                direction_RP = momentum_RP
        self.parameters_RP.addcmul_(direction_RP, lr_R1, value=-1)


class _AdamWUpdater:
    def __init__(self, runs: Sequence[AdamW], parameters_RP: Tensor, decayed: slice):
        self.runs, self.parameters_RP, self.decayed = runs, parameters_RP, decayed
        self.decay_R1 = column([run.weight_decay for run in runs], parameters_RP)
        self.beta1_R1 = column([run.beta1 for run in runs], parameters_RP)
        self.beta2_R1 = column([run.beta2 for run in runs], parameters_RP)
        self.eps_R1 = column([run.eps for run in runs], parameters_RP)
        self.decays = any(run.weight_decay for run in runs)
        self.state = {
            "mean": torch.zeros_like(parameters_RP),
            "square": torch.zeros_like(parameters_RP),
            "step": torch.zeros(len(runs), device=parameters_RP.device),
        }
        # In double precision, as torch.optim computes the powers of beta in Python.
        self.betas_2R1 = torch.stack([self.beta1_R1, self.beta2_R1]).double()
        many = parameters_RP.shape[1] >= FUSED_FROM
        self._update = self._fused if many and parameters_RP.device.type == "cpu" else self._batched
        state = (parameters_RP, self.state["mean"], self.state["square"], self.state["step"])
        self._of_run = [*zip(*(tensor_Rx.unbind() for tensor_Rx in state), strict=True)]

    def step(self, gradients_RP: Tensor, lr_R1: Tensor) -> None:
        if self.decays:
            self.parameters_RP[:, self.decayed].mul_(1 - lr_R1 * self.decay_R1)
        self._update(gradients_RP, lr_R1)

    def _fused(self, gradients_RP: Tensor, lr_R1: Tensor) -> None:
        """Update run by run, in one pass over the memory of each; a batched update makes nine passes."""
        self.state["step"].add_(1)
        of_run = zip(self.runs, self._of_run, gradients_RP.unbind(), lr_R1.flatten().tolist(), strict=True)
        for run, (parameters_P, mean_P, square_P, step), gradient_P, lr in of_run:
            # The kernel of torch.optim.AdamW. What torch.optim does around it takes longer than most updates.
            torch.ops.aten._fused_adamw_(
                [parameters_P],
                [gradient_P],
                [mean_P],
                [square_P],
                [],
                [step],
                lr=lr,
                beta1=run.beta1,
                beta2=run.beta2,
                weight_decay=0.0,
                eps=run.eps,
                amsgrad=False,
                maximize=False,
            )

    def _batched(self, gradients_RP: Tensor, lr_R1: Tensor) -> None:
        """Update all runs at once."""
        mean_RP, square_RP, step_R = self.state["mean"], self.state["square"], self.state["step"].add_(1)
        mean_RP.lerp_(gradients_RP, 1 - self.beta1_R1)
        square_RP.lerp_(gradients_RP.square_(), 1 - self.beta2_R1)
        correction1_R1, correction2_R1 = (1 - self.betas_2R1 ** step_R.unsqueeze(1)).unbind()
        # The root of the second correction is moved out of the quotient, which saves a pass over all parameters.
        root_R1 = correction2_R1.sqrt()
        size_R1 = (lr_R1 * root_R1 / correction1_R1).to(lr_R1.dtype)
        denominator_RP = torch.sqrt(square_RP, out=gradients_RP).add_((self.eps_R1 * root_R1).to(lr_R1.dtype))
        self.parameters_RP.addcmul_(torch.div(mean_RP, denominator_RP, out=denominator_RP), size_R1, value=-1)
