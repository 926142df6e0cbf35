"""Diagnostics against autograd on plain modules, and against closed forms."""

import math

import numpy as np
import pytest
import torch
from plain_heads import PLAIN, SUMMED
from torch import nn

from headtohead.training import diagnostics
from headtohead.training.heads import Sigmoid, Softmax
from headtohead.training.packing import Pack


def test_gradient_norms_equal_those_of_autograd():
    torch.manual_seed(0)
    modules = [nn.Sequential() for _ in range(2)]
    for module in modules:
        module.add_module("hidden", nn.Linear(5, 4))
        module.add_module("relu", nn.ReLU())
        module.add_module("classifier", nn.Linear(4, 3))
    inputs, labels = torch.randn(1, 8, 5), torch.randint(3, (8,))
    pack = Pack(modules, torch.device("cpu"), torch.float32)

    def loss(logits):
        loss_RB = nn.functional.cross_entropy(logits.requires_grad_().mT, labels.expand(2, 8), reduction="none")
        return loss_RB.detach(), torch.autograd.grad(loss_RB.sum(), logits)[0]

    _, _, at_logits, gradients = pack.differentiate(inputs, loss)
    ours = diagnostics.gradient_norms(gradients, pack.columns)
    assert set(ours) == {
        f"grad_norm_{name}" for name in ("total", "backbone", "classifier", "layer_hidden", "layer_classifier")
    }
    for run, module in enumerate(modules):
        outputs = module(inputs[0])
        outputs.retain_grad()
        nn.functional.cross_entropy(outputs, labels).backward()
        norm = {
            name: torch.cat([p.grad.flatten() for p in part.parameters()]).norm().item()
            for name, part in {"total": module, "backbone": module.hidden, "classifier": module.classifier}.items()
        }
        for name, value in norm.items():
            assert ours[f"grad_norm_{name}"][run].item() == pytest.approx(value, rel=1e-5)
        assert ours["grad_norm_layer_hidden"][run] == ours["grad_norm_backbone"][run]
        per_example = outputs.grad.norm(dim=1).mean().item() * 8
        assert diagnostics.logit_gradient_norm(at_logits)[run].item() == pytest.approx(per_example, rel=1e-5)


def test_a_network_without_a_backbone_has_no_norm_of_it():
    columns = {"classifier.weight": slice(0, 4), "classifier.bias": slice(4, 6)}
    norms = diagnostics.gradient_norms(torch.ones(2, 6), columns)
    assert set(norms) == {"grad_norm_total", "grad_norm_classifier", "grad_norm_layer_classifier"}
    assert norms["grad_norm_total"].tolist() == pytest.approx([6**0.5] * 2)


def test_trace_statistics_leave_out_what_is_not_finite():
    trace = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, float("nan")]])
    ours = diagnostics.trace_statistics(trace)
    for run, values in enumerate(([1.0, 3.0, 5.0], [2.0, 4.0])):
        assert ours["mean"][run] == pytest.approx(np.mean(values))
        assert ours["max"][run] == np.max(values)
        assert ours["cv"][run] == pytest.approx(np.std(values) / np.mean(values))


@pytest.mark.parametrize(
    ("head", "coupling"), [(Softmax(**PLAIN), 1.0), (Sigmoid(**PLAIN, **SUMMED), 0.0)], ids=["softmax", "sigmoid"]
)
def test_coupling_of_closed_forms(head, coupling):
    """The column p_t (e_t - p) of softmax's Hessian sums to zero; the sigmoid's Hessian is diagonal."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 50, 7, dtype=torch.float64, generator=generator)
    labels = torch.randint(7, (2, 50), generator=generator)
    ours = diagnostics.coupling(lambda z: head.loss(z, labels), logits, labels)
    assert ours["coupling"].tolist() == pytest.approx([coupling] * 2, abs=1e-12)
    gradient = head.activations(logits) - nn.functional.one_hot(labels, 7)
    expected = gradient.sum(-1).abs().sum(1) / gradient.abs().sum((1, 2))
    assert ours["row_sum"].tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    if coupling:
        assert (ours["row_sum"] < 1e-12).all()


def test_hessian_eigenvalue_equals_that_of_the_whole_matrix():
    torch.manual_seed(0)
    modules = []
    for _ in range(3):
        module = nn.Sequential()
        module.add_module("hidden", nn.Linear(4, 3))
        module.add_module("tanh", nn.Tanh())
        module.add_module("classifier", nn.Linear(3, 2))
        modules.append(module)
    pack = Pack(modules, torch.device("cpu"), torch.float64)
    inputs, labels = torch.randn(1, 20, 4, dtype=torch.float64), torch.randint(2, (3, 20))
    head = Softmax(**PLAIN)
    loss = head.loss(pack(inputs), labels).mean(1)
    ours, vector = diagnostics.hessian_eigenvalue(loss, pack.leaves, torch.ones_like(pack.parameters_RP), 300)
    for run in range(3):

        def single(row, run=run):
            rows = [pack.parameters_RP[other] if other != run else row for other in range(3)]
            views = {
                name: torch.stack(rows)[:, where].view(3, *pack.template.get_parameter(name).shape)[run]
                for name, where in pack.columns.items()
            }
            logits = torch.func.functional_call(pack.template, views, (inputs[0],))
            return nn.functional.cross_entropy(logits, labels[run])

        matrix = torch.autograd.functional.hessian(single, pack.parameters_RP[run])
        eigenvalues = torch.linalg.eigvalsh(matrix)
        largest = eigenvalues[eigenvalues.abs().argmax()].item()
        assert ours[run].item() == pytest.approx(largest, rel=1e-4)
        unit = vector[run] / vector[run].norm()
        torch.testing.assert_close((matrix @ unit).abs(), abs(largest) * unit.abs(), rtol=1e-2, atol=1e-2)


def test_hessian_of_a_softmax_layer_has_a_closed_form():
    """For one input and zero weights the Hessian is H_z (x) x x^T, with largest eigenvalue |x|^2 / K (bias in x)."""
    layer = nn.Sequential()
    layer.add_module("classifier", nn.Linear(5, 4))
    nn.init.zeros_(layer.classifier.weight)
    nn.init.zeros_(layer.classifier.bias)
    pack = Pack([layer, layer], torch.device("cpu"), torch.float64)
    inputs = torch.randn(1, 1, 5, dtype=torch.float64)
    loss = Softmax(**PLAIN).loss(pack(inputs), torch.zeros(2, 1, dtype=torch.long)).mean(1)
    start = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, _ = diagnostics.hessian_eigenvalue(loss, pack.leaves, start, 50)
    expected = (inputs.square().sum().item() + 1) / 4
    assert ours.tolist() == pytest.approx([expected] * 2, rel=1e-6)


def test_loss_spikes_are_found_where_they_were_put():
    generator = torch.Generator().manual_seed(0)
    loss = 1 + 0.01 * torch.randn(500, 3, generator=generator)
    loss[100, 1] = 2.0
    loss[[200, 300, 400], 2] = 1.5
    loss[450:, 0] = math.nan
    assert diagnostics.loss_spikes(loss, deviations=10).tolist() == [0, 1, 3]
    assert diagnostics.loss_spikes(loss[:20]).tolist() == [0, 0, 0]
