"""Batches that a network cannot take are refused before training, and those that it can take are not."""

from collections import OrderedDict

import pytest
from torch import nn


class Squeezing(nn.Sequential):
    def forward(self, inputs):
        return super().forward(inputs).squeeze()


class Halves(nn.Sequential):
    def forward(self, inputs):
        return super().forward(inputs.unflatten(0, (2, -1)).flatten(0, 1))


def factory_of(kind):
    def make(input_shape, num_classes):
        wide = nn.Linear(input_shape[0], 6)
        norm = {
            "norm": nn.BatchNorm1d(6),
            "norm without statistics": nn.BatchNorm1d(6, track_running_stats=False),
            "group norm": nn.GroupNorm(6, 6),
            "layer norm": nn.LayerNorm(6),
            "norm in evaluation": nn.BatchNorm1d(6).eval(),
        }.get(kind, nn.Identity())
        layers = OrderedDict(one=wide, norm=norm, classifier=nn.Linear(6, num_classes))
        return {"squeeze": Squeezing, "halves": Halves}.get(kind, nn.Sequential)(layers)

    return make


BATCH = "training.batch_size"
CASES = [
    ("norm", [f"{BATCH}=1"], BATCH),
    ("norm", [f"{BATCH}=1,16"], BATCH),
    ("norm", [f"{BATCH}=2"], None),
    ("group norm", [f"{BATCH}=1"], BATCH),
    ("layer norm", [f"{BATCH}=1"], None),
    ("norm in evaluation", [f"{BATCH}=1"], None),
    ("norm without statistics", [f"{BATCH}=1"], BATCH),
    ("norm without statistics", ["dataset.val_fraction=0.01"], "dataset.val_fraction"),
    ("squeeze", [f"{BATCH}=1"], BATCH),
    ("halves", [f"{BATCH}=15"], BATCH),
    ("halves", [f"{BATCH}=16"], None),
]


@pytest.mark.parametrize(("kind", "arguments", "key"), CASES)
def test_a_batch_that_a_layer_cannot_take_is_refused(command, monkeypatch, kind, arguments, key):
    import factories

    monkeypatch.setattr(factories, "made", factory_of(kind), raising=False)
    common = ["dataset=iris", "model=factory", "model.path=factories:made", "name=s", "training.epochs=1"]
    result = command(*common, *arguments, "training.points=2", "training.evaluations=1")
    if key is None:
        assert result.status == 0, result.err
    else:
        assert result.status == 2 and key in result.err and "model.path" in result.err
        assert len(result.err.strip().splitlines()) <= 2


@pytest.mark.parametrize("arguments", [["training.batch_size=1"], ["dataset.train_size=3", "training.batch_size=1"]])
def test_batch_norm_of_the_package_is_refused_for_batches_of_one(command, arguments):
    result = command("dataset=iris", "model=mlp", "model.batch_norm=true", "head=softmax,sigmoid", *arguments)
    assert result.status == 2 and "training.batch_size" in result.err
