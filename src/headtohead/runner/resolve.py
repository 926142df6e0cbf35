"""Compose and check the configuration of a run from its overrides, in the sweep and in its workers alike."""

import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from headtohead.runner.axes import Run
from headtohead.runner.environment_values import recorded_values
from headtohead.training.config import Config, parse


@dataclass(frozen=True)
class Member:
    """A run of a study with its configuration.

    Attributes:
        run: its place among the axes, with the label of its arm.
        name: the name of the run and of its folder.
        config: the configuration, checked.
        values: the configuration as plain values, for the record; what comes from the environment is an expression.
        head: the option chosen in the config group `head`.
        hidden: the values that come from environment variables, by dotted key.
    """

    run: Run
    name: str
    config: Config
    values: dict[str, Any]
    head: str
    hidden: dict[str, Any]

    @property
    def study(self) -> Path:
        """The folder of the study, relative to the working directory."""
        return Path("outputs") / self.config.settings.name

    @property
    def folder(self) -> Path:
        """The folder of the run, relative to the working directory."""
        return self.study / "runs" / self.name


def compose(config_name: str, common: tuple[str, ...], run: Run) -> Member:
    """Compose the configuration of a run with Hydra and check it.

    Raises:
        ConfigError: the configuration is not valid.
    """
    config, values, head, hidden = _compose_arm(config_name, common, run.overrides)
    values = copy.deepcopy(values)
    if run.lr is not None:
        config = replace(config, optimizer=replace(config.optimizer, lr=run.lr))
        values["optimizer"]["lr"] = run.lr
    if run.seed is not None:
        config = replace(config, settings=replace(config.settings, seed=run.seed))
        values["seed"] = run.seed
    return Member(replace(run, arm=run.arm or head), run.name(common), config, values, head, hidden)


# Composing takes Hydra tens of milliseconds; the runs of an arm differ in two numbers.
@cache
def _compose_arm(
    config_name: str, common: tuple[str, ...], overrides: tuple[str, ...]
) -> tuple[Config, dict[str, Any], str, dict[str, Any]]:
    loader = GlobalHydra.instance().config_loader()
    node = loader.load_configuration(config_name, [*common, *overrides], run_mode=RunMode.RUN)
    # The claims are the study's, not the run's.
    app = OmegaConf.masked_copy(node, [str(key) for key in node if key not in ("hydra", "pack", "claims")])
    # Checked first: its errors name the key.
    config = parse(app)
    values, hidden = recorded_values(app)
    return config, values, node.hydra.runtime.choices["head"], hidden
