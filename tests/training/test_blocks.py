"""Blocks of test examples, and the metrics on them, against numpy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from conftest import run, vary
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from headtohead.training import data, evaluation, metrics
from headtohead.training.blocks import pseudo_values
from headtohead.training.pack_data import Cohort
from headtohead.training.splits import assign_blocks, folds_of_blocks

FOLDS = ["dataset=digits", "model.widths=[16]", "training.epochs=2", "dataset.train_size=400"]
SHORT = [*FOLDS, "dataset.folds=null", "dataset.test_fraction=0.2"]


def test_a_pseudo_value_of_a_mean_is_the_mean_of_the_block():
    stream = torch.Generator().manual_seed(0)
    values_RN = torch.rand(3, 47, generator=stream, dtype=torch.float64)
    block_N = assign_blocks(torch.randint(0, 4, (47,), generator=stream))
    made = pseudo_values(lambda kept_N: {"mean": values_RN[:, kept_N].mean(1)}, block_N, 21)["mean"]
    for block in range(20):
        torch.testing.assert_close(made[:, block], values_RN[:, block_N == block].mean(1))
    assert made[:, 20].isnan().all()


def test_too_few_examples_have_no_blocks():
    assert pseudo_values(lambda kept_N: {"mean": torch.ones(1)}, assign_blocks(torch.tensor([0, 1])), 1) == {}


def test_blocks_of_untrained_networks_equal_those_of_scikit_learn(config):
    runs = [
        vary(config(*SHORT, f"head={head}", "precision=float64"), seed=seed)
        for head, seed in (("softmax", 0), ("sigmoid", 1))
    ]
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    cohort = Cohort(runs, pool)
    made = evaluation.evaluate(cohort, test=True)
    labels = pool.labels[pool.test].numpy()
    block = assign_blocks(pool.labels[pool.test]).numpy()
    assert made.blocks["size"][0].tolist() == np.bincount(block).tolist()
    for index, one in enumerate(runs):
        view = cohort.views[index]
        single = Cohort([one], pool).pack.template.eval()
        inputs = (pool.inputs[pool.test].double() - view.mean) / view.std

        def probabilities(inputs, single=single, one=one):
            with torch.no_grad():
                return one.head.probabilities(single(inputs)).numpy()

        q, outside = probabilities(inputs), probabilities(evaluation.permute(inputs[None], 0)[0])
        nll, correct = -np.log(q[np.arange(len(labels)), labels]), q.argmax(1) == labels

        def balanced(kept, q=q):
            return balanced_accuracy_score(labels[kept], q[kept].argmax(1))

        def detection(kept, q=q, outside=outside):
            truth = np.r_[np.ones(kept.sum()), np.zeros(kept.sum())]
            return roc_auc_score(truth, np.r_[q[kept].max(1), outside[kept].max(1)])

        everything = np.ones(len(labels), dtype=bool)
        for group in range(20):
            ours = {name: value_RG[index, group].item() for name, value_RG in made.blocks.items()}
            assert ours["test_nll"] == pytest.approx(nll[block == group].mean())
            assert ours["test_accuracy"] == pytest.approx(correct[block == group].mean())
            fitted = made.metrics["gap_accuracy"][index].item() + correct.mean()
            assert ours["gap_accuracy"] == pytest.approx(fitted - correct[block == group].mean())
            share = len(labels) / (block == group).sum()
            for name, metric in (("test_balanced_accuracy", balanced), ("ood_auroc", detection)):
                expected = share * metric(everything) - (share - 1) * metric(block != group)
                assert ours[name] == pytest.approx(expected), name


def test_every_test_metric_of_a_run_has_blocks_and_their_mean_is_the_metric(config):
    _, (outcome,) = run([config(*SHORT)])
    of_test = {name for name in outcome.metrics if name.startswith(("test_", "gap_", "shift_", "ood_", "unknown_"))}
    assert {*outcome.blocks} == {*of_test, "size"}
    size = np.array(outcome.blocks["size"])
    for name in ("test_accuracy", "test_nll", "test_brier", "test_nll_calibrated", "test_ambiguity_none", "gap_nll",
                 "shift_accuracy", "shift_nll"):  # fmt: skip
        assert np.average(outcome.blocks[name], weights=size) == pytest.approx(outcome.metrics[name], rel=1e-5), name


def test_folds_share_the_blocks_of_all_examples(config):
    runs = [vary(config(*FOLDS, f"head={head}", f"fold={fold}"), seed=4)
            for head, fold in (("softmax", 0), ("sigmoid", 1), ("sigmoid", 0))]  # fmt: skip
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    assert len({data.split_sizes(pool, one.dataset, 4, one.settings.fold) for one in runs}) == 1
    _, outcomes = run(runs)
    block_N = assign_blocks(pool.labels, 5)
    assert torch.equal(block_N, pool.block_N)
    for one, outcome in zip(runs, outcomes, strict=True):
        test = data.view(pool, one.dataset, 4, one.settings.fold).test
        assert outcome.blocks["size"] == block_N[test].bincount(minlength=20).tolist()
        tested = folds_of_blocks(pool.block_sizes, 5, 4) == one.settings.fold
        assert torch.equal(torch.tensor(outcome.blocks["size"]) > 0, tested)
        assert outcome.predictions["example"].tolist() == test.tolist()
        assert outcome.predictions["label"].tolist() == pool.labels[test].tolist()
        correct = torch.tensor(outcome.predictions["label"] == outcome.predictions["prediction"]).double()
        for block in range(20):
            expected = correct[block_N[test] == block].mean().item()
            assert outcome.blocks["test_accuracy"][block] == pytest.approx(expected, abs=1e-6, nan_ok=True)
        _, (alone,) = run([one])
        assert alone.metrics["test_nll"] == pytest.approx(outcome.metrics["test_nll"], rel=5e-3)
        assert alone.blocks["test_macro_f1"] == pytest.approx(outcome.blocks["test_macro_f1"], abs=0.1, nan_ok=True)


def test_a_run_of_a_fixed_split_that_is_not_tested_has_no_blocks(config):
    _, (outcome,) = run([config(*SHORT)], test=False)
    assert outcome.blocks == {}


def test_a_fold_that_is_not_tested_has_blocks_of_its_validation_examples(config):
    runs = [config(*FOLDS, "head=sigmoid"), vary(config(*FOLDS), seed=3)]
    _, outcomes = run(runs, test=False)
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    for one, outcome in zip(runs, outcomes, strict=True):
        assert {*outcome.blocks} == {"size", *(f"val_{name}" for name in metrics.OF_A_SPLIT)}
        val = data.view(pool, one.dataset, one.settings.seed).val
        size = np.array(outcome.blocks["size"])
        assert size.tolist() == pool.block_N[val].bincount(minlength=20).tolist()
        for name in ("val_accuracy", "val_nll", "val_brier"):
            mean = np.average(np.nan_to_num(outcome.blocks[name]), weights=size)
            assert mean == pytest.approx(outcome.metrics[name], rel=1e-5), name
        own = folds_of_blocks(pool.block_sizes, 5, one.settings.seed) == 0
        assert (size[own.numpy()] == 0).all()


def test_a_diverged_run_counts_as_a_guess_in_every_block(config):
    _, (outcome,) = run([config(*SHORT, "optimizer.lr=1e30")])
    assert outcome.diverged_at is not None
    assert outcome.blocks["test_accuracy"] == [0.1] * 20
    assert outcome.blocks["test_nll"] == [math.log(10)] * 20
    assert outcome.blocks["test_macro_f1"] == [0.1] * 20
    assert all(map(math.isnan, outcome.blocks["test_misclassification_auroc"]))
    assert sum(outcome.blocks["size"]) == 359
