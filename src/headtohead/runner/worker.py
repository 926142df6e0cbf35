"""The worker: trains one pack and writes the record of each of its runs. A launcher's job is a call of `run_pack`."""

import hashlib
import json
import shutil
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import torch
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from headtohead.options import ConfigError, one_line
from headtohead.record import events
from headtohead.record.files import differences
from headtohead.record.run import (
    NOT_OF_A_RUN,
    Environment,
    PackInfo,
    Phase,
    RunRecord,
    flaws_of_files,
    read_run,
    write_run,
)
from headtohead.record.study import StudyRecord, read_study_record
from headtohead.record.tags import final_tag, tag_of
from headtohead.runner import checkpoint
from headtohead.runner.hparams import hparam_row
from headtohead.runner.pack_job import PackJob
from headtohead.runner.process import environment, import_from_here, prepare_process
from headtohead.runner.progress import Notes
from headtohead.runner.resolve import Member, compose
from headtohead.runner.sources import Contents, changes, opened_files, sources_by_arm
from headtohead.training import data
from headtohead.training.config import resolve_device
from headtohead.training.loop import Outcome, Point, train

# The folder of a study that holds the states of its packs.
CHECKPOINTS = "checkpoints"
# The outcome of a run that was stopped by an error.
FAILED = Outcome(steps=0, diverged_at=None, metrics={}, blocks={}, curves=None, predictions=None, pack_mode=None)

# A row per logged step of a run: `step`, `epoch` and metrics by name.
History = list[dict[str, Any]]


class Interrupted(Exception):
    """The study was told to stop; the state of the pack is saved."""


@dataclass(frozen=True)
class ResolvedPack:
    """A pack whose runs have their configurations.

    Attributes:
        job: the pack as it came from the launcher, or a half of it.
        members: its runs, in the order of `job.runs`.
        record: the study.json of the study.
    """

    job: PackJob
    members: tuple[Member, ...]
    record: StudyRecord

    @property
    def study(self) -> Path:
        """The folder of the study."""
        return self.members[0].study

    @property
    def checkpoint(self) -> Path:
        """The file for the state of the pack."""
        names = "\n".join(member.name for member in self.members)
        return self.study / CHECKPOINTS / f"{hashlib.sha256(names.encode()).hexdigest()[:16]}.pt"

    @property
    def device(self) -> torch.device:
        return resolve_device(self.members[0].config.settings.device)

    @property
    def environment(self) -> Environment:
        return environment(str(self.device))

    def sources(self, member: Member) -> dict[str, str]:
        """Return the sources of a run of the pack, as the study began with them."""
        return self.record.sources[member.run.arm]

    def unfinished(self) -> list[Member]:
        """Return the runs that have no record of having ended."""
        return [member for member in self.members if not has_ended(member, self.job.phase, self.sources(member))]

    def halves(self) -> list["ResolvedPack"]:
        """Return the pack as two of half its size."""
        middle = len(self.members) // 2
        return [
            replace(
                self, job=replace(self.job, chosen_by="memory", runs=self.job.runs[part]), members=self.members[part]
            )
            for part in (slice(middle), slice(middle, None))
        ]


class StateFile:
    """The checkpoint of a pack in training.

    Args:
        pack: the pack.
        notes: the notes of the pack, which show that a checkpoint cannot be used or saved.
        anew: whether to read no state.

    Attributes:
        training: the state that the training goes on from; None where it starts anew.
    """

    def __init__(self, pack: ResolvedPack, notes: Notes, anew: bool):
        self._path, self._notes = pack.checkpoint, notes
        self._interval_s = pack.members[0].config.settings.checkpoint_s
        runs = [[member.name, member.values, pack.sources(member)] for member in pack.members]
        self._identity = json.dumps([pack.job.phase, runs, asdict(pack.environment)], default=str)
        state, flaws = (None, []) if anew else checkpoint.load(self._path, self._identity)
        for flaw in flaws:
            notes.show(f"{flaw}; not used")
        self.training = state.get("training") if state else None
        seconds = state.get("seconds") if state else None
        self._saved = time.monotonic()
        self._started = time.perf_counter() - (seconds if isinstance(seconds, float) else 0.0)

    @property
    def seconds(self) -> float:
        """The time that the pack has taken, with that before the checkpoint."""
        return time.perf_counter() - self._started

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another one."""
        return time.monotonic() - self._saved >= self._interval_s

    def discard(self, error: Exception) -> None:
        """Remove the checkpoint, from which the training could not go on."""
        self._notes.show(f"{self._path}: not used ({one_line(error)}); the training starts anew")
        checkpoint.remove(self._path)

    def save(self, training: dict[str, Any]) -> None:
        """Save the state of the training, if there is room; the training goes on in any case."""
        try:
            state = {"identity": self._identity, "seconds": self.seconds, "training": training}
            checkpoint.save(self._path, state)
        except OSError as error:
            self._notes.show(f"{self._path}: not saved ({error.strerror}); the training goes on")
        self._saved = time.monotonic()


def run_pack(node: DictConfig) -> None:
    """Train the pack that `node.pack` describes, or the rest of it, and write its records.

    Runs that have ended keep their records. A pack that another process trains is waited for.

    Args:
        node: the composed configuration, whose `pack` was written by `PackJob.override`.

    Raises:
        Exception: the error that stopped the pack, after a record with the status "failed" for each run.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread():
        # This process was started by a launcher: the sweep says when to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    config_name = HydraConfig.get().job.config_name
    assert config_name is not None, "the command line names it"
    import_from_here()
    job = PackJob.parse(node.pack)
    members = tuple(compose(config_name, job.common, run).of_study(job.study) for run in job.runs)
    prepare_process(job.threads)
    error = _train_or_halve(ResolvedPack(job, members, read_study_record(members[0].study)))
    if error:
        raise error


