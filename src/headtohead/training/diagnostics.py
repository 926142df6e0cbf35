"""Diagnostics of training: gradient norms, coupling of classes, sharpness and loss spikes.

Shape suffixes: R runs, B batch, K classes, S steps, P parameters of one run, M values of one run, b bins or edges of
bins, w steps of a window.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def logit_gradient_norm(gradient_RBK: Tensor) -> Tensor:
    """Return the mean over the batch of each example's gradient norm at the logits, (R,).

    Args:
        gradient_RBK: gradient of each example's loss at its logits.
    """
    return torch.linalg.vector_norm(gradient_RBK, dim=-1).mean(-1)


def gradient_norms(gradients_RP: Tensor, columns: Mapping[str, slice]) -> dict[str, Tensor]:
    """Return Euclidean norms of the gradient by name of the metric, each (R,).

    The parts are `total`, `classifier`, `backbone` and `layer_<layer>`. A layer is a module that holds trained
    parameters; the backbone is all layers but the classifier. A part without such parameters is left out.

    Args:
        gradients_RP: gradients at all parameters.
        columns: columns of each parameter by name.
    """
    squares = {name: gradients_RP[:, where].square().sum(1) for name, where in columns.items()}
    layers: dict[str, Tensor] = {}
    for name, square_R in squares.items():
        layer = name.rpartition(".")[0] or name
        layers[layer] = layers[layer] + square_R if layer in layers else square_R
    # A classifier may have layers of its own.
    classifier = [square_R for layer, square_R in layers.items() if f"{layer}.".startswith("classifier.")]
    backbone = [square_R for layer, square_R in layers.items() if not f"{layer}.".startswith("classifier.")]
    norms = {"grad_norm_total": torch.stack(list(layers.values())).sum(0).sqrt()}
    if classifier:
        norms["grad_norm_classifier"] = torch.stack(classifier).sum(0).sqrt()
    if backbone:
        norms["grad_norm_backbone"] = torch.stack(backbone).sum(0).sqrt()
    return norms | {f"grad_norm_layer_{layer}": square_R.sqrt() for layer, square_R in layers.items()}


def coupling(loss: Callable[[Tensor], Tensor], logits_RBK: Tensor, labels_RB: Tensor) -> dict[str, Tensor]:
    """Measure the competition between classes in the gradient g at the logits z, each (R,).

    `coupling` is the effect of the target's logit on the other classes: the sum of |dg_j / dz_t| over all j but the
    target t, divided by |dg_t / dz_t|. It is 1 for softmax and 0 for the sigmoid. `row_sum` is |sum of g| divided by
    the sum of |g|. It is 0 for softmax, whose gradients cancel. Both are ratios of means over the batch.

    Args:
        loss: function from the logits to the loss of each example, (R, B).
    """
    z_RBK = logits_RBK.detach().requires_grad_()
    (g_RBK,) = torch.autograd.grad(loss(z_RBK).sum(), z_RBK, create_graph=True)
    target_RB1 = labels_RB.unsqueeze(-1)
    # The Hessian is symmetric: the gradient of g_t is its column t.
    (column_RBK,) = torch.autograd.grad(g_RBK.gather(-1, target_RB1).sum(), z_RBK)
    own_R = column_RBK.gather(-1, target_RB1).abs().sum((1, 2))
    others_R = column_RBK.scatter(-1, target_RB1, 0.0).abs().sum((1, 2))
    g_RBK = g_RBK.detach()
    return {
        "coupling": others_R / own_R,
        "row_sum": g_RBK.sum(-1).abs().sum(1) / g_RBK.abs().sum((1, 2)),
    }


def hessian_eigenvalue(
    loss_R: Tensor, leaves: Sequence[Tensor], vector_RP: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Find the eigenvalue of largest magnitude of each run's Hessian, (R,), and its eigenvector, (R, P).

    The method is power iteration. Runs do not share parameters, so that one product with the Hessian of their summed
    losses is the product of every run.

    Args:
        loss_R: losses, with their graph.
        leaves: parameters, in the order of the columns of the vector.
        vector_RP: start of the iteration, such as the vector of an earlier call.
        iterations: number of Hessian-vector products, at least one.
    """
    runs = len(loss_R)

    def rows(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.reshape(runs, -1) for tensor in tensors], 1)

    gradients = torch.autograd.grad(loss_R.sum(), leaves, create_graph=True, materialize_grads=True)
    gradient_RP = rows(gradients)
    eigenvalue_R = torch.full_like(loss_R, math.nan)
    for _ in range(iterations):
        vector_RP = F.normalize(vector_RP, dim=1)
        # A loss that is linear in a parameter has no second derivative there, which counts as zero.
        products = torch.autograd.grad(
            (gradient_RP * vector_RP).sum(), leaves, retain_graph=True, materialize_grads=True
        )
        product_RP = rows(products)
        eigenvalue_R, vector_RP = (vector_RP * product_RP).sum(1), product_RP
    return eigenvalue_R, vector_RP


