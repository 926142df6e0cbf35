"""Layers of this package, imported where they are built.

Shape suffixes: R runs, B batch, I features, K classes, C channels, H height, W width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headtohead.training.packing import Layer


class Rgb(nn.Module):
    """A layer that turns images (B, 1 or 3, H, W) into (B, 3, H, W)."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.expand(-1, 3, -1, -1)


class Cosine(nn.Module):
    """Logits (B, K): cosines of the features and each class's weights over a temperature, plus the bias."""

    def __init__(self, linear: nn.Linear, temperature: float):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.temperature: Tensor
        # In double precision, so that networks of any precision have the exact number.
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))

    def forward(self, features_BI: Tensor) -> Tensor:
        directions_KI = F.normalize(self.weight, dim=-1) / self.temperature
        return F.linear(F.normalize(features_BI, dim=-1), directions_KI, self.bias)

    def stacked(self, state: Mapping[str, Tensor]) -> Layer:
        """Return the layers of R runs as one function from features (R, B, I) to logits (R, B, K)."""
        weight_RKI, bias_RK, temperature_R = state["weight"], state["bias"], state["temperature"]

        def forward(features_RBI: Tensor) -> Tensor:
            directions_RIK = F.normalize(weight_RKI, dim=-1).mT / temperature_R.view(-1, 1, 1)
            return torch.baddbmm(bias_RK.unsqueeze(1), F.normalize(features_RBI, dim=-1), directions_RIK)

        return forward


class LearntCosine(nn.Module):
    """Logits (B, K): cosines of the features and each class's weights over a learnt temperature, plus the bias."""

    def __init__(self, linear: nn.Linear, temperature: float):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.temperature: Tensor
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))
        # The logarithm of a factor is learnt, so that the temperature stays positive.
        self.log_gain = nn.Parameter(torch.zeros((), dtype=linear.weight.dtype))

    def forward(self, features_BI: Tensor) -> Tensor:
        directions_KI = F.normalize(self.weight, dim=-1) * (self.log_gain.exp() / self.temperature)
        return F.linear(F.normalize(features_BI, dim=-1), directions_KI, self.bias)

    def stacked(self, state: Mapping[str, Tensor]) -> Layer:
        """Return the layers of R runs as one function from features (R, B, I) to logits (R, B, K)."""
        weight_RKI, bias_RK = state["weight"], state["bias"]
        log_gain_R, temperature_R = state["log_gain"], state["temperature"]

        def forward(features_RBI: Tensor) -> Tensor:
            gain_R11 = (log_gain_R.exp() / temperature_R).view(-1, 1, 1)
            directions_RIK = F.normalize(weight_RKI, dim=-1).mT * gain_R11
            return torch.baddbmm(bias_RK.unsqueeze(1), F.normalize(features_RBI, dim=-1), directions_RIK)

        return forward


class OneLogit(nn.Module):
    """Logits (B, 2): zero, and one that is linear in the features. The first row of the parameters is not used."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, features_BI: Tensor) -> Tensor:
        return F.pad(F.linear(features_BI, self.weight[1:], self.bias[1:]), (1, 0))

    def stacked(self, state: Mapping[str, Tensor]) -> Layer:
        """Return the layers of R runs as one function from features (R, B, I) to logits (R, B, 2)."""
        weight_R1I, bias_R1 = state["weight"][:, 1:], state["bias"][:, 1:]

        def forward(features_RBI: Tensor) -> Tensor:
            return F.pad(torch.baddbmm(bias_R1.unsqueeze(1), features_RBI, weight_R1I.mT), (1, 0))

        return forward
