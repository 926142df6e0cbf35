"""Networks, data and a head for `model=factory` and the like, which tests name by their paths."""

import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn

from headtohead.training.heads import Softmax


class Transformer(nn.Module):
    """A network that is not a Sequential: one attention layer over the rows of an image."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        _, _, width = input_shape
        self.embedding = nn.Linear(width, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, images_BCHW):
        tokens = self.norm(self.embedding(images_BCHW[:, 0]))
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.classifier(torch.tanh(mixed).mean(1))


def transformer(input_shape, num_classes):
    return Transformer(input_shape, num_classes)


def few(input_shape, num_classes, outputs):
    """Return a network with a given number of outputs, whatever the number of classes."""
    model = nn.Sequential(nn.Flatten())
    model.add_module("classifier", nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], outputs))
    return model


class Linear(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.seed = torch.initial_seed()
        self.classifier = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes)

    def forward(self, images_BCHW):
        return self.classifier(images_BCHW.flatten(1))


class Breaking(Linear):
    """A network that raises an error in its forward if its weights are those of seed 1."""

    def forward(self, images_BCHW):
        if self.seed == 1:
            raise RuntimeError("seed 1")
        return super().forward(images_BCHW)


class Greedy(Linear):
    """A network that allocates, without using it, 45 % of the machine's memory for each run of a pack."""

    def __init__(self, input_shape, num_classes):
        super().__init__(input_shape, num_classes)
        del self.seed  # networks that differ in it would be called one by one

    def forward(self, images_BCHW):
        if self.training and torch.is_grad_enabled():
            numbers = int(0.45 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4)
            torch.empty_like(images_BCHW.sum().expand(numbers))
        return super().forward(images_BCHW)


class Doomed(Linear):
    """A network that kills its process the first times it is called with the weights of seed 1.

    Files in the working directory count the deaths.
    """

    def __init__(self, input_shape, num_classes, deaths=1):
        super().__init__(input_shape, num_classes)
        self.deaths = deaths

    def forward(self, images_BCHW):
        died = len([*Path().glob("died*")])
        if self.seed == 1 and died < self.deaths:
            Path(f"died{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images_BCHW)


class Noisy(Linear):
    """A network that draws random numbers in training and in evaluation, and replaces a buffer."""

    def __init__(self, input_shape, num_classes):
        super().__init__(input_shape, num_classes)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images_BCHW):
        noisy = images_BCHW * torch.rand_like(images_BCHW)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * noisy.mean().detach()
        return super().forward(noisy - self.mean)


modest, breaking, greedy, doomed, noisy = Linear, Breaking, Greedy, Doomed, Noisy


def tagged(input_shape, num_classes, tag):
    """Return a linear network of a table; `tag` is any value of a sweep."""
    model = nn.Sequential()
    model.add_module("classifier", nn.Linear(input_shape[0], num_classes))
    return model


def table(examples=60):
    """Return a table of two classes, and its labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(examples) % 2
    return rng.normal(size=(examples, 3)) + labels[:, None], labels


class Plain(Softmax):
    """Softmax by another name."""


class NoisyBackbone(nn.Module):
    """A network that adds noise to its features, in evaluation too."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.hidden = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], 6)
        self.classifier = nn.Linear(6, num_classes)

    def forward(self, images_BCHW):
        hidden = torch.tanh(self.hidden(images_BCHW.flatten(1)))
        return self.classifier(hidden + 0.1 * torch.randn_like(hidden))


noisy_backbone = NoisyBackbone


def pretrained(input_shape, num_classes):
    """Return a network whose backbone has the same weights for every seed."""
    model = nn.Sequential(nn.Flatten())
    model.add_module("hidden", nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], 6))
    model.add_module("relu", nn.ReLU())
    with torch.no_grad():
        model.hidden.weight.copy_(torch.randn(model.hidden.weight.shape, generator=torch.Generator().manual_seed(7)))
        model.hidden.bias.zero_()
    model.add_module("classifier", nn.Linear(6, num_classes))
    return model


class Mixing(nn.Module):
    """A network with random numbers in an attribute, or in a buffer that is not saved, and none in its layers."""

    def __init__(self, input_shape, num_classes, kind):
        super().__init__()
        mixing = torch.randn(*input_shape, 5)
        if kind == "buffer":
            self.register_buffer("mixing", mixing, persistent=False)
        else:
            kinds = {"tensor": mixing, "array": mixing.numpy(), "list": [mixing]}
            self.mixing = kinds.get(kind, torch.ones_like(mixing))
        self.scale = mixing[0, 0].item() if kind == "number" else 1.0
        self.hidden, self.classifier = nn.Linear(5, 6), nn.Linear(6, num_classes)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.linspace(-1, 1, 30).view(6, 5))
            self.hidden.bias.zero_()

    def forward(self, inputs_BD):
        mixing = self.mixing[0] if isinstance(self.mixing, list) else self.mixing
        mixed_B5 = torch.cos(self.scale * inputs_BD @ torch.as_tensor(mixing).to(inputs_BD))
        return self.classifier(self.hidden(mixed_B5))


mixing = Mixing
