"""Adjustment and class weights against closed forms, the Bayes rule of Gaussians and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run
from plain_heads import PLAIN, SUMMED
from sklearn.linear_model import LogisticRegression
from sklearn.utils import compute_sample_weight
from torch.testing import assert_close

from headtohead.training import data
from headtohead.training.balance import Balance
from headtohead.training.heads import Sigmoid, Softmax

COUNT_K = torch.tensor([60.0, 30.0, 10.0], dtype=torch.float64)
SOFTMAX, SIGMOID = Softmax(**PLAIN), Sigmoid(**PLAIN, **SUMMED)


def balance(*heads, counts=COUNT_K):
    return Balance.of(heads, counts.expand(len(heads), -1), torch.empty(0, dtype=torch.float64))


def examples():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 8, 3, dtype=torch.float64, generator=generator)
    return logits, torch.randint(3, (1, 8), generator=generator)


def test_softmax_adjusted_in_the_loss_is_the_balanced_softmax():
    """Ren et al. (2020), equation 3: each exponential is multiplied by the number of examples of its class."""
    logits, labels = examples()
    adjusted = balance(replace(SOFTMAX, adjustment="loss"))
    weighted = COUNT_K * logits.exp()
    expected = -(weighted.gather(-1, labels.unsqueeze(-1)).squeeze(-1) / weighted.sum(-1)).log()
    assert_close(SOFTMAX.loss(adjusted.to_loss(logits), labels), expected, atol=1e-14, rtol=1e-14)
    assert adjusted.predicted(logits) is logits


def test_the_sigmoid_adjusted_in_the_loss_is_the_balanced_binary_cross_entropy():
    """Xu et al. (2023): each logit is moved by log(pi) - log(1 - pi)."""
    logits, labels = examples()
    shift = (COUNT_K / 100).log() - (1 - COUNT_K / 100).log()
    targets = torch.nn.functional.one_hot(labels, 3).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits + 0.5 * shift, targets, reduction="none")
    head = replace(SIGMOID, adjustment="loss", tau=0.5)
    assert_close(head.loss(balance(head).to_loss(logits), labels), expected.sum(-1), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("head", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_posthoc_adjustment_divides_probabilities_by_the_frequencies(head):
    logits, _ = examples()
    head = replace(head, adjustment="posthoc", tau=0.7)
    q = head.probabilities(logits)
    expected = q / (COUNT_K / 100) ** 0.7
    adjusted = balance(head)
    assert adjusted.to_loss(logits) is logits and not adjusted.changes_loss
    log_q = adjusted.predicted(head.log_probabilities(logits))
    assert_close(log_q.exp(), expected / expected.sum(-1, keepdim=True))
    assert torch.equal(adjusted.scores(logits, log_q).argmax(-1), expected.argmax(-1))


def test_runs_without_an_option_are_left_as_they_are():
    logits, labels = (tensor.expand(3, *tensor.shape[1:]) for tensor in examples())
    heads = replace(SOFTMAX, adjustment="posthoc"), replace(SOFTMAX, class_weights="inverse"), SOFTMAX
    of_all, log_q = balance(*heads), SOFTMAX.log_probabilities(logits)
    assert_close(of_all.predicted(log_q)[1:], log_q[1:])
    assert torch.equal(of_all.scores(logits, of_all.predicted(log_q))[1:], logits[1:])
    assert of_all.weights(labels)[[0, 2]].unique().tolist() == [1]
    assert of_all.part(slice(1, 2)).weights(labels[1:2]).unique().numel() == 3
    assert balance(SOFTMAX, SIGMOID) == Balance(None, None, None)


def test_class_weights_are_those_of_scikit_learn_and_of_the_paper():
    labels = np.repeat([0, 1, 2], COUNT_K.numpy().astype(int))
    every = torch.arange(3).unsqueeze(0)
    inverse = balance(replace(SOFTMAX, class_weights="inverse")).weights(every)[0]
    balanced = compute_sample_weight("balanced", labels)[[0, 60, 90]]
    np.testing.assert_allclose(inverse.numpy(), balanced, rtol=1e-12)
    for beta in (0.0, 0.9, 0.999, 1 - 1e-12):
        effective = balance(replace(SOFTMAX, class_weights="effective", beta=beta)).weights(every)[0]
        ratio = (1 - beta**10) / (1 - beta**60) if beta < 0.9999 else 10 / 60  # near 1 the number itself
        assert (effective[0] / effective[2]).item() == pytest.approx(ratio, rel=1e-6)
        assert (effective * COUNT_K).sum().item() == pytest.approx(100)
    absent = balance(replace(SOFTMAX, class_weights="inverse"), counts=torch.tensor([5.0, 0.0, 5.0]))
    assert absent.weights(every)[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("adjustment", ["posthoc", "loss"])
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_adjusted_predictions_are_nearer_to_the_bayes_rule_of_balanced_gaussians(config, head, adjustment):
    """Menon et al. (2021), theorem 1: at equal class frequencies the Bayes rule is the nearest mean."""
    options = [
        "dataset=gaussians", "dataset.classes=5", "dataset.dimensions=4", "dataset.examples=12000",
        "dataset.imbalance=50", "model=linear", "training.epochs=15", "training.points=1", "training.evaluations=1",
        f"head={head}",
    ]  # fmt: skip
    plain = config(*options)
    pool = data.load(plain.dataset, torch.device("cpu"))
    inputs, labels = pool.inputs.double(), pool.labels
    means = torch.stack([inputs[labels == label].mean(0) for label in range(5)])
    outcomes = run([plain, config(*options, f"head.adjustment={adjustment}")])[1]
    agreement = []
    for outcome in outcomes:
        nearest = torch.cdist(inputs[outcome.predictions["example"]], means).argmin(1).numpy()
        agreement.append((outcome.predictions["prediction"] == nearest).mean())
    assert agreement[1] > max(0.9, agreement[0] + 0.05), agreement
    assert outcomes[1].metrics["test_balanced_accuracy"] > outcomes[0].metrics["test_balanced_accuracy"] + 0.02


@pytest.mark.parametrize("weights", ["inverse", "effective"])
def test_a_converged_linear_model_with_class_weights_equals_scikit_learn(config, weights):
    decay = 0.01
    ours = config(
        "dataset=wine", "dataset.imbalance=4", "model=linear", "precision=float64", "training.epochs=3000",
        "training.batch_size=100000", "training.schedule=constant", "training.warmup=0", "training.points=1",
        "training.evaluations=1", "optimizer.lr=0.3", f"optimizer.weight_decay={decay}",
        f"head.class_weights={weights}", "head.beta=0.95",
    )  # fmt: skip
    _, (outcome,) = run([ours])
    pool = data.load(ours.dataset, torch.device("cpu"))
    view = data.view(pool, ours.dataset, 0)
    standard = ((pool.inputs.double() - view.mean) / view.std).numpy()
    labels, train = pool.labels.numpy(), view.train.numpy()
    number = np.bincount(labels[train])
    assert number.max() > 2 * number.min()
    weight = 1 / number if weights == "inverse" else (1 - 0.95) / (1 - 0.95**number)
    each = weight[labels[train]] / weight[labels[train]].mean()
    oracle = LogisticRegression(tol=1e-10, max_iter=5000, C=1 / (decay * len(train)))
    oracle.fit(standard[train], labels[train], sample_weight=each)
    test = view.test.numpy()
    nll = -np.log(oracle.predict_proba(standard[test])[np.arange(len(test)), labels[test]]).mean()
    assert outcome.metrics["test_nll"] == pytest.approx(nll, rel=1e-6)
