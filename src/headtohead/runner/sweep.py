"""A study: plans it, hands its packs to Hydra's launcher, and follows the protocol of search and confirm."""

import copy
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from headtohead.analysis.claims import Claim
from headtohead.analysis.predictions import most_ambiguous, same_examples
from headtohead.analysis.statistics import best_learning_rates
from headtohead.analysis.study import read_study
from headtohead.options import ConfigError, build, nearest, require
from headtohead.record import events as board
from headtohead.record import run as record
from headtohead.report.dashboard import Live
from headtohead.runner.plan import Run, confirm, into_packs, named, next_rate, read_axes, search
from headtohead.runner.progress import GO_ON, Bar, Stop
from headtohead.runner.resolve import Member, compose
from headtohead.runner.worker import CHECKPOINTS, environment, has_ended, hyperparameters, run_pack, study_folder
from headtohead.training import data
from headtohead.training.config import Config, resolve_device
from headtohead.training.data import Dataset
from headtohead.training.evaluation import outliers
from headtohead.training.loop import may_share_a_pack
from headtohead.training.models import checked_build, with_head
from headtohead.training.packing import is_stackable

# The most runs per pack: on the CPU a pack should fit the cache, on a GPU it should fill the device.
PACK_SIZES = {"cpu": 16, "cuda": 64, "mps": 64}
# On the CPU the logits of a pack's batch, which the loss passes over many times, take at most so many numbers.
LOGITS = 2_000_000
# How often the grid of learning rates may grow on either side.
EXTENSIONS = 2
# How often runs are handed to the launcher that a killed process has left unfinished.
ATTEMPTS = 2
# Differences that a refusal shows.
SHOWN = 3
# Test examples that a report shows.
EXAMPLES = 8
# Columns of TensorBoard's HParams page, beside all settings that differ between runs.
HPARAMS = ("arm", "phase", "optimizer.lr", "seed")


