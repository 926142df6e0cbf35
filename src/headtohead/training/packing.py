"""Packs: many networks of one architecture as one, with stacked parameters, one forward and one gradient.

Shape suffixes: R runs, B batch, K classes, C channels, I inputs and O outputs of a layer, P parameters of one run; x
any further axes.

The trained parameters of all runs lie in one tensor (R, P), so that an update, a norm or a mask is one operation for
the whole pack. The forward has four modes, of which a pack takes the fastest that applies:

* plain: a pack of one calls its module.
* stacked: each layer of an nn.Sequential is replaced by one batched operation, if all its layers have one. With dropout
  a pack of one is stacked as well, so that its masks are those of a larger pack.
* vmap: PyTorch batches any other module, by torch.func; this is slower.
* loop: a module that vmap cannot batch, that draws random numbers, or that has other attributes in another run, is
  called and differentiated run by run, so that the activations of one run are in memory at a time.

A run in a pack equals the run alone up to rounding: to 1e-9 in float64 over tens of steps, to 5e-3 in float32. Random
numbers are drawn for each run from its seed (`dropout`).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from typing import Any, Protocol, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headtohead.training.attributes import have_equal_attributes
from headtohead.training.dropout import Draws, global_states

# The same layer of R runs as one function from (R, B, x) to (R, B, x).
Layer = Callable[[Tensor], Tensor]

# Above this many outputs, a layer writes them example by example: transposing them for the loss would take long.
WIDE = 256
# Below this many inputs of a wide layer, the plain product for the weights' gradient is slow on the CPU.
NARROW = 32
ELEMENTWISE = (nn.Identity, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU)


class Loss(Protocol):
    """The losses of a pack."""

    def __call__(self, logits_RBK: Tensor, run: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss of each example, (R, B), and its gradient at the logits, (R, B, K).

        Args:
            run: the number of the only run that the logits are of; None for those of all runs.
        """
        ...


class Stackable(Protocol):
    """A layer that has its own stacked form."""

    def stacked(self, state: Mapping[str, Tensor]) -> Layer:
        """Return this layer of R runs as one function that autograd can differentiate.

        Args:
            state: stacked parameters and buffers of the layer by name, each (R, *shape).
        """
        ...


class _Link(ABC):
    """One or more layers: a function on (R, B, x) that autograd can differentiate, and its gradient by hand.

    Attributes:
        leaves: parameters.
        gradients: tensors to which `backward` writes the gradients at the leaves.
        has_leaves_below: whether a link before this one has leaves, so that the gradient at the inputs is needed.
    """

    leaves: Sequence[Tensor] = ()
    gradients: Sequence[Tensor] = ()
    has_leaves_below: bool = False

    @abstractmethod
    def __call__(self, x_RBx: Tensor) -> Tensor: ...

    @abstractmethod
    def forward(self, x_RBx: Tensor) -> tuple[Tensor, Any]:
        """Return the outputs without a graph, and what `backward` needs. Autograd is off."""

    @abstractmethod
    def backward(self, saved: Any, gradient: Tensor) -> Tensor | None:
        """Write the gradients of the mean losses at the leaves.

        Args:
            saved: what `forward` returned.
            gradient: gradients of the losses of the examples at the outputs. They may be overwritten.

        Returns:
            Those at the inputs, or None if they are not needed.
        """


