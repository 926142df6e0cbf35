"""Random draws of networks, such as dropout masks: they depend on a run's seed and on the step, and on nothing else.

So a run draws the same numbers alone, in any pack and after an interruption, and runs with one seed draw the same. Of
two runs with one seed and different rates of dropout, that with the higher rate drops all units that the other drops.

Shape suffixes: R runs, S seeds, P pairs of a seed and a rate of dropout, x the axes of one run's activations.
"""

import hashlib
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Draws:
    """Random numbers of R runs, which begin anew with each call of the networks.

    Args:
        seeds: seed of each run.
        like: a tensor with the type and the device of the networks.
        rates: the rates of the runs for each dropout layer, by its name.
    """

    def __init__(self, seeds: Sequence[int], like: Tensor, rates: Mapping[str, Sequence[float]]):
        self._seeds, self._like, self._rates, self._moment, self._begun = list(seeds), like, rates, "", False
        self._generators = {seed: torch.Generator(like.device) for seed in self._seeds}

    def begin(self, step: int | None) -> None:
        """Begin a call of the networks at a step of training, or in an evaluation if it is None."""
        self._moment, self._begun = "evaluation" if step is None else f"step {step}", False

    def dropout(self, name: str, layer: nn.Dropout) -> Callable[[Tensor], Tensor]:
        """Return a dropout layer of R runs as one function, with a mask for each pair of a seed and a rate.

        Args:
            name: its name.
            layer: the layer of one run, which says whether it is in training mode.
        """
        of_run = [*zip(self._seeds, self._rates[name], strict=True)]
        pairs, seeds = [*dict.fromkeys(of_run)], [*self._generators]
        pair_R = torch.tensor([pairs.index(pair) for pair in of_run], device=self._like.device)
        seed_P = torch.tensor([seeds.index(seed) for seed, _ in pairs], device=self._like.device)
        keep_P = self._like.new_tensor([1 - rate for _, rate in pairs])
        # Where no unit is kept, any number will do.
        scale_P = self._like.new_tensor([1 / ((1 - rate) or 1) for _, rate in pairs])

        def forward(x_Rx: Tensor) -> Tensor:
            if not layer.training:
                return x_Rx
            uniform_Px = _rows(self._uniform(x_Rx.shape[1:]), seed_P)
            axes = (-1, *[1] * (x_Rx.ndim - 1))
            # Comparing into numbers takes a fifth of the time of a mask of booleans.
            mask_Px = self._like.new_empty(len(pairs), *x_Rx.shape[1:])
            torch.lt(uniform_Px, keep_P.view(axes), out=mask_Px).mul_(scale_P.view(axes))
            return x_Rx * _rows(mask_Px, pair_R).to(x_Rx.dtype)

        return forward

    def seed_globally(self, run: int) -> None:
        """Set the global generators of PyTorch, NumPy and Python for the call of one run's network."""
        seed = self._stream(self._seeds[run])
        # Not torch.manual_seed, which asks for every kind of accelerator: that takes as long as a small network.
        torch.default_generator.manual_seed(seed)
        device = self._like.device
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        seed_other_libraries(seed)

    def _uniform(self, shape: Sequence[int]) -> Tensor:
        """Return the next numbers in [0, 1) of each seed, (S, *shape)."""
        if not self._begun:
            self._begun = True
            for seed, generator in self._generators.items():
                generator.manual_seed(self._stream(seed))
        uniform_Sx = self._like.new_empty(len(self._generators), *shape)
        for row_x, generator in zip(uniform_Sx, self._generators.values(), strict=True):
            row_x.uniform_(generator=generator)
        return uniform_Sx

    def _stream(self, seed: int) -> int:
        """Return the seed of the stream of a run's seed at this moment, of 63 bits."""
        return int.from_bytes(hashlib.sha256(f"{seed} {self._moment}".encode()).digest()[:8]) >> 1


def _rows(values_x: Tensor, index: Tensor) -> Tensor:
    """Return rows by their numbers. A single row is left to broadcast; as many rows as numbers are in order already."""
    return values_x if len(values_x) in (1, len(index)) else values_x.index_select(0, index)


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
