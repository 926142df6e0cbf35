"""Extreme numbers: defined values stay finite, and configurations that cannot be trained are refused."""

import math

import numpy as np
import pytest
import torch
from conftest import run, vary
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from plain_heads import all_heads
from scipy.special import log_softmax, softmax

from headtohead.training import data, metrics
from headtohead.training.heads import (
    LinearSquared,
    SoftmaxBinary,
    SoftmaxFocal,
    SoftmaxLogitNormalised,
    SoftmaxSquared,
)

ALL = all_heads()
# A step of these may raise one wrong class to lower another, or lower the label's logit.
RAISING = (SoftmaxSquared, SoftmaxLogitNormalised, SoftmaxBinary, SoftmaxFocal, LinearSquared)
TINY = ["training.epochs=2", "training.points=4", "training.evaluations=2"]
finite = st.floats(-1e4, 1e4, width=32)


@st.composite
def examples(draw):
    """Logits (N, K) and labels (N,)."""
    classes, count = draw(st.integers(2, 12)), draw(st.integers(1, 9))
    logits = draw(arrays(np.float32, (count, classes), elements=finite))
    labels = draw(arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


@given(examples())
@settings(deadline=None)
def test_every_head_is_finite_and_consistent(batch):
    logits, labels = batch
    for head in ALL:
        gradient = torch.empty_like(logits)
        loss = head.loss_and_gradient(logits, labels, gradient)
        assert (loss >= 0).all() and loss.isfinite().all() and gradient.isfinite().all()
        probabilities = head.probabilities(logits)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(len(labels)), atol=1e-5, rtol=0)
        # The order is that of the logits, but for ties of sigmoids that round to one.
        leader = probabilities.gather(1, logits.argmax(1, keepdim=True))
        assert (leader >= probabilities.amax(1, keepdim=True) - 1e-5).all()
        if isinstance(head, RAISING):
            continue
        target = gradient.gather(1, labels.unsqueeze(1))
        assert (target <= 0).all()
        assert (gradient.scatter(1, labels.unsqueeze(1), 0) >= 0).all()
    ALL[0].loss_and_gradient(logits, labels, gradient)
    expected = softmax(logits.double().numpy(), -1) - np.eye(logits.shape[1])[labels.numpy()]
    np.testing.assert_allclose(gradient.double().numpy(), expected, atol=1e-3)


@given(examples())
@settings(deadline=None)
def test_every_metric_is_in_its_range(batch):
    logits, labels = batch
    for head in ALL:
        summary = metrics.summarise(metrics.per_example(head, logits.unsqueeze(0), labels.unsqueeze(0)))
        for name, value in summary.items():
            assert value.isfinite().all(), name
            if name in ("accuracy", "ece") or name.startswith("ambiguity_"):
                assert ((value >= 0) & (value <= 1)).all(), name
        assert 0 <= summary["brier"] <= 2 + 1e-5
    expected = -log_softmax(logits.double().numpy(), -1)[np.arange(len(labels)), labels.numpy()].mean()
    summary = metrics.summarise(metrics.per_example(ALL[0], logits.unsqueeze(0), labels.unsqueeze(0)))
    assert summary["nll"].item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@given(
    st.integers(5, 40), st.integers(1, 50), st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    st.integers(0, 30),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_batches_pass_over_every_example_once_and_do_not_depend_on_their_neighbours(count, size, seeds, start):
    pool = data.Pool(torch.arange(float(count)).unsqueeze(1), torch.arange(count) % 2, torch.arange(2),
                     torch.arange(2, count), ("a", "b"))  # fmt: skip
    view = data.View(pool.rest, pool.labels[pool.rest], pool.test, pool.test, torch.ones(2) / 2, pool.inputs)

    class Plain:
        crop_padding, flip = 0, False

    def drawn(seeds, start, steps):
        stream = data.batches(pool, [view] * len(seeds), Plain, seeds, size, torch.float64, start)
        # The inputs are the indices of the examples, standardised.
        return [(next(stream)[0][..., 0] * view.std + view.mean).round() for _ in range(steps)]

    per_epoch = data.steps_per_epoch(view, size)
    epoch = torch.cat(drawn(seeds, 0, per_epoch), 1)
    for row in epoch:
        assert len(set(row.tolist())) == len(row) and set(row.tolist()) <= set(range(2, count))
        assert len(row) > len(view.train) - min(size, len(view.train))
    for index, seed in enumerate(seeds):
        (alone,) = torch.cat(drawn([seed], 0, per_epoch), 1)
        assert torch.equal(alone, epoch[index])
    assert torch.equal(drawn(seeds, start, 1)[0], drawn(seeds, 0, start + 1)[-1])


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=breast_cancer", "model=linear"],
        ["dataset=gaussians", "dataset.classes=300", "dataset.examples=1500", "model=linear"],
        ["dataset=digits", "model=mlp", "dataset.train_size=10", "training.batch_size=1000"],
        ["dataset=digits", "model=mlp", "dataset.train_size=200", "training.batch_size=200", "dataset.imbalance=20"],
    ],
    ids=["two classes", "few examples per class", "a batch larger than the data", "one batch an epoch"],
)  # fmt: skip
def test_small_and_large_problems_train(config, overrides):
    runs = [config(*overrides, *TINY, f"head={head}") for head in ("softmax", "sigmoid")]
    points, outcomes = run(runs)
    for outcome in outcomes:
        assert outcome.diverged_at is None and outcome.steps >= 2
        assert math.isfinite(outcome.metrics["test_nll"]) and 0 <= outcome.metrics["test_accuracy"] <= 1
    assert points[-1].step == outcomes[0].steps


