"""Packs against runs that are trained alone, and against autograd."""

import copy
import weakref
from collections import OrderedDict

import pytest
import torch
from conftest import run, vary
from torch import nn

from headtohead.training.heads import HEADS, SoftmaxCosine
from headtohead.training.packing import NARROW, WIDE, Pack

# The bounds in float32 hold for runs in which rounding moves no unit across a kink, as on this split.
DIGITS = ["dataset=digits", "dataset.folds=null", "dataset.test_fraction=0.2"]
FAMILIES = {
    "linear": ["dataset=wine", "model=linear"],
    "mlp": [*DIGITS, "model=mlp", "model.widths=[12,8]"],
    "mlp_cosine": [*DIGITS, "model=mlp", "model.widths=[12,8]"],
    "mlp_batch_norm": [*DIGITS, "model=mlp", "model.widths=[12]", "model.batch_norm=true"],
    "cnn": [*DIGITS, "model=cnn", "model.widths=[3,4]"],
    "resnet18": [*DIGITS, "model=resnet18"],
    "transformer": [*DIGITS, "model=factory", "model.path=factories:transformer"],
}
OPTIMIZER_RUNS = {
    "sgd": [{"lr": 0.05, "weight_decay": 0.01}, {"lr": 0.2, "weight_decay": 0.0, "clip_norm": 0.5}],
    "adamw": [{"lr": 0.003, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.0, "clip_norm": 0.5}],
}


