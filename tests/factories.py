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


class Linear(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.seed = torch.initial_seed()
        self.classifier = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes)

    def forward(self, images_BCHW):
        return self.classifier(images_BCHW.flatten(1))


class Breaking(Linear):
    """Breaks in training where it was initialised with seed 1."""

    def forward(self, images_BCHW):
        if self.seed == 1:
            raise RuntimeError("seed 1")
        return super().forward(images_BCHW)


class Greedy(Linear):
    """Asks for memory that it never touches: 45 percent of the machine's for each run that it stands for."""

    def forward(self, images_BCHW):
        if self.training and torch.is_grad_enabled():
            numbers = int(0.45 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4)
            torch.empty_like(images_BCHW.sum().expand(numbers))
        return super().forward(images_BCHW)


class Doomed(Linear):
    """Kills its process the first times that it is trained with seed 1; files in the working directory remember."""

    def __init__(self, input_shape, num_classes, deaths=1):
        super().__init__(input_shape, num_classes)
        self.deaths = deaths

    def forward(self, images_BCHW):
        died = len([*Path().glob("died*")])
        if self.seed == 1 and died < self.deaths:
            Path(f"died{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images_BCHW)


modest, breaking, greedy, doomed = Linear, Breaking, Greedy, Doomed