def has_ended(member: Member, phase: Phase, sources: Mapping[str, str]) -> bool:
    """Return whether a run has a whole record of this configuration, these data and this phase, not of a failure."""
    try:
        run = read_run(member.folder)
    except ConfigError:
        return False
    return (
        run.status != "failed"
        and run.phase == phase
        and not flaws_of_files(member.folder, run)
        and not differences(run.config, member.values, NOT_OF_A_RUN)
        and not changes(run.sources, sources, code=False)
    )


def _refuse_changes(pack: ResolvedPack) -> None:
    """Refuse to train if data, code or files have changed since the study began.

    Raises:
        ConfigError: with what has changed.
    """
    if pack.members[0].config.settings.accept_drift:
        return
    opened = {file for member in pack.members for file in opened_files(pack.sources(member))}
    now = sources_by_arm(pack.members, Contents(pack.record.contents), opened)
    lines = dict.fromkeys(line for arm in now for line in changes(pack.record.sources[arm], now[arm]))
    if lines:
        raise ConfigError(f"{'; '.join(lines)} since the study began; the same command says how to go on")


def _train_or_halve(pack: ResolvedPack) -> Exception | None:
    """Train and record a pack, as halves where it does not fit into memory, and return the first error."""
    path = pack.checkpoint
    path.parent.mkdir(parents=True, exist_ok=True)
    errors: list[Exception] = []
    # The processes of a sweep that was killed may still be at work.
    with FileLock(path.with_suffix(".lock")):
        waiting = [pack]
        while waiting:
            pack = waiting.pop(0)
            error = _train_unfinished(pack)
            if _must_be_halved(pack, error):
                waiting = [*pack.halves(), *waiting]
            elif error:
                errors.append(error)
            # A pack that a full disk or a vanished folder has stopped goes on from its last checkpoint.
            if not isinstance(error, Interrupted | OSError):
                checkpoint.remove(pack.checkpoint)
    return errors[0] if errors else None


def _must_be_halved(pack: ResolvedPack, error: Exception | None) -> bool:
    return len(pack.members) > 1 and _lacked_memory(error)


def _lacked_memory(error: Exception | None) -> bool:
    """Return whether an allocation failed. PyTorch has an error of its own for that on accelerators alone."""
    on_cpu = isinstance(error, RuntimeError) and any(word in str(error) for word in ("can't allocate", "bad_alloc"))
    return on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


def _train_unfinished(pack: ResolvedPack, anew: bool = False) -> Exception | None:
    """Train all runs of a pack, record those that have not ended, and return the error that stopped the training.

    Runs that have ended are trained again beside the others, because a smaller pack rounds otherwise. Nothing is
    recorded of a pack that was interrupted or must be halved.

    Args:
        anew: whether to leave out its checkpoint.
    """
    unfinished = pack.unfinished()
    if not unfinished:
        return None
    notes = Notes(pack.study, pack.members[0].name, len(pack.members))
    if notes.stop_requested:
        return Interrupted()
    for member in unfinished:
        shutil.rmtree(member.folder, ignore_errors=True)
    state_file = StateFile(pack, notes, anew)
    writers = _start_events(pack, unfinished)
    error = None
    try:
        outcomes, histories = _train(pack, writers, state_file, notes)
    except Interrupted as interrupted:
        return interrupted
    except (Exception, SystemExit) as stopped:  # code of the user's may end the process
        error = stopped if isinstance(stopped, Exception) else RuntimeError(f"SystemExit: {stopped}")
        outcomes, histories = [FAILED] * len(pack.members), [[]] * len(pack.members)
    if error and state_file.training is not None and not isinstance(error, OSError) and not _lacked_memory(error):
        # What the checkpoint holds may be the reason. Without it the pack fails for its own reasons alone.
        state_file.discard(error.with_traceback(None))
        return _train_unfinished(pack, anew=True)
    if error and _must_be_halved(pack, error):
        sizes = " and ".join(str(len(half.members)) for half in pack.halves())
        notes.show(f"{len(pack.members)} runs do not fit into memory at once: {sizes} instead")
        # The frames of its traceback hold the memory of the pack.
        error = error.with_traceback(None)
        torch.cuda.empty_cache()
        return error
    results = dict(zip((member.name for member in pack.members), zip(outcomes, histories, strict=True), strict=True))
    for member in unfinished:
        outcome, _ = results[member.name]
        _finish_events(writers[member.name], outcome, error is None and outcome.diverged_at is None)
    # The time of a pack is shared by its runs.
    wall_s = state_file.seconds / len(pack.members)
    for member in unfinished:
        outcome, history = results[member.name]
        write_run(member.folder, _record(pack, member, outcome, wall_s, error), history, outcome.predictions)
    return error


