"""Metrics against scikit-learn and simulation."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from plain_heads import PLAIN, SUMMED
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from headtohead.training import metrics
from headtohead.training.heads import Sigmoid, Softmax

HEADS = [Softmax(**PLAIN), Sigmoid(**PLAIN, **SUMMED)]


@pytest.fixture
def logits_and_labels():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 400, 5, dtype=torch.float64, generator=generator)
    return logits, torch.randint(5, (2, 400), generator=generator)


@pytest.mark.parametrize("head", HEADS, ids=["softmax", "sigmoid"])
def test_metrics_equal_those_of_scikit_learn(head, logits_and_labels):
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
        assert ours["ambiguity_none"][run].item() == pytest.approx((active == 0).mean())
        assert ours["ambiguity_several"][run].item() == pytest.approx((active > 1).mean())


def test_followed_names_the_metrics_of_the_summary(logits_and_labels):
    assert tuple(metrics.summarise(metrics.per_example(HEADS[0], *logits_and_labels))) == metrics.FOLLOWED


def test_several_active_classes_need_the_sigmoid(logits_and_labels):
    logits, labels = logits_and_labels
    softmax, sigmoid = (metrics.summarise(metrics.per_example(head, logits, labels)) for head in HEADS)
    assert (softmax["ambiguity_several"] == 0).all()
    assert (sigmoid["ambiguity_several"] > 0.5).all()


def simulated(shift: float, runs: int = 400, examples: int = 1000):
    """Draw confidences, and hits whose rate is `shift` below the confidence."""
    generator = torch.Generator().manual_seed(1)
    confidence = 0.5 + 0.4 * torch.rand(runs, examples, dtype=torch.float64, generator=generator)
    hits = torch.rand(runs, examples, dtype=torch.float64, generator=generator) < confidence - shift
    return confidence, hits.double()


def plug_in_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    order = np.argsort(confidence)
    gaps = [(hits[part].mean() - confidence[part].mean()) ** 2 for part in np.array_split(order, 15)]
    return np.sqrt(np.mean(gaps))


def test_calibration_error_is_debiased():
    """For a calibrated model, the plug-in estimate is far from zero; the mean square of ours is near zero."""
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
    guess = metrics.chance_level(7)
    ours = metrics.summarise(metrics.per_example(HEADS[0], logits, torch.arange(7).unsqueeze(0)))
    for name, value in guess.items():
        if name in ours and name != "ece":  # cannot be estimated from 7 examples
            assert ours[name].item() == pytest.approx(value), name
    rng = np.random.default_rng(0)
    labels, guesses = np.repeat(np.arange(7), 3000), rng.integers(7, size=21000)
    assert guess["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, guesses), abs=0.01)
    assert guess["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"), abs=0.01)


@pytest.fixture
def examples(logits_and_labels):
    return [(head, metrics.per_example(head, *logits_and_labels)) for head in HEADS]


def test_full_summary_equals_scikit_learn(examples, logits_and_labels):
    logits, labels = logits_and_labels
    count_RK = torch.tensor([[60.0, 20.0, 30.0, 10.0, 5.0], [20.0, 20.0, 20.0, 15.0, 15.0]])
    reference = metrics.Reference(torch.tensor([0.5, 0.3]).double(), torch.tensor([0.6, 0.4]).double(), count_RK)
    for head, ours in examples:
        full = metrics.summarise_fully(ours, reference)
        for run in range(2):
            q, truth = head.probabilities(logits[run]).numpy(), labels[run].numpy()
            prediction, activations = q.argmax(1), head.activations(logits[run]).numpy()
            correct = prediction == truth
            assert full["macro_f1"][run].item() == pytest.approx(f1_score(truth, prediction, average="macro"))
            assert full["balanced_accuracy"][run].item() == pytest.approx(balanced_accuracy_score(truth, prediction))
            assert full["misclassification_auroc"][run].item() == pytest.approx(roc_auc_score(correct, q.max(1)))
            errors = ~correct[np.argsort(-q.max(1), kind="stable")]
            assert full["aurc"][run].item() == pytest.approx((errors.cumsum() / np.arange(1, 401)).mean())
            ambiguous = (activations > 0.5).sum(1) != 1
            assert full["ambiguity_error"][run].item() == pytest.approx((~correct)[ambiguous].mean())
            threshold = (0.5, 0.3)[run]
            exact = ((activations > threshold).sum(1) == 1) & (activations[np.arange(400), truth] > threshold)
            assert full["exact_match"][run].item() == pytest.approx(exact.mean())
            assert full["saturated"][run].item() == pytest.approx((activations * (1 - activations) < 0.01).mean())
            pairs = (activations > 0.5).ravel(), np.eye(5)[truth].ravel()
            assert full["binary_accuracy"][run].item() == pytest.approx(accuracy_score(*pairs))
            confident = np.argsort(-q.max(1), kind="stable")[:360]
            assert full["selective_accuracy"][run].item() == pytest.approx(correct[confident].mean())
            decided = q.max(1) >= (0.6, 0.4)[run]
            assert full["decided_99"][run].item() == pytest.approx(decided.mean())
            assert full["decided_99_accuracy"][run].item() == pytest.approx(correct[decided].mean())
            recall = recall_score(truth, prediction, average=None)
            for name, classes in {"frequent": [0, 2], "middle": [1, 3], "rare": [4]}.items():
                expected = recall[classes].mean() if run == 0 else np.nan  # too even to have rare classes
                assert full[f"{name}_accuracy"][run].item() == pytest.approx(expected, nan_ok=True)


def test_the_decisive_confidence_is_the_lowest_with_the_precision():
    confidence = torch.linspace(1, 0.5, 300, dtype=torch.float64).round(decimals=2).unsqueeze(0)
    correct = torch.ones_like(confidence)
    correct[0, [150, 151, 250]] = 0
    found = metrics.decisive_confidence({"confidence": confidence, "accuracy": correct}).item()
    precision = {c: correct[confidence >= c].mean().item() for c in confidence.unique().tolist()}
    assert found == min(c for c, share in precision.items() if share >= 0.99)
    wrong = {"confidence": confidence, "accuracy": torch.zeros_like(correct)}
    assert metrics.decisive_confidence(wrong).item() == math.inf


@pytest.mark.parametrize("head", HEADS, ids=["softmax", "sigmoid"])
def test_scores_tell_two_sets_apart_as_scikit_learn_does(head, logits_and_labels):
    logits, _ = logits_and_labels
    inside, outside = (metrics.scores(head, part, head.log_probabilities(part)) for part in (logits, logits / 2))
    truth = np.r_[np.ones(400), np.zeros(400)]
    for name in metrics.SCORES:
        score = torch.cat([inside[name], outside[name]], 1)
        both = torch.cat([logits, logits / 2], 1)
        plain = {
            "auroc": head.probabilities(both).amax(-1),
            "activation_auroc": head.activations(both).amax(-1),
            "energy_auroc": both.exp().sum(-1) if head is HEADS[0] else both.exp().log1p().sum(-1),
        }[name]
        ours = metrics.auroc(score, torch.tensor(truth > 0).expand(score.shape))
        for run in range(2):
            assert ours[run].item() == pytest.approx(roc_auc_score(truth, plain[run].numpy().round(12)), abs=1e-6)


def test_classes_that_are_absent_do_not_count():
    labels = torch.tensor([[0, 0, 1, 1]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 1]]), 6).double()
    ours = metrics.per_example(HEADS[0], logits, labels)
    truth, prediction = [0, 0, 1, 1], [0, 1, 1, 1]
    assert metrics.macro_f1(ours, 6).item() == pytest.approx(f1_score(truth, prediction, average="macro"))
    assert metrics.balanced_accuracy(ours, 6).item() == pytest.approx(0.75)


def test_auroc_with_ties_and_without_a_class():
    score = torch.tensor([[0.1, 0.5, 0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    positive = torch.tensor([[False, True, False, True, False, True], [True] * 6])
    ours = metrics.auroc(score, positive)
    assert ours[0].item() == pytest.approx(roc_auc_score(positive[0], score[0]))
    assert ours[1].isnan()


def test_the_best_threshold_equals_that_of_a_search(examples, logits_and_labels):
    logits, labels = logits_and_labels
    for head, ours in examples:
        activations = head.activations(logits)
        target = activations.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        shares = torch.stack(
            [(((activations > t).sum(-1) == 1) & (target > t)).double().mean(-1) for t in metrics.THRESHOLDS]
        )
        threshold = metrics.best_threshold(ours)
        assert threshold.tolist() == [metrics.THRESHOLDS[i] for i in shares.argmax(0).tolist()]


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_minimises_the_nll(scale):
    generator = torch.Generator().manual_seed(0)
    true_logits = 2 * torch.randn(1, 3000, 4, dtype=torch.float64, generator=generator)
    labels = torch.multinomial(true_logits[0].softmax(-1), 1, generator=generator).T
    log_q = (scale * true_logits).log_softmax(-1)
    temperature = metrics.fit_temperature(log_q, labels).item()

    def nll(t):
        return torch.nn.functional.cross_entropy(log_q[0] / t, labels[0]).item()

    best = scipy.optimize.minimize_scalar(nll, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    assert temperature == pytest.approx(best, rel=1e-4)
    assert temperature == pytest.approx(scale, rel=0.1)


def test_temperature_of_runs_without_errors_stays_finite():
    log_q = torch.tensor([[[10.0, 0.0], [0.0, 10.0]]]).log_softmax(-1)
    assert 1 / 20 <= metrics.fit_temperature(log_q, torch.tensor([[0, 1]])).item() < 1


def test_curves_equal_those_of_numpy(examples, logits_and_labels):
    logits, _ = logits_and_labels
    for head, ours in examples:
        drawn = metrics.curves(ours)[1]
        order = np.argsort(ours["confidence"][1].numpy(), kind="stable")
        bins = np.array_split(order, 15)
        expected = [ours["confidence"][1].numpy()[part].mean() for part in bins]
        assert drawn["reliability"]["confidence"] == pytest.approx(expected)
        assert drawn["reliability"]["accuracy"] == pytest.approx(
            [ours["accuracy"][1].numpy()[part].mean() for part in bins]
        )
        active = head.activations(logits[1]).numpy()[:, :, None] > np.array(drawn["ambiguity"]["threshold"])
        assert drawn["ambiguity"]["none"] == pytest.approx((active.sum(1) == 0).mean(0))
        assert drawn["ambiguity"]["several"] == pytest.approx((active.sum(1) > 1).mean(0))


@pytest.mark.parametrize("K", [2, 255, 1000, 2047, 2048, 2100, 4096])
def test_the_top_class_is_the_first_of_the_largest(K):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(40, (3, 20, K), generator=generator).float()
    logits[0, 0] = 0
    logits[0, 1, -1] = 99
    assert torch.equal(metrics.top_class(logits), logits.argmax(-1))
