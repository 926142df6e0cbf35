"""Names of metrics and TensorBoard tags."""

import pytest

from headtohead.record.tags import final_tag, metric_of, tag_of

# The tags that users see are fixed.
FIXED = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "val_loss": "val/loss",
    "val_accuracy": "val/accuracy",
    "val_nll": "val/nll",
    "grad_norm_total": "grad_norm/total",
    "grad_norm_logits": "grad_norm/logits",
    "grad_norm_backbone": "grad_norm/backbone",
    "grad_norm_classifier": "grad_norm/classifier",
    "grad_norm_layer_backbone.layer1.0.conv1": "grad_norm/layer/backbone.layer1.0.conv1",
    "val_ambiguity_none": "ambiguity/none",
    "val_ambiguity_several": "ambiguity/several",
    "coupling": "competition/coupling",
    "row_sum": "competition/row_sum",
    "hessian_eigenvalue": "hessian/eigenvalue",
    "edge_of_stability": "hessian/edge",
    "lr": "lr",
    "step": "step",
    "epoch": "epoch",
}


@pytest.mark.parametrize(("metric", "tag"), FIXED.items())
def test_a_metric_and_its_tag_tell_each_other(metric, tag):
    assert tag_of(metric) == tag
    assert metric_of(tag) == metric


def test_final_metrics_have_a_group_of_their_own():
    assert final_tag("test_nll") == "final/test_nll"