def _start_events(pack: ResolvedPack, members: Sequence[Member]) -> dict[str, events.Events]:
    """Open the event file of each run, with its hyperparameters, by the name of the run."""
    columns = pack.record.hparams
    writers = {member.name: events.Events(member.folder) for member in members}
    for member in members:
        row = hparam_row(member, pack.job.phase, columns)
        writers[member.name].add(0, [events.session_start(row)])
    return writers


def _train(
    pack: ResolvedPack, writers: Mapping[str, events.Events], state_file: StateFile, notes: Notes
) -> tuple[Sequence[Outcome], list[History]]:
    """Train a pack, from its last checkpoint if there is one, and return the outcome and the history of each run.

    Args:
        writers: the event files by the name of the run; runs without one are not logged.

    Raises:
        Interrupted: the study was told to stop; the state of the pack is saved.
    """
    _refuse_changes(pack)
    configs = [member.config for member in pack.members]
    pool = data.load(configs[0].dataset, pack.device)
    histories: list[History] = [[] for _ in pack.members]
    outcomes: Sequence[Outcome] = []
    for item in train(configs, pool, pack.job.phase != "search", state_file.training):
        if not isinstance(item, Point):
            outcomes = item
            continue
        notes.write(item.progress)
        for row, member, history in zip(item.rows(), pack.members, histories, strict=True):
            if row:
                history.append({"step": item.step, "epoch": item.epoch, **row})
                if member.name in writers:
                    values = {tag_of(metric): value for metric, value in row.items()}
                    writers[member.name].add(item.step, events.scalars(values))
        stop = notes.stop_requested
        if item.state and (stop or state_file.due):
            state_file.save(item.state())
            if stop:
                raise Interrupted
    notes.write(1.0)
    return outcomes, histories


def _finish_events(writer: events.Events, outcome: Outcome, succeeded: bool) -> None:
    """Write the final metrics, the distributions and the status of a run."""
    final = events.scalars({final_tag(metric): value for metric, value in outcome.metrics.items()})
    histograms = outcome.curves.get("histograms", {}) if outcome.curves else {}
    for name, bins in histograms.items():
        quantity, _, step = name.partition("@")
        writer.add(int(step), [events.histogram(f"distribution/{quantity}", bins["edges"], bins["counts"])])
    writer.add(outcome.steps, [*final, events.session_end(succeeded)])
    writer.close()


def _record(pack: ResolvedPack, member: Member, outcome: Outcome, wall_s: float, error: Exception | None) -> RunRecord:
    diverged = outcome.diverged_at is not None
    return RunRecord(
        run=member.name,
        phase=pack.job.phase,
        arm=member.run.arm,
        head=member.head,
        seed=member.config.settings.seed,
        fold=member.config.settings.fold,
        lr=member.config.optimizer.lr,
        trial=member.run.trial,
        tuned={setting.key: setting.value for setting in member.tuned},
        status="failed" if error else "diverged" if diverged else "finished",
        steps=outcome.steps,
        wall_s=wall_s,
        diverged_at=outcome.diverged_at,
        error="".join(traceback.format_exception(error)) if error else None,
        metrics={**outcome.metrics},
        blocks={name: tuple(values) for name, values in outcome.blocks.items()},
        curves=outcome.curves,
        pack=PackInfo(
            size=len(pack.members),
            mode=outcome.pack_mode,
            chosen_by=pack.job.chosen_by,
            threads=torch.get_num_threads(),
        ),
        overrides=(*pack.job.common, *member.run.overrides),
        config=member.values,
        sources=pack.sources(member),
        environment=pack.environment,
    )
