"""Random draws of networks, such as dropout masks: they depend on a run's seed and on the step, and on nothing else.

So a run draws the same numbers alone, in any pack and after an interruption, and runs with one seed draw the same.

Shape suffixes: R runs, x the axes of one run's activations.
"""

import hashlib
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Draws:
    """Random numbers of R runs, which begin anew with each call of the networks.

    Args:
        seeds: seed of each run.
        device: device of the networks.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self._seeds, self._device, self._moment, self._begun = list(seeds), device, "", False
        self._generators = {seed: torch.Generator(device) for seed in self._seeds}
        rows = [list(self._generators).index(seed) for seed in self._seeds]
        self._row_of_run_R = torch.tensor(rows, device=device)

    def begin(self, step: int | None) -> None:
        """Begin a call of the networks at a step of training, or in an evaluation if it is None."""
        self._moment, self._begun = "evaluation" if step is None else f"step {step}", False

    def dropout(self, layer: nn.Dropout) -> Callable[[Tensor], Tensor]:
        """Return the dropout layer of R runs as one function, with a mask for each seed."""

        def forward(x_Rx: Tensor) -> Tensor:
            if not layer.training or layer.p == 0:
                return x_Rx
            return x_Rx * self._masks(x_Rx, 1 - layer.p)

        return forward

    def seed_globally(self, run: int) -> None:
        """Set the global generators of PyTorch, NumPy and Python for the call of one run's network."""
        seed = self._stream(self._seeds[run])
        # Not torch.manual_seed, which asks for every kind of accelerator: that takes as long as a small network.
        torch.default_generator.manual_seed(seed)
        if self._device.type != "cpu":
            torch.get_device_module(self._device).manual_seed(seed)
        seed_other_libraries(seed)

    def _masks(self, x_Rx: Tensor, keep: float) -> Tensor:
        """Return masks of zeros and 1 / keep, of the shape of `x_Rx`."""
        if not self._begun:
            self._begun = True
            for seed, generator in self._generators.items():
                generator.manual_seed(self._stream(seed))
        masks = [
            torch.empty(x_Rx.shape[1:], dtype=x_Rx.dtype, device=x_Rx.device).bernoulli_(keep, generator=generator)
            for generator in self._generators.values()
        ]
        stacked = torch.stack(masks).div_(keep or 1)
        return stacked if len(stacked) == len(x_Rx) else stacked.index_select(0, self._row_of_run_R)

    def _stream(self, seed: int) -> int:
        """Return the seed of the stream of a run's seed at this moment, of 63 bits."""
        return int.from_bytes(hashlib.sha256(f"{seed} {self._moment}".encode()).digest()[:8]) >> 1


def seed_other_libraries(seed: int) -> None:
    """Set the global generators of NumPy and Python, which the code of a user may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextmanager
def global_states() -> Iterator[Callable[[], bool]]:
    """Restore the global generators of NumPy and Python afterwards; yields whether they have changed so far."""

    def states() -> tuple[Any, Any]:
        return random.getstate(), np.random.get_state()  # noqa: NPY002, the code of a user may use it

    before = states()
    try:
        yield lambda: pickle.dumps(states()) != pickle.dumps(before)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
