"""Trains one pack and writes the record of each of its runs. A launcher's job is a call of `run_pack`."""

import ctypes
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import torch
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from headtohead.record import events as board
from headtohead.record import run as record
from headtohead.runner import checkpoint
from headtohead.runner.plan import Run
from headtohead.runner.progress import Notes
from headtohead.runner.resolve import Member, compose
from headtohead.training import data
from headtohead.training.config import resolve_device
from headtohead.training.loop import Outcome, Point, train

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "tensorboard", "numpy", "scikit-learn")

CHECKPOINTS = "checkpoints"
THREADS = torch.get_num_threads()
# Of glibc's malloc.h, with what is asked of each: freed memory goes back to the system above 2 GiB only, large
# tensors come from the heap too, and the heap grows by 64 MiB.
MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 64 * 2**20)}


@dataclass(frozen=True)
class Job:
    """What the runs of a job have in common.

    Attributes:
        study: the folder of the study.
        common: the overrides that all runs share.
        phase: of the study: "search", "confirm" or "run".
        chosen_by: who chose the size of the pack: "user", "planner", or "memory" that did not suffice for that.
        checkpoint_s: the least time between two checkpoints.
    """

    study: Path
    common: tuple[str, ...]
    phase: str
    chosen_by: str
    checkpoint_s: float


class Interrupted(Exception):
    """The study was asked to stop; the state of the pack is saved."""


def run_pack(node: DictConfig) -> None:
    """Train the pack that `node.pack` describes, or the rest of it, and write its records.

    Runs that have ended keep their records. A pack that another process trains is waited for.

    Args:
        node: the composed configuration, with `pack` as `sweep.pack_override` writes it.

    Raises:
        Exception: whatever stopped the pack, after a record with the status "failed" for each run.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread():
        # A process of a launcher's: the sweep says when to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    config_name = HydraConfig.get().job.config_name
    pack = OmegaConf.to_container(node.pack)
    common = tuple(pack["common"])
    members = [
        compose(config_name, common, Run(arm, tuple(overrides), lr, seed)) for arm, overrides, lr, seed in pack["runs"]
    ]
    prepare_process(pack["threads"])
    settings = members[0].config.settings
    job = Job(study_folder(members[0]), common, pack["phase"], pack["chosen_by"], settings.checkpoint_s)
    failure = _run(members, job)
    if failure:
        raise failure


def _run(members: list[Member], job: Job) -> Exception | None:
    """Train and record a pack, or what stopped it. One that does not fit into memory is halved until it does."""
    folders = {member.run.name(job.common): member for member in members}
    digest = hashlib.sha256("\n".join(folders).encode()).hexdigest()[:16]
    path = job.study / CHECKPOINTS / f"{digest}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    # The processes of a sweep that was killed may still be at work.
    with FileLock(path.with_suffix(".lock")):
        left = {
            name: member
            for name, member in folders.items()
            if not has_ended(job.study / "runs" / name, member, job.phase)
        }
        notes = Notes(job.study, next(iter(folders)), len(members))
        if left and notes.stop:
            return Interrupted()
        failure = _run_the_rest(members, left, job, path, notes) if left else None
        # What a full disk or a vanished folder has stopped goes on from its last checkpoint.
        if not isinstance(failure, Interrupted | OSError):
            checkpoint.remove(path)
        return failure


def _run_the_rest(
    members: list[Member], left: dict[str, Member], job: Job, path: Path, notes: Notes
) -> Exception | None:
    """Train all members, from the last checkpoint if there is one, and record those that have not ended.

    To train the others again would be needless, were it not for rounding: a pack of another size need not give the
    same bits.
    """
    for name in left:
        shutil.rmtree(job.study / "runs" / name, ignore_errors=True)
    columns = json.loads((job.study / "study.json").read_text(encoding="utf-8"))["hparams"]
    place = environment(str(resolve_device(members[0].config.settings.device)))
    of = json.dumps([job.phase, [[m.run.name(job.common), m.values] for m in members], place], default=str)
    state, flaws = checkpoint.load(path, of)
    for flaw in flaws:
        notes.say(f"{flaw}; not used")
    started = time.perf_counter() - (state["seconds"] if state else 0.0)
    events = {name: board.Events(job.study / "runs" / name) for name in left}
    for name, member in left.items():
        events[name].add(0, [board.session_start(_row(hyperparameters(member, job.phase), columns))])

    def save(training: dict[str, Any]) -> None:
        try:
            checkpoint.save(path, {"of": of, "seconds": time.perf_counter() - started, "training": training})
        except OSError as error:
            notes.say(f"{path}: not saved ({error.strerror}); the training goes on")

    failure = None
    try:
        trained = [events.get(member.run.name(job.common)) for member in members]
        outcomes, histories = _train(members, trained, job, notes, state and state["training"], save)
    except Interrupted as interrupted:
        return interrupted
    except Exception as error:
        failure = error
    halve = len(members) > 1 and _lacked_memory(failure)
    if failure:
        outcomes = [Outcome(0, None, {}, None, None, None)] * len(members)
        histories = [[]] * len(members)
    ended = {
        member.run.name(job.common): (outcome, history)
        for member, outcome, history in zip(members, outcomes, histories, strict=True)
    }
    if not halve:
        for name, run_events in events.items():
            outcome, _ = ended[name]
            _finish(run_events, outcome, failure is None and outcome.diverged_at is None)
    if halve:
        middle = len(members) // 2
        notes.say(f"{len(members)} runs do not fit into memory at once: {middle} and {len(members) - middle} instead")
        # Its frames hold what the pack has allocated.
        failure = failure.with_traceback(None)
        torch.cuda.empty_cache()
        smaller = replace(job, chosen_by="memory")
        failures = [_run(half, smaller) for half in (members[:middle], members[middle:])]
        return next(filter(None, failures), None)
    # A run's share: its pack's time over its runs.
    wall_s = (time.perf_counter() - started) / len(members)
    for name, member in left.items():
        outcome, history = ended[name]
        description = {
            "run": name,
            "phase": job.phase,
            "arm": member.run.arm,
            "head": member.choices["head"],
            "seed": member.config.settings.seed,
            "lr": member.config.optimizer.lr,
            "status": "failed" if failure else "finished" if outcome.diverged_at is None else "diverged",
            "steps": outcome.steps,
            "wall_s": wall_s,
            "diverged_at": outcome.diverged_at,
            "error": "".join(traceback.format_exception(failure)) if failure else None,
            "metrics": outcome.metrics,
            "curves": outcome.curves,
            "pack": {
                "size": len(members),
                "mode": outcome.pack_mode,
                "chosen_by": job.chosen_by,
                "threads": torch.get_num_threads(),
            },
            "overrides": [*job.common, *member.run.overrides],
            "config": member.values,
            "environment": place,
        }
        record.write_run(job.study / "runs" / name, description, history, outcome.predictions)
    return failure


def has_ended(folder: Path, member: Member, phase: str) -> bool:
    """Whether the record of a run is there, whole, of this configuration and phase, and not of a failure."""
    run = record.read_run(folder)
    return (
        run is not None
        and run["status"] != "failed"
        and run["phase"] == phase
        and not record.torn(folder, run)
        and not record.differences(run.get("config", {}), member.values, record.NOT_OF_A_RUN)
    )


def _lacked_memory(error: Exception | None) -> bool:
    """Whether an allocation failed. PyTorch has an error of its own for that on accelerators alone."""
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in ("can't allocate", "bad_alloc"))
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def prepare_process(threads: int | None) -> None:
    """Set up this process to train: so many threads, or all.

    Numbers below the normal range become zero: a processor can take tens of times as long for each of them, and
    momentum decays to them wherever a gradient stays zero. The process keeps what tensors free: by default
    glibc returns it, and every step faults it in again. And tensors of 2 MiB and more lie in pages of that size,
    where Linux gives them to who asks: PyTorch reads the variable when it first allocates so much.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    torch.set_num_threads(threads or THREADS)
    torch.set_flush_denormal(True)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for name, value in MALLOPT.values():
            libc.mallopt(name, value)


