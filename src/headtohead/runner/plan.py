"""The plan of a study: its runs and how they are trained, checked before anything is written."""

from __future__ import annotations

import copy
import math
import os
import re
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from headtohead.analysis.claims import applicable
from headtohead.analysis.pairing import DERIVED, OF_GRID, OF_SPACE
from headtohead.options import ConfigError, nearest, require
from headtohead.record.files import differences
from headtohead.record.run import Phase
from headtohead.record.study import Claim, DataSummary, StudyProtocol, StudyRecord, read_claims
from headtohead.runner.axes import LR, MOST_RUNS, Axes, Run, confirm, search
from headtohead.runner.drift import previous_record, refuse_drift, shared_settings
from headtohead.runner.packs import Packing, choose_packing
from headtohead.runner.process import environment, import_from_here
from headtohead.runner.resolve import NAME_OF_A_GROUP, OF_OWN_HEAD, Member, compose
from headtohead.runner.sources import Contents, import_dataset, opened_files, sources_by_arm, watched_files
from headtohead.runner.space import Point, Setting, check_space, points
from headtohead.training import data
from headtohead.training.class_counts import class_counts, seen_test_examples
from headtohead.training.config import Config, Protocol, architecture_key, resolve_device
from headtohead.training.datasets import ood_dataset
from headtohead.training.examples import Dataset
from headtohead.training.metrics import OF_A_SPLIT, recorded_metrics
from headtohead.training.models import checked_build, require_batches


@dataclass(frozen=True)
class StudyPlan:
    """A study that can be trained.

    Attributes:
        folder: the folder of the study, relative to the working directory.
        axes: the axes of the command line.
        points: the points of its space; empty where it tunes no range.
        members: the runs of the first phase.
        packings: for each arm the packing of its runs.
        record: `study.json` as it will be before the first run.
        config: the configuration that Hydra composed for the sweep.
        context: the context by which Hydra makes launchers.
    """

    folder: Path
    axes: Axes
    points: tuple[Point, ...]
    members: tuple[Member, ...]
    packings: dict[str, Packing]
    record: StudyRecord
    config: DictConfig
    context: HydraContext

    @property
    def tuned(self) -> bool:
        """Whether trials are searched and confirmed; the runs of any other study are simply trained."""
        return self.axes.is_tuned

    def compose(self, runs: Sequence[Run], phase: Phase) -> tuple[Member, ...]:
        """Compose runs of the study with their configurations, each in its fold or those that the phase needs."""
        return tuple(member.of_study(self.record.name) for member in _compose(self.config, self.axes, runs, phase))


def plan_study(axes: Axes, config: DictConfig, context: HydraContext) -> StudyPlan:
    """Plan a study and check that it can be trained; nothing is written.

    Args:
        axes: the axes of the command line.
        config: the configuration that Hydra composed for the sweep.
        context: the context by which Hydra makes launchers.

    Raises:
        ConfigError: the command asks for something that cannot be done, or the study's folder holds other runs.
    """
    import_from_here()
    opened: set[str] = set()
    with watched_files(opened):
        config, trials = _check_request(config, axes)
        swept = any(override.startswith("dataset=") for arm in axes.arms.values() for override in arm)
        print(f"loading {'the datasets' if swept else config.dataset.name}", flush=True)
        drawn = points(axes.space, trials)
        members = _compose(config, axes, search(axes, drawn), "search" if axes.is_tuned else "run")
    opened = {file for file in opened if not file.endswith((".yaml", ".yml"))}  # the configs
    members = tuple(member.of_study(config.name) for member in members)
    _refuse_differences_within_the_study(axes, members)
    packings = _choose_packings(members, opened)
    before = previous_record(members[0].study)
    record = _initial_record(axes, members, config, before)
    # A value may refer to the seed, and leave its range at a fresh one.
    asked = members[0].config.protocol
    fresh = confirmed_seeds(record.protocol.search_seeds, asked.max_seeds or len(record.protocol.confirm_seeds))
    first = {member.run.arm: member.trial for member in reversed(members)}
    _compose(config, axes, confirm(record.arms, first, fresh, axes, drawn), "confirm")
    record = _with_sources(record, members, opened, before)
    if not members[0].config.settings.accept_drift:
        refuse_drift(members, before, record)
    return StudyPlan(members[0].study, axes, drawn, members, packings, record, config, context)


