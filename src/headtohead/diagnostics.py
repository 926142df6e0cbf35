"""What the gradients look like while a pack trains.

Shape suffixes: R runs, B batch, K classes, S steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def logit_gradient_norm(gradient_RBK: Tensor) -> Tensor:
    """Mean over the batch of each example's gradient norm at the logits, (R,).

    Args:
        gradient_RBK: gradient of the batch's mean loss with respect to the logits.
    """
    batch_size = gradient_RBK.shape[1]
    return torch.linalg.vector_norm(gradient_RBK, dim=-1).mean(-1) * batch_size


def gradient_norms(gradients_RP: Tensor, columns: Mapping[str, slice]) -> dict[str, Tensor]:
    """Euclidean norms of the gradient, each (R,): `total`, `classifier`, `backbone`, `layer/<name>`.

    A layer is a module that holds parameters; the backbone is all of them but the classifier, and is
    left out where there is none.

    Args:
        gradients_RP: gradients of all parameters.
        columns: for each parameter's name its columns.
    """
    squares = {name: gradients_RP[:, where].square().sum(1) for name, where in columns.items()}
    layers: dict[str, Tensor] = {}
    for name, square_R in squares.items():
        layer = name.rpartition(".")[0] or name
        layers[layer] = layers[layer] + square_R if layer in layers else square_R
    backbone = [square_R for layer, square_R in layers.items() if layer != "classifier"]
    norms = {"total": torch.stack(list(layers.values())).sum(0).sqrt()}
    norms["classifier"] = layers["classifier"].sqrt()
    if backbone:
        norms["backbone"] = torch.stack(backbone).sum(0).sqrt()
    return norms | {f"layer/{layer}": square_R.sqrt() for layer, square_R in layers.items()}


def trace_statistics(norms_SR: Tensor) -> dict[str, Tensor]:
    """Mean, maximum and coefficient of variation over the steps, each (R,), of a trace of norms.

    Steps that are not finite, those from a run's divergence on, do not count.
    """
    norms_SR = norms_SR.double()
    finite_SR = norms_SR.isfinite()
    count_R = finite_SR.sum(0).clamp(min=1)
    known_SR = norms_SR.where(finite_SR, 0.0)
    mean_R = known_SR.sum(0) / count_R
    variance_R = ((known_SR - mean_R) * finite_SR).square().sum(0) / count_R
    return {
        "grad_norm_mean": mean_R,
        "grad_norm_max": known_SR.amax(0),
        "grad_norm_cv": variance_R.sqrt() / mean_R,
    }