class Sweep:
    """What a command asks for: planned and checked when made, trained by `run`.

    A sweep over learning rates is searched and confirmed; any other sweep is simply run.

    Args:
        arguments: the command's overrides, without Hydra's own.
        config: what Hydra composed for the sweep.

    Attributes:
        folder: of the study, relative to the working directory.
        failures: the runs that failed so far, each with its reason.

    Raises:
        ConfigError: what was asked cannot be done; nothing has been written.
    """

    def __init__(self, arguments: Sequence[str], config: DictConfig, hydra_context: HydraContext):
        self._config, self._hydra_context = config, hydra_context
        self._axes = read_axes(arguments, config.hydra.sweeper.params)
        self._members = self._compose(search(self._axes))
        ladder = self._members[0].config.protocol.ladder
        arms = {member.run.arm for member in self._members}
        strangers = [arm for arm in ladder or () if arm not in arms]
        if strangers:
            raise ConfigError(f"protocol.ladder: {strangers[0]} is no arm; {nearest(strangers[0], arms)}; or null")
        self._networks = _check(self._members)
        self.failures: list[tuple[str, str]] = []
        self._hindered = False

        first = self._members[0].config
        self.folder = study_folder(self._members[0])
        # Hydra makes these folders.
        places = {"sweep.dir": [str(self.folder)], "sweep.subdir": [".", os.getcwd()], "output_subdir": [None]}
        for key, accepted in places.items():
            found = OmegaConf.select(config.hydra, key)
            require(found in accepted, f"hydra.{key}", found, "cannot be chosen; name= names the folder in outputs/")
        self._grid = sorted(self._axes.lrs)
        self._tuned = len(self._grid) > 1
        seeds = sorted({member.config.settings.seed for member in self._members})
        wanted = first.protocol.confirm_seeds
        fresh = [seeds[-1] + 1 + i for i in range(len(seeds) if wanted is None else wanted)] if self._tuned else []
        device = resolve_device(first.settings.device)
        classes_of = {member.run.arm: data.load(member.config.dataset, device).classes for member in self._members}
        classes = [*set(classes_of.values())]
        counts = {arm: len(names) for arm, names in classes_of.items()}
        claims = {name: build(Claim, node, f"claims.{name}") for name, node in (config.get("claims") or {}).items()}
        self._asked: dict[str, Any] = {
            "name": first.settings.name,
            "command": ["headtohead", *sys.argv[1:]],
            "common": list(self._axes.common),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "num_classes": counts,
            # Arms on different datasets have no names of classes in common.
            "classes": list(classes[0]) if len(classes) == 1 else [],
            "arms": {member.run.arm: list(member.run.overrides) for member in self._members},
            "grid": {"optimizer.lr": self._grid},
            "protocol": {
                "search_seeds": seeds,
                "confirm_seeds": fresh,
                "selected_by": "val_accuracy",
                "extended": {"below": 0, "above": 0},
                "ladder": list(ladder or ()),
            },
            "runs": {},
            "hparams": self._hparams(fresh),
            "claims": {name: asdict(claim) for name, claim in claims.items()},
            "environment": environment(str(device)),
        }
        if not first.settings.accept_drift:
            self._refuse_drift()

    def run(self) -> None:
        """Train all that was asked for and has not ended, and write the study's files as they become known.

        Raises:
            ConfigError: another process is at work on the study.
            OSError: its folder cannot be made or written, or vanished.
            KeyboardInterrupt: interrupted, with the state of its packs saved.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0).acquire()
        except Timeout:
            raise ConfigError(f"{self.folder}: another process is at work on it; accepted: another name=") from None
        except OSError as error:
            raise OSError(f"{self.folder}: cannot be made or written ({error.strerror})") from error
        with lock:
            self._run()

    def _run(self) -> None:
        if self._tuned:
            self._train(self._members, "search")
            self._extend_the_grid()
            fresh = self._asked["protocol"]["confirm_seeds"]
            if fresh and not self._hindered:
                arms = {member.run.arm: member.run.overrides for member in self._members}
                self._train(self._compose(confirm(arms, self._best(), fresh)), "confirm")
        else:
            self._train(self._members, "run")
        self._pick_examples()
        if not self.failures:
            shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)

    def _refuse_drift(self) -> None:
        """A study goes on only as what it was: with the same configuration, code and libraries."""
        now = {key: self._asked["environment"][key] for key in ("python", "versions", "commit")}
        asked = record.read_json(self.folder / "study.json") or {}
        common, claims = asked.get("common"), asked.get("claims")
        lines: list[str] = []
        # A study.json that is broken is written anew; the runs have records of their own.
        if isinstance(common, list) and all(isinstance(item, str) for item in common) and isinstance(claims, dict):
            lines = [f"{item}, now not" for item in common if item not in self._axes.common and named(item)]
            lines += [f"now {item}" for item in self._axes.common if item not in common and named(item)]
            lines += record.differences({"claims": claims}, {"claims": self._asked["claims"]})
        for member in self._members:
            run = record.read_run(self.folder / "runs" / member.run.name(self._axes.common))
            if run and not lines:
                before = {key: run.get("environment", {}).get(key) for key in now}
                lines = record.differences(run.get("config", {}), member.values, record.NOT_OF_A_RUN)
                lines += record.differences(before, now)
        if lines:
            more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
            raise ConfigError(
                f"{self.folder} was made otherwise ({'; '.join(lines[:SHOWN])}{more})\n"
                "accepted: another name=, or accept_drift=true to keep its runs of the same configuration"
            )

    def _pick_examples(self) -> None:
        """Keep the inputs of the most ambiguous test examples for the report, which does not read datasets."""
        said = list(read_study(self.folder).predictions.values())
        if said and same_examples(said):
            index = most_ambiguous(said, EXAMPLES)
            config = self._members[0].config
            pool = data.load(config.dataset, resolve_device(config.settings.device))
            inputs = pool.inputs[pool.test[index]]
            if not pool.is_image:
                tested = pool.inputs[pool.test]
                inputs = (inputs - tested.mean(0)) / tested.std(0).clamp(min=1e-6)
            record.write_arrays(self.folder / "examples.npz", {"index": index, "inputs": inputs.cpu().numpy()})

    def _hparams(self, fresh: Sequence[int]) -> dict[str, list[str | float]]:
        """Of the hyperparameters that tell runs apart all values."""
        phases = ("search", "confirm")[: 1 + bool(fresh)] if self._tuned else ("run",)
        rows = [hyperparameters(member, phase) for member in self._members for phase in phases]
        rows += [{**row, "seed": seed} for row in rows[:1] for seed in fresh]
        keys = dict.fromkeys(key for row in rows for key in row)
        values = {key: [row.get(key, board.ABSENT) for row in rows] for key in keys}
        kept = [key for key in keys if key in HPARAMS or len({repr(value) for value in values[key]}) > 1]
        return {key: board.column(values[key]) for key in kept}

    def _extend_the_grid(self) -> None:
        """Where the best rate of an arm lies on the grid's edge, all arms get a rate beyond it, at most twice."""
        extended = self._asked["protocol"]["extended"]
        for _ in range(2 * EXTENSIONS):
            if self._hindered:
                return
            best = set(self._best().values())
            beyond = []
            if self._grid[0] in best and extended["below"] < EXTENSIONS:
                extended["below"] += 1
                beyond.append(next_rate(self._grid[1], self._grid[0]))
            if self._grid[-1] in best and extended["above"] < EXTENSIONS:
                extended["above"] += 1
                beyond.append(next_rate(self._grid[-2], self._grid[-1]))
            if not beyond:
                return
            self._grid = self._asked["grid"]["optimizer.lr"] = sorted([*self._grid, *beyond])
            self._asked["hparams"]["optimizer.lr"] = self._grid
            self._train(self._compose(search(replace(self._axes, lrs=tuple(beyond)))), "search")

    def _best(self) -> dict[str, float]:
        table = record.read_results(self.folder)
        return best_learning_rates(table[table.run.isin(self._asked["runs"]["search"])])

    def _compose(self, runs: Sequence[Run]) -> list[Member]:
        return [compose(self._config.hydra.job.config_name, self._axes.common, run) for run in runs]

    def _train(self, members: Sequence[Member], phase: str) -> None:
        """Hand the runs as packs to Hydra's launcher, and write what they are and what became of them."""
        common = self._axes.common
        names = [member.run.name(common) for member in members]
        self._asked["runs"].setdefault(phase, []).extend(names)
        record.write_atomically(self.folder / "study.json", record.to_json(self._asked))

        packings = [choose_packing(member.config, *self._networks[_architecture(member.config)]) for member in members]
        everything = into_packs(
            range(len(members)),
            key=lambda index: (may_share_a_pack(members[index].config), packings[index]),
            seed=lambda index: members[index].config.settings.seed,
            size=lambda index: packings[index].size,
        )
        # A pack that has ended in part is handed on whole: in one of another size its runs would round otherwise.
        packs = [pack for pack in everything if not self._have_ended([members[index] for index in pack], phase)]
        done = len(members) - sum(map(len, packs))
        failed: dict[int, str] = {}
        with Bar(self.folder, phase, len(members), done) as bar, Live(self.folder), Stop(bar) as stop:
            for attempt in range(ATTEMPTS):
                jobs = [
                    self._job(pack_override([members[index] for index in pack], common, phase, packings[pack[0]]))
                    for pack in packs
                ]
                failed = {}
                try:
                    results = self._launcher(len(jobs)).launch(jobs, initial_job_idx=0) if jobs else []
                except Exception as error:
                    # Whatever a launcher raises where one of its processes was killed.
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    self._hindered |= isinstance(error, OSError)
                    packs = [pack for pack in packs if not self._have_ended([members[index] for index in pack], phase)]
                    failed = {index: reason for pack in packs for index in pack}
                    if attempt + 1 < ATTEMPTS and not stop.asked:
                        bar.print(f"{reason}; trying its {len(failed)} runs again")
                        continue
                else:
                    for pack, result in zip(packs, results, strict=True):
                        if result.status != JobStatus.COMPLETED:
                            error = result._return_value
                            reason = f"{type(error).__name__}: {error}".splitlines()[0]
                            failed |= dict.fromkeys(pack, reason)
                            # No fault of the runs: no rate is chosen by what a full disk has left of them.
                            self._hindered |= isinstance(error, OSError)
                break
        if not (self.folder / "study.json").exists():
            raise OSError(f"{self.folder}: has vanished; the same command trains again what is gone")
        table = record.write_results(self.folder)
        if stop.asked:
            raise KeyboardInterrupt(GO_ON)
        recorded = {*table.run}
        gone = [index for index, name in enumerate(names) if index not in failed and name not in recorded]
        failed |= dict.fromkeys(gone, "its record has vanished")
        self._hindered |= bool(gone)
        self.failures += [(names[index], reason) for index, reason in failed.items()]

    def _job(self, pack: str) -> list[str]:
        """Overrides for the launcher: `worker.run_pack` composes the runs itself, so that Hydra need not load much."""
        return [f"name={_quote(self._members[0].config.settings.name)}", "claims=[]", pack]

    def _have_ended(self, members: Sequence[Member], phase: str) -> bool:
        folders = [self.folder / "runs" / member.run.name(self._axes.common) for member in members]
        return all(has_ended(folder, member, phase) for folder, member in zip(folders, members, strict=True))

    def _launcher(self, packs: int) -> Launcher:
        return Plugins.instance().instantiate_launcher(
            hydra_context=self._hydra_context, task_function=run_pack, config=self._launching(packs)
        )

    def _launching(self, packs: int) -> DictConfig:
        """The configuration to launch with: Joblib starts no process that would have no pack, or no core."""
        config = copy.deepcopy(self._config)
        if "joblib" in config.hydra.launcher._target_:
            # The processes would only share one accelerator.
            cores = os.cpu_count() if resolve_device(self._members[0].config.settings.device).type == "cpu" else 1
            wanted = config.hydra.launcher.n_jobs
            config.hydra.launcher.n_jobs = min(packs, cores if wanted < 0 else wanted)
        return config


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


