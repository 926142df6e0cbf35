"""Measure 1,000 linear probes on features in memory, beside the features of a frozen resnet18.

The probes are two heads with 25 learning rates and 20 seeds, on 5,000 images of Fashion-MNIST: 3,500 to train, 500 to
validate and 1,000 to test, the same for every seed. The backbone has random weights from a file. Each probe takes 270
steps of 128 examples, is logged at 11 of them and evaluated twice. Packs are those that a search makes, one after the
other, each in turn with its share of the features by a plain loop in PyTorch, channels last. All on one thread.
"""

import gzip
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_module
from torch import nn

from headtohead.runner.packs import choose_packing, into_packs
from headtohead.runner.process import prepare_process
from headtohead.training import data
from headtohead.training.config import Config, parse
from headtohead.training.loop import may_share_a_pack, train
from headtohead.training.models import MODELS, initialise

IMAGES = Path("/usr/share/datasets/fashion-mnist")
EXAMPLES, TRAINED, VALIDATED = 5000, 3500, 500
RATES, SEEDS = np.geomspace(1e-4, 1, 25), 20
BATCH = 250


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
        train_size=None,
        val_fraction=0.1,
        label_noise=0.0,
        imbalance=1.0,
        crop_padding=0,
        flip=False,
        ood=None,
        unknown_classes=0,
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


def network_and_inputs(run: Config, pool: data.Pool) -> tuple[nn.Module, torch.Tensor]:
    """Return the backbone and all inputs, standardised."""
    view = data.view(pool, run.dataset, 0)
    network = initialise(run.model, run.head, pool.input_shape, 10, 0).to(memory_format=torch.channels_last).eval()
    network.classifier = nn.Identity()
    return network, (pool.inputs - view.mean.float()) / view.std.float()


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(file: str) -> dict[str, list[float]]:
    """Return the seconds of all probes and of all features, as foretold by each turn."""
    runs = configured(file)
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    network, inputs = network_and_inputs(runs[0], pool)
    features = torch.no_grad()(network)
    features(inputs[:BATCH])  # warms up
    deque(train(runs[:1], pool, test=False), 0)  # keeps the features
    packing = choose_packing(runs[0], True, 5_130, 784, 10)
    packs = into_packs(
        range(len(runs)),
        lambda run: may_share_a_pack(runs[run]),
        lambda run: runs[run].settings.seed,
        lambda _: packing,
    )
    found = {"headtohead": [], "features": []}
    for number, pack in enumerate(packs):
        part = inputs[number * BATCH % EXAMPLES :][:BATCH]
        trained = [runs[run] for run in pack]
        of_pack = seconds(lambda trained=trained: deque(train(trained, pool, test=False), 0))
        found["headtohead"].append(of_pack * len(runs) / len(pack))
        found["features"].append(seconds(lambda part=part: features(part)) * EXAMPLES / BATCH)
    return found


def main() -> None:
    prepare_process(1)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/weights.pt"
        torch.manual_seed(0)
        weights = MODELS["resnet18"](freeze="none").build((1, 28, 28), 10).state_dict()
        torch.save({name: value for name, value in weights.items() if not name.startswith("classifier")}, file)
        print(json.dumps(measure(file)))


if __name__ == "__main__":
    main()
