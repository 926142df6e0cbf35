"""Options of heads for tests that build them without a configuration."""

from headtohead.training.heads import (
    HEADS,
    Head,
    LinearSquared,
    Sigmoid,
    SigmoidAsymmetric,
    SigmoidCosine,
    SigmoidFocal,
    SoftmaxCosine,
    SoftmaxFocal,
    SoftmaxLogitNormalised,
    SoftmaxPoly,
)

PLAIN = {
    "label_smoothing": 0.0,
    "prior_bias": "none",
    "adjustment": "none",
    "tau": 1.0,
    "class_weights": "none",
    "beta": 0.9,
}
SUMMED = {"reduction": "sum", "pos_weight": 1.0, "smoothed_over": "classes"}
# Options of single heads, beside those that all heads have. Each combination is tested.
OPTIONS = {
    Sigmoid: [SUMMED, SUMMED | {"reduction": "mean"}, SUMMED | {"pos_weight": 3.0}, SUMMED | {"smoothed_over": "two"}],
    SigmoidCosine: [SUMMED | {"temperature": 0.1}],
    SigmoidFocal: [{"gamma": 2.0}, {"gamma": 0.5}],
    SigmoidAsymmetric: [
        {"gamma_present": 0.0, "gamma_absent": 4.0, "clip": 0.05},
        {"gamma_present": 1.0, "gamma_absent": 0.5, "clip": 0.0},
    ],
    SoftmaxFocal: [{"gamma": 2.0}, {"gamma": 0.5}],
    SoftmaxPoly: [{"epsilon": 1.0}, {"epsilon": -1.0}],
    SoftmaxLogitNormalised: [{"temperature": 0.04}],
    SoftmaxCosine: [{"temperature": 0.05}],
    LinearSquared: [{"weight": 1.0, "target": 1.0}, {"weight": 5.0, "target": 10.0}],
}


def all_heads(**options) -> list[Head]:
    """Return every head of the registry, with each of its OPTIONS."""
    return [cls(**PLAIN | options | own) for cls in HEADS.values() for own in OPTIONS.get(cls, [{}])]