def _check_request(config: DictConfig, axes: Axes) -> tuple[DictConfig, int]:
    """Refuse what cannot be trained, as far as neither the data nor torch are needed to tell.

    The first seed at each learning rate, and all seeds at the first, stand for the runs.

    Returns:
        The configuration with the name of the study, and the number of trials that are drawn from the space.
    """
    protocol = _check_space(config, axes)
    few = [replace(axes, seeds=axes.seeds[:1]), replace(axes, lrs=axes.lrs[:1])]
    runs = dict.fromkeys(
        replace(run, fold=fold) for part in few for run in search(part) for fold in axes.folds or [None]
    )
    members = [compose(config.hydra.job.config_name, axes.common, run) for run in runs]
    config = copy.deepcopy(config)
    OmegaConf.update(config, "name", _study_name(config, members))
    members = [member.of_study(config.name) for member in members]
    _refuse_differences_within_the_study(axes, members)
    _check_places(config, members[0])
    _check_more_seeds(axes, protocol, len(_fresh_seeds(axes, members)))
    arms = {member.run.arm for member in members}
    for arm in protocol.ladder or ():
        require(arm in arms, "protocol.ladder", arm, f"no arm of the study; {nearest(arm, arms)}")
    for member in members:
        member.config.dataset.require_place()
        member.config.model.require_place()
    # Whether inputs are images, which have the more metrics, is known when they are read.
    _read_claims(members, {_kind(member.config.dataset, True) for member in members})
    return config, protocol.trials


def _check_more_seeds(axes: Axes, asked: Protocol, fewest: int) -> None:
    """Refuse to add seeds to a study that confirms nothing, or fewer seeds than it begins with."""
    if asked.until_decided:
        accepted = "accepted with tuned settings and protocol.confirm_seeds other than 0"
        require(axes.is_tuned and fewest, "protocol.until_decided", "true", accepted)
        accepted = f"{fewest} or more, the seeds of the first look"
        require((asked.max_seeds or 0) >= fewest, "protocol.max_seeds", asked.max_seeds, accepted)


def _check_space(config: DictConfig, axes: Axes) -> Protocol:
    """Refuse a space with an end that an arm which has the setting cannot take; return the protocol of the study."""
    name = config.hydra.job.config_name
    plain = [compose(name, axes.common, run) for run in search(replace(axes, lrs=axes.lrs[:1], seeds=axes.seeds[:1]))]
    protocol = plain[0].config.protocol
    _check_search(axes, protocol)
    if not axes.space:
        return protocol
    check_space(axes.space, protocol.trials, [(member.config, member.values) for member in plain])
    count = len(plain) * protocol.trials * max(1, len(axes.lrs)) * max(1, len(axes.seeds))
    require(count <= MOST_RUNS, "protocol.trials", protocol.trials, f"{count} runs; accepted: at most {MOST_RUNS}")
    for member, (key, of), end in product(plain, axes.space.items(), ("low", "high")):
        try:
            compose(name, axes.common, replace(member.run, point=(Setting(key, getattr(of, end)),)))
        except ConfigError as error:
            raise ConfigError(f"{key}={of.override}: its {end} end is not accepted: {error}") from None
    return protocol


def _check_search(axes: Axes, protocol: Protocol) -> None:
    """Refuse options of a search that the command does not make."""
    if not axes.space:
        for override in axes.common:
            ranges = "accepted with a range, such as optimizer.lr='tag(log,interval(1e-3,1))'"
            key, _, value = override.partition("=")
            require(key != "protocol.trials", key, value, ranges)
    if protocol.search == "halving":
        require(axes.is_tuned, "protocol.search", "halving", "accepted with tuned settings")
        accepted = "accepted with two seeds or more, as trials are dropped after each doubling of the seeds"
        require(len(axes.seeds) > 1, "protocol.search", "halving", accepted)


def _compose(config: DictConfig, axes: Axes, runs: Sequence[Run], phase: Phase) -> tuple[Member, ...]:
    name, members = config.hydra.job.config_name, []
    for run in runs:
        if run.fold is not None:
            folds = [run.fold]
        else:
            folds = axes.folds or _folds(compose(name, axes.common, run).config, axes)
        # The search tests nothing, so that one fold of each seed is enough.
        folds = folds[:1] if phase == "search" else folds
        members += [compose(name, axes.common, replace(run, fold=fold)) for fold in folds]
    return tuple(members)


