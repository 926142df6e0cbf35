"""Every network ends in a Linear named `classifier`, is made by its seed alone, and refuses what does not fit."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from headtohead.models import MODELS, Factory, Model, Torchvision, checked_build, initialise
from headtohead.registry import ConfigError, build_named

CONFIGS = Path(__file__).parents[1] / "configs" / "model"
TABLE, DIGITS, MNIST, CIFAR = (13,), (1, 8, 8), (1, 28, 28), (3, 32, 32)
IMAGES = (DIGITS, MNIST, CIFAR)
K = 5


def configured(name: str, **options) -> Model:
    """The model of configs/model/<name>.yaml with some of its options replaced."""
    node = OmegaConf.merge(OmegaConf.load(CONFIGS / f"{name}.yaml"), options)
    return build_named(MODELS, node, "model")


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write the body of `make(input_shape, num_classes, **options)`; gives the path to name in a config."""

    def write(body: str) -> str:
        name = f"user_{tmp_path.name}".replace("-", "_")
        source = (
            f"import torch\nfrom torch import nn\ndef make(input_shape, num_classes, **options):\n {body}\n"
        )
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        return f"{name}:make"

    return write


def refused(model: Model, input_shape=CIFAR, num_classes=K) -> str:
    """The message of the ConfigError that the model must raise, in one line."""
    with pytest.raises(ConfigError) as caught:
        checked_build(model, input_shape, num_classes)
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
    module = checked_build(configured(name), input_shape, K)
    features = []
    module.classifier.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0]))
    logits_BK = module.eval()(torch.randn(7, *input_shape))
    assert logits_BK.shape == (7, K)
    torch.testing.assert_close(logits_BK, features[0] @ module.classifier.weight.T + module.classifier.bias)


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn"])
def test_packed_models_are_sequentials_of_plain_layers(name):
    options = {"batch_norm": True, "dropout": 0.5} if name == "mlp" else {}
    module = configured(name, **options).build(MNIST, K)
    assert type(module) is nn.Sequential
    plain = {
        nn.Flatten,
        nn.Linear,
        nn.ReLU,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.Dropout,
        nn.Conv2d,
        nn.MaxPool2d,
    }
    assert {type(layer) for layer in module} <= plain
    assert next(reversed(dict(module.named_children()))) == "classifier"


