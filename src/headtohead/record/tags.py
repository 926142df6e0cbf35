"""Names of metrics and their TensorBoard tags. A metric has one name everywhere but in event files and history.csv."""

from collections.abc import Iterable
from functools import cache

TAGS = {
    "coupling": "competition/coupling",
    "row_sum": "competition/row_sum",
    "hessian_eigenvalue": "hessian/eigenvalue",
    "edge_of_stability": "hessian/edge",
}
# The longer prefix comes first.
PREFIXES = {
    "grad_norm_layer_": "grad_norm/layer/",
    "grad_norm_": "grad_norm/",
    "val_ambiguity_": "ambiguity/",
    "train_": "train/",
    "val_": "val/",
}


@cache  # asked for each value of each logged step
def tag_of(metric: str) -> str:
    """Return the tag of a metric that is logged during training: `val_accuracy` is `val/accuracy`."""
    return TAGS.get(metric) or _swap_prefix(metric, PREFIXES.items())


def metric_of(tag: str) -> str:
    """Return the metric that a tag stands for; the inverse of `tag_of`."""
    metrics = {tag: metric for metric, tag in TAGS.items()}
    return metrics.get(tag) or _swap_prefix(tag, [(new, old) for old, new in PREFIXES.items()])


def final_tag(metric: str) -> str:
    """Return the tag of a metric of a finished run, a column of results.csv."""
    return f"final/{metric}"


def _swap_prefix(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    for old, new in prefixes:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
