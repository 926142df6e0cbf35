"""Shifts, OOD inputs and final metrics against plain loops over numpy arrays."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from conftest import run, vary
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from headtohead.options import ConfigError
from headtohead.training import data, evaluation
from headtohead.training.datasets import ood_dataset
from headtohead.training.pack_data import Cohort

SHORT = ["dataset=digits", "model.widths=[16]", "training.epochs=3", "dataset.train_size=400"]
CPU = torch.device("cpu")


@pytest.fixture
def images():
    return torch.randn(2, 300, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_blur_is_the_mean_over_neighbours(images):
    ours = evaluation.blur(images, 0).numpy()
    image = images[1, 7, 0].numpy()
    padded = np.pad(image, 1, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    np.testing.assert_allclose(ours[1, 7, 0], np.nanmean(windows, axis=(2, 3)))
    middle = scipy.ndimage.uniform_filter(image, 3)[1:-1, 1:-1]
    np.testing.assert_allclose(ours[1, 7, 0, 1:-1, 1:-1], middle)


def test_noise_has_its_strength_and_depends_on_the_example(images):
    noise = evaluation.add_noise(images, 0) - images
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    torch.testing.assert_close(noise[0], noise[1])
    assert not torch.allclose(noise[0, 0], noise[0, 1])
    cut = evaluation.add_noise(images[:, 100:], 100)
    torch.testing.assert_close(cut, evaluation.add_noise(images, 0)[:, 100:])


def test_permuted_images_keep_their_pixels(images):
    ours = evaluation.permute(images, 0)
    assert not torch.equal(ours, images)
    assert torch.equal(ours.flatten(2).sort(-1).values, images.flatten(2).sort(-1).values)
    table = torch.randn(2, 30, 5)
    assert torch.equal(evaluation.permute(table, 0).sort(-1).values, table.sort(-1).values)


def test_contrast_halves_the_distance_to_the_mean(images):
    assert evaluation.lower_contrast(images, 0).std().item() == pytest.approx(images.std().item() / 2)


def trained(config, *overrides):
    """Train a run; return its configuration and its final metrics."""
    made = config(*SHORT, *overrides, "precision=float64")
    _, (outcome,) = run([made])
    return made, outcome.metrics


def test_final_metrics_of_untrained_networks_equal_those_of_a_plain_loop(config):
    """Every test metric that needs its own inputs, for two runs with different heads and seeds."""
    runs = [
        vary(config(*SHORT, f"head={head}", "precision=float64"), seed=seed)
        for head, seed in (("softmax", 0), ("sigmoid", 1))
    ]
    pool = data.load(runs[0].dataset, CPU)
    cohort = Cohort(runs, pool)
    evaluated = evaluation.evaluate(cohort, test=True)
    final, curves = evaluated.metrics, evaluated.curves
    for index, one in enumerate(runs):
        view = cohort.views[index]
        single = Cohort([one], pool).pack.template.eval()

        def probabilities(inputs, single=single, one=one):
            with torch.no_grad():
                return one.head.probabilities(single(inputs))

        inputs = (pool.inputs[view.test].double() - view.mean) / view.std
        labels = pool.labels[view.test]
        q = probabilities(inputs)
        accuracies = []
        for kind, shift in evaluation.SHIFTS.items():
            shifted = probabilities(shift(inputs[None], 0)[0])
            accuracies.append((shifted.argmax(1) == labels).double().mean().item())
            assert final[f"shift_{kind}_accuracy"][index].item() == pytest.approx(accuracies[-1])
        assert final["shift_accuracy"][index].item() == pytest.approx(np.mean(accuracies))
        ood_confidence = probabilities(evaluation.permute(inputs[None], 0)[0]).amax(1)
        truth = np.r_[np.ones(len(labels)), np.zeros(len(labels))]
        assert final["ood_auroc"][index].item() == pytest.approx(roc_auc_score(truth, np.r_[q.amax(1), ood_confidence]))
        first = view.train[: len(view.test)]
        fitted = probabilities((pool.inputs[first].double() - view.mean) / view.std)
        train_accuracy = (fitted.argmax(1) == view.train_labels[: len(view.test)]).double().mean().item()
        accuracy = (q.argmax(1) == labels).double().mean().item()
        assert final["gap_accuracy"][index].item() == pytest.approx(train_accuracy - accuracy)
        assert set(curves) == {"val", "test"}


def test_calibration_on_validation_helps_an_overconfident_network(config):
    _, metrics = trained(config, "training.epochs=200", "dataset.label_noise=0.4")
    assert metrics["test_nll_calibrated"] < metrics["test_nll"]


def test_tables_are_shifted_by_noise_alone(config):
    _, (outcome,) = run([config("dataset=wine", "model=linear", "training.epochs=2")])
    kinds = {name for name in outcome.metrics if name.startswith("shift_") and name.count("_") == 2}
    assert kinds == {"shift_noise_accuracy"}


def test_ood_inputs_may_come_from_another_dataset(config, tmp_path, monkeypatch):
    from data_files import Made

    for name in ("mnist", "fashion_mnist"):
        Made(monkeypatch, name).write(tmp_path)
    made = config(
        "dataset=mnist", f"dataset.root={tmp_path}", "dataset.ood=fashion_mnist", "model=linear", "training.epochs=1",
        "training.batch_size=4",
    )  # fmt: skip
    _, (outcome,) = run([made])
    assert 0 <= outcome.metrics["ood_auroc"] <= 1
    other = ood_dataset(made.dataset)
    assert type(other).__name__ == "FashionMnist"
    with pytest.raises(ConfigError, match=r"dataset\.ood=fashion_mist.*did you mean fashion_mnist"):
        ood_dataset(replace(made.dataset, ood="fashion_mist"))


def test_unknown_classes_are_told_apart_and_never_trained_on(config):
    """Against scikit-learn, for a network of which the logits are computed here."""
    options = [*SHORT, "precision=float64", "head=sigmoid", "dataset.unknown_classes=['3','7']"]
    made = config(*options)
    pool = data.load(made.dataset, CPU)
    assert pool.classes == tuple("01245689")
    digits = load_digits()
    assert sorted(digits.target[pool.unknown].tolist()) == sorted(
        digits.target[np.isin(digits.target, [3, 7])].tolist()
    )
    known = {*pool.rest.tolist()} | {*pool.test.tolist()}
    assert known == {*np.flatnonzero(~np.isin(digits.target, [3, 7])).tolist()}
    cohort = Cohort([made], pool)
    final = evaluation.evaluate(cohort, test=True).metrics
    (view,), network = cohort.views, cohort.pack.template.eval()

    def activation(index):
        inputs = (pool.inputs[index].double() - view.mean) / view.std
        with torch.no_grad():
            return network(inputs).sigmoid().amax(1)

    inside, outside = activation(view.test), activation(pool.unknown)
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    expected = roc_auc_score(truth, torch.cat([inside, outside]))
    assert final["unknown_activation_auroc"].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("unknown", "message"),
    [
        ("9", "dataset.unknown_classes=9: fewer than 9 of 10 classes"),
        ("-1", "dataset.unknown_classes=-1: 0 or more"),
        ("['30']", "dataset.unknown_classes=30: "),
    ],
)
def test_unknown_classes_that_leave_too_little_or_are_not_there_are_refused(config, unknown, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        data.load(config(*SHORT, f"dataset.unknown_classes={unknown}").dataset, CPU)


def test_the_wrong_labels_that_are_fitted_are_counted(config):
    _, metrics = trained(
        config, "training.epochs=300", "dataset.label_noise=0.4", "model.widths=[64]", "dataset.train_size=150"
    )
    assert metrics["noise_fitted"] > 0.8
    _, metrics = trained(config, "dataset.label_noise=0.4")
    assert metrics["noise_fitted"] < 0.3
    assert math.isnan(trained(config)[1]["noise_fitted"])


def test_without_ood_inputs_there_is_no_ood_metric(config):
    _, metrics = trained(config, "dataset.ood=null")
    assert "ood_auroc" not in metrics
