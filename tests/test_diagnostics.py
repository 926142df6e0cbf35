"""Gradient norms against autograd on one plain module."""

import numpy as np
import pytest
import torch
from torch import nn

from headtohead import diagnostics
from headtohead.packing import Pack


def test_gradient_norms_add_up_as_autograd_says():
    torch.manual_seed(0)
    modules = [nn.Sequential() for _ in range(2)]
    for module in modules:
        module.add_module("hidden", nn.Linear(5, 4))
        module.add_module("relu", nn.ReLU())
        module.add_module("classifier", nn.Linear(4, 3))
    inputs, labels = torch.randn(1, 8, 5), torch.randint(3, (8,))
    pack = Pack(modules, torch.device("cpu"), torch.float32)
    logits = pack(inputs)
    loss = sum(nn.functional.cross_entropy(one, labels) for one in logits)
    *gradients, at_logits = torch.autograd.grad(loss, [*pack.leaves, logits])
    ours = diagnostics.gradient_norms(pack.store_gradients(gradients), pack.columns)
    assert set(ours) == {"total", "backbone", "classifier", "layer/hidden", "layer/classifier"}
    for run, module in enumerate(modules):
        outputs = module(inputs[0])
        outputs.retain_grad()
        nn.functional.cross_entropy(outputs, labels).backward()
        norm = {
            name: torch.cat([p.grad.flatten() for p in part.parameters()]).norm().item()
            for name, part in {"total": module, "backbone": module.hidden, "classifier": module.classifier}.items()
        }
        for name, value in norm.items():
            assert ours[name][run].item() == pytest.approx(value, rel=1e-5)
        assert ours["layer/hidden"][run] == ours["backbone"][run]
        per_example = outputs.grad.norm(dim=1).mean().item() * 8
        assert diagnostics.logit_gradient_norm(at_logits)[run].item() == pytest.approx(per_example, rel=1e-5)


def test_no_backbone_no_tag():
    columns = {"classifier.weight": slice(0, 4), "classifier.bias": slice(4, 6)}
    norms = diagnostics.gradient_norms(torch.ones(2, 6), columns)
    assert set(norms) == {"total", "classifier", "layer/classifier"}
    assert norms["total"].tolist() == pytest.approx([6**0.5] * 2)


def test_trace_statistics_leave_out_what_is_not_finite():
    trace = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, float("nan")]])
    ours = diagnostics.trace_statistics(trace)
    for run, values in enumerate(([1.0, 3.0, 5.0], [2.0, 4.0])):
        assert ours["grad_norm_mean"][run] == pytest.approx(np.mean(values))
        assert ours["grad_norm_max"][run] == np.max(values)
        assert ours["grad_norm_cv"][run] == pytest.approx(np.std(values) / np.mean(values))
