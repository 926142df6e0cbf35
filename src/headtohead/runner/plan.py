"""The plan of a study: its runs and how they are trained, checked before anything is written."""

import os
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from headtohead.options import require
from headtohead.record.run import Phase
from headtohead.record.study import DataSummary, StudyProtocol, StudyRecord, read_claims
from headtohead.runner.axes import LR, Axes, Run, read_axes, search
from headtohead.runner.drift import previous_record, refuse_drift, shared_settings
from headtohead.runner.hparams import hparam_columns
from headtohead.runner.packs import Packing, choose_packing
from headtohead.runner.process import environment
from headtohead.runner.resolve import Member, compose
from headtohead.runner.sources import Contents, opened_files, sources_by_arm, watched_files
from headtohead.training import data
from headtohead.training.class_counts import class_counts
from headtohead.training.config import architecture_key, resolve_device
from headtohead.training.data import Dataset
from headtohead.training.evaluation import ood_dataset
from headtohead.training.models import checked_build, require_batches
from headtohead.training.packing import is_stackable


@dataclass(frozen=True)
class StudyPlan:
    """A study that can be trained.

    Attributes:
        folder: the folder of the study, relative to the working directory.
        axes: the axes of the command line.
        members: the runs of the first phase.
        packings: for each arm the packing of its runs.
        record: `study.json` as it will be before the first run.
        config: the configuration that Hydra composed for the sweep.
        context: the context by which Hydra makes launchers.
    """

    folder: Path
    axes: Axes
    members: tuple[Member, ...]
    packings: dict[str, Packing]
    record: StudyRecord
    config: DictConfig
    context: HydraContext

    @property
    def tuned(self) -> bool:
        """Whether learning rates are searched and confirmed; the runs of any other study are simply trained."""
        return _is_tuned(self.axes)

    def compose(self, runs: Sequence[Run]) -> tuple[Member, ...]:
        """Compose runs of the study with their configurations."""
        return _compose(self.config, self.axes, runs)


def plan_study(arguments: Sequence[str], config: DictConfig, context: HydraContext) -> StudyPlan:
    """Plan a study and check that it can be trained; nothing is written.

    Args:
        arguments: the overrides of the command line, without Hydra's own.
        config: the configuration that Hydra composed for the sweep.
        context: the context by which Hydra makes launchers.

    Raises:
        ConfigError: the command asks for something that cannot be done, or the study's folder holds other runs.
    """
    axes = read_axes(arguments, config.hydra.sweeper.params)
    members = _compose(config, axes, search(axes))
    _check_places(config, members[0])
    opened: set[str] = set()
    packings = _choose_packings(members, opened)
    before = previous_record(members[0].study)
    record = _with_sources(_initial_record(axes, members, config), members, opened, before)
    if not members[0].config.settings.accept_drift:
        refuse_drift(members, before, record)
    return StudyPlan(members[0].study, axes, members, packings, record, config, context)


def _is_tuned(axes: Axes) -> bool:
    return len(axes.lrs) > 1


def _compose(config: DictConfig, axes: Axes, runs: Sequence[Run]) -> tuple[Member, ...]:
    return tuple(compose(config.hydra.job.config_name, axes.common, run) for run in runs)


def _check_places(config: DictConfig, member: Member) -> None:
    """Refuse other folders than that of the study: Hydra would make them."""
    places = {"sweep.dir": [str(member.study)], "sweep.subdir": [".", os.getcwd()], "output_subdir": [None]}
    for key, accepted in places.items():
        place = OmegaConf.select(config.hydra, key)
        require(place in accepted, f"hydra.{key}", place, "cannot be chosen; name= names the folder in outputs/")


def _choose_packings(members: Sequence[Member], opened: set[str]) -> dict[str, Packing]:
    """Choose the packing of each arm; refuse data and networks that the loop could not train.

    Args:
        opened: is extended by the files that networks read while they are built.
    """
    stackable: dict[tuple[str, int], bool] = {}
    packings: dict[str, Packing] = {}
    views: dict[Dataset, data.View] = {}
    for member in members:
        config = member.config
        pool = data.load(config.dataset, resolve_device(config.settings.device))
        if config.dataset not in views:
            views[config.dataset] = data.view(pool, config.dataset, config.settings.seed)
            _check_ood(config.dataset, pool)
            data.verify(pool)
        view = views[config.dataset]
        batch = min(config.training.batch_size, len(view.train))
        key = architecture_key(config), batch
        if key not in stackable:
            shape = pool.input_shape, pool.num_classes
            with watched_files(opened):
                module = checked_build(config.model, config.head, *shape)
            require_batches(config.model, module, *shape, batch, min(len(view.val), len(pool.test)))
            stackable[key] = is_stackable(module)
        packings[member.run.arm] = choose_packing(config, stackable[key], pool.num_classes)
    return packings


