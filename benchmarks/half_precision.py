"""Measure bfloat16 against float32 on the CPU: the time of a short training on Fashion-MNIST, and its accuracy.

    python benchmarks/half_precision.py [THREADS]

The two take turns. Prints the seconds of each, the median of the ratios within a turn with the smallest and the
largest, and the mean accuracy on 1,000 validation images. It needs Debian's package dataset-fashion-mnist.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_module

from headtohead.runner.process import prepare_process
from headtohead.training import data, loop
from headtohead.training.config import parse

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# By model: training images, batch size, epochs, repetitions. Each repetition is another seed.
CASES = {"cnn": (6400, 128, 2, 5), "resnet18": (640, 32, 2, 3)}


def config(model: str, root: str, precision: str):
    train_size, batch_size, epochs, _ = CASES[model]
    options = [f"dataset.root={root}", f"dataset.train_size={train_size}", f"training.batch_size={batch_size}"]
    options += [
        f"training.epochs={epochs}",
        "training.points=2",
        "training.evaluations=1",
        "dataset.val_fraction=0.0167",
    ]
    with initialize_config_module("headtohead.configs", version_base="1.3"):
        return parse(compose("config", ["dataset=fashion_mnist", f"model={model}", "optimizer=adamw", *options]))


def training(run, pool) -> tuple[float, float]:
    """Return the seconds of a training and its validation accuracy."""
    started = time.perf_counter()
    *_, (outcome,) = loop.train([run], pool, False)
    return time.perf_counter() - started, outcome.metrics["val_accuracy"]


def main(threads: int) -> None:
    prepare_process(threads)
    with tempfile.TemporaryDirectory() as root:
        raw = Path(root, "FashionMNIST/raw")
        raw.mkdir(parents=True)
        for archive in DEBIAN.glob("*.gz"):
            (raw / archive.name).symlink_to(archive)
        for model, (_, _, _, repetitions) in CASES.items():
            runs = [config(model, root, precision) for precision in ("float32", "bfloat16")]
            pool = data.load(runs[0].dataset, torch.device("cpu"))
            found = [
                [training(replace(run, settings=replace(run.settings, seed=seed)), pool) for run in runs]
                for seed in range(repetitions)
            ]
            ratios = [half / full for (full, _), (half, _) in found]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            for precision, results in zip(("float32", "bfloat16"), zip(*found, strict=True), strict=True):
                seconds, accuracies = zip(*results, strict=True)
                median, accuracy = statistics.median(seconds), statistics.mean(accuracies)
                print(f"{model} {precision}: {median:.1f} s, accuracy {accuracy:.3f}")
            print(f"{model} bfloat16 / float32: {spread}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
