"""Networks end in a Linear named `classifier`, depend only on the seed, and refuse data that does not fit."""

import math
import sys
import types
from pathlib import Path

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from plain_heads import PLAIN
from torch import nn

from headtohead.options import ConfigError, build_named
from headtohead.training.heads import Softmax, SoftmaxCosine
from headtohead.training.models import MODELS, Factory, Model, Torchvision, checked_build, initialise

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
TABLE, DIGITS, MNIST, CIFAR = (13,), (1, 8, 8), (1, 28, 28), (3, 32, 32)
IMAGES = (DIGITS, MNIST, CIFAR)
K = 5
SOFTMAX = Softmax(**PLAIN)
COSINE = SoftmaxCosine(**PLAIN, temperature=0.1)


def configured(name: str, **options) -> Model:
    """Return the model of configs/model/<name>.yaml with some options replaced."""
    node = OmegaConf.merge(OmegaConf.load(CONFIGS / f"{name}.yaml"), options)
    return build_named(MODELS, node, "model")


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def refused(model: Model, input_shape=CIFAR, num_classes=K) -> str:
    """Return the message of the ConfigError that the model must raise, which has one line."""
    with pytest.raises(ConfigError) as caught:
        checked_build(model, SOFTMAX, input_shape, num_classes)
    message = str(caught.value)
    assert "\n" not in message and "; accepted: " in message
    return message


def test_each_model_has_its_yaml_file_and_each_file_its_model_and_comment():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(MODELS)
    for path in CONFIGS.glob("*.yaml"):
        assert path.read_text().startswith("# ") and OmegaConf.load(path).name == path.stem


@pytest.mark.parametrize(
    ("name", "input_shape"),
    [(name, shape) for name in ("linear", "mlp") for shape in (TABLE, *IMAGES)]
    + [(name, shape) for name in ("cnn", "resnet18") for shape in IMAGES],
)
def test_logits_of_every_input_shape_are_those_of_the_classifier(name, input_shape):
    module = checked_build(configured(name), SOFTMAX, input_shape, K)
    features = []
    module.classifier.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
    logits_BK = module.eval()(torch.randn(3, *input_shape))
    assert logits_BK.shape == (3, K)
    torch.testing.assert_close(logits_BK, features[0] @ module.classifier.weight.T + module.classifier.bias)


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn"])
def test_packed_models_are_sequentials_of_plain_layers(name):
    options = {"batch_norm": True, "dropout": 0.5} if name == "mlp" else {}
    module = configured(name, **options).build(MNIST, K)
    assert type(module) is nn.Sequential
    plain = {nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout, nn.BatchNorm1d}
    assert {type(layer) for layer in module} <= plain | {nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d}
    assert next(reversed(dict(module.named_children()))) == "classifier"


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "resnet18"])
def test_weights_depend_on_the_seed_and_the_global_generator_does_not_change(name):
    model, shape = configured(name), DIGITS
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = initialise(model, SOFTMAX, shape, K, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, initialise(model, SOFTMAX, shape, K, seed=0))
    assert not torch.equal(first.classifier.weight, initialise(model, SOFTMAX, shape, K, seed=1).classifier.weight)


def test_checking_draws_no_random_numbers_and_changes_no_statistics():
    model = configured("mlp", batch_norm=True, dropout=0.5)
    torch.manual_seed(0)
    plain, after_plain = model.build(TABLE, K), torch.rand(3)
    torch.manual_seed(0)
    checked, after_checked = checked_build(model, SOFTMAX, TABLE, K), torch.rand(3)
    assert same(plain, checked)
    assert torch.equal(after_plain, after_checked)
    assert checked.training and not checked.classifier._forward_hooks


@pytest.mark.parametrize("shape", [TABLE, MNIST])
def test_parameter_counts_of_linear_and_mlp(shape):
    D = math.prod(shape)
    assert size(configured("linear").build(shape, K)) == (D + 1) * K
    mlp = configured("mlp", widths=[7, 11])
    assert size(mlp.build(shape, K)) == (D + 1) * 7 + (7 + 1) * 11 + (11 + 1) * K
    # With batch norm the layer below has no bias; each unit has a scale and a shift.
    normed = configured("mlp", widths=[7, 11], batch_norm=True, dropout=0.5)
    assert size(normed.build(shape, K)) == (D + 2) * 7 + (7 + 2) * 11 + (11 + 1) * K


