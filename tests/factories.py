"""Networks that tests name by their path, as users name theirs."""

import os
import signal
from pathlib import Path

import torch
from torch import nn


class Transformer(nn.Module):
    """A network that is no Sequential: rows of an image as tokens, one attention layer."""

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
    """A network with a number of outputs of its own choice."""
    model = nn.Sequential(nn.Flatten())
    model.add_module("classifier", nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], outputs))
    return model


class Breaking(nn.Module):
    """Breaks in training where it was initialised with seed 1."""

    def __init__(self, features, num_classes):
        super().__init__()
        self.breaks = torch.initial_seed() == 1
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, images_BCHW):
        if self.breaks:
            raise RuntimeError("seed 1")
        return self.classifier(images_BCHW.flatten(1))


def breaking(input_shape, num_classes):
    return Breaking(input_shape[0] * input_shape[1] * input_shape[2], num_classes)


class Greedy(nn.Module):
    """Asks for memory that it never touches: 45 percent of the machine's for each run that it stands for."""

    def __init__(self, features, num_classes):
        super().__init__()
        self.classifier = nn.Linear(features, num_classes)
        self.numbers = int(0.45 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4)

    def forward(self, images_BCHW):
        features = images_BCHW.flatten(1)
        if self.training and torch.is_grad_enabled():
            torch.empty_like(features.sum().expand(self.numbers))
        return self.classifier(features)


def greedy(input_shape, num_classes):
    return Greedy(input_shape[0] * input_shape[1] * input_shape[2], num_classes)


def modest(input_shape, num_classes):
    """As `greedy`, without the greed."""
    model = greedy(input_shape, num_classes)
    model.numbers = 0
    return model


class Doomed(nn.Module):
    """Kills its process the first time that it is trained with seed 1; a file in the working directory remembers."""

    def __init__(self, features, num_classes):
        super().__init__()
        self.dies = torch.initial_seed() == 1
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, images_BCHW):
        if self.dies and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.classifier(images_BCHW.flatten(1))


def doomed(input_shape, num_classes):
    return Doomed(input_shape[0] * input_shape[1] * input_shape[2], num_classes)
