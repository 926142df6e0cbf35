"""Fixtures and helpers that tests share."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hydra import compose, initialize_config_module
from joblib.externals.loky import get_reusable_executor

from headtohead import cli
from headtohead.training import data
from headtohead.training.config import Config, parse
from headtohead.training.loop import Outcome, Point, train

# Options for a short run.
# The last two suit every model.
TINY = ["training.epochs=1", "training.points=3", "training.evaluations=2", "model.widths=[8]", "fold=0",
        "dataset.train_size=64"]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_process():
    """Reset what commands set for their process: keep subnormal numbers, and use one thread.

    Threads slow short operations down.
    """
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)


@pytest.fixture
def fresh_workers():
    """End joblib's processes before a test: they stay in the folder of the test that started them."""
    get_reusable_executor().shutdown(wait=True)


@pytest.fixture(scope="session")
def config() -> Callable[..., Config]:
    """Return a function that composes and checks the configuration of a run from overrides."""

    def make(*overrides: str) -> Config:
        with initialize_config_module("headtohead.configs", version_base="1.3"):
            return parse(compose("config", overrides=["device=cpu", *overrides]))

    return make


def vary(config: Config, seed: int = 0, **optimizer) -> Config:
    """Return the configuration with another seed and other options of the optimiser."""
    settings = replace(config.settings, seed=seed)
    return replace(config, settings=settings, optimizer=replace(config.optimizer, **optimizer))


def run(configs: list[Config], test: bool = True) -> tuple[list[Point], list[Outcome]]:
    """Train a pack to the end."""
    pool = data.load(configs[0].dataset, torch.device("cpu"))
    *points, outcomes = train(configs, pool, test)
    return points, outcomes


@dataclass
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs `headtohead` with arguments, in an empty folder and in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a command adds the working directory

    def call(*arguments: str) -> Result:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        # One job runs in this process. Joblib's processes would stay in the folder in which the first of them started.
        jobs = ["hydra.launcher.n_jobs=1"]
        # Without an argument, with a command, or with another launcher.
        if not arguments or arguments[0] in cli.COMMANDS or re.search("n_jobs|hydra/launcher", " ".join(arguments)):
            jobs = []
        monkeypatch.setattr(sys, "argv", ["headtohead", *arguments, *jobs])
        status = 0
        try:
            cli.main()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call
