"""Define the cases of the speed benchmarks, with inputs of a dataset's shapes.

Shape suffixes: N examples.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from hydra import compose, initialize_config_module

from headtohead.training import data
from headtohead.training.config import Config, parse
from headtohead.training.data import Pool


@dataclass(frozen=True)
class Case:
    """Runs that are trained together: half of them softmax, half sigmoid, with learning rates and seeds.

    Attributes:
        overrides: of the configuration; the dataset gives the shapes.
        lrs: learning rates; times the seeds and two heads these are the runs.
        steps: updates per timed block.
        shape: of images with random pixels that stand for the dataset; None takes the dataset itself.
    """

    overrides: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: int
    steps: int
    shape: tuple[int, ...] | None = None

    @cached_property
    def pool(self) -> Pool:
        if self.shape is None:
            return data.load(self._config().dataset, torch.device("cpu"))
        random = torch.Generator().manual_seed(0)
        inputs = torch.randint(256, self.shape, generator=random, dtype=torch.uint8)
        labels = torch.arange(len(inputs)) % 10
        test, rest = torch.arange(len(inputs)).tensor_split([len(inputs) // 10])
        return Pool(inputs, labels, test, rest, tuple("0123456789"))

    @cached_property
    def runs(self) -> list[Config]:
        """Those of one seed side by side, as a study packs them."""
        config = self._config()
        heads = [self._config(f"head={head}").head for head in ("softmax", "sigmoid")]
        return [
            replace(
                config,
                head=head,
                optimizer=replace(config.optimizer, lr=lr),
                settings=replace(config.settings, seed=seed),
            )
            for head, lr, seed in product(heads, self.lrs, range(self.seeds))
        ]

    def lasting(self, blocks: int) -> list[Config]:
        """The runs with a point after every block of `steps`, and nothing evaluated before the end."""
        per_epoch = data.steps_per_epoch(self.view, self.runs[0].training.batch_size)
        epochs = -(-blocks * self.steps // per_epoch)
        points = max(2, round(epochs * per_epoch / self.steps) + 1)
        training = replace(self.runs[0].training, epochs=epochs, points=points, evaluations=1)
        return [replace(run, training=training) for run in self.runs]

    @cached_property
    def view(self) -> data.View:
        return data.view(self.pool, self.runs[0].dataset, 0)

    def standardised(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The training split of the first seed as any loop in memory would hold it: inputs (N, ...) and labels (N,)."""
        inputs = (self.pool.inputs[self.view.train] - self.view.mean) / self.view.std
        return inputs.float(), self.view.train_labels

    def _config(self, *more: str) -> Config:
        with initialize_config_module("headtohead.configs", version_base="1.3"):
            return parse(compose("config", [*self.overrides, *more, "device=cpu"]))


FASHION = (20_000, 1, 28, 28)

CASES = {
    "digits": Case(
        ("dataset=digits", "model=mlp", "training.batch_size=64"),
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        1,
        200,
    ),
    "digits of 4 seeds": Case(
        ("dataset=digits", "model=mlp", "training.batch_size=64"),
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        4,
        50,
    ),
    "mlp": Case(
        (
            "dataset=fashion_mnist",
            "model=mlp",
            "model.widths=[64,128,64]",
            "model.batch_norm=true",
            "optimizer=adamw",
            "training.batch_size=128",
        ),
        (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        1,
        100,
        FASHION,
    ),
    "cnn": Case(
        ("dataset=fashion_mnist", "model=cnn", "optimizer=adamw", "training.batch_size=128"),
        (0.0003, 0.001, 0.003, 0.01),
        1,
        10,
        FASHION,
    ),
    "linear": Case(
        ("dataset=gaussians", "dataset.classes=10000", "dataset.examples=100000", "model=linear"),
        (0.01, 0.1, 1.0, 10.0),
        1,
        10,
    ),
}