def test_the_order_of_the_layers_of_an_mlp():
    def layers(**options):
        module = configured("mlp", widths=[7, 11], **options).build(TABLE, K)
        return [name for name, _ in module.named_children()]

    assert layers() == ["flatten", "hidden0", "relu0", "hidden1", "relu1", "classifier"]
    hidden = [f"{layer}{i}" for i in (0, 1) for layer in ("hidden", "norm", "relu", "dropout")]
    assert layers(batch_norm=True, dropout=0.25) == ["flatten", *hidden, "classifier"]
    assert configured("mlp", dropout=0.25).build(TABLE, K).dropout0.p == 0.25


def test_parameter_count_of_cnn():
    # Convolutions without bias, a scale and a shift per channel, 28 -> 14 -> 7 pixels a side.
    expected = 9 * 1 * 4 + 2 * 4 + 9 * 4 * 6 + 2 * 6 + (6 * 7 * 7 + 1) * K
    assert size(configured("cnn", widths=[4, 6]).build(MNIST, K)) == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_resnet18_differs_from_torchvision_in_the_stem_and_the_name_of_the_classifier(channels):
    module = configured("resnet18").build((channels, 32, 32), K)
    theirs = torchvision.models.resnet18(weights=None, num_classes=K)
    assert size(module) == size(theirs) - 3 * 64 * 7 * 7 + channels * 64 * 3 * 3
    assert not any("fc" in name for name, _ in module.named_parameters())
    # One stem of stride 1 and three stages of stride 2: 32 -> 4 pixels a side.
    sides = []
    module.backbone.layer4.register_forward_hook(lambda layer, inputs, output: sides.append(output.shape[2:]))
    module.eval()(torch.randn(2, channels, 32, 32))
    assert sides == [(4, 4)]
    # He et al.'s initialisation over the outputs, as in the other convolutions.
    stem = module.backbone.conv1.weight
    assert stem.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.1)


@pytest.mark.parametrize(
    ("architecture", "options", "resize"),
    [
        ("mobilenet_v3_small", {}, None),
        ("shufflenet_v2_x0_5", {}, None),
        ("densenet121", {}, None),
        ("convnext_tiny", {}, None),
        ("swin_t", {}, None),
        ("vit_b_32", {"image_size": 64}, 64),
    ],
)
def test_torchvision_networks_compute_what_torchvision_computes(architecture, options, resize):
    model = configured("torchvision", architecture=architecture, options=options, resize=resize)
    torch.manual_seed(0)
    module = checked_build(model, SOFTMAX, CIFAR, K).eval()
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(architecture, weights=None, num_classes=K, **options).eval()
    assert size(module) == size(theirs)
    *_, last = (layer for layer in theirs.modules() if isinstance(layer, nn.Linear))
    for layer in (module.classifier, last):  # those of vision transformers start at zero
        layer.weight.data = torch.linspace(-1, 1, layer.weight.numel()).view_as(layer.weight)
    images_BCHW = torch.randn(2, *CIFAR)
    logits_BK = module(images_BCHW)
    if resize:
        images_BCHW = nn.functional.interpolate(images_BCHW, size=(resize, resize), mode="bilinear")
    torch.testing.assert_close(logits_BK, theirs(images_BCHW))
    logits_BK.square().sum().backward()
    assert next(module.backbone.parameters()).grad.abs().max() > 0


def test_torchvision_takes_grayscale_images_as_three_equal_channels_of_the_requested_size():
    module = checked_build(configured("torchvision", architecture="mobilenet_v3_small", resize=40), SOFTMAX, MNIST, K)
    gray = torch.rand(2, 1, 28, 28)
    rgb_BCHW = module.rgb(gray)
    assert rgb_BCHW.shape == (2, 3, 40, 40)
    assert torch.equal(rgb_BCHW, module.rgb(gray.repeat(1, 3, 1, 1)))
    assert rgb_BCHW.mean().item() == pytest.approx(gray.mean().item(), abs=0.02)


