"""Configurations and pools that tests share."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_module

from headtohead import data
from headtohead.config import Config, parse
from headtohead.training import Outcome, Point, train


@pytest.fixture(autouse=True)
def one_thread():
    """Short operations lose more to threads than they gain, above all beside other work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def config() -> Callable[..., Config]:
    """Compose and check a run's configuration from overrides."""

    def make(*overrides: str) -> Config:
        with initialize_config_module("headtohead.configs", version_base="1.3"):
            return parse(compose("config", overrides=["device=cpu", *overrides]))

    return make


def vary(config: Config, seed: int = 0, **optimizer) -> Config:
    """The configuration with another seed and other numbers of the optimiser."""
    settings = replace(config.settings, seed=seed)
    return replace(config, settings=settings, optimizer=replace(config.optimizer, **optimizer))


def run(configs: list[Config], test: bool = True) -> tuple[list[Point], list[Outcome]]:
    """Train a pack to its end."""
    pool = data.load(configs[0].dataset, torch.device("cpu"))
    *points, outcomes = train(configs, pool, test)
    return points, outcomes
