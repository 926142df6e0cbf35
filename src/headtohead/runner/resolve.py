"""From overrides to the checked configuration of a run, in the sweeper and in its workers alike."""

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from headtohead.runner.plan import Run
from headtohead.training.config import Config, parse


@dataclass(frozen=True)
class Member:
    """A run with its configuration: checked, and as plain values for the record.

    Attributes:
        choices: the option chosen in each config group.
    """

    run: Run
    config: Config
    values: dict[str, Any]
    choices: dict[str, str]


def compose(config_name: str, common: tuple[str, ...], run: Run) -> Member:
    """The configuration of `run`, composed by Hydra and checked.

    Raises:
        ConfigError: the configuration is not valid.
    """
    config, values, choices = _compose_arm(config_name, common, run.overrides)
    values = copy.deepcopy(values)
    if run.lr is not None:
        config = replace(config, optimizer=replace(config.optimizer, lr=run.lr))
        values["optimizer"]["lr"] = run.lr
    if run.seed is not None:
        config = replace(config, settings=replace(config.settings, seed=run.seed))
        values["seed"] = run.seed
    arm = run.arm or choices["head"]
    return Member(replace(run, arm=arm), config, values, choices)


# Composing takes Hydra tens of milliseconds; the runs of an arm differ in two numbers.
@cache
def _compose_arm(config_name: str, common: tuple[str, ...], overrides: tuple[str, ...]):
    loader = GlobalHydra.instance().config_loader()
    node = loader.load_configuration(config_name, [*common, *overrides], run_mode=RunMode.RUN)
    choices = OmegaConf.to_container(node.hydra.runtime.choices)
    # The claims are the study's, not the run's.
    app = OmegaConf.masked_copy(node, [key for key in node if key not in ("hydra", "pack", "claims")])
    return parse(app), OmegaConf.to_container(app, resolve=True), choices
