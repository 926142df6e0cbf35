"""Models: architectures and the networks that they build. Each network ends in a Linear named `classifier`.

Shape suffixes: B batch, D features, K classes, C channels, H height, W width; x the axes of one input, (D,) for
tables and (C, H, W) for images.

To add a model, write a class here, name it in MODELS and give it a YAML file in configs/model. Or point `model=factory`
at a function of your own. torch, torchvision and timm are imported only where a network is built, since the import of
each takes over a second.
"""

from __future__ import annotations

import copy
import math
import pkgutil
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from headtohead.late import nn, torch
from headtohead.options import ConfigError, nearest, require
from headtohead.training.freezing import NONE, freeze, require_pattern
from headtohead.training.heads import Head
from headtohead.training.places import require_module

if TYPE_CHECKING:
    from torch import Tensor

    from headtohead.training.pretrained import Weights

Shape = tuple[int, ...]

# The most numbers of a batch with which a network is checked; a larger batch is checked with two examples.
PROBED_NUMBERS = 200_000


@dataclass(frozen=True)
class Model(ABC):
    """An architecture and its options, which build a network for the shape of the data.

    Options:
        freeze: what is not trained: "none", "backbone" for all but the classifier, or a regular expression that is
            searched for in the names of parameters.
    """

    freeze: str = field(kw_only=True)

    def __post_init__(self) -> None:
        require_pattern(self.freeze)

    @abstractmethod
    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        """Build a network from inputs Bx to logits (B, K), with weights drawn from torch's global generator.

        Args:
            input_shape: x, without the batch axis.

        Raises:
            ConfigError: the architecture does not accept such inputs. `checked_build` handles all other errors.
        """

    def require_place(self) -> None:  # noqa: B027 most models have no code of others
        """Refuse code that is not there, before any of it is run.

        Raises:
            ConfigError: Python finds no such module.
        """

    @property
    def pack_key(self) -> str:
        """Key: models with equal keys may be in one pack, and pass the same checks."""
        return repr(self)

    @property
    def pretrained(self) -> Weights | None:
        """The pre-trained weights that `build` loads, whose preprocessing then replaces standardisation."""
        return None

    def refusal(self, found: str, accepted: str) -> ConfigError:
        """Return the error to raise for a model that cannot be used; it names all options, but for `freeze: none`."""
        keys = {"name": type(self).__name__.lower(), **vars(self)}
        if self.freeze == NONE:
            del keys["freeze"]
        named = " ".join(f"model.{key}={value}" for key, value in keys.items())
        return ConfigError(f"{named}: {found.splitlines()[0]}; accepted: {accepted}")


@dataclass(frozen=True)
class Linear(Model):
    """Logistic regression: multinomial or one per class, depending on the head."""

    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        classifier = nn.Linear(math.prod(input_shape), num_classes)
        return nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=classifier))


@dataclass(frozen=True)
class Mlp(Model):
    """Fully connected layers with ReLU.

    Options:
        widths: number of units in each hidden layer; at least one layer.
        batch_norm: whether there is batch norm between each hidden layer and its ReLU.
        dropout: probability in [0, 1) of dropping a hidden unit, after the ReLU.
    """

    widths: tuple[int, ...]
    batch_norm: bool
    dropout: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_widths(self.widths)
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "accepted: [0, 1)")

    @property
    def pack_key(self) -> str:
        # Networks without dropout lack its layers; any other rate stands for all of them.
        return repr(replace(self, dropout=0.5 if self.dropout else 0.0))

    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, (inputs, outputs) in enumerate(pairwise([math.prod(input_shape), *self.widths])):
            # Batch norm subtracts the mean, so that a bias of the layer below would have no effect.
            layers[f"hidden{i}"] = nn.Linear(inputs, outputs, bias=not self.batch_norm)
            if self.batch_norm:
                layers[f"norm{i}"] = nn.BatchNorm1d(outputs)
            layers[f"relu{i}"] = nn.ReLU()
            if self.dropout:
                layers[f"dropout{i}"] = nn.Dropout(self.dropout)
        layers["classifier"] = nn.Linear(self.widths[-1], num_classes)
        return nn.Sequential(layers)


