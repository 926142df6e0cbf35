"""Classifiers: the last layer of a network, which turns features into logits.

Shape suffixes: R runs, B batch, I features, K classes.

Each head names its kind of classifier (`Head.classifier`). To add a kind, write a `Classifier` and its layer, here or
in the file of your own head. If the layer has a method `stacked` (see `packing.Stackable`), a pack batches it by that;
otherwise a pack batches the whole network by vmap.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headtohead.training.packing import Layer


@dataclass(frozen=True)
class Classifier(ABC):
    """Kind of the last layer. Those of the runs of a pack differ at most in `numbers`."""

    @property
    def numbers(self) -> dict[str, float]:
        """Options of this class that the layer has as buffers of the same names; each run of a pack has its own."""
        return {}

    @property
    def pack_key(self) -> "Classifier":
        """Key: classifiers with equal keys may be in one pack."""
        return replace(self, **dict.fromkeys(self.numbers, 1.0)) if self.numbers else self

    @property
    def may_start_at_zero(self) -> bool:
        """Whether the weights of this layer may be zero at the start of training."""
        return True

    @abstractmethod
    def layer(self, linear: nn.Linear) -> nn.Module:
        """Return the layer that replaces the last layer of a network.

        Args:
            linear: last layer of the network, with bias. The result shares its parameters `weight` and `bias`, and may
                have others.
        """


@dataclass(frozen=True)
class LinearClassifier(Classifier):
    """Logits that are linear in the features."""

    def layer(self, linear: nn.Linear) -> nn.Module:
        return linear


@dataclass(frozen=True)
class CosineClassifier(Classifier):
    """Logits that are cosines over a temperature.

    Attributes:
        temperature: temperature of the cosine logits, above zero.
    """

    temperature: float

    @property
    def numbers(self) -> dict[str, float]:
        # A class derived from this one may have a layer without the buffer.
        return {"temperature": self.temperature} if type(self) is CosineClassifier else {}

    @property
    def may_start_at_zero(self) -> bool:
        # Weights of length zero have no direction.
        return False

    def layer(self, linear: nn.Linear) -> nn.Module:
        return Cosine(linear, self.temperature)


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