class _Linear(_Link):
    def __init__(self, weight_ROI: Tensor, bias_RO: Tensor | None):
        self.weight_ROI, self.bias_RO = weight_ROI, bias_RO
        self.leaves = [weight_ROI] if bias_RO is None else [weight_ROI, bias_RO]

    def __call__(self, x_RBI: Tensor) -> Tensor:
        if self.weight_ROI.shape[1] > WIDE:
            # Not baddbmm, which would first copy the bias to all outputs: one more pass over them.
            outputs_RBO = torch.bmm(x_RBI, self.weight_ROI.mT)
            return outputs_RBO if self.bias_RO is None else outputs_RBO.add_(self.bias_RO.unsqueeze(1))
        # The outputs lie as (R, O, B) in memory, so that batch norm need not copy them.
        if self.bias_RO is None:
            return torch.bmm(self.weight_ROI, x_RBI.mT).mT
        return torch.baddbmm(self.bias_RO.unsqueeze(2), self.weight_ROI, x_RBI.mT).mT

    def forward(self, x_RBx: Tensor) -> tuple[Tensor, Tensor]:
        return self(x_RBx), x_RBx

    def backward(self, saved: Tensor, gradient: Tensor) -> Tensor | None:
        gradient_ROB, batch_size = gradient.mT, gradient.shape[1]
        outputs, inputs = self.weight_ROI.shape[1:]
        if outputs > WIDE and inputs < NARROW and self.bias_RO is not None:
            # A product with long rows. An additional input of one gives the gradient of the bias as well.
            product_RIO = torch.bmm(F.pad(saved, (0, 1), value=1).mT, gradient)
            torch.div(product_RIO[:, :-1].mT, batch_size, out=self.gradients[0])
            torch.div(product_RIO[:, -1], batch_size, out=self.gradients[1])
        else:
            into = self.gradients[0]
            torch.baddbmm(into, gradient_ROB, saved, beta=0, alpha=1 / batch_size, out=into)
            if self.bias_RO is not None:
                torch.mean(gradient_ROB, 2, out=self.gradients[1])
        return torch.bmm(self.weight_ROI.mT, gradient_ROB).mT if self.has_leaves_below else None


class _ReLU(_Link):
    def __call__(self, x_RBx: Tensor) -> Tensor:
        return x_RBx.relu()

    def forward(self, x_RBx: Tensor) -> tuple[Tensor, Tensor]:
        outputs_RBx = self(x_RBx)
        return outputs_RBx, outputs_RBx

    def backward(self, saved: Tensor, gradient: Tensor) -> Tensor | None:
        return torch.ops.aten.threshold_backward.grad_input(gradient, saved, 0, grad_input=gradient)


class _Chain(_Link):
    """Layers in sequence, differentiated by autograd."""

    def __init__(self, layers: Sequence[Layer], leaves: Sequence[Tensor] = ()):
        self.layers, self.leaves = layers, leaves

    def __call__(self, x_RBx: Tensor) -> Tensor:
        for layer in self.layers:
            x_RBx = layer(x_RBx)
        return x_RBx

    def forward(self, x_RBx: Tensor) -> tuple[Tensor, Any]:
        if not self.leaves and not self.has_leaves_below:
            return self(x_RBx), None
        before = x_RBx.detach().requires_grad_(self.has_leaves_below)
        with torch.enable_grad():
            after = self(before)
        return after.detach(), (before, after)

    def backward(self, saved: Any, gradient: Tensor) -> Tensor | None:
        if saved is None:
            return None
        (before, after), below = saved, int(self.has_leaves_below)
        inputs = [*[before] * below, *self.leaves]
        gradients = torch.autograd.grad(after, inputs, gradient, materialize_grads=True)
        for view, of_leaf in zip(self.gradients, gradients[below:], strict=True):
            torch.div(of_leaf, gradient.shape[1], out=view)
        return gradients[0] if below else None