@dataclass(frozen=True)
class Cnn(Model):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max-pooling, for small images.

    Options:
        widths: number of channels of each block; at least one block. A block halves the sides of the image, rounding
            down.
    """

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_widths(self.widths)

    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        channels, height, width = _image_shape(self, input_shape)
        pixels = (height >> len(self.widths)) * (width >> len(self.widths))
        if pixels == 0:
            raise self.refusal(f"no pixel of {input_shape} is left", "fewer widths: each block halves the image")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (inputs, outputs) in enumerate(pairwise([channels, *self.widths])):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
            layers[f"norm{i}"] = nn.BatchNorm2d(outputs)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        layers["classifier"] = nn.Linear(self.widths[-1] * pixels, num_classes)
        return nn.Sequential(layers)


@dataclass(frozen=True)
class Resnet18(Model):
    """ResNet-18 (He et al. 2016) with a stem for small images: 3x3, stride 1, no max-pooling."""

    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        from torchvision.models import resnet18

        channels, _, _ = _image_shape(self, input_shape)
        backbone = resnet18(weights=None, num_classes=num_classes)
        backbone.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
        # The initialisation of torchvision's other convolutions.
        nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        classifier = backbone.fc
        for name in ("maxpool", "fc"):
            backbone.set_submodule(name, nn.Identity())
        return nn.Sequential(OrderedDict(backbone=backbone, classifier=classifier))


@dataclass(frozen=True)
class Torchvision(Model):
    """Any classification network of torchvision that ends in a Linear.

    The random classifier weights of vision transformers start at zero, so that at initialisation no gradient reaches
    the backbone with any head.

    Options:
        architecture: name of the network, one of `torchvision.models.list_models(module=torchvision.models)`.
        options: keyword arguments of the torchvision function of that name.
        resize: side in pixels to which images are resized before the network; None keeps their size, or resizes and
            crops them as the weights expect.
        weights: name of pre-trained weights, such as "DEFAULT", which are downloaded unless torch's cache has them; a
            file with a state dict; None for random weights. The classifier is new.
    """

    architecture: str
    options: dict[str, Any]
    resize: int | None
    weights: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        from torchvision import models

        _require_options(self, models.list_models(module=models), ("weights",))

    @property
    def pretrained(self) -> Weights | None:
        if self.weights is None:
            return None
        from headtohead.training import pretrained

        return pretrained.of_torchvision(self.architecture, self.weights)

    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        from torchvision import models

        _image_shape(self, input_shape, channels=(1, 3))
        weights = self.pretrained
        classes = {} if weights else {"num_classes": num_classes}
        network = models.get_model(self.architecture, weights=None, **classes, **self.options)
        linears = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        if not linears:
            raise self.refusal("the network has no Linear", "networks that end in a Linear")
        if weights:
            if hasattr(network, "transform_input") and "transform_input" not in self.options:
                # As torchvision does for its weights.
                network.transform_input = True  # pyright: ignore[reportArgumentType]
            from headtohead.training import pretrained

            pretrained.load(network, weights, linears[-1])
        return _of_images(self, network, linears[-1], num_classes)


@dataclass(frozen=True)
class Timm(Model):
    """Any network of timm, an optional dependency, that ends in a Linear.

    Options:
        architecture: name of the network, one of `timm.list_models()`.
        options: keyword arguments of `timm.create_model`.
        resize: side in pixels to which images are resized before the network; None keeps their size, or resizes and
            crops them as the weights expect.
        weights: tag of pre-trained weights, or "DEFAULT", which are downloaded unless the cache of Hugging Face has
            them; a file with a state dict; None for random weights. The classifier is new.
    """

    architecture: str
    options: dict[str, Any]
    resize: int | None
    weights: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            timm = import_module("timm")
        except ImportError:
            raise ConfigError("model.name=timm: needs timm: pip install 'headtohead[timm]'") from None
        names = [self.architecture] if timm.is_model(self.architecture) else timm.list_models()
        _require_options(self, names, ("pretrained", "checkpoint_path"))

    @property
    def pretrained(self) -> Weights | None:
        if self.weights is None:
            return None
        from headtohead.training import pretrained

        return pretrained.of_timm(self.architecture, self.weights)

    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        timm = import_module("timm")
        _image_shape(self, input_shape, channels=(1, 3))
        weights, options = self.pretrained, {**self.options}
        if weights is None:
            options["num_classes"] = num_classes
        elif not weights.is_file:
            # timm itself turns a file from elsewhere into weights of its network.
            source = {"file": str(weights.fetch()), "custom_load": False}
            options |= {"pretrained": True, "pretrained_cfg_overlay": source}
        network = timm.create_model(weights.architecture if weights else self.architecture, **options)
        classifier = network.get_classifier()
        names = [name for name, layer in network.named_modules() if layer is classifier]
        if not isinstance(classifier, nn.Linear) or not names:
            raise self.refusal(f"a classifier {type(classifier).__name__}", "networks that end in a Linear")
        if weights and weights.is_file:
            from headtohead.training import pretrained

            pretrained.load(network, weights, names[0])
        return _of_images(self, network, names[0], num_classes)


def _require_options(model: Torchvision | Timm, architectures: Sequence[str], of_weights: Sequence[str]) -> None:
    """Refuse options that no network of a library has.

    Args:
        of_weights: options of the library in whose place there is `model.weights`.
    """
    name, side = model.architecture, model.resize
    require(name in architectures, "model.architecture", name, nearest(name, architectures))
    require(side is None or side >= 1, "model.resize", side, "accepted: a side in pixels, or null")
    for key in of_weights:
        accepted = "must be left out: model.weights names the weights"
        require(key not in model.options, f"model.options.{key}", model.options.get(key), accepted)
    model.pretrained  # noqa: B018 refuses names that it does not know


def _of_images(model: Torchvision | Timm, network: nn.Module, classifier: str, num_classes: int) -> nn.Module:
    """Return a network of a library as one whose Linear `classifier` comes last, behind what makes its images."""
    from headtohead.training.layers import Rgb

    last = network.get_submodule(classifier)
    assert isinstance(last, nn.Linear)
    network.set_submodule(classifier, nn.Identity())
    weights, side = model.pretrained, model.resize
    if weights:
        rgb = weights.preprocessing.layer(side)
        last = nn.Linear(last.in_features, num_classes)
    else:
        rgb = Rgb() if side is None else nn.Sequential(nn.Upsample(size=(side,) * 2, mode="bilinear"), Rgb())
    return nn.Sequential(OrderedDict(rgb=rgb, backbone=network, classifier=last))


@dataclass(frozen=True)
class Factory(Model):
    """A network of the user's own. Only this class imports code that a configuration names.

    Options:
        path: "package.module:function", in a module in the working directory, installed, or on PYTHONPATH.
        options: keyword arguments; the network is `function(input_shape, num_classes, **options)`.
    """

    path: str
    options: dict[str, Any]

    def require_place(self) -> None:
        try:
            require_module(self.path)
        except (Exception, SystemExit) as error:  # the import of a package runs code, which may raise anything
            raise self._unimportable(error) from error

    def build(self, input_shape: Shape, num_classes: int) -> nn.Module:
        try:
            function = pkgutil.resolve_name(self.path)
        except (ImportError, AttributeError, ValueError) as error:
            raise self._unimportable(error) from error
        return function(input_shape, num_classes, **self.options)

    def _unimportable(self, error: BaseException) -> ConfigError:
        accepted = "package.module:function, in the working directory, installed or on PYTHONPATH"
        return self.refusal(str(error), accepted)


MODELS: dict[str, type[Model]] = {
    cls.__name__.lower(): cls for cls in (Linear, Mlp, Cnn, Resnet18, Torchvision, Timm, Factory)
}


def initialise(model: Model, head: Head, input_shape: Shape, num_classes: int, seed: int) -> nn.Module:
    """Return a network with the head's classifier and the initial weights of `seed`, on the CPU.

    The state of the global generators does not change.
    """
    from headtohead.training.dropout import global_states, seed_other_libraries

    with torch.random.fork_rng(devices=[]), global_states():
        # Not torch.manual_seed, which would also seed the accelerators: this fork does not restore them.
        torch.default_generator.manual_seed(seed)
        seed_other_libraries(seed)
        network = model.build(input_shape, num_classes)
        _replace_classifier(network, head)
        freeze(network, model.freeze)
        return network


def checked_build(model: Model, head: Head, input_shape: Shape, num_classes: int) -> nn.Module:
    """Return a network with the head's classifier, checked by a call of a copy in evaluation and in training mode.

    The weights are drawn from torch's global generator; the check draws nothing.

    Raises:
        ConfigError: the network cannot be built or called, has no Linear with bias and K outputs named `classifier`,
            its outputs are not finite or not those of its classifier, or there is nothing to train.
    """
    try:
        network = model.build(input_shape, num_classes)
        flaw = _flaw_of_classifier(network, num_classes)
        if not flaw:
            _replace_classifier(network, head)
            freeze(network, model.freeze)
            flaw = _flaw_of_outputs(network, (2, *input_shape), num_classes)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a network of torchvision or of the user may raise anything
        accepted = f"options that give a network from {(2, *input_shape)} to {(2, num_classes)}"
        raise model.refusal(f"{type(error).__name__}: {error}", accepted) from error
    if flaw:
        raise model.refusal(flaw, f"finite logits {(2, num_classes)} from a Linear `classifier` with bias")
    _require_trainable(model, head, network)
    return network


def require_batches(
    model: Model, network: nn.Module, input_shape: Shape, num_classes: int, training: int, evaluation: int
) -> None:
    """Refuse batches that a network of `checked_build` cannot take, such as one example for batch norm.

    Args:
        training: number of examples of each batch in training.
        evaluation: number of examples of the smallest batch in evaluation.

    Raises:
        ConfigError: a call of a copy of the network with such a batch fails.
    """
    largest = max(2, PROBED_NUMBERS // math.prod(input_shape))
    for mode, size in (("training", min(training, largest)), ("evaluation", min(evaluation, 2))):
        try:
            flaw = _flaw_of_outputs(network, (size, *input_shape), num_classes, modes=(mode,))
        except (Exception, SystemExit) as error:  # a network of torchvision or of the user may raise anything
            flaw = f"{type(error).__name__}: {error}"
        if flaw and mode == "training":
            accepted = "another training.batch_size, and a training split (dataset.train_size) of at least as many"
            raise model.refusal(f"a batch of {size} in training: {flaw}", accepted)
        if flaw:
            accepted = "more examples: a larger dataset.val_fraction or test split"
            raise model.refusal(f"a split of {size} example in evaluation: {flaw}", accepted)


def _require_trainable(model: Model, head: Head, network: nn.Module) -> None:
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if not trained:
        raise model.refusal("no parameter has requires_grad", "a network with a parameter to train")
    if "classifier.bias" not in trained and head.prior_bias != "none":
        raise model.refusal(
            f"a frozen bias of `classifier` with head.prior_bias={head.prior_bias}", "head.prior_bias=none"
        )


def _replace_classifier(network: nn.Module, head: Head) -> None:
    """Replace the Linear `classifier` by the head's layer, under every name that the network has for it."""
    linear = network.get_submodule("classifier")
    assert isinstance(linear, nn.Linear)
    layer = head.classifier.layer(linear)
    for name in [name for name, module in network.named_modules(remove_duplicate=False) if module is linear]:
        network.set_submodule(name, layer)


