"""Networks that tests name by their path, as users name theirs."""

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