@pytest.mark.parametrize(
    ("name", "shape"), [("linear", TABLE), ("mlp", TABLE), ("cnn", DIGITS), ("resnet18", DIGITS)]
)
def test_the_seed_makes_the_weights_and_leaves_the_global_generator_alone(name, shape):
    model = configured(name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = initialise(model, shape, K, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, initialise(model, shape, K, seed=0))
    assert not torch.equal(first.classifier.weight, initialise(model, shape, K, seed=1).classifier.weight)


def test_checking_draws_no_random_numbers_and_moves_no_statistics():
    model = configured("mlp", batch_norm=True, dropout=0.5)
    torch.manual_seed(0)
    plain, after_plain = model.build(TABLE, K), torch.rand(3)
    torch.manual_seed(0)
    checked, after_checked = checked_build(model, TABLE, K), torch.rand(3)
    assert same(plain, checked)
    assert torch.equal(after_plain, after_checked)
    assert checked.training and not checked.classifier._forward_hooks


@pytest.mark.parametrize("shape", [TABLE, MNIST])
def test_parameter_counts_of_linear_and_mlp(shape):
    D = math.prod(shape)
    assert size(configured("linear").build(shape, K)) == (D + 1) * K
    mlp = configured("mlp", widths=[7, 11])
    assert size(mlp.build(shape, K)) == (D + 1) * 7 + (7 + 1) * 11 + (11 + 1) * K
    # Batch norm: no bias below, a scale and a shift per unit.
    normed = configured("mlp", widths=[7, 11], batch_norm=True, dropout=0.5)
    assert size(normed.build(shape, K)) == (D + 2) * 7 + (7 + 2) * 11 + (11 + 1) * K


def test_the_order_of_the_layers_of_an_mlp():
    def names(**options):
        return [
            name for name, _ in configured("mlp", widths=[7, 11], **options).build(TABLE, K).named_children()
        ]

    assert names() == ["flatten", "hidden0", "relu0", "hidden1", "relu1", "classifier"]
    hidden = [f"{layer}{i}" for i in (0, 1) for layer in ("hidden", "norm", "relu", "dropout")]
    assert names(batch_norm=True, dropout=0.25) == ["flatten", *hidden, "classifier"]
    assert configured("mlp", dropout=0.25).build(TABLE, K).dropout0.p == 0.25


def test_parameter_count_of_cnn():
    # Convolutions without bias, a scale and a shift per channel, 28 -> 14 -> 7 pixels a side.
    expected = 9 * 1 * 4 + 2 * 4 + 9 * 4 * 6 + 2 * 6 + (6 * 7 * 7 + 1) * K
    assert size(configured("cnn", widths=[4, 6]).build(MNIST, K)) == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_resnet18_is_that_of_torchvision_but_for_the_stem_and_the_name_of_the_classifier(channels):
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


ARCHITECTURES = [
    ("mobilenet_v3_small", {}, None),
    ("shufflenet_v2_x0_5", {}, None),
    ("regnet_x_400mf", {}, None),
    ("densenet121", {}, None),
    ("swin_t", {}, None),
    ("convnext_tiny", {}, None),
    ("googlenet", {"aux_logits": False, "init_weights": False}, None),
    ("vit_b_32", {"image_size": 64}, 64),
]


@pytest.mark.parametrize(
    ("architecture", "options", "resize"), ARCHITECTURES, ids=[a for a, _, _ in ARCHITECTURES]
)
def test_torchvision_networks_end_in_classifier_and_compute_what_torchvision_computes(
    architecture, options, resize
):
    model = configured("torchvision", architecture=architecture, options=options, resize=resize)
    torch.manual_seed(0)
    module = checked_build(model, CIFAR, K).eval()
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(architecture, weights=None, num_classes=K, **options).eval()
    assert size(module) == size(theirs)
    for network in (module, theirs):  # vision transformers start with zeros there
        *_, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
        nn.init.constant_(last.weight[0], 0.1)
    images_BCHW = torch.randn(2, *CIFAR)
    seen_BCHW = (
        nn.functional.interpolate(images_BCHW, size=resize, mode="bilinear") if resize else images_BCHW
    )
    logits_BK = module(images_BCHW)
    torch.testing.assert_close(logits_BK, theirs(seen_BCHW))
    logits_BK[:, 0].square().sum().backward()
    first = next(module.backbone.parameters())
    assert first.grad is not None and first.grad.abs().max() > 0


def test_torchvision_takes_grayscale_images_as_three_equal_channels_of_the_asked_size():
    module = checked_build(configured("torchvision", architecture="mobilenet_v3_small", resize=40), MNIST, K)
    gray = torch.rand(2, 1, 28, 28)
    rgb_BCHW = module.rgb(gray)
    assert rgb_BCHW.shape == (2, 3, 40, 40)
    assert torch.equal(rgb_BCHW, module.rgb(gray.repeat(1, 3, 1, 1)))
    assert rgb_BCHW.mean().item() == pytest.approx(gray.mean().item(), abs=0.02)


def test_a_factory_gets_shape_classes_and_options(written):
    path = written(
        "return nn.Sequential(nn.Flatten(), nn.Linear(8, options['width'])) if num_classes < 0 else "
        "type('Net', (nn.Sequential,), {'classifier': property(lambda self: self[-1])})"
        "(nn.Flatten(), nn.Linear(input_shape[0], options['width']), nn.Linear(options['width'], num_classes))"
    )
    model = configured("factory", path=path, options={"width": 4})
    assert size(checked_build(model, TABLE, K)) == (13 + 1) * 4 + (4 + 1) * K
    assert same(initialise(model, TABLE, K, seed=3), initialise(model, TABLE, K, seed=3))


# Refusals: options


@pytest.mark.parametrize(
    ("name", "options", "found"),
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
            r"model\.architecture=resnet19: did you mean resnet\d+ or ",
        ),
        ("torchvision", {"architecture": "fcn_resnet50"}, r"model\.architecture=fcn_resnet50: "),
        ("torchvision", {"architecture": "resnet18", "resize": 0}, r"model\.resize=0: .*pixels"),
        ("factory", {}, r"model\.path.*[Mm]issing"),
    ],
)
def test_options_that_are_refused_before_anything_is_built(name, options, found):
    with pytest.raises(ConfigError, match=found):
        configured(name, **options)


