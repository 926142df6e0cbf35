"""The optimisers of a pack against torch.optim for each run."""

import pytest
import torch

from headtohead.options import ConfigError
from headtohead.training import optimizers
from headtohead.training.optimizers import OPTIMIZERS, SGD, AdamW, column

SGD_RUNS = [
    SGD(lr=0.1, weight_decay=0.0, clip_norm=None, momentum=0.0, nesterov=False),
    SGD(lr=0.03, weight_decay=0.1, clip_norm=None, momentum=0.9, nesterov=False),
    SGD(lr=0.01, weight_decay=0.01, clip_norm=None, momentum=0.5, nesterov=True),
]
ADAMW_RUNS = [
    AdamW(lr=0.1, weight_decay=0.0, clip_norm=None, beta1=0.9, beta2=0.999, eps=1e-8),
    AdamW(lr=0.01, weight_decay=0.5, clip_norm=None, beta1=0.5, beta2=0.9, eps=1e-3),
]


def reference(run, parameters, decayed):
    weights, rest = parameters[decayed].clone(), parameters[~decayed].clone()
    groups = [{"params": [weights], "weight_decay": run.weight_decay}, {"params": [rest], "weight_decay": 0.0}]
    if isinstance(run, SGD):
        optimizer = torch.optim.SGD(groups, lr=run.lr, momentum=run.momentum, nesterov=run.nesterov)
    else:
        optimizer = torch.optim.AdamW(groups, lr=run.lr, betas=(run.beta1, run.beta2), eps=run.eps)
    return weights, rest, optimizer


@pytest.fixture(params=[1, 100], ids=["many parameters", "few"])
def fused_from(monkeypatch, request):
    monkeypatch.setattr(optimizers, "FUSED_FROM", request.param)


@pytest.mark.usefixtures("fused_from")
@pytest.mark.parametrize("runs", [SGD_RUNS[:1], SGD_RUNS[:2], SGD_RUNS, ADAMW_RUNS], ids=lambda runs: f"{len(runs)}")
@pytest.mark.parametrize("columns", [slice(0, 0), slice(2, 5), slice(0, 8)], ids=str)
def test_equals_torch_optim(runs, columns):
    decayed = torch.zeros(8, dtype=torch.bool)
    decayed[columns] = True
    generator = torch.Generator().manual_seed(0)
    parameters_RP = torch.randn(len(runs), 8, dtype=torch.float64, generator=generator)
    references = [reference(run, row, decayed) for run, row in zip(runs, parameters_RP, strict=True)]
    updater = runs[0].updater(runs, parameters_RP, columns)
    lr_R1 = column([run.lr for run in runs], parameters_RP)
    for step in range(30):
        gradients_RP = torch.randn(parameters_RP.shape, dtype=torch.float64, generator=generator)
        factor = 1 / (1 + step)  # a schedule
        for run, row, (weights, rest, optimizer) in zip(runs, gradients_RP, references, strict=True):
            weights.grad, rest.grad = row[decayed].clone(), row[~decayed].clone()
            for group in optimizer.param_groups:
                group["lr"] = run.lr * factor
            optimizer.step()
        updater.step(gradients_RP.clone(), lr_R1 * factor)
    expected_RP = torch.empty_like(parameters_RP)
    for row, (weights, rest, _) in zip(expected_RP, references, strict=True):
        row[decayed], row[~decayed] = weights, rest
    torch.testing.assert_close(parameters_RP, expected_RP, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("fused_from")
@pytest.mark.parametrize("runs", [SGD_RUNS, ADAMW_RUNS], ids=["sgd", "adamw"])
def test_learning_rate_zero_and_no_gradient_change_nothing(runs):
    parameters_RP = torch.randn(len(runs), 8)
    before = parameters_RP.clone()
    updater = runs[0].updater(runs, parameters_RP, decayed=slice(0, 8))
    updater.step(torch.ones(len(runs), 8), torch.full((len(runs), 1), 0.1))
    moved = parameters_RP.clone()
    assert (moved != before).all()
    updater.step(torch.zeros(len(runs), 8), torch.zeros(len(runs), 1))
    assert torch.equal(parameters_RP, moved)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"lr": 0.0}, "optimizer.lr=0.0"),
        ({"lr": float("nan")}, "optimizer.lr=nan"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay=-1.0"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm=0.0"),
        ({"momentum": 1.0}, "optimizer.momentum=1.0"),
        ({"momentum": 0.0, "nesterov": True}, "optimizer.nesterov=True"),
    ],
)
def test_refuses_what_is_out_of_range(options, key):
    valid = {"lr": 0.1, "weight_decay": 0.0, "clip_norm": None, "momentum": 0.9, "nesterov": False}
    with pytest.raises(ConfigError, match=key):
        SGD(**valid | options)


def test_registry_names_every_optimiser(config):
    for name, cls in OPTIMIZERS.items():
        assert type(config(f"optimizer={name}").optimizer) is cls