class Renamed(nn.Module):
    """A network that calls its classifier by another name, which is registered first or not."""

    def __init__(self, input_shape, num_classes, first):
        super().__init__()
        linear = nn.Linear(*input_shape, num_classes)
        modules = {"classifier": linear, "layers": nn.ModuleDict({"last": linear})}
        for name in sorted(modules, reverse=first):
            self.add_module(name, modules[name])

    def forward(self, inputs_BD):
        return self.layers["last"](inputs_BD)


@pytest.fixture
def user_networks(monkeypatch):
    """A module that factories find by its name, `user_networks`."""
    module = types.ModuleType("user_networks")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("head", [SOFTMAX, COSINE], ids=["linear", "cosine"])
def test_a_network_may_call_its_classifier_by_another_name(head, user_networks):
    user_networks.make = Renamed
    network = checked_build(Factory("user_networks:make", {"first": False}, freeze="none"), head, TABLE, K)
    assert network.layers["last"] is network.classifier
    assert isinstance(network.classifier, nn.Linear) == (head is SOFTMAX)
    assert {*dict(network.named_parameters())} == {"classifier.weight", "classifier.bias"}


def test_a_classifier_whose_parameters_have_another_name_is_refused(user_networks):
    user_networks.make = Renamed
    message = refused(Factory("user_networks:make", {"first": True}, freeze="none"), TABLE)
    assert "a `classifier` that shares parameters with an earlier layer" in message


def test_a_factory_gets_shape_classes_and_options(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "user_network.py").write_text(
        "from collections import OrderedDict\n"
        "from torch.nn import Linear, Sequential\n"
        "def make(input_shape, num_classes, *, width):\n"
        "    hidden = Linear(*input_shape, width)\n"
        "    return Sequential(OrderedDict(hidden=hidden, classifier=Linear(width, num_classes)))\n"
    )
    model = configured("factory", path="user_network:make", options={"width": 4})
    assert size(checked_build(model, SOFTMAX, TABLE, K)) == (13 + 1) * 4 + (4 + 1) * K
    assert same(initialise(model, SOFTMAX, TABLE, K, seed=3), initialise(model, SOFTMAX, TABLE, K, seed=3))


# Refusals: options


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("mlp", {"widths": []}, r"model\.widths=\(\): .*positive"),
        ("mlp", {"widths": [8, 0]}, r"model\.widths=\(8, 0\): .*positive"),
        ("mlp", {"dropout": 1.0}, r"model\.dropout=1\.0: .*\[0, 1\)"),
        ("mlp", {"dropout": -0.1}, r"model\.dropout=-0\.1: "),
        ("mlp", {"width": 8}, r"model\.width: no such key; did you mean widths"),
        ("cnn", {"widths": [-1]}, r"model\.widths=\(-1,\): .*positive"),
        ("torchvision", {}, r"model\.architecture.*[Mm]issing"),
        (
            "torchvision",
            {"architecture": "resnet19"},
            r"model\.architecture=resnet19: did you mean resnet",
        ),
        ("torchvision", {"architecture": "fcn_resnet50"}, r"model\.architecture=fcn_resnet50: "),
        ("torchvision", {"architecture": "resnet18", "resize": 0}, r"model\.resize=0: .*pixels"),
        (
            "torchvision",
            {"architecture": "resnet18", "options": {"weights": "x"}},
            r"model\.options\.weights=x: .*model\.weights",
        ),
        ("factory", {}, r"model\.path.*[Mm]issing"),
    ],
)
def test_options_that_are_refused_before_a_network_is_built(name, options, reason):
    with pytest.raises(ConfigError, match=reason):
        configured(name, **options)


# Refusals: networks that do not fit the data


@pytest.mark.parametrize("name", ["cnn", "resnet18", "torchvision"])
def test_image_networks_refuse_tables(name):
    options = {"architecture": "resnet18"} if name == "torchvision" else {}
    message = refused(configured(name, **options), TABLE)
    assert f"model.name={name}" in message and "(13,)" in message and "(C, H, W)" in message