def choose_packing(config: Config, stackable: bool, num_classes: int) -> Packing:
    """What pays for a configuration: convolutions on the CPU are faster one run at a time.

    The operations of stacked packs are so short that threads cost more than they bring, and on a busy
    machine a multiple of it.
    """
    device = resolve_device(config.settings.device).type
    threads = 1 if stackable and device == "cpu" else None
    if config.settings.pack_size is not None:
        return Packing(config.settings.pack_size, "user", threads)
    if device == "cpu":
        fit = LOGITS // (config.training.batch_size * num_classes)
        return Packing(min(PACK_SIZES["cpu"], max(1, fit)) if stackable else 1, "planner", threads)
    return Packing(PACK_SIZES.get(device, 16), "planner", threads)


def pack_override(members: Sequence[Member], common: Sequence[str], phase: str, packing: Packing) -> str:
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
    return f"+pack={{{how},common:[{','.join(map(_quote, common))}],runs:[{','.join(runs)}]}}"


def _check(members: Sequence[Member]) -> dict[str, tuple[bool, int]]:
    """Refuse what the loop could not train; for each architecture, whether it can be stacked, and its classes."""
    networks: dict[str, tuple[bool, int]] = {}
    splits: set[Dataset] = set()
    for config in [member.config for member in members]:
        pool = data.load(config.dataset, resolve_device(config.settings.device))
        if config.dataset not in splits:
            data.view(pool, config.dataset, config.settings.seed)
            strange = outliers(config.dataset)
            if strange is not None:
                shape = data.load(strange, pool.device).input_shape
                accepted = f"inputs of shape {pool.input_shape}, not {shape}"
                require(shape == pool.input_shape, "dataset.ood", config.dataset.ood, accepted)
            splits.add(config.dataset)
        key = _architecture(config)
        if key not in networks:
            module = with_head(checked_build(config.model, pool.input_shape, pool.num_classes), config.head)
            networks[key] = is_stackable(module), pool.num_classes
    return networks


def _architecture(config: Config) -> str:
    """A key of the network: the model, its kind of classifier and, through the dataset, its inputs and classes."""
    return f"{config.model} with {config.head.cosine_temperature} for {replace(config.dataset, label_noise=0.0)}"


def _null(value: float | None) -> str:
    return "null" if value is None else repr(value)


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