def histogram(values_RM: Tensor, bins: int = 30) -> tuple[Tensor, Tensor]:
    """Return the distribution of each run's values: edges (R, bins + 1) and counts (R, bins).

    The bins have equal widths from the smallest to the largest value. For runs with values that are not finite, the
    result has no meaning.
    """
    least_R1, most_R1 = values_RM.amin(1, keepdim=True), values_RM.amax(1, keepdim=True)
    # A bin needs a width even if all values are equal.
    width_R1 = (most_R1 - least_R1).clamp(min=torch.finfo(values_RM.dtype).tiny ** 0.5)
    index_RM = ((values_RM - least_R1) / width_R1 * bins).nan_to_num().long().clamp(0, bins - 1)
    counts_Rb = torch.zeros(len(values_RM), bins, dtype=torch.long, device=values_RM.device)
    counts_Rb.scatter_add_(1, index_RM, torch.ones_like(index_RM))
    edges_Rb = least_R1 + width_R1 * torch.linspace(0, 1, bins + 1, dtype=values_RM.dtype, device=values_RM.device)
    return edges_Rb, counts_Rb


def loss_spikes(loss_SR: Tensor, window: int = 25, deviations: float = 6.0) -> Tensor:
    """Count the steps at which the loss spikes, (R,).

    The loss of a spike exceeds the median of the `window` steps before it by `deviations` times their median absolute
    deviation, scaled by 1.4826 to estimate the standard deviation of normal noise. Steps with a loss that is not
    finite, and the first `window` steps, do not count.
    """
    if len(loss_SR) <= window:
        return torch.zeros_like(loss_SR[0])
    # In blocks, since every step needs memory for its window.
    counts = []
    for start in range(window, len(loss_SR), 4096):
        stop = min(start + 4096, len(loss_SR))
        before_SRw = loss_SR[start - window : stop - 1].unfold(0, window, 1)
        median_SR = before_SRw.median(-1).values
        mad_SR = (before_SRw - median_SR.unsqueeze(-1)).abs().median(-1).values
        counts.append((loss_SR[start:stop] > median_SR + deviations * 1.4826 * mad_SR).sum(0))
    return torch.stack(counts).sum(0).to(loss_SR.dtype)


def trace_statistics(norms_SR: Tensor) -> dict[str, Tensor]:
    """Return `mean`, `max` and coefficient of variation `cv` over the steps of a trace, each (R,) float64.

    Steps with a norm that is not finite, which are those from a run's divergence on, do not count.
    """
    norms_SR = norms_SR.double()
    finite_SR = norms_SR.isfinite()
    count_R = finite_SR.sum(0).clamp(min=1)
    known_SR = norms_SR.where(finite_SR, 0.0)
    mean_R = known_SR.sum(0) / count_R
    variance_R = ((known_SR - mean_R) * finite_SR).square().sum(0) / count_R
    return {"mean": mean_R, "max": known_SR.amax(0), "cv": variance_R.sqrt() / mean_R}
