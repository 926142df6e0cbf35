import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from headtohead.analysis.predictions import (
    NUM_THRESHOLDS,
    Predictions,
    above_thresholds,
    confusion_counts,
    most_ambiguous,
    pooled,
    same_examples,
)


def runs(count=3, examples=200, classes=4):
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, examples)
    for _ in range(count):
        activations = rng.random((examples, classes)).astype(np.float32)
        yield Predictions(label, activations.argmax(1), activations, np.arange(examples))


def test_confusion_is_that_of_scikit_learn():
    expected = sum(confusion_matrix(run.label, run.prediction, labels=range(4)) for run in runs())
    assert (confusion_counts(runs()) == expected).all()


def test_counts_above_thresholds_are_those_of_a_comparison():
    positives_KT, negatives_KT = above_thresholds(runs())
    for index in (0, 1, 37, 50, NUM_THRESHOLDS - 1):
        for label in range(4):
            reaches = [
                (run.activations[:, label] >= index / (NUM_THRESHOLDS - 1), run.label == label) for run in runs()
            ]
            assert positives_KT[label, index] == sum((above & own).sum() for above, own in reaches)
            assert negatives_KT[label, index] == sum((above & ~own).sum() for above, own in reaches)


def test_the_most_ambiguous_have_the_least_gap_between_two_activations():
    activations = np.array([[0.9, 0.1, 0.0], [0.5, 0.45, 0.0], [0.02, 0.01, 0.0], [0.9, 0.0, 0.7]], np.float32)
    run = Predictions(np.zeros(4, int), activations.argmax(1), activations, np.array([10, 11, 12, 13]))
    assert most_ambiguous([run, run], 3).tolist() == [12, 11, 13]


def test_the_most_ambiguous_are_found_over_folds_that_test_other_examples():
    activations = np.array([[0.9, 0.1], [0.6, 0.5], [0.8, 0.2]], np.float32)
    same = np.zeros(3, int), activations.argmax(1), activations
    folds = [Predictions(*same, np.arange(3) + 3 * fold) for fold in (0, 1)]
    again = Predictions(np.zeros(3, int), np.zeros(3, int), np.array([[0.9, 0.1]] * 3, np.float32), np.arange(3))
    assert most_ambiguous(folds, 2).tolist() == [1, 4]
    assert most_ambiguous([*folds, again], 2).tolist() == [4, 1] and same_examples([*folds, again])


def test_other_datasets_have_other_examples():
    first, *_ = runs()
    fewer = Predictions(first.label[:9], first.prediction[:9], first.activations[:9], first.example[:9])
    others = Predictions(first.label[::-1], first.prediction, first.activations, first.example)
    more = Predictions(first.label, first.prediction, np.c_[first.activations, first.activations], first.example)
    assert same_examples(runs()) and same_examples([first, fewer])
    assert not same_examples([first, others]) and not same_examples([first, more])


def test_pooled_histograms_keep_their_mass_and_place():
    a, b = (np.random.default_rng(seed).normal(seed, 1, 4000) for seed in (0, 3))
    edges, counts = pooled([np.histogram(values, 30)[::-1] for values in (a, b)])
    assert counts.sum() == pytest.approx(8000) and (edges[0], edges[-1]) == (min(*a, *b), max(*a, *b))
    exact, _ = np.histogram(np.r_[a, b], edges)
    assert np.abs(counts - exact).max() < 0.02 * 8000


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"label": np.zeros(2, int), "prediction": np.zeros(2, int), "activations": np.zeros((3, 2))},
        {"label": np.full(3, 2), "prediction": np.zeros(3, int), "activations": np.zeros((3, 2))},
        {"label": np.zeros(3, int), "prediction": np.full(3, -1), "activations": np.zeros((3, 2))},
        *(
            {
                "label": np.zeros(2, int),
                "prediction": np.zeros(2, int),
                "activations": np.zeros((2, 2)),
                "example": example,
            }
            for example in (np.zeros(2, int), np.array([-1, 0]), np.arange(3), np.array([0.5, 1]))
        ),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(arrays):
    with pytest.raises(ValueError):
        Predictions.of(arrays)
