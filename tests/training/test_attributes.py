"""Attributes of networks: those of each run in a pack."""

import pytest
import torch
from factories import Mixing
from torch import nn

from headtohead.training.attributes import digest
from headtohead.training.packing import Pack


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("tensor", "loop"), ("array", "loop"), ("list", "loop"), ("number", "loop"), ("buffer", "vmap"), ("", "vmap")],
)
def test_attributes_that_differ_between_runs_are_those_of_each_run(kind, mode):
    modules = [Mixing((4,), 3, kind) for _ in range(2)]
    pack = Pack(modules, torch.device("cpu"), torch.float64)
    inputs_B4 = torch.randn(7, 4, dtype=torch.float64)
    logits_RBK = pack(inputs_B4.expand(2, 7, 4))
    assert pack.mode == mode
    for logits_BK, module in zip(logits_RBK, modules, strict=True):
        torch.testing.assert_close(logits_BK, module.double()(inputs_B4), rtol=1e-9, atol=1e-9)


def test_rates_of_dropout_may_differ_within_a_stack():
    modules = [nn.Sequential() for _ in range(2)]
    for module, rate in zip(modules, (0.1, 0.4), strict=True):
        module.add_module("drop", nn.Dropout(rate))
        module.add_module("classifier", nn.Linear(4, 3))
    assert Pack(modules, torch.device("cpu"), torch.float64).mode == "stacked"


def test_the_weights_of_a_recurrent_layer_are_no_attributes():
    assert digest(nn.LSTM(2, 2)) == digest(nn.LSTM(2, 2)) != digest(nn.LSTM(2, 3))
