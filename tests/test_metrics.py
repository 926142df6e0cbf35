"""Metrics against scikit-learn and simulation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from headtohead import metrics
from headtohead.heads import Sigmoid, Softmax

HEADS = [Softmax(0.0, "none"), Sigmoid(0.0, "none", "sum")]


@pytest.fixture
def logits_and_labels():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 400, 5, dtype=torch.float64, generator=generator)
    return logits, torch.randint(5, (2, 400), generator=generator)


@pytest.mark.parametrize("head", HEADS, ids=["softmax", "sigmoid"])
def test_equal_those_of_scikit_learn(head, logits_and_labels):
    logits, labels = logits_and_labels
    ours = metrics.summarise(metrics.per_example(head, logits, labels))
    for run in range(2):
        probabilities = head.probabilities(logits[run]).numpy()
        truth = labels[run].numpy()
        assert ours["accuracy"][run] == accuracy_score(truth, probabilities.argmax(1))
        assert ours["nll"][run].item() == pytest.approx(log_loss(truth, probabilities, labels=range(5)))
        brier = brier_score_loss(truth, probabilities, labels=range(5), scale_by_half=False)
        assert ours["brier"][run].item() == pytest.approx(brier)
        active = (head.activations(logits[run]) > 0.5).sum(1).numpy()
        assert ours["ambiguity/none"][run].item() == pytest.approx((active == 0).mean())
        assert ours["ambiguity/several"][run].item() == pytest.approx((active > 1).mean())


def test_several_active_classes_need_the_sigmoid(logits_and_labels):
    logits, labels = logits_and_labels
    softmax, sigmoid = (metrics.summarise(metrics.per_example(head, logits, labels)) for head in HEADS)
    assert (softmax["ambiguity/several"] == 0).all()
    assert (sigmoid["ambiguity/several"] > 0.5).all()


def simulated(shift: float, runs: int = 400, examples: int = 1000):
    """Confidences, and hits at a rate that is `shift` below them."""
    generator = torch.Generator().manual_seed(1)
    confidence = 0.5 + 0.4 * torch.rand(runs, examples, dtype=torch.float64, generator=generator)
    hits = torch.rand(runs, examples, dtype=torch.float64, generator=generator) < confidence - shift
    return confidence, hits.double()


def plug_in_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    order = np.argsort(confidence)
    gaps = [(hits[part].mean() - confidence[part].mean()) ** 2 for part in np.array_split(order, 15)]
    return np.sqrt(np.mean(gaps))


def test_calibration_error_is_debiased():
    """A calibrated model: the plug-in estimate is far from zero, ours has a mean square near zero."""
    confidence, hits = simulated(0.0)
    ours = metrics.calibration_error(confidence, hits)
    plug_in = [plug_in_error(c, h) for c, h in zip(confidence.numpy(), hits.numpy(), strict=True)]
    assert np.mean(plug_in) > 0.05
    assert ours.mean() < 0.5 * np.mean(plug_in)


def test_calibration_error_finds_a_known_gap():
    ours = metrics.calibration_error(*simulated(0.2))
    assert ours.mean().item() == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("examples", [1, 2, 3, 29, 31])
def test_calibration_error_of_few_examples_is_finite(examples):
    ours = metrics.calibration_error(torch.full((1, examples), 0.7), torch.ones(1, examples))
    assert ours.item() == pytest.approx(0.3, abs=1e-6)


def test_a_guess_has_the_metrics_of_equal_probabilities():
    logits = torch.zeros(1, 7, 7, dtype=torch.float64)
    guess = metrics.of_a_guess(7)
    ours = metrics.summarise(metrics.per_example(HEADS[0], logits, torch.arange(7).unsqueeze(0)))
    for name, value in guess.items():
        if name != "ece":  # of which 7 examples say nothing
            assert ours[name].item() == pytest.approx(value), name
