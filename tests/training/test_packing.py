"""Packs against runs that are trained alone, and against autograd."""

import copy
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace

import pytest
import torch
from conftest import run, vary
from plain_heads import PLAIN
from torch import nn

from headtohead.training import data
from headtohead.training.heads import HEADS, Head, OneLogit, SigmoidCosine, Softmax, SoftmaxCosine
from headtohead.training.loop import may_share_a_pack, train
from headtohead.training.optimizers import OPTIMIZERS
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
# Heads whose classifier is not linear in the features, or has fewer logits than classes.
OTHER_CLASSIFIERS = {SoftmaxCosine, SigmoidCosine, OneLogit}
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
        heads += [f"head={name}" for name, cls in HEADS.items() if cls not in OTHER_CLASSIFIERS]
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
    if family == "mlp_batch_norm" and precision == "float32":
        # Batch norm amplifies rounding in steps of this size, most for inputs unlike those of training.
        options = [{**numbers, "lr": 0.1 * numbers["lr"]} for numbers in options]
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
        assert {type(single.head) for single in runs} == {*HEADS.values()} - OTHER_CLASSIFIERS
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


NUMBERS = {
    "label_smoothing": (0.0, 0.1, 0.3),
    "adjustment": ("none", "posthoc", "loss"),
    "tau": (1.0, 0.5, 1.5),
    "class_weights": ("inverse", "none", "effective"),
    "beta": (0.9, 0.5, 0.99),
    "gamma": (0.0, 2.0, 0.5),
    "gamma_present": (0.0, 1.0, 0.5),
    "gamma_absent": (4.0, 0.5, 1.0),
    "clip": (0.0, 0.05, 0.2),
    "epsilon": (0.0, 1.0, -1.0),
    "pos_weight": (1.0, 3.0, 0.5),
    "weight": (1.0, 5.0, 2.0),
    "target": (1.0, 3.0, 2.0),
    "temperature": (0.1, 1.0, 0.3),
    "warmup": (0.0, 0.5, 0.1),
    "schedule": ("constant", "cosine", "linear"),
    "dropout": (0.1, 0.7, 0.4),
    "lr": (0.01, 0.003, 0.02),
    "weight_decay": (0.0, 0.1, 0.01),
    "clip_norm": (None, 0.5, 2.0),
    "momentum": (0.9, 0.0, 0.5),
    "nesterov": (True, False, False),
    "beta1": (0.9, 0.0, 0.5),
    "beta2": (0.999, 0.9, 0.99),
    "eps": (1e-8, 1e-3, 1e-2),
}


def with_numbers(config):
    """Return three configurations that differ in every number in which the runs of a pack may differ."""

    def part(options, index):
        return replace(options, **{name: NUMBERS[name][index] for name in vars(options) if name in NUMBERS})

    parts = ("head", "model", "optimizer", "training") if config.model.dropout else ("head", "optimizer", "training")
    return [replace(config, **{name: part(getattr(config, name), index) for name in parts}) for index in range(3)]


def assert_packed_equals_unpacked(runs, mode):
    assert len({may_share_a_pack(single) for single in runs}) == 1
    packed_points, packed = run(runs)
    assert {outcome.pack_mode for outcome in packed} == {mode}
    for index, single in enumerate(runs):
        points, (alone,) = run([single])
        assert packed[index].metrics == pytest.approx(alone.metrics, rel=1e-9, abs=1e-9, nan_ok=True)
        for ours, theirs in zip(packed_points, points, strict=True):
            assert ours.rows()[index] == pytest.approx(theirs.rows()[0], rel=1e-9, abs=1e-9)


SMALL = ["dataset=iris", "model=mlp", "model.widths=[6]", "precision=float64", "training.epochs=5", "fold=0",
         "training.batch_size=16", "training.points=4", "training.evaluations=2"]  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_runs_of_a_pack_may_differ_in_every_number(config, head, optimizer):
    dropout = "model.dropout=0.5" if optimizer == "adamw" else "model.dropout=0"
    two = ["dataset=breast_cancer", "dataset.train_size=60"] if head == "one_logit" else []
    runs = with_numbers(config(*SMALL, "dataset.imbalance=3", *two, f"head={head}", f"optimizer={optimizer}", dropout))
    assert_packed_equals_unpacked(runs, "stacked")