def mixed_pack(config, family, optimizer, precision):
    """Return runs that differ in head, learning rate, weight decay, clipping and seed."""
    common = [*FAMILIES[family], f"optimizer={optimizer}", f"precision={precision}", "dataset.train_size=64"]
    common += ["training.epochs=4", "training.batch_size=8", "training.points=4", "training.evaluations=2"]
    heads = ["head=softmax", "head=sigmoid_prior", "head=sigmoid_mean", "head=sigmoid", "head=softmax"]
    if family == "linear":
        # No layer amplifies rounding, so that every head with a linear classifier can be compared.
        heads += [f"head={name}" for name in HEADS if name != "softmax_cosine"]
    if family == "mlp_cosine":
        heads = ["head=softmax_cosine"] * 4
    options = OPTIMIZER_RUNS[optimizer]
    first_seed = 0
    if family == "resnet18":
        # Slow, so a small pack on few examples. Batch norm over few examples amplifies rounding from step to step; a
        # low learning rate limits this.
        heads = heads[:2]
        common += ["training.epochs=10", "training.batch_size=8", "dataset.train_size=16", "dataset.val_fraction=0.01"]
        scale = 1e-2 if precision == "float64" else 1e-5
        options = [{**numbers, "lr": scale * numbers["lr"]} for numbers in options]
        # If rounding moves a unit across ReLU's kink, gradients change by up to a percent. Here it moves none.
        first_seed = 2
    return [
        vary(config(*common, head), seed=first_seed + index % 2, **options[index // 2 % 2])
        for index, head in enumerate(heads)
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZER_RUNS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_packed_equals_unpacked(config, family, optimizer, precision):
    # In float32, rounding may move an example across a threshold, which changes shares and bins by a step.
    bounds = {"float64": (1e-9, 1e-9), "float32": (5e-3, 5e-2)}[precision]
    smooth = ("loss", "nll", "brier", "grad_norm", "lr", "coupling", "row_sum", "hessian", "edge_of_stability")
    runs = mixed_pack(config, family, optimizer, precision)
    if family == "linear":
        assert {type(single.head) for single in runs} == {*HEADS.values()} - {SoftmaxCosine}
    test = family != "resnet18"
    packed_points, packed = run(runs, test)
    assert packed[0].pack_mode == ("stacked" if family.startswith(("linear", "mlp")) else "vmap")
    assert packed[0].steps >= 20
    for index, single in enumerate(runs):
        points, (outcome,) = run([single], test)
        assert outcome.pack_mode == "plain"
        assert [p.step for p in points] == [p.step for p in packed_points]
        for ours, theirs in zip(points, packed_points, strict=True):
            for name, value in ours.values.items():
                bound = bounds[not any(word in name for word in smooth)]
                assert theirs.values[name][index] == pytest.approx(value[0], rel=bound, abs=bound), (name, ours.step)
        for name, value in outcome.metrics.items():
            bound = bounds[not any(word in name for word in smooth)]
            assert packed[index].metrics[name] == pytest.approx(value, rel=bound, abs=bound, nan_ok=True), name


@pytest.mark.parametrize("first", ["linear", "batch_norm"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_by_hand_equal_those_of_autograd(first, bias):
    torch.manual_seed(0)

    def build():
        layers = OrderedDict(flatten=nn.Flatten())
        if first == "batch_norm":
            layers["norm0"] = nn.BatchNorm1d(12)
        layers |= {"one": nn.Linear(12, 7, bias=bias), "norm": nn.BatchNorm1d(7), "gelu": nn.GELU()}
        layers |= {"two": nn.Linear(7, 7), "three": nn.Linear(7, 5, bias=bias), "relu": nn.ReLU(inplace=True)}
        return nn.Sequential(layers | {"classifier": nn.Linear(5, 3)})

    pack = Pack([build(), build()], torch.device("cpu"), torch.float64)
    inputs, labels = torch.randn(2, 9, 3, 4).double(), torch.randint(3, (2, 9))

    def loss(logits):
        return nn.functional.cross_entropy(logits.mT, labels, reduction="none")

    assert pack.mode == "stacked"
    logits = pack(inputs)
    *expected, at_logits = torch.autograd.grad(loss(logits).mean(1).sum(), [*pack.leaves, logits])

    def loss_and_gradient(logits):
        logits.requires_grad_()
        loss_RB = loss(logits)
        return loss_RB.detach(), torch.autograd.grad(loss_RB.sum(), logits)[0]

    loss_R, logits_RBK, logit_gradient_RBK, gradients_RP = pack.differentiate(inputs, loss_and_gradient)
    torch.testing.assert_close(loss_R, loss(logits).detach().mean(1))
    torch.testing.assert_close(logits_RBK, logits.detach())
    torch.testing.assert_close(logit_gradient_RBK, at_logits)
    torch.testing.assert_close(gradients_RP, torch.cat([part.flatten(1) for part in expected], 1))


@pytest.mark.parametrize(("shared", "mode"), [("activation", "stacked"), ("layer", "vmap")])
def test_a_layer_that_is_used_twice_acts_twice(shared, mode):
    torch.manual_seed(0)

    def build():
        activation, layer = nn.ReLU(), nn.Linear(4, 4)
        layers = {"one": layer, "relu": activation, "two": layer if shared == "layer" else nn.Linear(4, 4)}
        layers |= {"relu2": activation if shared == "activation" else nn.ReLU(), "classifier": nn.Linear(4, 3)}
        return nn.Sequential(OrderedDict(layers)).double()

    modules, inputs = [build(), build()], torch.randn(2, 9, 4).double()
    pack = Pack(modules, torch.device("cpu"), torch.float64)
    assert pack.mode == mode
    torch.testing.assert_close(pack(inputs), torch.stack([*map(nn.Module.__call__, modules, inputs)]))


@pytest.mark.parametrize("inputs", [NARROW - 1, NARROW])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_wide_layers_equal_those_of_autograd(inputs, bias):
    torch.manual_seed(0)
    layers = [OrderedDict(flatten=nn.Flatten(), classifier=nn.Linear(inputs, WIDE + 1, bias=bias)) for _ in range(2)]
    pack = Pack([nn.Sequential(layer) for layer in layers], torch.device("cpu"), torch.float64)
    x, labels = torch.randn(2, 9, inputs).double(), torch.randint(WIDE + 1, (2, 9))

    def loss(logits):
        return nn.functional.cross_entropy(logits.mT, labels, reduction="none")

    def loss_and_gradient(logits):
        leaf = logits.detach().requires_grad_()
        loss_RB = loss(leaf)
        return loss_RB.detach(), torch.autograd.grad(loss_RB.sum(), leaf)[0]

    assert pack.mode == "stacked"
    expected = torch.autograd.grad(loss(pack(x)).mean(1).sum(), pack.leaves)
    *_, gradients_RP = pack.differentiate(x, loss_and_gradient)
    torch.testing.assert_close(gradients_RP, torch.cat([part.flatten(1) for part in expected], 1))
    for index, layer in enumerate(layers):
        torch.testing.assert_close(pack(x)[index], layer["classifier"].double()(x[index]))


class Random(nn.Sequential):
    """A network that draws a random number, which vmap cannot batch, and drops none of its inputs."""

    def forward(self, inputs):
        return super().forward(nn.functional.dropout(inputs, 1e-12, self.training))


def test_a_loop_frees_the_activations_of_a_run_before_the_next():
    held: weakref.WeakSet = weakref.WeakSet()
    counts = []

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            held.add(self)
            counts.append(len(held))

    def most_held(runs):
        torch.manual_seed(0)
        widths = OrderedDict(one=nn.Linear(4, 6), tanh=nn.Tanh(), two=nn.Linear(6, 6), classifier=nn.Linear(6, 3))
        pack = Pack([copy.deepcopy(Random(widths)) for _ in range(runs)], torch.device("cpu"), torch.float64)
        inputs, labels = torch.randn(runs, 9, 4).double(), torch.randint(3, (runs, 9))

        def loss(logits, run=None):
            leaf, own = logits.detach().requires_grad_(), labels if run is None else labels[run : run + 1]
            loss_RB = nn.functional.cross_entropy(leaf.mT, own, reduction="none")
            return loss_RB.detach(), torch.autograd.grad(loss_RB.sum(), leaf)[0]

        counts.clear()
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            *_, gradients_RP = pack.differentiate(inputs, loss)
        assert pack.mode == "loop" and (gradients_RP != 0).any(1).all()
        return max(counts)

    assert most_held(6) == most_held(2) > 0
