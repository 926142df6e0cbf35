import torch

from headtohead.training.class_counts import class_counts
from headtohead.training.data import load, view

CPU = torch.device("cpu")


def test_counts_are_those_of_the_examples_that_are_used(config):
    dataset = config("dataset=digits", "dataset.imbalance=4", "dataset.label_noise=0.3").dataset
    pool = load(dataset, CPU)
    counts = class_counts(pool, dataset)
    assert counts.classes == tuple("0123456789")
    for seed in (0, 5):
        drawn = view(pool, dataset, seed)
        for split, index in (("train", drawn.train), ("val", drawn.val), ("test", pool.test)):
            labels = pool.labels[index].tolist()
            assert getattr(counts, split) == tuple(labels.count(label) for label in range(10))
