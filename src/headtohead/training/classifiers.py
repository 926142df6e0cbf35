"""Classifiers: the last layer of a network, which turns features into logits.

Each head names its kind of classifier (`Head.classifier`). To add a kind, write a `Classifier` here and its layer in
`layers`, or both in the file of your own head. If the layer has a method `stacked` (see `packing.Stackable`), a pack
batches it by that; otherwise a pack batches the whole network by vmap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headtohead.options import ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Classifier(ABC):
    """Kind of the last layer. Those of the runs of a pack differ at most in `numbers`."""

    @property
    def numbers(self) -> dict[str, float]:
        """Options of this class that the layer has as buffers of the same names; each run of a pack has its own."""
        return {}

    @property
    def pack_key(self) -> Classifier:
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
        from headtohead.training.layers import Cosine

        return Cosine(linear, self.temperature)


@dataclass(frozen=True)
class LearntCosineClassifier(Classifier):
    """Logits that are cosines over a temperature that is learnt.

    Attributes:
        temperature: temperature at the start, above zero.
    """

    temperature: float

    @property
    def numbers(self) -> dict[str, float]:
        return {"temperature": self.temperature}

    @property
    def may_start_at_zero(self) -> bool:
        # Weights of length zero have no direction.
        return False

    def layer(self, linear: nn.Linear) -> nn.Module:
        from headtohead.training.layers import LearntCosine

        return LearntCosine(linear, self.temperature)


@dataclass(frozen=True)
class OneLogitClassifier(Classifier):
    """Two logits of which the first is zero, so that one of them is learnt."""

    def layer(self, linear: nn.Linear) -> nn.Module:
        from headtohead.training.layers import OneLogit

        if linear.out_features != 2:
            raise ConfigError(f"head=one_logit: {linear.out_features} classes; accepted: data of 2 classes")
        return OneLogit(linear)
