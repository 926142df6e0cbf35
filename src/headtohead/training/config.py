"""The configuration of one run, checked: types and ranges here, values in configs/."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from headtohead.late import torch
from headtohead.options import ConfigError, build, build_named, nearest, require, unresolved
from headtohead.training.datasets import DATASETS, ood_dataset
from headtohead.training.examples import Dataset
from headtohead.training.heads import HEADS, Head
from headtohead.training.heads import Factory as HeadFactory
from headtohead.training.models import MODELS, Model
from headtohead.training.optimizers import OPTIMIZERS, Optimizer

# The type of the weights for each precision.
PRECISIONS = {"float32": "float32", "float64": "float64", "bfloat16": "float32"}
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
PRIMARY_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "nll")
SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True)
class Training:
    """Options of the training loop.

    Options:
        epochs: number of passes over the training split.
        batch_size: number of examples per step; the last, incomplete batch of an epoch is left out.
        schedule: schedule of the learning rate after warm-up: constant, or cosine or linear to zero.
        warmup: share of the steps in which the learning rate rises linearly.
        points: number of steps that are logged.
        evaluations: number of logged steps that also evaluate the validation split.
        zero_classifier: whether the classifier's weights start at zero, so that the first logits are its bias.
    """

    epochs: int
    batch_size: int
    schedule: str
    warmup: float
    points: int
    evaluations: int
    zero_classifier: bool

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "points", "evaluations"):
            value = getattr(self, key)
            require(value > 0, f"training.{key}", value, "must be above 0")
        require(
            self.evaluations <= self.points,
            "training.evaluations",
            self.evaluations,
            f"must not be above training.points={self.points}",
        )
        require(self.schedule in SCHEDULES, "training.schedule", self.schedule, nearest(self.schedule, SCHEDULES))
        require(0 <= self.warmup < 1, "training.warmup", self.warmup, "accepted: [0, 1)")


@dataclass(frozen=True)
class Protocol:
    """Protocol of a study that tunes settings.

    Options:
        confirm_seeds: number of fresh seeds for each arm's best trial; None takes as many as the search has, 0 omits
            the confirm phase.
        ladder: labels of arms in order. The report splits the difference between the first and the last arm into the
            steps between neighbours.
        until_decided: whether to add fresh seeds, twice as many at each look, until every primary claim is decided or
            no number of seeds would decide it.
        max_seeds: most fresh seeds for that; None without it.
        metric: primary metric of the study. On validation it chooses each arm's trial, on test it compares the arms.
        trials: number of points that are tried where settings are tuned by ranges, the same for all arms.
        search: "full" trains every trial with all seeds of the search. "halving" trains all trials with one seed, and
            the better half of each arm's trials with as many further seeds as there were, again and again.
    """

    confirm_seeds: int | None
    ladder: tuple[str, ...] | None
    until_decided: bool
    max_seeds: int | None
    metric: str
    trials: int
    search: Literal["full", "halving"]

    def __post_init__(self) -> None:
        seeds = self.confirm_seeds
        require(seeds is None or 0 <= seeds <= 10**6, "protocol.confirm_seeds", seeds, "accepted: 0 to 1,000,000")
        most = self.max_seeds
        accepted = "the most fresh seeds, with protocol.until_decided=true; null without it"
        require(self.until_decided == (most is not None), "protocol.max_seeds", most, accepted)
        require(most is None or 2 <= most <= 10**6, "protocol.max_seeds", most, "accepted: 2 to 1,000,000")
        rungs = self.ladder
        valid = rungs is None or len(set(rungs)) == len(rungs) > 1
        require(valid, "protocol.ladder", list(rungs or ()), "null, or two or more arms, none of them twice")
        require(self.metric in PRIMARY_METRICS, "protocol.metric", self.metric, nearest(self.metric, PRIMARY_METRICS))
        require(1 <= self.trials <= 10**6, "protocol.trials", self.trials, "accepted: 1 to 1,000,000")


@dataclass(frozen=True)
class Settings:
    """Settings that belong to no group.

    Options:
        name: name of the study and of its folder in outputs/.
        seed: seed of the splits, the initial weights, the order of batches and the augmentation.
        fold: fold that is the test split, from 0 on; 0 for a dataset without folds.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps"; see `resolve_device`.
        precision: "float32", "float64", or "bfloat16" for autocast with float32 weights.
        pack_size: largest number of runs that are trained at once; None lets the planner choose.
        checkpoint_s: shortest time between two checkpoints of a pack, in seconds.
        accept_drift: whether a study continues if its configuration, code or libraries have changed since its runs.
    """

    name: str
    seed: int
    fold: int
    device: str
    precision: str
    pack_size: int | None
    checkpoint_s: float
    accept_drift: bool

    def __post_init__(self) -> None:
        plain = re.fullmatch(r"[\w=,+-][\w=,+.-]*", self.name) is not None
        require(plain, "name", self.name, "letters, digits and any of _ = , + . - (not first)")
        require(0 <= self.seed < 2**63, "seed", self.seed, "must be 0 or more and below 2**63")
        # A file system takes no more.
        require(len(self.name.encode()) <= 255, "name", self.name, "at most 255 bytes")
        require(self.precision in PRECISIONS, "precision", self.precision, nearest(self.precision, PRECISIONS))
        require(self.pack_size is None or self.pack_size > 0, "pack_size", self.pack_size, "must be above 0")
        require(self.checkpoint_s >= 0, "checkpoint_s", self.checkpoint_s, "must not be below 0")
        kind = re.sub(r":\d+$", "", self.device)
        require(kind in DEVICES, "device", self.device, f"accepted: {', '.join(DEVICES)}, or one of several as cuda:1")


@dataclass(frozen=True)
class Config:
    """The resolved and checked configuration of one run."""

    settings: Settings
    protocol: Protocol
    dataset: Dataset
    model: Model
    head: Head
    optimizer: Optimizer
    training: Training

    def __post_init__(self) -> None:
        folds = getattr(self.dataset, "folds", None)
        accepted = (
            "0, as the dataset has no folds" if folds is None else f"from 0 to {folds - 1}, as dataset.folds={folds}"
        )
        require(0 <= self.settings.fold < (folds or 1), "fold", self.settings.fold, accepted)
        zero = self.training.zero_classifier
        classifier = self.head.classifier
        accepted = f"must be false: {classifier} cannot be trained from weights of zero"
        require(not zero or classifier.may_start_at_zero, "training.zero_classifier", zero, accepted)


REGISTRIES = {"dataset": DATASETS, "model": MODELS, "head": HEADS | {"factory": HeadFactory}, "optimizer": OPTIMIZERS}


def parse(node: DictConfig) -> Config:
    """Check the configuration of one run that Hydra has composed.

    Raises:
        ConfigError: a value is missing, unknown or not accepted.
    """
    try:
        node = OmegaConf.create(cast(dict[str, Any], OmegaConf.to_container(node, resolve=True)))
    except InterpolationResolutionError as error:
        raise ConfigError(unresolved(error, _keys(OmegaConf.to_container(node)))) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    groups = {*REGISTRIES, "training", "protocol"}
    for group in sorted(groups - set(node)):
        raise ConfigError(f"{group}: missing; the configuration needs this group")
    settings = build(
        Settings, OmegaConf.masked_copy(node, [str(key) for key in node if key not in {*groups, "claims"}]), ""
    )
    named: dict[str, Any] = {group: build_named(registry, node[group], group) for group, registry in REGISTRIES.items()}
    if isinstance(named["head"], HeadFactory):
        named["head"] = named["head"].head()
    ood_dataset(named["dataset"])  # refuses names that it does not know
    return Config(
        settings=settings,
        protocol=build(Protocol, node.protocol, "protocol"),
        training=build(Training, node.training, "training"),
        **named,
    )


def _keys(node: Any, prefix: str = "") -> list[str]:
    """List the dotted keys of nested values, but for those of the claims."""
    if not isinstance(node, dict):
        return [prefix.removesuffix(".")]
    return [key for name, value in node.items() if name != "claims" for key in _keys(value, f"{prefix}{name}.")]


def architecture_key(config: Config) -> str:
    """Return a key of the network's architecture: equal keys mean equal layers, inputs and classes.

    Numbers in which the runs of a pack may differ, such as the rate of dropout, do not count.
    """
    model, classifier = config.model.pack_key, config.head.classifier.pack_key
    return f"{model} with {classifier} for {replace(config.dataset, label_noise=0.0)}"


def resolve_device(device: str) -> torch.device:
    """Return the device with this name; "auto" is a GPU if there is one.

    Raises:
        ConfigError: this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={device}: not usable here ({reason}); try auto or cpu") from None
    return torch.device(device)
