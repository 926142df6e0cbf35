"""Measure 1,000 linear probes on the features of a frozen resnet18, beside the features alone and eager PyTorch.

    python benchmarks/probes.py

The probes are two heads with 25 learning rates and 20 seeds, on 5,000 images of Fashion-MNIST: 3,500 to train, 500 to
validate and 1,000 to test, the same for every seed. The backbone has random weights from a file. Each probe takes 270
steps of 128 examples, is logged at 11 of them and evaluated twice. Packs are those that a search makes, one after the
other. Eager PyTorch trains one probe at a time on features in memory, without logging or evaluation; 40 probes are
timed. All on one thread, with the time that the processor has worked in brackets: it counts on a shared machine.
"""

import gzip
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from torch import nn

from headtohead.runner.packs import choose_packing, into_packs
from headtohead.runner.process import prepare_process
from headtohead.training import data, features
from headtohead.training.config import Config, parse
from headtohead.training.loop import may_share_a_pack, train
from headtohead.training.models import MODELS, initialise

IMAGES = Path("/usr/share/datasets/fashion-mnist")
EXAMPLES, TRAINED, VALIDATED = 5000, 3500, 500
RATES, SEEDS, EAGER_PROBES = np.geomspace(1e-4, 1, 25), 20, 40


@dataclass(frozen=True)
class Given(data.Dataset):
    """The first images of Fashion-MNIST, with the same splits for every seed."""

    def read(self) -> data.Examples:
        def bytes_of(name: str, offset: int) -> torch.Tensor:
            with gzip.open(IMAGES / f"train-{name}-ubyte.gz") as file:
                return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=offset).copy())

        images = bytes_of("images-idx3", 16).view(-1, 1, 28, 28)[:EXAMPLES]
        labels = bytes_of("labels-idx1", 8)[:EXAMPLES].long()
        validation = torch.arange(TRAINED, TRAINED + VALIDATED)
        return data.Examples(
            images, labels, torch.arange(TRAINED + VALIDATED, EXAMPLES), tuple("0123456789"), val=validation
        )


def backbone(input_shape: tuple[int, ...], num_classes: int, file: str) -> nn.Module:
    """Build a resnet18 whose backbone has the weights of a file."""
    network = MODELS["resnet18"](freeze="none").build(input_shape, num_classes)
    network.load_state_dict(torch.load(file), strict=False)
    return network


def configured(file: str) -> list[Config]:
    """Return the runs, those of one seed and head side by side."""
    overrides = [
        "device=cpu", "model=factory", "model.path=probes:backbone", f"+model.options.file={file}",
        "model.freeze=backbone", "training.epochs=10", "training.batch_size=128", "optimizer.momentum=0.9",
        "training.points=11", "training.evaluations=2",
    ]  # fmt: skip
    with initialize_config_module("headtohead.configs", version_base="1.3"):
        heads = [parse(compose("config", [*overrides, f"head={head}"])) for head in ("softmax", "sigmoid")]
    dataset = Given(
        train_size=None, val_fraction=0.1, label_noise=0.0, imbalance=1.0, crop_padding=0, flip=False, ood=None
    )
    return [
        replace(
            config,
            dataset=dataset,
            settings=replace(config.settings, seed=seed),
            optimizer=replace(config.optimizer, lr=float(rate)),
        )
        for seed, config, rate in product(range(SEEDS), heads, RATES)
    ]


class Stopwatch:
    """Seconds from its start, on the clock and of the processor."""

    def __init__(self):
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()]) - self._start


def of_features(run: Config, pool: data.Pool) -> tuple[np.ndarray, torch.Tensor]:
    """Return the seconds of all features by a plain loop in PyTorch, and the features."""
    view = data.view(pool, run.dataset, 0)
    network = initialise(run.model, run.head, pool.input_shape, 10, 0).to(memory_format=torch.channels_last).eval()
    network.classifier = nn.Identity()
    inputs = (pool.inputs - view.mean.float()) / view.std.float()
    with torch.no_grad():
        network(inputs[:250])  # warms up
        watch = Stopwatch()
        found = torch.cat([network(part) for part in inputs.split(250)])
    return watch.read(), found


def of_probes(runs: list[Config], pool: data.Pool, size: int) -> np.ndarray:
    """Return the seconds of all probes in packs, with the features that they need."""
    features._kept.clear()
    packs = into_packs(
        range(len(runs)), lambda run: may_share_a_pack(runs[run]), lambda run: runs[run].settings.seed, lambda run: size
    )
    watch = Stopwatch()
    for pack in packs:
        *_, outcomes = train([runs[run] for run in pack], pool, test=False)
        assert len(outcomes) == len(pack)
    return watch.read()


def of_eager(runs: list[Config], pool: data.Pool, found: torch.Tensor) -> np.ndarray:
    """Return the seconds of all probes one at a time, as those of some are."""
    chosen = runs[:: len(runs) // EAGER_PROBES]
    inputs, labels = found[:TRAINED], pool.labels[:TRAINED]
    watch = Stopwatch()
    for run in chosen:
        probe = nn.Linear(inputs.shape[1], 10)
        optimizer = torch.optim.SGD(probe.parameters(), run.optimizer.lr, momentum=0.9, fused=True)
        size = run.training.batch_size
        for _ in range(run.training.epochs):
            for index in torch.randperm(TRAINED)[: TRAINED - TRAINED % size].split(size):
                optimizer.zero_grad()
                logits, target = probe(inputs[index]), labels[index]
                if type(run.head).__name__ == "Softmax":
                    loss = F.cross_entropy(logits, target)
                else:
                    loss = F.binary_cross_entropy_with_logits(logits, F.one_hot(target, 10).float()) * 10
                loss.backward()
                optimizer.step()
    return watch.read() * len(runs) / len(chosen)


def report(what: str, seconds: np.ndarray, alone: np.ndarray) -> None:
    clock, processor = seconds
    ratios = seconds / alone
    print(f"{what}: {clock:.1f} s ({processor:.1f} s), {ratios[0]:.2f} ({ratios[1]:.2f}) of the features", flush=True)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    prepare_process(1)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/weights.pt"
        torch.manual_seed(0)
        weights = MODELS["resnet18"](freeze="none").build((1, 28, 28), 10).state_dict()
        torch.save({name: value for name, value in weights.items() if not name.startswith("classifier")}, file)
        runs = configured(file)
        pool = data.load(runs[0].dataset, torch.device("cpu"))
        alone, found = of_features(runs[0], pool)
        report(f"features of {EXAMPLES} images", alone, alone)
        report(f"{len(runs)} probes and features", of_probes(runs, pool, choose_packing(runs[0], True, 10).size), alone)
        report(f"{len(runs)} probes and features, eager", of_eager(runs, pool, found) + alone, alone)


if __name__ == "__main__":
    main()