def _check_ood(dataset: Dataset, pool: data.Pool) -> None:
    ood = ood_dataset(dataset)
    if ood is not None:
        shape = data.load(ood, pool.device).input_shape
        accepted = f"inputs of shape {pool.input_shape}, not {shape}"
        require(shape == pool.input_shape, "dataset.ood", dataset.ood, accepted)


def _initial_record(axes: Axes, members: Sequence[Member], config: DictConfig) -> StudyRecord:
    """Return study.json as it will be before the first run."""
    first = members[0].config
    device = resolve_device(first.settings.device)
    seeds = sorted({member.config.settings.seed for member in members})
    fresh = _fresh_seeds(seeds, first.protocol.confirm_seeds) if _is_tuned(axes) else []
    phases: tuple[Phase, ...] = ("search", "confirm")[: 1 + bool(fresh)] if _is_tuned(axes) else ("run",)
    classes = {member.run.arm: data.load(member.config.dataset, device).classes for member in members}
    distinct = {*classes.values()}
    return StudyRecord(
        name=first.settings.name,
        command=("headtohead", *sys.argv[1:]),
        common=axes.common,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        num_classes={arm: len(names) for arm, names in classes.items()},
        # Arms on different datasets have no names of classes in common.
        classes=distinct.pop() if len(distinct) == 1 else (),
        arms={member.run.arm: member.run.overrides for member in members},
        grid={LR: tuple(sorted(axes.lrs))},
        protocol=StudyProtocol(
            search_seeds=tuple(seeds),
            confirm_seeds=tuple(fresh),
            selected_by="val_accuracy",
            extended={"below": 0, "above": 0},
            ladder=first.protocol.ladder or (),
        ),
        runs={},
        hparams=hparam_columns(members, phases, fresh),
        claims=read_claims({str(claim): node for claim, node in (config.get("claims") or {}).items()}),
        environment=environment(str(device)),
    )


def _with_sources(
    record: StudyRecord, members: Sequence[Member], opened: Set[str], before: StudyRecord | None
) -> StudyRecord:
    """Return study.json with what the results depend on beside the configuration.

    Args:
        opened: the files that the networks read while they were built.
        before: the study.json of an earlier command.
    """
    contents = Contents(before.contents if before else {})
    if before:
        # A network that was built before may keep what it has read.
        opened = opened | {file for sources in before.sources.values() for file in opened_files(sources)}
    sources = sources_by_arm(members, contents, opened)
    return replace(
        record,
        data=_data(members),
        settings=shared_settings(members),
        sources=sources,
        contents=contents.used,
    )


def _data(members: Sequence[Member]) -> tuple[DataSummary, ...]:
    """Return what each dataset of a study holds, with the arms that are trained on it."""
    arms: dict[Dataset, dict[str, Member]] = {}
    for member in members:
        arms.setdefault(member.config.dataset, {})[member.run.arm] = member
    summaries = []
    for dataset, of_dataset in arms.items():
        first = next(iter(of_dataset.values()))
        pool = data.load(dataset, resolve_device(first.config.settings.device))
        counts = class_counts(pool, dataset)
        summaries.append(
            DataSummary(
                arms=tuple(of_dataset),
                name=first.values["dataset"]["name"],
                classes=counts.classes,
                counts={"train": counts.train, "val": counts.val, "test": counts.test},
                skipped=tuple(f"{part.count} {part.reason}, such as {part.example}" for part in pool.skipped),
            )
        )
    return tuple(summaries)


def _fresh_seeds(seeds: Sequence[int], count: int | None) -> list[int]:
    """Return the seeds that follow those of the search: `count`, or as many where it is None."""
    return [seeds[-1] + 1 + index for index in range(len(seeds) if count is None else count)]
