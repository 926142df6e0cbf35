"""Frozen parameters against plain PyTorch, which trains those with `requires_grad` alone."""

from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
from omegaconf import OmegaConf
from plain_heads import PLAIN
from torch import nn
from torch.nn.functional import cross_entropy, dropout

from headtohead.options import ConfigError, build_named
from headtohead.training.diagnostics import gradient_norms
from headtohead.training.freezing import freeze
from headtohead.training.heads import Softmax
from headtohead.training.models import Factory, checked_build
from headtohead.training.optimizers import OPTIMIZERS
from headtohead.training.packing import Pack

CPU, STEPS, K = torch.device("cpu"), 4, 3
OPTIONS = {
    "sgd": {"lr": 0.2, "weight_decay": 0.1, "clip_norm": None, "momentum": 0.9, "nesterov": False},
    "adamw": {"lr": 0.02, "weight_decay": 0.1, "clip_norm": None, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
}
# Names of what is frozen, as prefixes.
FROZEN = {
    "first layer": ("one",),
    "middle layer": ("two",),
    "bias": ("one.bias",),
    "weight": ("two.weight",),
    "norm": ("norm",),
    "backbone": ("one", "norm", "two"),
    "bias of the classifier": ("classifier.bias",),
    "classifier": ("classifier",),
}


class Sequential(nn.Sequential):
    """A network that is no plain nn.Sequential."""


class Random(nn.Sequential):
    """A network that draws a random number in its forward, and drops none of it."""

    def forward(self, inputs):
        return super().forward(dropout(inputs, 1e-12, self.training))


def network(kind: type[nn.Module], frozen: tuple[str, ...]) -> nn.Module:
    layers = OrderedDict(one=nn.Linear(6, 5), norm=nn.BatchNorm1d(5), relu=nn.ReLU(inplace=True))
    layers |= {"two": nn.Linear(5, 5), "tanh": nn.Tanh(), "classifier": nn.Linear(5, K)}
    module = kind(layers).double()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    if "norm" in frozen:
        module.norm.eval()
        module.norm.running_mean.normal_()
    return module


def loss_and_gradient(labels):
    def loss(logits, run=None):
        leaf = logits.detach().requires_grad_()
        loss_RB = cross_entropy(leaf.mT, labels.expand(len(leaf), -1), reduction="none")
        return loss_RB.detach(), torch.autograd.grad(loss_RB.sum(), leaf)[0]

    return loss


def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(9, 6, generator=generator).double(), torch.randint(K, (9,), generator=generator))
        for _ in range(STEPS)
    ]


def train_packed(modules, optimizer):
    """Return the pack after some steps, and all norms of gradients."""
    pack = Pack(modules, CPU, torch.float64)
    options = build_named(OPTIMIZERS, OmegaConf.create({"name": optimizer, **OPTIONS[optimizer]}), "optimizer")
    updater = type(options).updater([options] * len(modules), pack.parameters_RP, pack.decayed)
    norms = []
    for pack.step, (inputs, labels) in enumerate(batches()):
        *_, gradients_RP = pack.differentiate(inputs.unsqueeze(0), loss_and_gradient(labels.unsqueeze(0)))
        norms += gradient_norms(gradients_RP, pack.columns).values()
        with pack.untouched_parameters():
            updater.step(gradients_RP, torch.full((len(modules), 1), options.lr, dtype=torch.float64))
    return pack, torch.stack(norms)


def train_alone(module, optimizer):
    module = deepcopy(module)
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    if optimizer == "sgd":
        torch_optimizer = torch.optim.SGD([group for group in groups if group["params"]], lr=0.2, momentum=0.9)
    else:
        torch_optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.02)
    for inputs, labels in batches():
        torch_optimizer.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        torch_optimizer.step()
    return module


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize(
    ("kind", "runs", "mode"),
    [(nn.Sequential, 1, "plain"), (nn.Sequential, 3, "stacked"), (Sequential, 2, "vmap"), (Random, 2, "loop")],
)
def test_frozen_parameters_stay_as_they_are_and_the_others_train_as_in_pytorch(kind, runs, mode, frozen, optimizer):
    torch.manual_seed(0)
    modules = [network(kind, FROZEN[frozen]) for _ in range(runs)]
    pack, norms = train_packed(modules, optimizer)
    assert pack.mode == mode
    assert not any(name.startswith(FROZEN[frozen]) for name in pack.columns)
    assert norms.isfinite().all()
    pack.train(False)
    inputs = torch.randn(7, 6).double()
    for run, module in enumerate(modules):
        alone = train_alone(module, optimizer)
        for name in pack.columns:
            torch.testing.assert_close(pack.view(name)[run], alone.get_parameter(name).detach(), rtol=1e-9, atol=1e-9)
        for name in ("norm.running_mean", "norm.running_var"):
            value = alone.get_buffer(name)
            torch.testing.assert_close(pack.buffers[name][run], value, rtol=1e-9, atol=1e-9)
        # Of the frozen parameters alone the outputs tell.
        torch.testing.assert_close(pack(inputs.unsqueeze(0))[run], alone.eval()(inputs), rtol=1e-9, atol=1e-9)