def _flaw_of_classifier(network: object, num_classes: int) -> str:
    """Describe what is wrong with the layer `classifier` of a network; "" if nothing is."""
    layer = getattr(network, "classifier", None)
    is_linear = isinstance(layer, nn.Linear) and layer.bias is not None and layer.out_features == num_classes
    if not isinstance(network, nn.Module) or not is_linear:
        return f"for {num_classes} classes a {type(network).__name__} with `classifier` {layer}"
    if not {"classifier.weight", "classifier.bias"} <= dict(network.named_parameters()).keys():
        return "a `classifier` that shares parameters with an earlier layer"
    lazy = [name for name, value in network.state_dict().items() if nn.parameter.is_lazy(value)]
    if lazy:
        return f"a lazy layer without a shape ({lazy[0]}), which needs a call in the factory"
    return ""


def _flaw_of_outputs(
    network: nn.Module, shape: Shape, num_classes: int, modes: Sequence[str] = ("evaluation", "training")
) -> str:
    """Describe what is wrong with the outputs for random inputs of a shape (B, x) in some modes; "" if nothing is."""
    from headtohead.training.packing import in_evaluation, switch

    probe = copy.deepcopy(network)  # a copy, since a call in training mode changes the statistics of batch norm
    logits_of_classifier: list[Tensor] = []

    def keep(layer: nn.Module, inputs: Any, output: Any) -> None:
        logits_of_classifier.append(output)

    probe.get_submodule("classifier").register_forward_hook(keep)
    inputs_Bx = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    fixed = in_evaluation(probe)
    for mode in modes:
        switch([probe], mode == "training", fixed)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            logits_BK = probe(inputs_Bx)
        if not isinstance(logits_BK, torch.Tensor) or logits_BK.shape != (shape[0], num_classes):
            return f"a {getattr(logits_BK, 'shape', type(logits_BK).__name__)} in {mode} mode"
        if not logits_BK.isfinite().all():
            return f"NaN or infinite outputs in {mode} mode"
        if not logits_of_classifier or not torch.equal(logits_BK, logits_of_classifier[-1]):
            return f"outputs in {mode} mode that are not those of `classifier`"
    return ""


def _image_shape(model: Model, input_shape: Shape, channels: tuple[int, ...] = ()) -> Shape:
    if len(input_shape) != 3 or (channels and input_shape[0] not in channels):
        counts = f", C one of {channels}" if channels else ""
        raise model.refusal(f"inputs {input_shape}", f"images (C, H, W){counts}")
    return input_shape


def _require_widths(widths: tuple[int, ...]) -> None:
    require(widths and min(widths) >= 1, "model.widths", widths, "accepted: one or more positive integers")