class Pack:
    """R networks of one architecture. A call maps inputs (R, B, x) to logits (R, B, K).

    Parameters with `requires_grad=False` are not trained; those that all runs have in common are in memory once. Layers
    in evaluation mode stay in it.

    Args:
        modules: R networks with the initial weights, each with a layer named `classifier`. They are copied, so that one
            module may serve several runs. Layers differ at most in parameters, buffers and the rate of dropout.
        seeds: seed of each run, for random numbers; by default runs have different ones.

    Attributes:
        mode: "plain", "stacked", "vmap" or "loop". The first call may turn vmap into loop.
        step: step of training, which random numbers depend on.
        template: network of one run, which is called in the modes plain and vmap.
        parameters_RP: all trained parameters.
        decayed: columns of the parameters that weight decay applies to, the weights.
        backbone: columns of all layers but the classifier.
        columns: columns of each parameter in `parameters_RP`, by name.
        leaves: parameters as leaves of autograd, views of `parameters_RP`, in the order of `columns`.
        frozen: parameters that are not trained, by name, (R, *shape) each; empty in the mode plain.
    """

    def __init__(
        self, modules: Sequence[nn.Module], device: torch.device, dtype: torch.dtype, seeds: Sequence[int] | None = None
    ):
        self.size, self.step, self.training = len(modules), 0, True
        self.template = copy.deepcopy(modules[0]).to(device, dtype)
        self._in_evaluation = in_evaluation(self.template)
        self.columns, self.backbone, self.decayed = _layout(self.template)
        # Convolutions on the CPU are fastest in this layout. A pack of several runs would have to copy.
        self._channels_last = self.size == 1 and device.type == "cpu"
        width = max(where.stop for where in self.columns.values())
        self.parameters_RP = torch.empty(self.size, width, device=device, dtype=dtype)
        self.gradients_RP = torch.zeros_like(self.parameters_RP)
        self._untouched: list[slice] = []
        states = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
        for name in self.columns:
            for of_run, state in zip(self.view(name), states, strict=True):
                of_run.copy_(state[name].detach())
        self._gradients = [self._view(self.gradients_RP, name) for name in self.columns]

        rates = _dropout_rates(modules)
        self._draws = Draws(range(self.size) if seeds is None else seeds, self.parameters_RP, rates)
        self._links: list[_Link] | None = None
        self._networks = [self.template]
        self._decide: Callable[[Tensor], None] | None = None
        self.frozen: dict[str, Tensor] = {}
        if self.size == 1 and not (rates and is_stackable(self.template)):
            self._set_up_plain()
            return
        self.leaves = [self.view(name).detach().requires_grad_() for name in self.columns]
        self.frozen = {
            name: _once_or_stacked([state[name].detach() for state in states], value.detach())
            for name, value in self.template.named_parameters()
            if not value.requires_grad
        }
        self._stacked_buffers = {
            name: torch.stack([state[name].detach() for state in states]).to(device, value.dtype)
            for name, value in self.template.named_buffers()
        }
        parameters = dict(zip(self.columns, self.leaves, strict=True)) | self.frozen
        alike = have_equal_attributes(modules)
        links = _stacked(self.template, "", parameters, self._stacked_buffers, self._draws) if alike else None
        if links is not None:
            self._set_up_stacked(links)
        else:
            self._set_up_vmap(parameters, modules, alike)

    def _set_up_plain(self) -> None:
        self.mode = "plain"
        named = dict(self.template.named_parameters())
        for name in self.columns:
            named[name].data = self.view(name)[0]
        self.leaves = [named[name] for name in self.columns]
        if is_stackable(self.template):  # nothing in it draws
            self._forward = lambda inputs_RBx: self.template(inputs_RBx[0]).unsqueeze(0)
        else:
            self._forward = self._one_by_one

    def _set_up_stacked(self, links: Sequence[_Link]) -> None:
        self.mode = "stacked"
        for layer in self.template.modules():
            # The input of a chain is a leaf of its graph, which may not be overwritten.
            if hasattr(layer, "inplace"):
                layer.inplace = False  # pyright: ignore[reportArgumentType]
        self._links = _joined(links)
        self._forward = _Chain(self._links)
        gradient_of = dict(zip(self.leaves, self._gradients, strict=True))
        for number, link in enumerate(self._links):
            link.gradients = [gradient_of[leaf] for leaf in link.leaves]
            link.has_leaves_below = any(below.leaves for below in self._links[:number])

    def _set_up_vmap(self, parameters: dict[str, Tensor], modules: Sequence[nn.Module], alike: bool) -> None:
        self.mode = "vmap"
        # Fused attention has no batching rule: vmap would loop over the runs, with a warning.
        torch.backends.mha.set_fastpath_enabled(False)

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs_Bx: Tensor) -> Tensor:
            state = {**parameters, **buffers}
            outputs = torch.func.functional_call(self.template, state, (inputs_Bx,))
            if any(state[name] is not buffer for name, buffer in buffers.items()):
                raise RuntimeError("a buffer was replaced, which vmap would not notice")
            return outputs

        shared = {name for name, value_Rx in self.frozen.items() if _is_once(value_Rx)}
        parameters = {name: value_Rx[0] if name in shared else value_Rx for name, value_Rx in parameters.items()}
        axes = {name: None if name in shared else 0 for name in parameters}
        batched = torch.func.vmap(call, in_dims=(axes, 0, 0), randomness="error")

        def forward(inputs_RBx: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.MATH):
                return batched(parameters, self._stacked_buffers, inputs_RBx)

        def decide(inputs_RBx: Tensor) -> None:
            if alike and self._can_batch(forward, inputs_RBx):
                self._forward = forward
            else:
                self._set_up_loop(modules)

        self._decide = decide

    def _can_batch(self, forward: Layer, inputs_RBx: Tensor) -> bool:
        """Return whether vmap can batch the networks in either mode, without random numbers."""
        training, buffers = self.training, {name: value.clone() for name, value in self._stacked_buffers.items()}
        if any(layer._backward_hooks or layer._backward_pre_hooks for layer in self.template.modules()):
            return False  # vmap calls them with the gradients of all runs
        try:
            with torch.no_grad(), global_states() as changed:
                for mode in (not training, training):
                    self.train(mode)
                    forward(inputs_RBx)
                return not changed()
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception:  # vmap, or code of the user under vmap, may raise anything
            return False
        finally:
            self.train(training)
            for name, buffer in buffers.items():
                self._stacked_buffers[name].copy_(buffer)

    def _set_up_loop(self, modules: Sequence[nn.Module]) -> None:
        self.mode = "loop"
        own = dict(self.template.named_parameters())
        shared = {name: own[name] for name, value_Rx in self.frozen.items() if _is_once(value_Rx)}
        self._networks = []
        for module in modules:
            # What the memo of a copy holds is not copied.
            memo = {id(value): shared[name] for name, value in module.named_parameters() if name in shared}
            self._networks.append(copy.deepcopy(module, memo).to(self.parameters_RP))
        self._in_evaluation = [layer for network in self._networks for layer in in_evaluation(network)]
        for run, network in enumerate(self._networks):
            for name, buffer in network.named_buffers():
                buffer.copy_(self._stacked_buffers[name][run])
        self._forward = self._one_by_one
        self.train(self.training)

    def _one_by_one(self, inputs_RBx: Tensor) -> Tensor:
        """Call the network of each run, with random numbers of its seed."""
        outputs = []
        for run, inputs_Bx in enumerate(inputs_RBx):
            leaves = {name: leaf[run] for name, leaf in zip(self.columns, self.leaves, strict=True)}
            outputs.append(self._call(run, {} if self.mode == "plain" else leaves, inputs_Bx))
        return torch.stack(outputs)

    def _call(self, run: int, parameters: dict[str, Tensor], inputs_Bx: Tensor) -> Tensor:
        self._draws.seed_globally(run)
        return torch.func.functional_call(self._networks[run], parameters, (inputs_Bx,))

    def __call__(self, inputs_RBx: Tensor) -> Tensor:
        inputs_RBx = self._begin(inputs_RBx)
        return self._forward(inputs_RBx)

    def _begin(self, inputs_RBx: Tensor) -> Tensor:
        """Prepare the random numbers of a call, settle the mode at the first, and return the inputs of all runs."""
        inputs_RBx = inputs_RBx.expand(self.size, *inputs_RBx.shape[1:])
        self._draws.begin(self.step if self.training else None)
        if self._decide is not None:
            self._decide(inputs_RBx)
            self._decide = None
        return inputs_RBx

    def train(self, mode: bool = True) -> None:
        """Switch to training mode, for dropout and batch norm, or to evaluation mode."""
        self.training = mode
        switch(self._networks, mode, self._in_evaluation)

    def untouched_parameters(self) -> AbstractContextManager[None]:
        """Restore afterwards the parameters that the last call of `differentiate` found without a gradient.

        As in torch.optim, they do not decay.
        """
        return self._restored() if self._untouched else nullcontext()

    @contextmanager
    def _restored(self) -> Iterator[None]:
        kept = [(where, self.parameters_RP[:, where].clone()) for where in self._untouched]
        yield
        for where, values_RP in kept:
            self.parameters_RP[:, where] = values_RP

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Statistics of norms, and other buffers, by name, (R, *shape) each."""
        if self.mode in ("stacked", "vmap"):
            return self._stacked_buffers
        states = [dict(network.named_buffers()) for network in self._networks]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def restore_buffers(self, buffers_Rx: Mapping[str, Tensor]) -> None:
        """Set buffers to what `buffers` was, before the first call; those that it lacks stay."""
        for name, saved_Rx in buffers_Rx.items():
            if self.mode == "plain":
                self.template.get_buffer(name).copy_(saved_Rx[0])
            else:
                self._stacked_buffers[name].copy_(saved_Rx)

    def view(self, name: str) -> Tensor:
        """Return a parameter of all runs by name, (R, *shape); it shares memory with `parameters_RP`."""
        return self._view(self.parameters_RP, name)

    def _view(self, tensor_RP: Tensor, name: str) -> Tensor:
        shape = self.template.get_parameter(name).shape
        if self._channels_last and len(shape) == 4:
            return tensor_RP[:, self.columns[name]].view(1, shape[0], *shape[2:], shape[1]).movedim(-1, 2)
        return tensor_RP[:, self.columns[name]].view(self.size, *shape)

    def differentiate(self, inputs_RBx: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the loss of a batch and its gradients.

        Args:
            inputs_RBx: inputs of the batch; R may be one if all runs share them.
            loss: function that returns the loss and its gradient. The gradient is overwritten.

        Returns:
            The loss of each example (R, B), the logits (R, B, K), the gradient of the loss at the logits (R, B, K), and
            the gradient of the mean loss at all parameters (R, P). The next call overwrites the last.
        """
        inputs_RBx = self._begin(inputs_RBx)
        if self.mode == "loop":
            # The activations of one run are freed before those of the next are computed.
            parts = [self._differentiate_run(run, inputs_Bx, loss) for run, inputs_Bx in enumerate(inputs_RBx)]
            loss_RB, logits_RBK, logit_gradient_RBK = (torch.cat(part) for part in zip(*parts, strict=True))
        elif self._links is None or torch.is_autocast_enabled(self.parameters_RP.device.type):
            outputs_RBK = self._forward(inputs_RBx).to(self.parameters_RP.dtype)
            logits_RBK = outputs_RBK.detach()
            loss_RB, logit_gradient_RBK = loss(logits_RBK)
            gradients = torch.autograd.grad(outputs_RBK, self.leaves, logit_gradient_RBK, allow_unused=True)
            self._keep(gradients, self._gradients, logits_RBK.shape[1])
        else:
            # By hand. Links that need autograd have a graph each: with small layers and packs, one graph over all
            # links would take as long as the matrix products.
            logits_RBK, saved = _record(self._links, inputs_RBx)
            loss_RB, logit_gradient_RBK = loss(logits_RBK)
            _unwind(self._links, saved, logit_gradient_RBK)
        return loss_RB, logits_RBK, logit_gradient_RBK, self.gradients_RP

    def _differentiate_run(self, run: int, inputs_Bx: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Compute for one run the losses (1, B), the logits and the gradients at them (1, B, K)."""
        parameters = {name: self.view(name)[run].detach().requires_grad_() for name in self.columns}
        outputs_1BK = self._call(run, parameters, inputs_Bx).unsqueeze(0).to(self.parameters_RP.dtype)
        logits_1BK = outputs_1BK.detach()
        loss_1B, logit_gradient_1BK = loss(logits_1BK, run=run)
        gradients = torch.autograd.grad(outputs_1BK, [*parameters.values()], logit_gradient_1BK, allow_unused=True)
        self._keep(gradients, [view_Rx[run] for view_Rx in self._gradients], logits_1BK.shape[1])
        return loss_1B, logits_1BK, logit_gradient_1BK

    def _keep(self, gradients: Sequence[Tensor | None], views: Sequence[Tensor], batch_size: int) -> None:
        """Write the gradients of the mean loss, given those of the sum, and remember which parameters have none."""
        self._untouched = []
        for view, gradient, where in zip(views, gradients, self.columns.values(), strict=True):
            if gradient is None:
                view.zero_()
                self._untouched.append(where)
            else:
                torch.div(gradient.view_as(view), batch_size, out=view)


def _layout(template: nn.Module) -> tuple[dict[str, slice], slice, slice]:
    """Return the columns of each trained parameter by name, of the backbone and of what weight decay applies to."""
    shapes = {name: value.shape for name, value in template.named_parameters() if value.requires_grad}

    def group(name: str) -> int:
        # Weight decay excludes biases and norms, the parameters of fewer than two axes. In this order the columns of
        # the backbone are contiguous, and so are those that decay.
        decays, last = len(shapes[name]) >= 2, name.startswith("classifier.")
        return {(False, False): 0, (True, False): 1, (True, True): 2, (False, True): 3}[decays, last]

    names = sorted(shapes, key=group)
    ends = [*accumulate(shapes[name].numel() for name in names)]
    columns = {name: slice(start, end) for name, start, end in zip(names, [0, *ends[:-1]], ends, strict=True)}
    starts = [sum(shapes[name].numel() for name in names if group(name) < number) for number in range(4)]
    return columns, slice(0, starts[2]), slice(starts[1], starts[3])


def _once_or_stacked(values: Sequence[Tensor], first: Tensor) -> Tensor:
    """Return a parameter of R runs, (R, *shape), which is in memory once if it is equal in all of them.

    Args:
        values: its values.
        first: the first of them, on the device and of the type of the result.
    """
    if all(value is values[0] or torch.equal(value, values[0]) for value in values):
        return first.expand(len(values), *first.shape)
    return torch.stack([*values]).to(first)


def _is_once(value_Rx: Tensor) -> bool:
    """Return whether all runs have one value in memory."""
    return value_Rx.stride(0) == 0


@torch.no_grad()
def _record(links: Sequence[_Link], inputs_RBx: Tensor) -> tuple[Tensor, list[Any]]:
    """Return the logits, (R, B, K), and what the gradient of each link needs."""
    hidden, saved_by_link = inputs_RBx, []
    for link in links:
        hidden, saved = link.forward(hidden)
        saved_by_link.append(saved)
    return hidden.contiguous(), saved_by_link


@torch.no_grad()
def _unwind(links: Sequence[_Link], saved_by_link: Sequence[Any], logit_gradient_RBK: Tensor) -> None:
    """Write the gradients at the leaves of all links."""
    gradient: Tensor | None = logit_gradient_RBK
    for link, saved in zip(reversed(links), reversed(saved_by_link), strict=True):
        if gradient is None:
            return
        gradient = link.backward(saved, gradient)


def in_evaluation(network: nn.Module) -> list[nn.Module]:
    """Return the layers that are in evaluation mode."""
    return [layer for layer in network.modules() if not layer.training]


def switch(networks: Iterable[nn.Module], training: bool, fixed: Iterable[nn.Module]) -> None:
    """Switch networks to training or to evaluation mode; the layers `fixed` stay in evaluation mode."""
    for network in networks:
        network.train(training)
    for layer in fixed:
        layer.training = False


def is_stackable(module: nn.Module) -> bool:
    """Return whether a pack of such modules is stacked, not batched by vmap."""
    # A pack of one run.
    tensors = {name: tensor.unsqueeze(0) for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return _stacked(module, "", tensors, tensors, Draws([0], torch.empty(0), _dropout_rates([module]))) is not None


def _dropout_rates(networks: Sequence[nn.Module]) -> dict[str, list[float]]:
    """Return the rates of each dropout layer of R networks, by the name of the layer."""
    layers = networks[0].named_modules(remove_duplicate=False)
    names = [name for name, layer in layers if isinstance(layer, nn.Dropout)]
    return {name: [cast(nn.Dropout, network.get_submodule(name)).p for network in networks] for name in names}


def _is_plain(module: nn.Module) -> bool:
    """Return whether a call of the module is its class's forward and nothing else, such as a hook."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" not in vars(module) and not any(getattr(module, name) for name in hooks)


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
    module: nn.Module, prefix: str, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], draws: Draws
) -> list[_Link] | None:
    """Return the layers of a Sequential as links, or None where one of them has no stacked form."""
    if not _is_plain(module):
        return None
    if type(module) is nn.Sequential:
        links: list[_Link] = []
        # Not named_children, which omits the second place of a layer that is used twice, such as a shared ReLU.
        for name, child in zip(module._modules, module, strict=True):
            inner = _stacked(child, f"{prefix}{name}.", parameters, buffers, draws)
            if inner is None:
                return None
            links += inner
        return links
    if type(module) is nn.Dropout:
        return [_Chain([draws.dropout(prefix.removesuffix("."), module)])]
    names = [name for name, _ in module.named_parameters()]
    if any(prefix + name not in parameters for name in names):
        return None  # an earlier layer has them too, so that gradients would have to be summed
    own = {name: parameters[prefix + name] for name in names}
    link = _stacked_layer(module, own, {name: buffers[prefix + name] for name, _ in module.named_buffers()})
    return None if link is None else [link]