def test_heads_of_several_kinds_with_numbers_of_their_own_share_a_pack(config):
    names = ("sigmoid_mean", "softmax", "sigmoid", "softmax", "sigmoid_focal")
    runs = [single for name in names for single in with_numbers(config(*SMALL, f"head={name}"))]
    assert_packed_equals_unpacked(runs, "stacked")


def test_numbers_differ_in_packs_of_classifiers_on_features(config):
    frozen = ["head=softmax_cosine", "model.freeze=backbone", "model.dropout=0.5"]
    assert_packed_equals_unpacked(with_numbers(config(*SMALL, *frozen)), "stacked")


@pytest.mark.parametrize("head", ["sigmoid", "softmax_cosine"])
@pytest.mark.parametrize(("network", "mode"), [("transformer", "vmap"), ("Noisy", "loop")])
def test_numbers_differ_in_packs_that_are_not_stacked(config, head, network, mode):
    common = [*DIGITS, "dataset.train_size=64", "precision=float64", "training.epochs=2", "training.points=3"]
    common += ["training.evaluations=2", "training.batch_size=16", "model=factory", f"model.path=factories:{network}"]
    single = config(*common, f"head={head}")
    heads = [{"label_smoothing": 0.0}, {"label_smoothing": 0.2}]
    if head == "softmax_cosine":
        heads = [{**options, "temperature": number} for options, number in zip(heads, (0.1, 0.5), strict=True)]
    training = [replace(single.training, warmup=warmup) for warmup in (0.0, 0.5)]
    runs = [
        replace(single, head=replace(single.head, **options), training=schedule)
        for options, schedule in zip(heads, training, strict=True)
    ]
    assert_packed_equals_unpacked(runs, mode)


@pytest.mark.parametrize("head", ["sigmoid_focal", "softmax_cosine"])
def test_a_pack_of_different_numbers_goes_on_from_a_checkpoint_to_the_bit(config, head):
    runs = with_numbers(config(*SMALL, f"head={head}", "optimizer=adamw", "model.dropout=0.5", "model.batch_norm=true"))
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    points, outcomes = run(runs)
    middle = next(point for point in train(runs, pool, True) if point.step == points[1].step)
    *_, resumed = train(runs, pool, True, middle.state())
    assert repr([outcome.metrics for outcome in resumed]) == repr([outcome.metrics for outcome in outcomes])


@dataclass(frozen=True)
class Branching(Softmax):
    """A head of the user's own, whose loss is another one above a number."""

    power: float

    def loss(self, logits_xK, labels_x):
        assert isinstance(self.power, float) and isinstance(self.label_smoothing, float)
        loss_x = super().loss(logits_xK, labels_x)
        return loss_x if self.power < 1 else loss_x**self.power

    def loss_and_gradient(self, logits_xK, labels_x, gradient_xK):
        return Head.loss_and_gradient(self, logits_xK, labels_x, gradient_xK)


def test_a_head_of_the_user_is_called_with_its_own_numbers(config):
    single = config(*SMALL, "head=softmax")
    numbers = [(0.0, 0.5), (0.0, 2.0), (0.1, 2.0), (0.1, 2.0)]
    heads = [Branching(**PLAIN | {"label_smoothing": smoothing}, power=power) for smoothing, power in numbers]
    assert_packed_equals_unpacked([replace(single, head=head) for head in heads], "stacked")


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

    loss_RB, logits_RBK, logit_gradient_RBK, gradients_RP = pack.differentiate(inputs, loss_and_gradient)
    torch.testing.assert_close(loss_RB, loss(logits).detach())
    torch.testing.assert_close(logits_RBK, logits.detach())
    torch.testing.assert_close(logit_gradient_RBK / 9, at_logits)
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