class Detached(nn.Module):
    """A network whose backbone is frozen by `no_grad`, and which has a layer that it does not use."""

    def __init__(self):
        super().__init__()
        self.one, self.unused, self.classifier = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, K)

    def forward(self, inputs):
        with torch.no_grad():
            features = torch.tanh(self.one(inputs))
        return self.classifier(features)


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("runs", [1, 2])
def test_parameters_without_a_gradient_stay_as_they_are(runs, optimizer):
    torch.manual_seed(0)
    modules = [Detached().double() for _ in range(runs)]
    pack, norms = train_packed(modules, optimizer)
    assert norms.isfinite().all()
    for run, module in enumerate(modules):
        for name, value in train_alone(module, optimizer).named_parameters():
            torch.testing.assert_close(pack.view(name)[run], value.detach())
            assert torch.equal(pack.view(name)[run], module.get_parameter(name)) == ("classifier" not in name)


@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward"])
def test_hooks_act_in_a_pack(hook):
    torch.manual_seed(0)

    def build():
        module = network(nn.Sequential, ("one",))
        act = {
            "forward": lambda layer, inputs, output: output.detach() * 2,
            "forward_pre": lambda layer, inputs: (inputs[0].detach() * 2,),
            "full_backward": lambda layer, to_inputs, to_outputs: (to_inputs[0] * 3,),
        }[hook]
        getattr(module.two, f"register_{hook}_hook")(act)
        return module

    modules = [build(), build()]
    pack, _ = train_packed(modules, "sgd")
    for run, module in enumerate(modules):
        alone = train_alone(module, "sgd")
        torch.testing.assert_close(pack.view("classifier.weight")[run], alone.classifier.weight.detach())
        torch.testing.assert_close(pack.view("two.bias")[run], alone.two.bias.detach())


def refusal(make, monkeypatch, prior="none", freeze="none"):
    import factories

    monkeypatch.setattr(factories, "made", make, raising=False)
    with pytest.raises(ConfigError) as caught:
        checked_build(Factory("factories:made", {}, freeze=freeze), Softmax(**PLAIN | {"prior_bias": prior}), (6,), K)
    return str(caught.value)


def test_a_network_without_anything_to_train_is_refused(monkeypatch):
    message = refusal(lambda *shape: network(nn.Sequential, ("",)).float(), monkeypatch)
    assert "no parameter has requires_grad" in message


def test_a_frozen_bias_cannot_have_a_prior(monkeypatch):
    message = refusal(lambda *shape: network(nn.Sequential, ("classifier.bias",)).float(), monkeypatch, "uniform")
    assert "head.prior_bias=uniform" in message


def test_lazy_layers_are_refused(monkeypatch):
    def make(*shape):
        return nn.Sequential(OrderedDict(one=nn.LazyLinear(5), classifier=nn.Linear(5, K)))

    assert "lazy" in refusal(make, monkeypatch)


def blocks(kind: type[nn.Module]) -> nn.Module:
    """Return a network of two blocks with batch norm and dropout."""

    def block(inputs, outputs):
        layers = {"linear": nn.Linear(inputs, outputs), "norm": nn.BatchNorm1d(outputs), "dropout": nn.Dropout(0.5)}
        return nn.Sequential(OrderedDict(layers))

    layers = {"first": block(6, 5), "second": block(5, 5), "relu": nn.ReLU(), "classifier": nn.Linear(5, K)}
    return kind(OrderedDict(layers)).double()


WEIGHTS = ["linear.weight", "linear.bias", "norm.weight", "norm.bias"]
NAMED = {
    "backbone": [f"{block}.{name}" for block in ("first", "second") for name in WEIGHTS],
    "first": [f"first.{name}" for name in WEIGHTS],
    r"^second\.(linear|norm)": [f"second.{name}" for name in WEIGHTS],
    "linear.weight|classifier": ["first.linear.weight", "second.linear.weight", "classifier.weight", "classifier.bias"],
}