def _stacked_layer(module: nn.Module, own: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> _Link | None:
    """Return a layer as a link, or None if it has no stacked form.

    Args:
        own, buffers: parameters and buffers of the layer by name, (R, *shape) each.
    """
    trained = [value for value in own.values() if value.requires_grad]
    if _is_stackable_layer(module):
        return _Chain([module.stacked({**own, **buffers})], trained)
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return _Chain([lambda x_RBx: x_RBx.flatten(2)])
    if type(module) is nn.ReLU:
        return _ReLU()
    if type(module) in ELEMENTWISE:
        return _Chain([module])
    if type(module) is nn.Linear:
        linear = _Linear(own["weight"], own.get("bias"))
        # The gradient by hand is that of all parameters.
        return linear if len(trained) == len(own) else _Chain([linear], trained)
    if type(module) is nn.BatchNorm1d and module.affine and module.track_running_stats and module.momentum is not None:
        leaves = [own["weight"], own["bias"]]
        statistics = [buffers[name] for name in ("running_mean", "running_var")]
        return _Chain([_BatchNorm(module, module.momentum, leaves, statistics)], trained)
    return None


def _is_stackable_layer(module: nn.Module) -> TypeGuard[Stackable]:
    # Not an attribute of the module itself: a submodule may be named `stacked`.
    return callable(getattr(type(module), "stacked", None))


class _BatchNorm:
    def __init__(self, module: nn.BatchNorm1d, momentum: float, leaves: list[Tensor], statistics: list[Tensor]):
        self.module, self.momentum, self.leaves, self.statistics = module, momentum, leaves, statistics

    def __call__(self, x_RBC: Tensor) -> Tensor:
        R, B, C = x_RBC.shape
        weight_RC, bias_RC = self.leaves
        mean_RC, var_RC = self.statistics
        # The runs and channels are the channels of one batch norm, each normalised over its batch.
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