def study_folder(member: Member) -> Path:
    """The folder of the study that a run belongs to, relative to the working directory."""
    return Path("outputs") / member.config.settings.name


def hyperparameters(member: Member, phase: str) -> dict[str, Any]:
    """All that could tell a run from another of its study."""
    return {"arm": member.run.arm, "phase": phase, **record.flat(member.values)}


@cache
def environment(device: str) -> dict[str, Any]:
    """Where a run is made: versions, device and the commit of the code."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("headtohead", *PACKAGES)},
        "device": device,
        "device_name": name,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the code, with a `+` where files differ from it; None outside a checkout."""
    source = Path(__file__).parents[1]
    git = ["git", "-C", str(source)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "."],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _row(values: dict[str, Any], columns: dict[str, list[str | float]]) -> dict[str, str | float]:
    return {name: board.cell(values.get(name, board.ABSENT), column) for name, column in columns.items()}


def _train(
    members: list[Member],
    events: list[board.Events | None],
    job: Job,
    notes: Notes,
    state: dict[str, Any] | None,
    save: Callable[[dict[str, Any]], None],
):
    """The outcome and the history of each run; its events, if wanted, are written as they come."""
    configs = [member.config for member in members]
    pool = data.load(configs[0].dataset, resolve_device(configs[0].settings.device))
    histories: list[list[dict[str, float]]] = [[] for _ in members]
    outcomes: list[Outcome] = []
    saved = time.monotonic()
    for item in train(configs, pool, job.phase != "search", state):
        if not isinstance(item, Point):
            outcomes = item
            continue
        notes.write(item.progress)
        for row, run_events, history in zip(item.rows(), events, histories, strict=True):
            if row:
                history.append({"step": item.step, "epoch": item.epoch, **row})
                if run_events:
                    run_events.add(item.step, board.scalars(row))
        stop = notes.stop
        if item.state and (stop or time.monotonic() - saved >= job.checkpoint_s):
            save(item.state())
            saved = time.monotonic()
            if stop:
                raise Interrupted
    notes.write(1.0)
    return outcomes, histories


def _finish(events: board.Events, outcome: Outcome, succeeded: bool) -> None:
    """The final metrics, the distributions and how the run ended."""
    found = board.scalars({f"final/{name}": value for name, value in outcome.metrics.items()})
    for name, drawn in ((outcome.curves or {}).get("histograms") or {}).items():
        tag, _, step = name.partition("@")
        events.add(int(step), [board.histogram(f"distribution/{tag}", drawn["edges"], drawn["counts"])])
    events.add(outcome.steps, [*found, board.session_end(succeeded)])
