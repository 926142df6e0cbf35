"""Train the cnn on Fashion-MNIST in bfloat16 and in float32, and print the validation accuracies of each.

Five seeds, 100 steps of 128 images each, evaluated on 1,000 images. It needs Debian's package dataset-fashion-mnist.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_module

from headtohead.runner.process import prepare_process
from headtohead.training import data, loop
from headtohead.training.config import parse

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SEEDS = 5
OVERRIDES = [
    "dataset=fashion_mnist", "model=cnn", "optimizer=adamw", "device=cpu", "dataset.train_size=6400",
    "dataset.val_fraction=0.0167", "training.batch_size=128", "training.epochs=2", "training.points=2",
    "training.evaluations=1",
]  # fmt: skip


def main() -> None:
    prepare_process(None)
    with tempfile.TemporaryDirectory() as root, initialize_config_module("headtohead.configs", version_base="1.3"):
        raw = Path(root, "FashionMNIST/raw")
        raw.mkdir(parents=True)
        for archive in DEBIAN.glob("*.gz"):
            (raw / archive.name).symlink_to(archive)
        found = {}
        for way, precision in (("headtohead", "bfloat16"), ("float32", "float32")):
            run = parse(compose("config", [*OVERRIDES, f"dataset.root={root}", f"precision={precision}"]))
            pool = data.load(run.dataset, torch.device("cpu"))
            found[way] = []
            for seed in range(SEEDS):
                *_, (outcome,) = loop.train([replace(run, settings=replace(run.settings, seed=seed))], pool, False)
                found[way].append(outcome.metrics["val_accuracy"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