def _folds(config: Config, axes: Axes) -> Sequence[int | None]:
    """Return the folds that a command trains where it names none: all in a sweep, else the configured one."""
    folds = getattr(config.dataset, "folds", None)
    if folds is None or axes.is_single or config.settings.fold:
        return [None]
    data.load(config.dataset, resolve_device(config.settings.device))  # refuses more folds than examples
    return range(folds)


def _study_name(config: DictConfig, members: Sequence[Member]) -> str:
    """Return the name of the study; where it is made of names in swept groups, such as the model, of all of them.

    It is resolved here alone: to a worker the time, the environment or a swept key may give another name.
    """
    names = {member.config.settings.name for member in members}
    if len(names) == 1:
        return names.pop()
    expression = str(cast(dict[str, Any], OmegaConf.to_container(config))["name"])

    def join(interpolation: re.Match[str]) -> str:
        return "_".join(dict.fromkeys(str(member.values[interpolation[1]]["name"]) for member in members))

    name = NAME_OF_A_GROUP.sub(join, expression)
    require("${" not in name, "name", expression, "differs between the runs; give one name for the study")
    return name


def _refuse_differences_within_the_study(axes: Axes, members: Sequence[Member]) -> None:
    """Refuse values of a study, or of an arm, that differ between its runs; and arms of equal runs."""
    of_study = [{"claims": member.claims, "protocol": member.values["protocol"]} for member in members]
    for values in of_study:
        for line in differences(of_study[0], values) if values != of_study[0] else []:
            raise ConfigError(f"{line} in another run: one value holds for a study, so it may not refer to a swept key")
    has_own_head = any(member.values["head"]["name"] == "factory" for member in members)
    for override in filter(OF_OWN_HEAD.match, axes.common):
        if not has_own_head:
            raise ConfigError(f"{override}: no arm has a head of your own; accepted with head=factory among the heads")
    arms: dict[str, list[Config]] = {}
    for member in members:
        arms.setdefault(member.run.arm, []).append(member.config)
    known: dict[str, str] = {}
    for arm, configs in arms.items():
        rates = {config.optimizer.lr for config in configs}
        tuned = axes.lrs or LR in axes.space
        require(tuned or len(rates) == 1, LR, sorted(rates), "differs between the seeds of an arm; sweep it instead")
        # As text 1 and 1.0 differ, which they may be to a factory.
        # Heads of the user's own may differ in the module alone.
        same = known.setdefault(repr([(type(config.head), config) for config in configs]), arm)
        if same != arm:
            raise ConfigError(f"{arm}: trains the same runs as {same}; leave one of them out")


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
    from headtohead.training.features import trained_part
    from headtohead.training.packing import is_stackable

    networks: dict[tuple[str, int], tuple[bool, int]] = {}
    packings: dict[str, Packing] = {}
    views: dict[Dataset, data.View] = {}
    for member in members:
        config = member.config
        import_dataset(config.dataset, opened)
        pool = data.load(config.dataset, resolve_device(config.settings.device))
        if config.dataset not in views:
            views[config.dataset] = data.view(pool, config.dataset, config.settings.seed, config.settings.fold)
            _check_ood(config.dataset, pool)
            data.verify(pool)
        view = views[config.dataset]
        batch = min(config.training.batch_size, len(view.train))
        key = architecture_key(config), batch
        if key not in networks:
            shape = pool.input_shape, pool.num_classes
            with watched_files(opened):
                module = checked_build(config.model, config.head, *shape)
            require_batches(config.model, module, *shape, batch, min(len(view.val), len(view.test)))
            trained = trained_part(config.model, config.dataset, module)
            parameters = sum(value.numel() for value in trained.parameters() if value.requires_grad)
            networks[key] = is_stackable(trained), parameters
        inputs = math.prod(pool.input_shape)
        packings[member.run.arm] = choose_packing(config, *networks[key], inputs, pool.num_classes)
    return packings


def _check_ood(dataset: Dataset, pool: data.Pool) -> None:
    ood = ood_dataset(dataset)
    if ood is not None:
        shape = data.load(ood, pool.device).input_shape
        accepted = f"inputs of shape {pool.input_shape}, not {shape}"
        require(shape == pool.input_shape, "dataset.ood", dataset.ood, accepted)


def _seeds(members: Sequence[Member]) -> list[int]:
    return sorted({member.config.settings.seed for member in members})


def _fresh_seeds(axes: Axes, members: Sequence[Member]) -> list[int]:
    """Return the seeds of the confirm phase that follow those of the search; none where there is no search."""
    seeds, count = _seeds(members), members[0].config.protocol.confirm_seeds
    return confirmed_seeds(seeds, len(seeds) if count is None else count) if axes.is_tuned else []