# Refusals: networks that do not fit the data


@pytest.mark.parametrize("name", ["cnn", "resnet18", "torchvision"])
def test_image_networks_refuse_tables(name):
    options = {"architecture": "resnet18"} if name == "torchvision" else {}
    message = refused(configured(name, **options), TABLE)
    assert f"model.name={name}" in message and "(13,)" in message and "(C, H, W)" in message


def test_cnn_refuses_more_halvings_than_the_image_has():
    checked_build(configured("cnn", widths=[2, 2, 2]), DIGITS, K)
    message = refused(configured("cnn", widths=[2, 2, 2, 2]), DIGITS)
    assert "model.widths=(2, 2, 2, 2)" in message and "(1, 8, 8)" in message


@pytest.mark.parametrize(
    ("architecture", "options", "shape", "found"),
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
        ),  # two more outputs, only in training
        ("resnet18", {"depth": 18}, CIFAR, "unexpected keyword argument 'depth'"),
        ("resnet18", {"weights": "DEFAULT"}, CIFAR, "multiple values for keyword argument 'weights'"),
        ("resnet18", {"pretrained": True}, CIFAR, "unexpected keyword argument 'pretrained'"),
        ("resnet18", {}, (2, 32, 32), "inputs (2, 32, 32); accepted: images (C, H, W), C one of (1, 3)"),
    ],
)
def test_torchvision_networks_that_are_refused(architecture, options, shape, found):
    message = refused(Torchvision(architecture, options, resize=None), shape)
    assert f"model.architecture={architecture} model.options={options}" in message and found in message


NET = "class Net(nn.Module):\n  def __init__(self):\n   super().__init__()\n   self.classifier = nn.Linear(13, %s)\n"
NET += "  def forward(self, x):\n   return %s\n return Net()"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return 3", "int"),
        ("return nn.Sequential(nn.Flatten(), nn.Linear(13, num_classes))", "`classifier` None"),
        (
            NET % ("num_classes - 1", "self.classifier(x)"),
            "for 5 classes a Net with `classifier` Linear(in_features=13, out_features=4",
        ),
        (NET % ("num_classes, bias=False", "self.classifier(x)"), "bias=False"),
        (NET % ("num_classes", "self.classifier(x)[0]"), "torch.Size([5])"),
        (NET % ("num_classes", "(self.classifier(x), x)"), "a tuple"),
        (NET % ("num_classes", "self.classifier(x) / 0"), "NaN or infinite"),
        (NET % ("num_classes", "self.classifier(x).softmax(-1)"), "not those of `classifier`"),
        (NET % ("num_classes", "x[:, :5]"), "not those of `classifier`"),
        (NET % ("num_classes", "self.classifier(x[:, 1:])"), "cannot be multiplied"),
        (
            NET % ("num_classes", "self.classifier(x) if not self.training else None"),
            "NoneType in training mode",
        ),
        ("raise KeyError('width')", "KeyError: 'width'"),
    ],
)
def test_factories_that_are_refused(written, body, found):
    path = written(body)
    message = refused(Factory(path, {}), TABLE)
    assert f"model.path={path}" in message and found in message


def test_factories_that_are_not_found(written):
    module = written("return None").split(":")[0]
    assert "No module named 'no_such_package'" in refused(Factory("no_such_package.models:make", {}))
    assert "has no attribute 'build'" in refused(Factory(f"{module}:build", {}))
    assert "not callable" in refused(Factory(f"{module}:__name__", {}))
    assert "unexpected keyword" in refused(Factory("headtohead.models:initialise", {"width": 3}))
    assert "invalid format" in refused(Factory("not a path", {}))
