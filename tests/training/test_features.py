"""Features that are computed once against the forward of the whole network at every step."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run, vary
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from torch import nn

from headtohead.training import data, features, pack_data
from headtohead.training.models import initialise
from headtohead.training.pack_data import Cohort

CPU = torch.device("cpu")
FROZEN = ["model.freeze=backbone", "precision=float64", "training.epochs=2", "training.batch_size=50"]
CNN = [*FROZEN, "dataset=digits", "model=cnn", "model.widths=[4,8]", "dataset.train_size=150"]


@pytest.fixture(autouse=True)
def nothing_kept():
    """Forget the features of other tests."""
    features._kept.clear()


def whole(configs, monkeypatch):
    """Train a pack on inputs."""
    with monkeypatch.context() as patch:
        patch.setattr(pack_data, "once", lambda model, dataset: False)
        return run(configs)


def assert_equal(ours, theirs):
    """Compare all that was logged and measured."""
    for point, other in zip(ours[0], theirs[0], strict=True):
        assert point.values.keys() == other.values.keys()
        for name, value in point.values.items():
            np.testing.assert_allclose(value, other.values[name], rtol=1e-9, atol=1e-9, err_msg=name)
    for outcome, other in zip(ours[1], theirs[1], strict=True):
        for part in ("metrics", "blocks", "predictions"):
            one, two = getattr(outcome, part), getattr(other, part)
            assert one.keys() == two.keys()
            for name in one:
                np.testing.assert_allclose(one[name], two[name], rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        (["dataset=digits", "model=mlp", "model.widths=[8]", "model.batch_norm=true", "model.dropout=0.5"], "stacked"),
        (["dataset=digits", "model=cnn", "model.widths=[4]", "dataset.ood=permuted"], "vmap"),
        (["dataset=wine", "model=mlp", "dataset.label_noise=0.2", "optimizer=adamw", "optimizer.lr=0.01"], "stacked"),
    ],
)
def test_features_once_equal_the_whole_network_at_every_step(config, monkeypatch, options, mode):
    base = config(*FROZEN, *options)
    configs = [vary(base, seed=0), vary(base, seed=0, lr=0.02), vary(base, seed=3)]
    sigmoid = config(*FROZEN, *options, "head=sigmoid").head
    configs.append(replace(configs[2], head=sigmoid))
    configs.append(replace(configs[0], settings=replace(configs[0].settings, fold=1)))
    theirs = whole(configs, monkeypatch)
    assert theirs[1][0].pack_mode == mode
    ours = run(configs)
    assert ours[1][0].pack_mode == "stacked"
    assert_equal(ours, theirs)
    alone = run(configs[1:2])
    assert alone[1][0].metrics["test_nll"] == pytest.approx(theirs[1][1].metrics["test_nll"], rel=1e-9)


class Dropping(nn.Module):
    """A classifier that drops features."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias, self.dropout = linear.weight, linear.bias, nn.Dropout(0.5)

    def forward(self, features_BI):
        return nn.functional.linear(self.dropout(features_BI), self.weight, self.bias)


def test_a_classifier_that_draws_numbers_draws_the_same(config, monkeypatch):
    from headtohead.training.classifiers import LinearClassifier

    monkeypatch.setattr(LinearClassifier, "layer", lambda self, linear: Dropping(linear))
    configs = [vary(config(*CNN), seed=seed) for seed in (0, 1)]
    ours = run(configs)
    assert ours[1][0].pack_mode == "loop"
    assert_equal(ours, whole(configs, monkeypatch))


def test_a_backbone_that_draws_numbers_is_called_at_every_step(config, monkeypatch):
    options = ["model=factory", "model.path=factories:noisy_backbone", "dataset=digits", "dataset.train_size=100"]
    configs = [vary(config(*FROZEN, *options), seed=seed) for seed in (0, 1)]
    ours = run(configs)
    assert ours[1][0].pack_mode == "loop"
    assert_equal(ours, whole(configs, monkeypatch))


def test_features_that_do_not_fit_into_memory_are_not_kept(config, monkeypatch):
    monkeypatch.setattr(features, "memory", lambda device: 10_000)
    _, (outcome, _) = run([vary(config(*CNN), seed=seed) for seed in (0, 1)])
    assert outcome.pack_mode == "vmap"


@pytest.mark.parametrize("option", ["dataset.flip=true", "dataset.crop_padding=1", "model.freeze=conv|norm"])
def test_augmented_inputs_and_other_frozen_layers_have_no_features(config, option):
    base = config(*CNN, option)
    assert not features.once(base.model, base.dataset)
    cohort = Cohort([base], data.load(base.dataset, CPU))
    assert [*cohort.pack.columns] == ["classifier.weight", "classifier.bias"]
    inputs, _ = next(cohort.batches())
    assert inputs.shape == (1, 50, 1, 8, 8)


