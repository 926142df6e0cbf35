"""Random draws of networks: those of a run in a pack are those of the run alone."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run, vary
from plain_heads import PLAIN
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from headtohead.training import data
from headtohead.training.dropout import Draws
from headtohead.training.heads import Softmax
from headtohead.training.loop import train
from headtohead.training.models import Factory, initialise
from headtohead.training.packing import Pack

CPU, K, SEEDS = torch.device("cpu"), 3, [5, 6, 5]
# What a network may do with its features, in training and in evaluation.
DRAWS = {
    "dropout": lambda x, training: F.dropout(x, 0.5, training),
    "dropout in evaluation": lambda x, training: F.dropout(x, 0.5, True),
    "feature dropout": lambda x, training: F.dropout1d(x.unsqueeze(-1), 0.5, training).squeeze(-1),
    "alpha dropout": lambda x, training: F.alpha_dropout(x, 0.5, training),
    "rrelu": lambda x, training: F.rrelu(x, training=training),
    "stochastic depth": lambda x, training: x + StochasticDepth(0.5, "row").train(training)(x),
    "noise": lambda x, training: x + torch.randn_like(x) if training else x,
    "noise in evaluation": lambda x, training: x if training else x + torch.randn_like(x),
    "numpy": lambda x, training: x * np.random.rand(),  # noqa: NPY002
    "python": lambda x, training: x * (1 + (random.random() < 0.5)),
    "attention": lambda x, training: F.scaled_dot_product_attention(
        *[x.unsqueeze(-1)] * 3, dropout_p=0.5 * training
    ).squeeze(-1),
    # No random numbers, but more than vmap can do.
    "branch": lambda x, training: 2 * x if x.sum().item() > 0 else x,
}


class Drawing(nn.Module):
    def __init__(self, draw: str):
        super().__init__()
        self.draw, self.one, self.norm, self.classifier = draw, nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, K)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, inputs):
        features = DRAWS[self.draw](self.norm(self.one(inputs)), self.training)
        if self.training:
            self.mean = 0.9 * self.mean + features.mean().detach()  # a new tensor, not a change in place
        return self.classifier(features + self.mean)


def stream(seed, step):
    """Return the seed of the generator of a run at a step."""
    return int.from_bytes(hashlib.sha256(f"{seed} step {step}".encode()).digest()[:8]) >> 1


def loss_and_gradient(labels):
    def loss(logits, run=None):
        leaf, own = logits.detach().requires_grad_(), labels if run is None else labels[run : run + 1]
        loss_RB = F.cross_entropy(leaf.mT, own, reduction="none")
        return loss_RB.detach(), torch.autograd.grad(loss_RB.sum(), leaf)[0]

    return loss


def trained(pack, inputs, labels):
    """Return what a pack computes in three steps of training with an evaluation after each."""
    found = []
    for pack.step in range(3):
        _, logits, _, gradients = pack.differentiate(inputs, loss_and_gradient(labels))
        found += [logits.clone(), gradients.clone()]
        pack.parameters_RP.sub_(0.1 * gradients)
        pack.train(False)
        with torch.no_grad():
            found.append(pack(inputs))
        pack.train(True)
    return found


@pytest.mark.parametrize("draw", DRAWS)
def test_a_network_that_draws_is_the_same_in_a_pack_and_alone(draw):
    torch.manual_seed(0)
    modules = [Drawing(draw).double() for _ in SEEDS]
    inputs, labels = torch.randn(3, 9, 6).double(), torch.randint(K, (3, 9))
    pack = Pack(modules, CPU, torch.float64, SEEDS)
    packed = trained(pack, inputs, labels)
    assert pack.mode == "loop"
    for index, (module, seed) in enumerate(zip(modules, SEEDS, strict=True)):
        single = Pack([module], CPU, torch.float64, [seed])
        alone = trained(single, inputs[index : index + 1], labels[index : index + 1])
        assert single.mode == "plain"
        for ours, theirs in zip(packed, alone, strict=True):
            torch.testing.assert_close(ours[index], theirs[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(pack.buffers["mean"][index], single.buffers["mean"][0])


def test_a_network_that_does_not_draw_is_batched_and_its_check_leaves_no_trace():
    torch.manual_seed(0)
    modules = [nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Hardswish(), nn.Linear(8, K)) for _ in SEEDS]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    pack = Pack(modules, CPU, torch.float32, SEEDS)
    inputs = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0))
    logits = pack(inputs)
    assert pack.mode == "vmap"
    torch.testing.assert_close(logits, torch.stack([*map(nn.Module.__call__, modules, inputs)]))
    torch.testing.assert_close(pack.buffers["1.running_mean"][1], modules[1][1].running_mean)
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002


def mlp(first, second):
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Dropout(first), nn.Linear(8, 8), nn.Dropout(second), nn.Sequential(),
        nn.Linear(8, K),
    )  # fmt: skip


@pytest.mark.parametrize("rates", [[(0.4, 0.2)] * 3, [(0.4, 0.2), (0.4, 0.3), (0.1, 0.0)], [(0.4, 0.2)]], ids=str)
def test_a_run_has_the_masks_of_its_own_rates_in_a_pack_and_alone(rates):
    torch.manual_seed(0)
    modules = [mlp(*pair).double() for pair in rates]
    inputs = torch.randn(len(rates), 9, 6).double()
    pack = Pack(modules, CPU, torch.float64, SEEDS[: len(rates)])
    for pack.step in (3, 4):
        logits = pack(inputs)
        assert pack.mode == "stacked"
        for index, (module, seed) in enumerate(zip(modules, SEEDS, strict=False)):
            single = Pack([module], CPU, torch.float64, [seed])
            single.step = pack.step
            torch.testing.assert_close(logits[index], single(inputs[index : index + 1])[0])
            # By hand, of two streams of uniform numbers.
            generator = torch.Generator().manual_seed(stream(seed, pack.step))
            hidden = inputs[index]
            for layer in module:
                if isinstance(layer, nn.Dropout):
                    uniform = torch.empty(9, 8, dtype=torch.float64).uniform_(generator=generator)
                    hidden = hidden * (uniform < 1 - layer.p) / (1 - layer.p)
                else:
                    hidden = layer(hidden)
            torch.testing.assert_close(logits[index], hidden)
    pack.train(False)
    torch.testing.assert_close(pack(inputs)[0], modules[0].eval()(inputs[0]))


def test_initial_weights_depend_on_the_seed_whichever_library_draws_them(monkeypatch):
    import factories

    def make(input_shape, num_classes):
        network = nn.Sequential()
        network.add_module("classifier", nn.Linear(6, num_classes))
        with torch.no_grad():
            network.classifier.weight.fill_(random.random())
            network.classifier.bias.copy_(torch.from_numpy(np.random.rand(num_classes)))  # noqa: NPY002
        return network

    monkeypatch.setattr(factories, "made", make, raising=False)
    head = Softmax(**PLAIN)

    def weights(seed):
        network = initialise(Factory("factories:made", {}, freeze="none"), head, (6,), K, seed)
        return [network.classifier.weight.unique().item(), *network.classifier.bias.tolist()]

    state = random.getstate()
    first = weights(0)
    assert random.getstate() == state
    random.seed(1)
    assert weights(0) == first != weights(1)


def test_masks_differ_by_seed_and_step_and_keep_the_share_that_they_should():
    rates = {"one": [0.3] * 3, "two": [0.3, 0.3, 0.6], "all": [1.0] * 3, "none": [0.0] * 3}
    draws = Draws([0, 1, 0], torch.empty(0), rates)
    layer = draws.dropout("one", nn.Dropout(0.3))
    ones = torch.ones(3, 100, 100)
    draws.begin(0)
    first, second = layer(ones), layer(ones)
    draws.begin(1)
    later = layer(ones)
    draws.begin(0)
    assert torch.equal(first, layer(ones)) and torch.equal(first[0], first[2])
    for one, other in ((first[0], first[1]), (first, second), (first, later)):
        assert 0.5 < (one == other).float().mean() < 0.66  # 0.3² + 0.7² = 0.58
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (first > 0).float().mean().item() == pytest.approx(0.7, abs=0.02)
    for name, expected in (("all", 0.0), ("none", 1.0)):
        assert (draws.dropout(name, nn.Dropout())(ones) == expected).all()
    draws.begin(0)
    low, _, high = draws.dropout("two", nn.Dropout())(ones)
    assert torch.equal(low, first[0]) and (low[high > 0] > 0).all()
    assert high.unique().tolist() == pytest.approx([0.0, 1 / 0.4])
    assert (high > 0).float().mean().item() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("batch_norm", ["true", "false"])
def test_a_study_with_dropout_has_the_same_runs_alone_and_after_an_interruption(config, batch_norm):
    common = ["dataset=iris", "model=mlp", "model.widths=[8,8]", "model.dropout=0.5", "precision=float64"]
    common += [f"model.batch_norm={batch_norm}", "training.epochs=3", "training.points=3", "training.evaluations=2"]
    runs = [vary(config(*common, f"head={head}"), seed=seed) for seed in (0, 1) for head in ("softmax", "sigmoid")]
    runs += [replace(runs[0], model=replace(runs[0].model, dropout=rate)) for rate in (0.1, 0.8)]
    points, packed = run(runs)
    for index, single in enumerate(runs):
        _, (alone,) = run([single])
        for name, value in alone.metrics.items():
            assert packed[index].metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name
    pool = data.load(runs[0].dataset, CPU)
    middle = next(point for point in train(runs, pool, True) if point.step == points[1].step)
    state = middle.state()
    torch.manual_seed(123)
    *_, resumed = train(runs, pool, True, state)
    assert repr([outcome.metrics for outcome in resumed]) == repr([outcome.metrics for outcome in packed])
