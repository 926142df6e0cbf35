"""Compose and check the configuration of a run from its overrides, in the sweep and in its workers alike."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from headtohead.options import require
from headtohead.record.study import Trial
from headtohead.runner.axes import FOLD, LR, SEED, Run
from headtohead.runner.environment_values import recorded_values
from headtohead.runner.space import Setting, applied, tunable
from headtohead.training.config import Config, parse

# Interpolations of the names in groups, as in the default `name`: they depend neither on the rate nor on the seed.
NAME_OF_A_GROUP = re.compile(r"\$\{(dataset|model|head|optimizer)\.name\}")

# Overrides that only a head of the user's own has.
OF_OWN_HEAD = re.compile(r"\+{0,2}head\.(path|options)\b")


@dataclass(frozen=True)
class Member:
    """A run of a study with its configuration.

    Attributes:
        run: its place among the axes, with the label of its arm.
        name: the name of the run and of its folder.
        config: the configuration, checked.
        values: the configuration as plain values, for the record; what comes from the environment is an expression.
        claims: the claims as plain values, with its interpolations resolved for this run.
        head: the option chosen in the config group `head`.
        hidden: the values that come from environment variables, by dotted key.
        tuned: the point of the space, but for the settings that the arm lacks.
    """

    run: Run
    name: str
    config: Config
    values: dict[str, Any]
    claims: dict[str, Any]
    head: str
    hidden: dict[str, Any]
    tuned: tuple[Setting, ...] = ()

    @property
    def trial(self) -> Trial:
        """The trial of the run."""
        return Trial(self.config.optimizer.lr, self.run.trial)

    @property
    def study(self) -> Path:
        """The folder of the study, relative to the working directory."""
        return Path("outputs") / self.config.settings.name

    @property
    def folder(self) -> Path:
        """The folder of the run, relative to the working directory."""
        return self.study / "runs" / self.name

    def of_study(self, name: str) -> "Member":
        """Return the run as one of the study with this name."""
        config = replace(self.config, settings=replace(self.config.settings, name=name))
        return replace(self, config=config, values={**self.values, "name": name})


def compose(config_name: str, common: tuple[str, ...], run: Run) -> Member:
    """Compose the configuration of a run with Hydra and check it.

    Raises:
        ConfigError: the configuration is not valid.
    """
    loader = GlobalHydra.instance().config_loader()
    arm = _compose_arm(loader, config_name, common, run.overrides)
    tuned = ()
    if arm.interpolates:
        if run.point:
            known = tunable(_resolve(_at(arm.node, run))[0])
            tuned = tuple(setting for setting in run.point if setting.key in known)
        config, values, claims, hidden = _resolve(_at(arm.node, run, tuned))
    else:
        # Resolving takes milliseconds, and the runs of the arm differ in a few numbers.
        config, values, claims, hidden = _resolve_arm(loader, config_name, common, run.overrides)
        values = copy.deepcopy(values)
        if run.lr is not None:
            config = replace(config, optimizer=replace(config.optimizer, lr=run.lr))
            values["optimizer"]["lr"] = run.lr
        if run.seed is not None:
            config = replace(config, settings=replace(config.settings, seed=run.seed))
            values["seed"] = run.seed
        if run.fold is not None:
            config = replace(config, settings=replace(config.settings, fold=run.fold))
            values["fold"] = run.fold
        tuned = tuple(setting for setting in run.point if setting.key in tunable(config))
        config = applied(config, values, tuned)
    run, name = replace(run, arm=run.arm or arm.head), run.name(arm.common)
    return Member(run, name, config, values, claims, arm.head, hidden, tuned)


@dataclass(frozen=True)
class _Arm:
    """A composed arm before its interpolations are resolved.

    Attributes:
        node: the configuration.
        head: the option chosen in the config group `head`.
        interpolates: whether a value refers to another one, which may differ between the runs of the arm.
        common: the overrides that it shares with other arms.
    """

    node: DictConfig
    head: str
    interpolates: bool
    common: tuple[str, ...]


# Composing takes Hydra tens of milliseconds. Another loader may read other files.
@cache
def _compose_arm(loader: ConfigLoader, config_name: str, common: tuple[str, ...], overrides: tuple[str, ...]) -> _Arm:
    # As a head of the user's own is compared with others, only the arms that have it take what is meant for it.
    shared = tuple(override for override in common if not OF_OWN_HEAD.match(override))
    try:
        node = loader.load_configuration(config_name, [*shared, *overrides], run_mode=RunMode.RUN)
        is_swept = any(override.startswith("head=") for override in overrides)
        if shared != common and (node.head.get("name") == "factory" or not is_swept):
            shared, node = common, loader.load_configuration(config_name, [*common, *overrides], run_mode=RunMode.RUN)
    except HydraException as error:
        if overrides:
            error.add_note(f"the arm {','.join(overrides)}")
        raise
    app = OmegaConf.masked_copy(node, [str(key) for key in node if key not in ("hydra", "pack")])
    interpolates = "${" in NAME_OF_A_GROUP.sub("", repr(OmegaConf.to_container(app)))
    return _Arm(app, node.hydra.runtime.choices["head"], interpolates, shared)


Resolved = tuple[Config, dict[str, Any], dict[str, Any], dict[str, Any]]


@cache
def _resolve_arm(
    loader: ConfigLoader, config_name: str, common: tuple[str, ...], overrides: tuple[str, ...]
) -> Resolved:
    return _resolve(_compose_arm(loader, config_name, common, overrides).node)


def _at(node: DictConfig, run: Run, tuned: Sequence[Setting] = ()) -> DictConfig:
    """Return the configuration of an arm at the trial, the seed and the fold of a run."""
    node = copy.deepcopy(node)
    numbers = {LR: run.lr, SEED: run.seed, FOLD: run.fold} | {setting.key: setting.value for setting in tuned}
    for key, value in numbers.items():
        if value is not None:
            OmegaConf.update(node, key, value, force_add=True)
    return node


def _resolve(node: DictConfig) -> Resolved:
    """Check a configuration; return it, its plain values, those of the study's claims, and the hidden ones."""
    config = parse(node)
    values, hidden = recorded_values(node)
    claims = values.pop("claims", None) or {}
    require(isinstance(claims, dict), "claims", claims, "must be a group of named values")
    return config, values, claims, {key: value for key, value in hidden.items() if not key.startswith("claims.")}