def test_features_are_computed_once_for_all_that_they_do_not_depend_on(config, monkeypatch):
    called = []
    computed = features._Backbone.__call__
    monkeypatch.setattr(
        features._Backbone, "__call__", lambda self, inputs: called.append(len(inputs)) or computed(self, inputs)
    )
    options = ["dataset.ood=permuted", "dataset.folds=null", "dataset.test_fraction=0.3", "dataset.train_size=null"]
    base = config(*CNN, *options)
    run([base, vary(base, lr=0.01)])
    view = data.view(data.load(base.dataset, CPU), base.dataset, 0)
    tested = len(view.test)
    # Two examples show that nothing is drawn. There are three shifts and one kind of outliers.
    assert sum(called) == 2 + len(view.train) + len(view.val) + tested + 4 * tested
    called.clear()
    # Another pack of the seed, with other heads, rates and label noise.
    run([vary(config(*CNN, *options, "head=sigmoid", "dataset.label_noise=0.1"), lr=0.3)])
    assert called == [2]
    run([vary(base, seed=1)])
    assert sum(called) > 1000  # another backbone
    called.clear()
    run([replace(base, model=replace(base.model, widths=(4, 6)))])
    assert sum(called) > 1000


class Given(data.Dataset):
    """Images whose training, validation and test split are the same for all seeds."""

    def read(self):
        images = torch.randint(256, (90, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(90) % 3
        return data.Examples(images, labels, torch.arange(60, 90), ("a", "b", "c"), val=torch.arange(30, 60))


def test_seeds_share_features_where_neither_weights_nor_standardisation_differ(config, monkeypatch):
    common = {"train_size": None, "val_fraction": 0.5, "label_noise": 0.0, "imbalance": 1.0}
    dataset = Given(**common, crop_padding=0, flip=False, ood=None, unknown_classes=0)
    base = config(*FROZEN, "model=factory", "model.path=factories:pretrained", "training.batch_size=10")
    configs = [replace(vary(base, seed=seed), dataset=dataset) for seed in range(4)]
    ours = run(configs)
    assert_equal(ours, whole(configs, monkeypatch))
    cohort = Cohort(configs, data.load(dataset, CPU))
    inputs_VBI, _ = next(cohort.batches())
    assert len(inputs_VBI) == 4 and not torch.equal(inputs_VBI[0], inputs_VBI[1])
    # Of the examples, and of each of three shifts.
    assert sorted(len(kept) for kept in features._kept.values()) == [30, 30, 30, 90]


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_a_converged_probe_equals_scikit_learn_on_the_features(config, head):
    """Full batches with weight decay as the L2 penalty: C = 1 / (N weight_decay)."""
    decay = 0.01
    ours = config(
        *FROZEN, "dataset=wine", "model=mlp", "model.widths=[6]", f"head={head}", "training.epochs=3000",
        "training.batch_size=100000", "training.schedule=constant", "training.warmup=0", "training.points=1",
        "training.evaluations=1", "optimizer.lr=0.3", f"optimizer.weight_decay={decay}",
    )  # fmt: skip
    _, (outcome,) = run([ours])
    pool = data.load(ours.dataset, CPU)
    view = data.view(pool, ours.dataset, 0)
    network = initialise(ours.model, ours.head, pool.input_shape, pool.num_classes, 0).double()
    backbone = nn.Sequential(OrderedDict([*network.named_children()][:-1]))
    with torch.no_grad():
        found = backbone((pool.inputs.double() - view.mean) / view.std).numpy()
    labels = pool.labels.numpy()
    oracle = LogisticRegression(tol=1e-10, max_iter=5000, C=1 / (decay * len(view.train)))
    oracle = OneVsRestClassifier(oracle) if head == "sigmoid" else oracle
    oracle.fit(found[view.train], labels[view.train])
    for split, index in (("val", view.val), ("test", view.test)):
        probabilities = oracle.predict_proba(found[index])
        nll = -np.log(probabilities[np.arange(len(index)), labels[index]]).mean()
        assert outcome.metrics[f"{split}_nll"] == pytest.approx(nll, rel=1e-6)


@pytest.mark.parametrize("kind", ["tensor", "array", "list", "number", "buffer"])
def test_backbones_that_differ_beside_their_saved_weights_have_features_of_their_own(config, monkeypatch, kind):
    base = config(
        *FROZEN, "dataset=iris", "model=factory", "model.path=factories:mixing", f"+model.options.kind={kind}"
    )
    configs = [vary(base, seed=0), vary(base, seed=1)]
    theirs = whole(configs, monkeypatch)
    ours = run(configs)
    assert (ours[1][0].pack_mode, theirs[1][0].pack_mode) == ("stacked", "vmap" if kind == "buffer" else "loop")
    assert_equal(ours, theirs)
    alone = whole(configs[1:], monkeypatch)
    assert ours[1][1].metrics["test_nll"] == pytest.approx(alone[1][0].metrics["test_nll"], rel=1e-9)
