"""Many models of one architecture as one: stacked parameters, one forward, one gradient.

Shape suffixes: R runs, B batch, K classes, C channels, I inputs and O outputs of a layer, P parameters of
one run; x any further axes.

The parameters of all runs lie in one tensor (R, P), so that an update, a norm or a mask is one operation
for the whole pack. The forward takes the fastest way that fits:

* plain: a pack of one calls its module.
* stacked: in an nn.Sequential of known layers, each layer is swapped for one batched operation.
* vmap: any other module, through torch.func (batched by PyTorch, slower).

A run in a pack equals the run alone up to rounding: in float64 to 1e-9 over tens of steps, in float32 to
5e-3. Dropout is the exception: its masks are drawn for the pack as a whole.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# The layers of R runs as one function from (R, B, x) to (R, B, x).
Layer = Callable[[Tensor], Tensor]
# From logits (R, B, K) to the loss of each example, (R, B), and its gradient at the logits, (R, B, K).
Loss = Callable[[Tensor], tuple[Tensor, Tensor]]

# Outputs of a layer from which on the loss, which reads them example by example, would wait for a transposition.
WIDE = 256
# Inputs of a wide layer below which the product that is its weights' gradient is slow on the CPU the plain way.
NARROW = 32
ELEMENTWISE = (nn.Identity, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Dropout)


class Stackable(Protocol):
    """A layer without buffers that brings its own stacked form."""

    def stacked(self, parameters: Mapping[str, Tensor]) -> Layer:
        """Return the layers of R runs as one function, differentiable by autograd.

        Args:
            parameters: those of the layer by their names, stacked: (R, *shape).
        """
        ...


class _Link(ABC):
    """A stretch of layers: a function on (R, B, x), differentiable by autograd, and its gradient by hand."""

    leaves: Sequence[Tensor] = ()

    @abstractmethod
    def __call__(self, x_RBx: Tensor) -> Tensor: ...

    def forward(self, before: Tensor) -> Tensor:
        """The outputs with whatever `backward` needs."""
        return self(before)

    @abstractmethod
    def backward(self, before: Tensor, after: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> Tensor | None:
        """The gradient at the inputs, None where they do not require it; those at the leaves are written to `into`.

        May overwrite `gradient`.
        """


class _Linear(_Link):
    def __init__(self, weight_ROI: Tensor, bias_RO: Tensor | None):
        self.weight_ROI, self.bias_RO = weight_ROI, bias_RO
        self.leaves = [weight_ROI] if bias_RO is None else [weight_ROI, bias_RO]

    def __call__(self, x_RBI: Tensor) -> Tensor:
        if self.weight_ROI.shape[1] > WIDE:
            # Not baddbmm, which would spread the bias over the outputs first: a pass over all of them more.
            outputs_RBO = torch.bmm(x_RBI, self.weight_ROI.mT)
            return outputs_RBO if self.bias_RO is None else outputs_RBO.add_(self.bias_RO.unsqueeze(1))
        # Outputs (R, O, B) in memory: the layout in which batch norm need not copy them.
        if self.bias_RO is None:
            return torch.bmm(self.weight_ROI, x_RBI.mT).mT
        return torch.baddbmm(self.bias_RO.unsqueeze(2), self.weight_ROI, x_RBI.mT).mT

    def backward(self, before: Tensor, after: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> Tensor | None:
        inputs, outputs = before.shape[2], gradient.shape[2]
        if outputs > WIDE and inputs < NARROW and self.bias_RO is not None:
            # A product with long rows, which an input that is always one gives the bias's gradient too.
            product_RIO = torch.bmm(F.pad(before, (0, 1), value=1).mT, gradient)
            into[0].copy_(product_RIO[:, :-1].mT)
            into[1].copy_(product_RIO[:, -1])
        else:
            torch.bmm(gradient.mT, before, out=into[0])
            if self.bias_RO is not None:
                torch.sum(gradient, 1, out=into[1])
        return torch.bmm(self.weight_ROI.mT, gradient.mT).mT if before.requires_grad else None


class _ReLU(_Link):
    def __call__(self, x_RBx: Tensor) -> Tensor:
        return x_RBx.relu()

    def backward(self, before: Tensor, after: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> Tensor | None:
        return torch.ops.aten.threshold_backward.grad_input(gradient, after, 0, grad_input=gradient)


class _Chain(_Link):
    """Layers one after another, by autograd."""

    def __init__(self, layers: Sequence[Layer], leaves: Sequence[Tensor] = ()):
        self.layers, self.leaves = layers, leaves

    def __call__(self, x_RBx: Tensor) -> Tensor:
        for layer in self.layers:
            x_RBx = layer(x_RBx)
        return x_RBx

    def forward(self, before: Tensor) -> Tensor:
        with torch.enable_grad():
            return self(before)

    def backward(self, before: Tensor, after: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> Tensor | None:
        below = int(before.requires_grad)
        inputs = [*[before] * below, *self.leaves]
        gradients = torch.autograd.grad(after, inputs, gradient, materialize_grads=True)
        for view, of_leaf in zip(into, gradients[below:], strict=True):
            view.copy_(of_leaf)
        return gradients[0] if below else None


_Tape = list[tuple[_Link, Tensor, Tensor]]


class Pack:
    """R models of one architecture. Calling it maps inputs (R, B, x) to logits (R, B, K).

    Args:
        modules: R modules with the initial weights, each with a Linear named `classifier`; one module may
            stand for several runs. They are copied.

    Attributes:
        mode: "plain", "stacked" or "vmap".
        parameters_RP: all parameters.
        decayed: the columns that weight decay applies to, the weights.
        backbone: the columns of all layers but the classifier.
        columns: for each parameter's name its columns in `parameters_RP`.
        leaves: the parameters as autograd leaves, views of `parameters_RP`, in the order of `columns`.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device, dtype: torch.dtype):
        self.size = len(modules)
        self.template = copy.deepcopy(modules[0]).to(device, dtype)
        self.columns, self.backbone, self.decayed = _layout(self.template)
        # The layout in which convolutions on the CPU are fastest; a pack of several would have to copy.
        self._channels_last = self.size == 1 and device.type == "cpu"
        width = max(where.stop for where in self.columns.values())
        self.parameters_RP = torch.empty(self.size, width, device=device, dtype=dtype)
        self.gradients_RP = torch.zeros_like(self.parameters_RP)
        states = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
        for name in self.columns:
            for of_run, state in zip(self.view(name), states, strict=True):
                of_run.copy_(state[name].detach())
        self._gradients = [self._view(self.gradients_RP, name) for name in self.columns]

        self._links: list[_Link] | None = None
        if self.size == 1:
            self._set_up_plain()
            return
        self.leaves = [self.view(name).detach().requires_grad_() for name in self.columns]
        self.buffers = {
            name: torch.stack([state[name] for state in states]).to(device, buffer.dtype)
            for name, buffer in self.template.named_buffers()
        }
        parameters = dict(zip(self.columns, self.leaves, strict=True))
        links = _stacked(self.template, "", parameters, self.buffers)
        if links is not None:
            self._set_up_stacked(links)
        else:
            self._set_up_vmap(parameters)

    def _set_up_plain(self) -> None:
        self.mode = "plain"
        named = dict(self.template.named_parameters())
        for name, parameter in named.items():
            parameter.data = self.view(name)[0]
        self.leaves = [named[name] for name in self.columns]
        self.buffers = dict(self.template.named_buffers())
        self._forward = lambda inputs_RBx: self.template(inputs_RBx[0]).unsqueeze(0)

    def _set_up_stacked(self, links: Sequence[_Link]) -> None:
        self.mode = "stacked"
        for layer in self.template.modules():
            # The input of a chain is a leaf of its graph, which nothing may overwrite.
            if hasattr(layer, "inplace"):
                layer.inplace = False  # pyright: ignore[reportArgumentType]
        self._links = _joined(links)
        self._forward = _Chain(self._links)

    def _set_up_vmap(self, parameters: dict[str, Tensor]) -> None:
        self.mode = "vmap"
        # Fused attention has no batching rule: vmap would loop over the runs, with a warning.
        torch.backends.mha.set_fastpath_enabled(False)

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs_Bx: Tensor) -> Tensor:
            return torch.func.functional_call(self.template, (parameters, buffers), (inputs_Bx,))

        batched = torch.func.vmap(call, randomness="different")

        def forward(inputs_RBx: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):
                return batched(parameters, self.buffers, inputs_RBx)

        self._forward = forward

    def __call__(self, inputs_RBx: Tensor) -> Tensor:
        return self._forward(inputs_RBx.expand(self.size, *inputs_RBx.shape[1:]))

    def train(self, mode: bool = True) -> None:
        """Training mode for dropout and batch norm, or evaluation mode."""
        self.template.train(mode)

    def view(self, name: str) -> Tensor:
        """The parameter `name` of all runs, (R, *shape), sharing memory with `parameters_RP`."""
        return self._view(self.parameters_RP, name)

    def _view(self, tensor_RP: Tensor, name: str) -> Tensor:
        shape = self.template.get_parameter(name).shape
        if self._channels_last and len(shape) == 4:
            return tensor_RP[:, self.columns[name]].view(1, shape[0], *shape[2:], shape[1]).movedim(-1, 2)
        return tensor_RP[:, self.columns[name]].view(self.size, *shape)

    def differentiate(self, inputs_RBx: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Forward and backward at once.

        Args:
            loss: the loss and its gradient, which is overwritten.

        Returns:
            The batch's mean losses (R,), the logits (R, B, K), the gradient of the mean losses at the logits, and at
            all parameters, (R, P), in memory that the next call reuses.
        """
        links = self._links
        if links is None or torch.is_autocast_enabled(self.parameters_RP.device.type):
            outputs_RBK = self(inputs_RBx).to(self.parameters_RP.dtype)
            logits_RBK = outputs_RBK.detach()
            loss_RB, logit_gradient_RBK = _mean_loss(loss, logits_RBK)
            gradients = torch.autograd.grad(outputs_RBK, self.leaves, logit_gradient_RBK, materialize_grads=True)
            for view, gradient in zip(self._gradients, gradients, strict=True):
                view.copy_(gradient.view_as(view))
        else:
            # By hand, with what the links leave to autograd in graphs of their own: one graph over all of them costs
            # as much as the products themselves where layers and packs are small.
            logits_RBK, tape = _record(links, inputs_RBx.expand(self.size, *inputs_RBx.shape[1:]))
            loss_RB, logit_gradient_RBK = _mean_loss(loss, logits_RBK)
            _unwind(tape, logit_gradient_RBK, dict(zip(self.leaves, self._gradients, strict=True)))
        return loss_RB.mean(1), logits_RBK, logit_gradient_RBK, self.gradients_RP


def _layout(template: nn.Module) -> tuple[dict[str, slice], slice, slice]:
    """Return the columns of each parameter, those of the backbone and those that weight decay applies to."""
    shapes = {name: parameter.shape for name, parameter in template.named_parameters()}

    def group(name: str) -> int:
        # Decay leaves biases and norms alone: they are the parameters of fewer than two axes. In this order
        # both the backbone and what decays are one stretch of columns.
        decays, last = len(shapes[name]) >= 2, name.startswith("classifier.")
        return {(False, False): 0, (True, False): 1, (True, True): 2, (False, True): 3}[decays, last]

    names = sorted(shapes, key=group)
    ends = [*accumulate(shapes[name].numel() for name in names)]
    columns = {name: slice(start, end) for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)}
    starts = [sum(shapes[name].numel() for name in names if group(name) < number) for number in range(4)]
    return columns, slice(0, starts[2]), slice(starts[1], starts[3])


def _mean_loss(loss: Loss, logits_RBK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each example, and the gradient of the batch's mean loss at the logits."""
    loss_RB, logit_gradient_RBK = loss(logits_RBK)
    return loss_RB, logit_gradient_RBK.div_(loss_RB.shape[1])


@torch.no_grad()
def _record(links: Sequence[_Link], inputs_RBx: Tensor) -> tuple[Tensor, _Tape]:
    """Return the logits, and for each link its inputs and outputs."""
    hidden, tape = inputs_RBx, []
    for link in links:
        # The gradient is wanted as far down as there are parameters.
        before = hidden.requires_grad_(any(below.leaves for below, _, _ in tape))
        after = link.forward(before)
        tape.append((link, before, after))
        hidden = after.detach()
    return hidden.contiguous(), tape


@torch.no_grad()
def _unwind(tape: _Tape, gradient: Tensor | None, into: Mapping[Tensor, Tensor]) -> None:
    """Write the gradients at the leaves of all links, given the gradient at the logits."""
    for link, before, after in reversed(tape):
        if gradient is not None and (link.leaves or before.requires_grad):
            gradient = link.backward(before, after, gradient, [into[leaf] for leaf in link.leaves])


def is_stackable(module: nn.Module) -> bool:
    """Whether a pack of such modules takes the stacked way rather than vmap."""
    # A pack of one run.
    tensors = {name: tensor.unsqueeze(0) for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return _stacked(module, "", tensors, tensors) is not None


def _joined(links: Sequence[_Link]) -> list[_Link]:
    """Join neighbouring chains, so that autograd differentiates them at once."""
    joined: list[_Link] = []
    for link in links:
        last = joined[-1] if joined else None
        if isinstance(link, _Chain) and isinstance(last, _Chain):
            joined[-1] = _Chain([*last.layers, *link.layers], [*last.leaves, *link.leaves])
        else:
            joined.append(link)
    return joined


def _stacked(
    module: nn.Module, prefix: str, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> list[_Link] | None:
    """Return the layers of a Sequential as links, or None where one of them has no stacked form."""
    if type(module) is nn.Sequential:
        links: list[_Link] = []
        # Not named_children, which leaves out a layer that stands in two places, such as a shared ReLU.
        for name, child in zip(module._modules, module, strict=True):
            inner = _stacked(child, f"{prefix}{name}.", parameters, buffers)
            if inner is None:
                return None
            links += inner
        return links
    names = [name for name, _ in module.named_parameters()]
    if any(prefix + name not in parameters for name in names):
        return None  # an earlier layer has them: the gradients of two layers would have to be summed
    own = {name: parameters[prefix + name] for name in names}
    if _is_stackable_layer(module):
        return [_Chain([module.stacked(own)], [*own.values()])]
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return [_Chain([lambda x_RBx: x_RBx.flatten(2)])]
    if type(module) is nn.ReLU:
        return [_ReLU()]
    if type(module) in ELEMENTWISE:
        return [_Chain([module])]
    if type(module) is nn.Linear:
        return [_Linear(own["weight"], own.get("bias"))]
    if type(module) is nn.BatchNorm1d and module.affine and module.track_running_stats and module.momentum is not None:
        leaves = [own["weight"], own["bias"]]
        statistics = [buffers[prefix + name] for name in ("running_mean", "running_var")]
        return [_Chain([_BatchNorm(module, module.momentum, leaves, statistics)], leaves)]
    return None


def _is_stackable_layer(module: nn.Module) -> TypeGuard[Stackable]:
    # A submodule may be named `stacked` too.
    return callable(getattr(type(module), "stacked", None))


class _BatchNorm:
    def __init__(self, module: nn.BatchNorm1d, momentum: float, leaves: list[Tensor], statistics: list[Tensor]):
        self.module, self.momentum, self.leaves, self.statistics = module, momentum, leaves, statistics

    def __call__(self, x_RBC: Tensor) -> Tensor:
        R, B, C = x_RBC.shape
        weight_RC, bias_RC = self.leaves
        mean_RC, var_RC = self.statistics
        # Runs and channels as the channels of one batch norm: each is normalised over its batch.
        out_1CB = F.batch_norm(
            x_RBC.mT.reshape(1, R * C, B),
            mean_RC.view(-1),
            var_RC.view(-1),
            weight_RC.reshape(-1),
            bias_RC.reshape(-1),
            training=self.module.training,
            momentum=self.momentum,
            eps=self.module.eps,
        )
        return out_1CB.view(R, C, B).mT