def test_cnn_refuses_more_halvings_than_the_image_has():
    checked_build(configured("cnn", widths=[2, 2, 2]), SOFTMAX, DIGITS, K)
    message = refused(configured("cnn", widths=[2, 2, 2, 2]), DIGITS)
    assert "model.widths=(2, 2, 2, 2)" in message and "(1, 8, 8)" in message


@pytest.mark.parametrize(
    ("architecture", "options", "shape", "reason"),
    [
        ("vit_b_32", {}, CIFAR, "Expected 224 but got 32"),
        ("vit_b_32", {"image_size": 33}, CIFAR, "indivisible by patch size"),
        ("squeezenet1_1", {}, CIFAR, "no Linear"),
        ("maxvit_t", {}, (3, 224, 224), "bias=False"),
        (
            "googlenet",
            {"init_weights": False},
            CIFAR,
            "GoogLeNetOutputs",
        ),  # in training mode only
        ("resnet18", {"depth": 18}, CIFAR, "unexpected keyword argument 'depth'"),
        ("resnet18", {"pretrained": True}, CIFAR, "unexpected keyword argument 'pretrained'"),
        ("resnet18", {}, (2, 32, 32), "inputs (2, 32, 32); accepted: images (C, H, W), C one of (1, 3)"),
    ],
)
def test_torchvision_networks_that_are_refused(architecture, options, shape, reason):
    message = refused(Torchvision(architecture, options, resize=None, weights=None, freeze="none"), shape)
    assert f"model.architecture={architecture} model.options={options}" in message and reason in message


class Net(nn.Module):
    """A network whose output is any function of itself and its inputs."""

    def __init__(self, classifier: nn.Module, output):
        super().__init__()
        self.classifier = classifier
        self.output = output

    def forward(self, inputs_BD):
        return self.output(self, inputs_BD)


def net(output, outputs=K, bias=True):
    return lambda input_shape, num_classes: Net(nn.Linear(*input_shape, outputs, bias=bias), output)


def failing(input_shape, num_classes):
    raise ValueError("first line\nsecond line")


def leaving(input_shape, num_classes):
    sys.exit(3)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda input_shape, num_classes: 3, "a int with `classifier` None"),
        (
            lambda input_shape, num_classes: nn.Linear(*input_shape, num_classes),
            "a Linear with `classifier` None",
        ),
        (lambda input_shape, num_classes: Net(nn.Identity(), None), "`classifier` Identity()"),
        (
            net(None, outputs=K - 1),
            f"for {K} classes a Net with `classifier` Linear(in_features=13, out_features=4",
        ),
        (net(None, bias=False), "bias=False"),
        (net(lambda self, x: self.classifier(x)[0]), "torch.Size([5])"),
        (net(lambda self, x: (self.classifier(x), x)), "a tuple in evaluation mode"),
        (net(lambda self, x: None if self.training else self.classifier(x)), "a NoneType in training mode"),
        (net(lambda self, x: self.classifier(x / 0)), "NaN or infinite"),
        (net(lambda self, x: self.classifier(x).softmax(-1)), "not those of `classifier`"),
        (net(lambda self, x: x[:, :K]), "not those of `classifier`"),
        (net(lambda self, x: self.classifier(x[:, 1:])), "cannot be multiplied (2x12 and 13x5)"),
        (failing, "ValueError: first line; "),
        (leaving, "SystemExit: 3; "),
    ],
)
def test_networks_of_factories_that_are_refused(make, reason, user_networks):
    user_networks.make = make
    message = refused(Factory("user_networks:make", {}, freeze="none"), TABLE)
    assert message.startswith("model.name=factory model.path=user_networks:make model.options={}: ")
    assert reason in message


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("no_such_package.models:make", {}, "No module named 'no_such_package'"),
        ("headtohead.training.models:make", {}, "has no attribute 'make'"),
        ("not a path", {}, "package.module:function"),
        ("headtohead.training.models:__doc__", {}, "not callable"),
        ("headtohead.training.models:initialise", {"width": 3}, "unexpected keyword argument 'width'"),
    ],
)
def test_factories_that_are_not_found_or_take_other_options(path, options, reason):
    message = refused(Factory(path, options, freeze="none"))
    assert f"model.path={path} model.options={options}: " in message and reason in message