def _initial_record(
    axes: Axes, members: Sequence[Member], config: DictConfig, before: StudyRecord | None
) -> StudyRecord:
    """Return study.json as it will be before the first run; `before` is that of an earlier command."""
    from headtohead.runner.hparams import hparam_columns

    first = members[0].config
    device = resolve_device(first.settings.device)
    seeds, fresh = _seeds(members), _fresh_seeds(axes, members)
    phases: tuple[Phase, ...] = ("search", "confirm")[: 1 + bool(fresh)] if axes.is_tuned else ("run",)
    pools = {member.run.arm: (member.config.dataset, data.load(member.config.dataset, device)) for member in members}
    classes = {arm: pool.classes for arm, (_, pool) in pools.items()}
    kinds = {_kind(dataset, pool.is_image) for dataset, pool in pools.values()}
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
            selected_by=f"val_{first.protocol.metric}",
            extended={"below": 0, "above": 0},
            ladder=first.protocol.ladder or (),
            looks=looks(before.protocol.looks if before else (), len(fresh or seeds)),
            search=first.protocol.search,
            trials=first.protocol.trials if axes.space else 0,
        ),
        runs={},
        hparams=hparam_columns(members, phases, fresh),
        claims=applicable(_read_claims(members, kinds), bool(axes.space)),
        environment=environment(str(device)),
        space=axes.space,
    )


def looks(before: tuple[int, ...], seeds: int) -> tuple[int, ...]:
    """Return the looks of a study, with those before; there is a new one where seeds were added."""
    return before if before and seeds <= before[-1] else (*before, seeds)


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
                seen=seen_test_examples(pool),
                folds=getattr(dataset, "folds", None),
            )
        )
    return tuple(summaries)


def _kind(dataset: Dataset, is_image: bool) -> tuple[bool, bool, bool]:
    """Return what decides which metrics the runs of a dataset have, as `recorded_metrics` takes it."""
    return is_image, dataset.ood is not None, bool(dataset.unknown_classes)


def _read_claims(members: Sequence[Member], kinds: Set[tuple[bool, bool, bool]]) -> dict[str, Claim]:
    """Check the claims of a study; refuse one about a metric that no run records or a head that does not exist.

    Args:
        kinds: of its datasets, whether they hold images, name OOD inputs, and keep classes out of training.
    """
    claims = _about_the_primary(read_claims(members[0].claims), members[0].config.protocol.metric)
    loader = GlobalHydra.instance().config_loader()
    heads = {*loader.get_group_options("head"), *(member.head for member in members)}
    for name, claim in claims.items():
        known = {metric for kind in kinds for metric in recorded_metrics(*kind, test=claim.phase == "confirm")}
        known |= DERIVED.keys() - (OF_GRID | OF_SPACE if claim.phase == "confirm" else set())
        recorded = f"not recorded by a run of this study in the phase {claim.phase}; {nearest(claim.metric, known)}"
        require(claim.metric in known, f"claims.{name}.metric", claim.metric, recorded)
        require(claim.favours in heads, f"claims.{name}.favours", claim.favours, nearest(claim.favours, heads))
        criteria = [f"val_{metric}" for metric in OF_A_SPLIT]
        chosen = claim.selected_by
        require(chosen in [None, *criteria], f"claims.{name}.selected_by", chosen, nearest(chosen, criteria))
    return claims


def _about_the_primary(claims: dict[str, Claim], metric: str) -> dict[str, Claim]:
    """Return the claims of a study; where none is about its primary metric, those on accuracy are made about it."""
    if any(claim.metric == f"test_{metric}" for claim in claims.values()):
        return claims
    restated = {}
    for name, claim in claims.items():
        if claim.metric == "test_accuracy":
            name = name.replace("accuracy", metric)
            sentence = claim.sentence.replace("accuracy", metric.replace("_", " ").replace("f1", "F1"))
            chosen = claim.selected_by and f"val_{metric}"
            claim = replace(claim, sentence=sentence, metric=f"test_{metric}", selected_by=chosen)
        restated[name] = claim
    return restated


def confirmed_seeds(searched: Sequence[int], count: int) -> list[int]:
    """Return the fresh seeds of the confirm phase, which follow those of the search, ascending."""
    return [searched[-1] + 1 + index for index in range(count)]
