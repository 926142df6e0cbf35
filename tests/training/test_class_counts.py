import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from headtohead.training.class_counts import class_counts, seen_test_examples
from headtohead.training.data import load, view

CPU = torch.device("cpu")


def test_counts_are_those_of_the_examples_that_are_used(config):
    dataset = config("dataset=digits", "dataset.imbalance=4", "dataset.label_noise=0.3").dataset
    pool = load(dataset, CPU)
    counts = class_counts(pool, dataset)
    assert counts.classes == tuple("0123456789")
    for seed in (0, 5):
        drawn = view(pool, dataset, seed)
        for split, index in (("train", drawn.train), ("val", drawn.val), ("test", torch.arange(len(pool.labels)))):
            labels = pool.labels[index].tolist()
            assert getattr(counts, split) == tuple(labels.count(label) for label in range(10))


def test_examples_that_a_network_may_have_seen_are_counted(config):
    pool = load(config("dataset=wine", "dataset.folds=null", "dataset.test_fraction=0.2").dataset, CPU)
    assert seen_test_examples(pool) == 0
    inputs = pool.inputs.clone()
    inputs[pool.test[:3]] = inputs[pool.rest[7]].clone()
    assert seen_test_examples(replace(pool, inputs=inputs)) == 3


def test_with_folds_all_examples_that_occur_twice_are_counted(config):
    pool = load(config("dataset=wine").dataset, CPU)
    assert seen_test_examples(pool) == 0
    inputs = pool.inputs.clone()
    inputs[[3, 50, 90]] = inputs[7].clone()
    assert seen_test_examples(replace(pool, inputs=inputs)) == 4


@pytest.mark.parametrize("stream", [True, False])
def test_files_of_one_content_in_two_splits_are_counted(config, tmp_path, stream):
    noise = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = noise.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    for number in (1, 2):
        shutil.copy(tmp_path / "train/cat/0.png", tmp_path / f"test/dog/{number}.png")
    made = config("dataset=image_folder", f"dataset.root={tmp_path}", f"dataset.stream={stream}").dataset
    assert seen_test_examples(load(made, CPU)) == 2
