"""A study: plans it, hands its packs to Hydra's launcher, and follows the protocol of search and confirm."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from headtohead import data, record
from headtohead.compose import Member, compose
from headtohead.config import Config, resolve_device
from headtohead.data import Dataset
from headtohead.models import checked_build
from headtohead.packing import is_stackable
from headtohead.plan import Axes, confirm, into_packs, read_axes, search
from headtohead.statistics import best_learning_rates
from headtohead.training import may_share_a_pack
from headtohead.worker import environment, run_pack, study_folder

# The most runs per pack: on the CPU a pack should fit the cache, on a GPU it should fill the device.
PACK_SIZES = {"cpu": 16, "cuda": 64, "mps": 64}


def run_study(
    arguments: Sequence[str], config: DictConfig, hydra_context: HydraContext
) -> tuple[Path, list[tuple[str, str]]]:
    """Train what a command asks for: plan, packs, search and confirm, records.

    A sweep over learning rates is searched and confirmed; any other sweep is simply run.

    Args:
        arguments: the command's overrides, without Hydra's own.
        config: what Hydra composed for the sweep.

    Returns:
        The study's folder, and each run that failed with its reason.

    Raises:
        ConfigError: what was asked cannot be done; nothing has been written.
    """
    axes = read_axes(arguments, config.hydra.sweeper.params)
    config_name = config.hydra.job.config_name
    members = [compose(config_name, axes.common, run) for run in search(axes)]
    launch = partial(_launch, stackable=_check(members), axes=axes, config=config, hydra_context=hydra_context)
    tuned = len(axes.lrs) > 1
    seeds = sorted({member.config.settings.seed for member in members})
    wanted = members[0].config.protocol.confirm_seeds
    fresh = [seeds[-1] + 1 + i for i in range(len(seeds) if wanted is None else wanted)] if tuned else []

    folder = study_folder(members[0])
    folder.mkdir(parents=True, exist_ok=True)
    asked = _description(members, axes, seeds, fresh)
    phase = "search" if tuned else "run"
    asked["runs"][phase] = [member.run.name(axes.common) for member in members]
    record.write_atomically(folder / "study.json", record.to_json(asked))
    failures = launch(members, phase)
    if fresh:
        searched = record.write_results(folder)
        best = best_learning_rates(searched[searched.run.isin(asked["runs"]["search"])])
        arms = {member.run.arm: member.run.overrides for member in members}
        members = [compose(config_name, axes.common, run) for run in confirm(arms, best, fresh)]
        asked["runs"]["confirm"] = [member.run.name(axes.common) for member in members]
        record.write_atomically(folder / "study.json", record.to_json(asked))
        failures += launch(members, "confirm")
    record.write_results(folder)
    return folder, failures


@dataclass(frozen=True)
class Packing:
    """How runs are packed.

    Attributes:
        size: the most runs per pack.
        chosen_by: "user" or "planner".
        threads: of the CPU per pack; None takes all.
    """

    size: int
    chosen_by: str
    threads: int | None


def choose_packing(config: Config, stackable: bool) -> Packing:
    """What pays for a configuration: convolutions on the CPU are faster one run at a time.

    The operations of stacked packs are so short that threads cost more than they bring, and on a busy
    machine a multiple of it.
    """
    device = resolve_device(config.settings.device).type
    threads = 1 if stackable and device == "cpu" else None
    if config.settings.pack_size is not None:
        return Packing(config.settings.pack_size, "user", threads)
    pays = stackable or device != "cpu"
    return Packing(PACK_SIZES.get(device, 16) if pays else 1, "planner", threads)


def pack_override(members: Sequence[Member], phase: str, packing: Packing) -> str:
    """The pack as an override in Hydra's grammar, which `worker.run_pack` reads."""
    runs = [
        "[{},[{}],{},{}]".format(
            _quote(member.run.arm),
            ",".join(_quote(override) for override in member.run.overrides),
            _null(member.run.lr),
            _null(member.run.seed),
        )
        for member in members
    ]
    how = f"phase:{phase},chosen_by:{packing.chosen_by},threads:{_null(packing.threads)}"
    return f"+pack={{{how},runs:[{','.join(runs)}]}}"


def _launch(
    members: Sequence[Member],
    phase: str,
    stackable: Mapping[str, bool],
    axes: Axes,
    config: DictConfig,
    hydra_context: HydraContext,
) -> list[tuple[str, str]]:
    """Train the runs as packs on Hydra's launcher; each run that failed, with its reason."""
    packings = [choose_packing(member.config, stackable[_architecture(member.config)]) for member in members]
    packs = into_packs(
        range(len(members)),
        key=lambda index: (may_share_a_pack(members[index].config), packings[index]),
        seed=lambda index: members[index].config.settings.seed,
        size=lambda index: packings[index].size,
    )
    jobs = [
        [*axes.common, pack_override([members[index] for index in pack], phase, packings[pack[0]])] for pack in packs
    ]
    with Bar(phase, len(members)) as bar:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=partial(run_pack, advance=bar.add), config=config
        )
        results = launcher.launch(jobs, initial_job_idx=0)
    failures = []
    for pack, result in zip(packs, results, strict=True):
        if result.status != JobStatus.COMPLETED:
            error = result._return_value
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            failures += [(members[index].run.name(axes.common), reason) for index in pack]
    return failures


class Bar(Progress):
    """Progress over the runs of a phase. It belongs to this process: a pickled copy shows nothing."""

    def __init__(self, phase: str = "", runs: int = 0):
        count = "{task.completed:.0f} of {task.total:.0f} runs"
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn(count), TimeRemainingColumn())
        super().__init__(*columns, console=Console(stderr=True), disable=not phase)
        self.phase = self.add_task(phase, total=runs)

    def __reduce__(self):
        return Bar, ()

    def add(self, runs: float) -> None:
        # Rounded, so that shares of a pack add up to its runs.
        self.update(self.phase, completed=round(self.tasks[0].completed + runs, 6))


def _check(members: Sequence[Member]) -> dict[str, bool]:
    """Refuse what the loop could not train; for each architecture, whether it can be stacked."""
    stackable: dict[str, bool] = {}
    splits: set[Dataset] = set()
    for config in [member.config for member in members]:
        pool = data.load(config.dataset, resolve_device(config.settings.device))
        if config.dataset not in splits:
            data.view(pool, config.dataset, config.settings.seed)
            splits.add(config.dataset)
        key = _architecture(config)
        if key not in stackable:
            stackable[key] = is_stackable(checked_build(config.model, pool.input_shape, pool.num_classes))
    return stackable


def _architecture(config: Config) -> str:
    """A key of the network: the model and, through the dataset, its inputs and classes."""
    return f"{config.model} for {replace(config.dataset, label_noise=0.0)}"


def _description(members: Sequence[Member], axes: Axes, seeds: list[int], fresh: list[int]) -> dict[str, Any]:
    """study.json: what was asked."""
    config = members[0].config
    return {
        "name": config.settings.name,
        "command": ["headtohead", *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "arms": {member.run.arm: list(member.run.overrides) for member in members},
        "runs": {},
        "grid": {"optimizer.lr": sorted(axes.lrs)},
        "protocol": {"search_seeds": seeds, "confirm_seeds": fresh, "selected_by": "val_accuracy"},
        "common": list(axes.common),
        "environment": environment(str(resolve_device(config.settings.device))),
    }


def _null(value: float | None) -> str:
    return "null" if value is None else repr(value)


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