@pytest.mark.parametrize("optimizer", OPTIONS)
@pytest.mark.parametrize("which", NAMED)
@pytest.mark.parametrize(
    ("kind", "runs", "mode"),
    [(Sequential, 1, "plain"), (nn.Sequential, 1, "stacked"), (nn.Sequential, 3, "stacked"), (Sequential, 2, "loop"),
     (Sequential, 2, "vmap")],
)  # fmt: skip
def test_what_freeze_names_stays_bitwise_as_it_is(kind, runs, mode, which, optimizer):
    torch.manual_seed(0)
    modules = [blocks(kind) for _ in range(runs)]
    for module in modules:
        if mode == "vmap":  # which draws no random numbers
            module.first.dropout.p = module.second.dropout.p = 0.0
        freeze(module, which)
    pack, norms = train_packed(modules, optimizer)
    # Dropout has to be drawn by the runs in turn, unless all of it is off.
    expected = "vmap" if mode == "loop" and which == "backbone" else mode
    assert pack.mode == expected and norms.isfinite().all()
    assert {*pack.columns} == {name for name, _ in modules[0].named_parameters()} - {*NAMED[which]}
    networks = pack._networks if pack.mode in ("plain", "loop") else []
    for run, module in enumerate(modules):
        for name in NAMED[which]:
            now = networks[run].get_parameter(name) if networks else pack.frozen[name][run]
            assert torch.equal(now, module.get_parameter(name))
        for block in ("first", "second"):
            frozen = f"{block}.linear.bias" in NAMED[which] and f"{block}.norm.bias" in NAMED[which]
            for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
                same = torch.equal(pack.buffers[f"{block}.{name}"][run], module.get_buffer(f"{block}.{name}"))
                # A stacked norm does not count its batches.
                assert same == frozen or (name.endswith("tracked") and pack.mode == "stacked")


@pytest.mark.parametrize(("kind", "mode"), [(nn.Sequential, "stacked"), (Sequential, "vmap"), (Random, "loop")])
def test_runs_share_frozen_parameters_that_are_equal_and_no_others(kind, mode):
    torch.manual_seed(0)
    modules = [network(kind, ()) for _ in range(3)]
    for module in modules:
        module.one.load_state_dict(modules[0].one.state_dict())
        freeze(module, "one|two")
    pack, _ = train_packed(modules, "sgd")
    assert pack.mode == mode
    for name, value in pack.frozen.items():
        copies = 1 if name.startswith("one.") else 3
        assert value.untyped_storage().nbytes() == copies * modules[0].get_parameter(name).nbytes
        assert all(torch.equal(value[run], module.get_parameter(name)) for run, module in enumerate(modules))
    if mode == "loop":
        places = {name: {of_run.get_parameter(name).data_ptr() for of_run in pack._networks} for name in pack.frozen}
        assert {name: len(place) for name, place in places.items()} == {
            name: 1 if name.startswith("one.") else 3 for name in pack.frozen
        }
    for run, module in enumerate(modules):
        alone = train_alone(module, "sgd")
        weight = alone.classifier.weight.detach()
        torch.testing.assert_close(pack.view("classifier.weight")[run], weight, rtol=1e-9, atol=1e-9)


def test_modes_of_layers_follow_what_is_frozen_as_a_whole():
    module = blocks(nn.Sequential)
    freeze(module, "first")
    assert not module.first.dropout.training and not module.first.norm.training
    assert module.second.dropout.training and module.second.norm.training and module.training
    freeze(module, "backbone")
    assert not module.second.dropout.training and not module.training and module.classifier.training


NAMES = "one.weight, one.bias, norm.weight, norm.bias, two.weight, two.bias, classifier.weight, classifier.bias"
ACCEPTED = f"accepted: none, backbone, or a regular expression for some of the 8 parameters {NAMES}"


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("three", f"model.freeze=three: names no parameter; {ACCEPTED}"),
        (".", f"model.freeze=.: leaves no parameter to train; {ACCEPTED}"),
        ("", f"model.freeze=: leaves no parameter to train; {ACCEPTED}"),
        ("one(", "model.freeze=one(: no regular expression (missing ), unterminated subpattern at position 3); "
         "accepted: none, backbone, or a regular expression of names of parameters"),
    ],
)  # fmt: skip
def test_what_names_nothing_or_everything_is_refused(which, message, monkeypatch):
    assert refusal(lambda *shape: network(nn.Sequential, ()).float(), monkeypatch, freeze=which) == message


def test_a_network_without_a_backbone_has_none_to_freeze(monkeypatch):
    def make(*shape):
        return nn.Sequential(OrderedDict(classifier=nn.Linear(6, K)))

    assert "model.freeze=backbone: names no parameter" in refusal(make, monkeypatch, freeze="backbone")


def test_a_bias_that_freeze_names_cannot_have_a_prior(monkeypatch):
    message = refusal(lambda *shape: network(nn.Sequential, ()).float(), monkeypatch, "uniform", "bias")
    assert "model.freeze=bias" in message and "head.prior_bias=uniform" in message