@pytest.mark.parametrize(("optimizer", "diverges"), [("sgd", True), ("adamw", False)])
def test_a_learning_rate_of_a_million_has_finite_metrics_and_does_not_change_its_neighbour(config, optimizer, diverges):
    common = ["dataset=digits", "model=mlp", f"optimizer={optimizer}", "dataset.train_size=64", *TINY]
    calm = vary(config(*common), lr=0.001)
    _, (wild, beside) = run([vary(config(*common), lr=1e6), calm])
    _, (alone, _) = run([calm, calm])
    assert (wild.diverged_at is not None) == diverges
    assert all(map(math.isfinite, (wild.metrics["val_nll"], wild.metrics["val_brier"])))
    assert beside.metrics["val_nll"] == pytest.approx(alone.metrics["val_nll"], rel=1e-5)


def test_a_constant_feature_and_an_absent_class_have_a_definition(config):
    runs = [config("dataset=digits", "model=linear", "dataset.train_size=64", *TINY)]
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    view = data.view(pool, runs[0].dataset, 0)
    constant = pool.inputs[view.train].double().flatten(1).std(0) == 0
    assert constant.any(), "pixels of the digits' margin"
    _, (outcome,) = run(runs)
    assert math.isfinite(outcome.metrics["test_nll"])


def test_one_example_per_class_and_a_class_that_is_absent_from_validation_have_a_definition(config):
    common = ["dataset=digits", "model=mlp", "dataset.val_fraction=0.003", "dataset.train_size=10", *TINY]
    runs = [config(*common, f"head={head}") for head in ("softmax", "sigmoid_prior")]
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    view = data.view(pool, runs[0].dataset, 0)
    assert view.train_labels.bincount(minlength=10).tolist() == [1] * 10
    assert len(pool.labels[view.val].unique()) < 10
    _, outcomes = run(runs)
    for outcome in outcomes:
        assert outcome.diverged_at is None
        bare = [name for name, value in outcome.metrics.items() if not math.isfinite(value)]
        # A metric that ranks errors needs an error and a correct prediction, one of rare classes classes of unequal
        # size, one of what is decided a decision, and one of wrong labels some.
        thirds = {f"{split}_{third}_accuracy" for split in ("val", "test") for third in ("frequent", "middle", "rare")}
        decided = {"val_decided_99_accuracy", "test_decided_99_accuracy"}
        assert set(bare) <= {"val_misclassification_auroc", "noise_fitted", *thirds, *decided}, bare
