"""Kinds of classifier, and a head that brings its own in one file."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from conftest import run, vary
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn

from headtohead.options import ConfigError
from headtohead.training import data
from headtohead.training.classifiers import Classifier, CosineClassifier, LinearClassifier
from headtohead.training.config import REGISTRIES, architecture_key
from headtohead.training.heads import Softmax
from headtohead.training.loop import may_share_a_pack
from headtohead.training.models import initialise
from headtohead.training.pack_data import Cohort
from headtohead.training.packing import Pack, is_stackable


def test_cosine_logits_are_those_of_scikit_learn():
    torch.manual_seed(0)
    linear, features = nn.Linear(5, 3).double(), 4 * torch.randn(7, 5).double()
    layer = CosineClassifier(0.1).layer(linear)
    expected = torch.from_numpy(cosine_similarity(features.numpy(), linear.weight.detach().numpy())) / 0.1 + linear.bias
    torch.testing.assert_close(layer(features), expected)
    torch.testing.assert_close(layer(3 * features), expected)


@pytest.mark.parametrize("classifier", [LinearClassifier(), CosineClassifier(0.1)])
def test_the_layer_has_the_parameters_of_the_network(classifier):
    linear = nn.Linear(5, 3)
    before = torch.get_rng_state()
    parameters = dict(classifier.layer(linear).named_parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert parameters.keys() == {"weight", "bias"}
    assert parameters["weight"] is linear.weight and parameters["bias"] is linear.bias


def test_cosines_need_weights_to_start_with(config):
    with pytest.raises(ConfigError, match=r"training\.zero_classifier=True: must be false: CosineClassifier"):
        config("head=softmax_cosine", "training.zero_classifier=true")


def test_runs_of_one_classifier_alone_share_a_pack_and_a_network(config):
    cosine = config("head=softmax_cosine")
    warmer = config("head=softmax_cosine", "head.temperature=0.5")
    smoothed = config("head=softmax_cosine", "head.label_smoothing=0.1", "seed=3", "dataset.label_noise=0.1")
    for key in (may_share_a_pack, architecture_key):
        assert key(cosine) == key(smoothed) == key(warmer) != key(config("head=softmax"))
        assert key(config("head=softmax")) == key(config("head=sigmoid"))
    assert architecture_key(cosine) != architecture_key(config("head=softmax_cosine", "model.widths=[7]"))


class Sequential(nn.Sequential):
    """A network that packs do not stack."""


class Random(nn.Sequential):
    """A network that draws a random number, which vmap cannot batch, and drops none of its inputs."""

    def forward(self, inputs):
        return super().forward(nn.functional.dropout(inputs, 1e-12, self.training))


# A user's head with its own last layer: logits within a bound, at a learned scale. Nothing else knows of it.


class Bounded(nn.Module):
    def __init__(self, linear: nn.Linear, bound: float):
        super().__init__()
        self.weight, self.bias, self.bound = linear.weight, linear.bias, bound
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, features_BI: Tensor) -> Tensor:
        return self.bound * torch.tanh(self.scale * nn.functional.linear(features_BI, self.weight, self.bias))


class StackedBounded(Bounded):
    def stacked(self, parameters: Mapping[str, Tensor]):
        weight_RKI, bias_RK, scale_R1 = (parameters[name] for name in ("weight", "bias", "scale"))

        def forward(features_RBI: Tensor) -> Tensor:
            logits_RBK = features_RBI @ weight_RKI.mT + bias_RK.unsqueeze(1)
            return self.bound * torch.tanh(scale_R1.unsqueeze(2) * logits_RBK)

        return forward


@dataclass(frozen=True)
class BoundedClassifier(Classifier):
    bound: float
    stacks: bool

    def layer(self, linear: nn.Linear) -> nn.Module:
        return (StackedBounded if self.stacks else Bounded)(linear, self.bound)


@dataclass(frozen=True)
class BoundedSoftmax(Softmax):
    bound: float
    stacks: bool

    @property
    def classifier(self) -> Classifier:
        return BoundedClassifier(self.bound, self.stacks)


@pytest.mark.parametrize("mode", ["stacked", "vmap"])
def test_a_head_of_the_user_brings_its_own_classifier(config, monkeypatch, mode):
    monkeypatch.setitem(REGISTRIES["head"], "bounded", BoundedSoftmax)
    common = ["dataset=digits", "model.widths=[8]", "dataset.train_size=64", "training.epochs=3", "precision=float64"]
    head = ["head.name=bounded", "+head.bound=3.0", f"+head.stacks={mode == 'stacked'}"]
    runs = [vary(config(*common, *head), seed=seed, lr=lr) for seed, lr in ((0, 0.1), (1, 0.3))]
    points, packed = run(runs)
    assert {outcome.pack_mode for outcome in packed} == {mode}
    assert (points[0].values["grad_norm_layer_classifier"] > 0).all()
    for index, single in enumerate(runs):
        alone_points, (alone,) = run([single])
        assert alone.pack_mode == "plain"
        assert packed[index].metrics == pytest.approx(alone.metrics, rel=1e-9, abs=1e-9, nan_ok=True)
        for point, alone_point in zip(points, alone_points, strict=True):
            assert point.rows()[index] == pytest.approx(alone_point.rows()[0], rel=1e-9, abs=1e-9)
    # No logit is larger than the bound, so that no probability is larger than this.
    activations = torch.from_numpy(packed[0].predictions["activations"])
    assert activations.max() <= 1 / (1 + 9 * torch.exp(torch.tensor(-6.0))) + 1e-6
    _, (linear,) = run([vary(config(*common), seed=0, lr=0.1)])
    assert linear.metrics["val_nll"] != pytest.approx(packed[0].metrics["val_nll"], rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "mode"), [(nn.Sequential, "stacked"), (Sequential, "vmap"), (Random, "loop"), (Sequential, "plain")]
)
def test_each_run_of_a_pack_has_its_own_temperature(kind, mode):
    torch.manual_seed(0)
    temperatures = [0.05, 0.7] if mode != "plain" else [0.7]
    layers = [CosineClassifier(number).layer(nn.Linear(4, 3)) for number in temperatures]
    modules = [kind(OrderedDict(one=nn.Linear(5, 4), classifier=layer)).double() for layer in layers]
    for given in (temperatures, temperatures[::-1]):
        pack = Pack(modules, torch.device("cpu"), torch.float64)
        if given is not temperatures:
            pack.restore_buffers({"classifier.temperature": torch.tensor(given)})
            for module, number in zip(modules, given, strict=True):
                module.classifier.temperature.fill_(torch.tensor(number))
        inputs = torch.randn(len(given), 7, 5).double()
        torch.testing.assert_close(pack(inputs), torch.stack([*map(nn.Module.__call__, modules, inputs)]))
        assert pack.mode == mode


def test_a_classifier_of_the_user_shares_a_pack_only_with_its_equal():
    class Subclass(CosineClassifier):
        """A class whose layer may have no temperature."""

    assert CosineClassifier(0.1).pack_key == CosineClassifier(0.2).pack_key != LinearClassifier().pack_key
    assert Subclass(0.1).pack_key == Subclass(0.1).pack_key != Subclass(0.2).pack_key
    assert BoundedClassifier(1.0, True).pack_key != BoundedClassifier(2.0, True).pack_key


def test_a_parameter_that_a_stacked_layer_leaves_out_has_the_gradient_zero():
    class WithoutBias(Bounded):
        def stacked(self, parameters):
            return lambda features_RBI: features_RBI @ parameters["weight"].mT

    modules = [nn.Sequential(OrderedDict(classifier=WithoutBias(nn.Linear(4, 3), 1.0))) for _ in range(2)]
    pack = Pack(modules, torch.device("cpu"), torch.float32)
    loss = torch.zeros(2, 5)
    *_, gradients_RP = pack.differentiate(torch.randn(2, 5, 4), lambda logits: (loss, torch.ones_like(logits)))
    assert pack.mode == "stacked"
    assert (gradients_RP[:, pack.columns["classifier.weight"]] != 0).any()
    assert (gradients_RP[:, pack.columns["classifier.bias"]] == 0).all()


def test_a_submodule_named_stacked_is_no_stacked_form():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stacked = nn.Linear(4, 4)

    assert not is_stackable(nn.Sequential(OrderedDict(inner=Twice(), classifier=nn.Linear(4, 3))))


def test_one_logit_needs_two_classes_and_learns_one(config):
    made = config("dataset=breast_cancer", "model=linear", "head=one_logit", "training.epochs=3")
    pool = data.load(made.dataset, torch.device("cpu"))
    cohort = Cohort([made], pool)
    logits = cohort.logits(next(cohort.batches())[0])
    assert (logits[..., 0] == 0).all() and logits[..., 1].std() > 0
    with pytest.raises(ConfigError, match=r"head=one_logit: 10 classes; accepted: data of 2 classes"):
        initialise(made.model, made.head, (1, 8, 8), 10, seed=0)


def test_the_learnt_temperature_starts_as_configured_and_moves(config):
    made = config("dataset=iris", "model=linear", "head=sigmoid_cosine", "head.temperature=0.2", "precision=float64")
    pool = data.load(made.dataset, torch.device("cpu"))
    cohort = Cohort([made], pool)
    inputs, labels = next(cohort.batches())
    weight = cohort.pack.view("classifier.weight")[0]
    cosine = torch.nn.functional.cosine_similarity(inputs[0].unsqueeze(1), weight.unsqueeze(0), dim=-1)
    bias = cohort.pack.view("classifier.bias")[0]
    torch.testing.assert_close(cohort.logits(inputs)[0], cosine / 0.2 + bias)
    *_, gradients_RP = cohort.differentiate(inputs, cohort.spread(labels))
    assert gradients_RP[0, cohort.pack.columns["classifier.log_gain"]].abs().item() > 0
