"""A run on disk: `history.csv`, `predictions.npz` if it was tested, and `run.json`.

`run.json` is written last, by rename: where it lies, the run is complete. The record is what a study's analysis
reads; everything else, TensorBoard included, is a view of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from headtohead.late import pd
from headtohead.options import ConfigError, build, one_line, require
from headtohead.record.files import (
    encoded,
    parse_json,
    plain,
    read_bytes,
    read_json,
    sha256_of,
    to_csv,
    write_arrays,
    write_atomically,
)
from headtohead.record.tags import metric_of, tag_of

T = TypeVar("T")

# The layout of run.json and study.json that this package reads and writes. Release 0.1 wrote it without the key.
VERSION = 1

Phase = Literal["search", "confirm", "run"]
Status = Literal["finished", "diverged", "failed"]
ChosenBy = Literal["user", "planner", "memory"]
# Curves that figures draw, by kind and name; NaN is null.
Curves = Mapping[str, Mapping[str, tuple[float | None, ...]]]

# The first columns of results.csv; the final metrics follow, then the values of tuned settings by dotted key.
COLUMNS = ("run", "phase", "arm", "head", "seed", "fold", "lr", "trial", "status", "steps", "wall_s")

# Keys of a run's config that say where it runs or how its study goes on, not what the run is.
NOT_OF_A_RUN = {
    "name", "device", "dataset.root", "dataset.path", "dataset.test_path", "dataset.labels", "dataset.stream",
    "dataset.workers", "checkpoint_s", "accept_drift", "protocol.confirm_seeds", "protocol.ladder", "protocol.metric",
    "protocol.until_decided", "protocol.max_seeds", "protocol.trials", "protocol.search",
}  # fmt: skip


@dataclass(frozen=True)
class Environment:
    """Versions, device and commit with which a run is made.

    Attributes:
        python: Version of Python.
        versions: Versions of this package and of those that it computes with.
        device: Device as PyTorch names it, such as "cpu" or "cuda:0".
        device_name: Name of the processor or the accelerator.
        commit: Commit of the code, with a `+` where files differ from it; None outside a checkout.
    """

    python: str
    versions: dict[str, str]
    device: str
    device_name: str
    commit: str | None

    @property
    def full_device(self) -> str:
        """Device with its name."""
        return f"{self.device} {self.device_name}"


@dataclass(frozen=True)
class PackInfo:
    """Pack that a run was trained in.

    Attributes:
        size: Number of runs.
        mode: Way of the forward: "plain", "stacked", "vmap" or "loop"; None where the pack failed.
        chosen_by: Who chose the size: "user" or "planner"; "memory" where their choice did not fit into it.
        threads: Number of CPU threads.
    """

    size: int
    mode: str | None
    chosen_by: ChosenBy
    threads: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Contents of `run.json`.

    Attributes:
        version: Version of the layout of this file.
        run: Name of the run, which is that of its folder.
        phase: Phase of the study.
        arm: Label of the arm.
        head: Option chosen for `head`.
        seed: Seed of the splits, the initial weights and the order of batches.
        fold: Fold that was the test split; 0 without folds.
        lr: Learning rate before the schedule.
        trial: Number of the point of the study's space, from 1 on; 0 where the study tunes no range.
        tuned: Values of the settings that the study tunes by ranges and that the run has, by dotted key.
        status: Status at the end.
        steps: Number of updates.
        wall_s: The run's share of its pack's time, in seconds.
        diverged_at: Step whose loss or gradient was not finite, or None.
        error: Traceback of a failed run, or None.
        metrics: Final metrics by name; None where one is not defined.
        curves: Data of figures, by split, and `histograms`; None where the run diverged or failed.
        pack: Pack that the run was trained in.
        overrides: Overrides of the command line.
        config: Resolved configuration; values from environment variables are there as expressions.
        environment: Versions, device and commit.
        sources: Checksum, or version, of each thing beside the configuration that the result depends on: data, code,
            files, environment variables. Empty in records of older releases.
        bytes: Sizes of the files beside this one when it was written.
        blocks: Metrics by name for each block of examples, and the `size` of each block: test metrics, or validation
            metrics of a run that has tested nothing of a dataset in folds. Empty where there are none of both.
        checksums: SHA-256 of the files beside this one that do not grow.
        checksum: SHA-256 of all that stands beside it here; empty in records of older releases.
    """

    version: int = VERSION
    run: str
    phase: Phase
    arm: str
    head: str
    seed: int
    lr: float
    status: Status
    steps: int
    wall_s: float
    diverged_at: int | None
    error: str | None
    metrics: Mapping[str, float | None]
    curves: Mapping[str, Curves] | None
    pack: PackInfo
    overrides: tuple[str, ...]
    config: dict[str, Any]
    environment: Environment
    fold: int = 0
    trial: int = 0
    tuned: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    blocks: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    checksum: str = ""

    def __post_init__(self):
        for key, count in (("seed", self.seed), ("fold", self.fold), ("trial", self.trial), ("steps", self.steps)):
            require(abs(count) < 2**63, key, count, "must be below 2**63")
        require(math.isfinite(self.lr), "lr", self.lr, "must be finite")
        for key, value in self.tuned.items():
            require("." in key, "tuned", key, "must be dotted keys, such as optimizer.momentum")
            require(math.isfinite(value), f"tuned.{key}", value, "must be finite")
        for name, values in self.blocks.items():
            whole = len(values) == len(self.blocks.get("size", ()))
            require(whole, f"blocks.{name}", f"{len(values)} values", "as many as size, the examples of each block")
            require(name not in ("run", "block"), "blocks", name, "is the name of another column of blocks.csv")
        for metric in self.metrics:
            taken = metric in COLUMNS or metric in self.tuned
            require(not taken, "metrics", metric, "is the name of another column of results.csv")


class OtherReleaseError(ConfigError):
    """A record that another release of headtohead wrote in a layout of its own."""


def build_record(cls: type[T], path: Path) -> T:
    """Build a record from a JSON file.

    Raises:
        OtherReleaseError: the file has another layout.
        ConfigError: the file is missing or broken.
    """
    return _build(cls, read_json(path))


def _build(cls: type[T], content: dict[str, Any]) -> T:
    version = content.get("version", VERSION)
    # Before all else: a later layout may have other keys.
    if version != VERSION:
        raise OtherReleaseError(f"version={version}: another release of headtohead wrote this; accepted: {VERSION}")
    if content.get("checksum") and content["checksum"] != _checksum(content):
        raise ConfigError("checksum: not that of the content, which was changed after it had been written")
    try:
        return build(cls, content, "")
    except ConfigError as error:
        raise ConfigError(one_line(error)) from error  # a value may be long, or of many lines


def write_run(
    folder: Path,
    run: RunRecord,
    history: Sequence[Mapping[str, float]],
    predictions: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the record of one run. The disk is not waited for: checksums tell whether a file is whole.

    Args:
        folder: Folder of the run, made if missing.
        run: Record of the run; sizes and checksums are filled in.
        history: A row per logged step: `step`, `epoch` and metrics by name. A metric that a row lacks stays empty.
        predictions: For test examples in order `label` and `prediction`, (N,) each, and `activations`, (N, K).
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in history for key in row))
    lines = [[tag_of(key) for key in columns], *([_cell(row.get(key)) for key in columns] for row in history)]
    write_atomically(folder / "history.csv", to_csv(lines), wait=False)
    if predictions is not None:
        write_arrays(folder / "predictions.npz", predictions, wait=False)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "run.json"}
    checksums = {name: sha256_of(folder / name) for name in ("history.csv", "predictions.npz") if name in sizes}
    content = plain(replace(run, bytes=sizes, checksums=checksums))
    write_atomically(folder / "run.json", encoded(content | {"checksum": _checksum(content)}), wait=False)


def read_run(folder: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        ConfigError: there is none, or it is broken.
    """
    try:
        content = read_bytes(folder / "run.json")
    except (OSError, ValueError) as error:
        raise ConfigError(one_line(error)) from error
    run = _parsed(content)
    require(run.run == folder.name, "run", run.run, f"must be the folder's name, {folder.name}")
    return run


@lru_cache(maxsize=1024)  # a study reads its records after each phase; reading a file costs little beside parsing it
def _parsed(content: bytes) -> RunRecord:
    return _build(RunRecord, parse_json(content))


def read_runs(study: Path) -> tuple[dict[str, RunRecord], dict[str, str]]:
    """Read the records of all runs of a study, by name; for each broken one, read the reason."""
    runs, broken = {}, {}
    for path in sorted(study.glob("runs/*/run.json")):
        try:
            runs[path.parent.name] = read_run(path.parent)
        except ConfigError as error:
            broken[path.parent.name] = str(error)
    return runs, broken


def flaws_of_files(folder: Path, run: RunRecord) -> list[str]:
    """List, a line each, the files beside a `run.json` that have lost bytes or changed since it was written.

    Event files may have grown.
    """
    lines = []
    for name, size in run.bytes.items():
        if (folder / name).exists() and (folder / name).stat().st_size < size:
            lines.append(f"{name} has lost bytes")
        elif (folder / name).exists() and _is_changed_or_unreadable(folder, name, run):
            lines.append(f"{name} has changed")
    return lines


def _is_changed_or_unreadable(folder: Path, name: str, run: RunRecord) -> bool:
    try:
        return is_changed(folder, name, run)
    except (OSError, ValueError):
        return True


def is_changed(folder: Path, name: str, run: RunRecord) -> bool:
    """Return whether a file beside a `run.json` differs from what was written; False where no checksum tells.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    expected = run.checksums.get(name)
    return expected is not None and hashlib.sha256(read_bytes(folder / name)).hexdigest() != expected


def read_history(folder: Path) -> pd.DataFrame:
    """Read the logged steps of one run: `step`, `epoch` and a column per metric, NaN where not measured or not finite.

    Raises:
        OSError, ValueError: there is no such file, or it is no table of numbers over steps.
    """
    return _history(read_bytes(folder / "history.csv"))


def read_histories(study: Path, runs: Iterable[str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Read the histories of runs of a study, by name; for each that cannot be read, the reason.

    Files with the same columns are parsed as one: most of the time that a file takes does not depend on its length.
    """
    bodies: dict[tuple[bytes, bool], dict[str, bytes]] = {}
    histories, unreadable = {}, {}
    for run in runs:
        try:
            header, _, body = read_bytes(study / "runs" / run / "history.csv").partition(b"\n")
        except (OSError, ValueError) as error:
            unreadable[run] = one_line(error)
        else:
            # A file without rows has no types.
            bodies.setdefault((header, bool(body)), {})[run] = body if body.endswith(b"\n") else body + b"\n"
    for (header, _), by_run in bodies.items():
        ends = list(accumulate(body.count(b"\n") for body in by_run.values()))
        with suppress(ValueError):
            table = _history(b"\n".join([header, b"".join(by_run.values())]))
            # Otherwise a line is no row, and nothing tells which rows are a run's.
            if len(table) == ends[-1] and isinstance(table.index, pd.RangeIndex):
                parts = [table.iloc[start:end] for start, end in pairwise([0, *ends])]
                histories |= dict(zip(by_run, parts, strict=True))
                continue
        for run, body in by_run.items():
            try:
                histories[run] = _history(b"\n".join([header, body]))
            except ValueError as error:
                unreadable[run] = one_line(error)
    return histories, unreadable


def _history(content: bytes) -> pd.DataFrame:
    """Return the table of a history.csv, with a column per metric; a ValueError says why it is none."""
    table = _table(content).rename(columns=metric_of)
    words, repeated = list(table.select_dtypes(exclude="number")), list(table.columns[table.columns.duplicated()])
    if "step" not in table:
        raise ValueError(f"no column step: {', '.join(map(str, table))}")
    if words or repeated:
        raise ValueError(", ".join(map(str, words or repeated)) + (": no numbers" if words else ": more than once"))
    table = table.replace([math.inf, -math.inf], math.nan)
    if not (table.step.between(0, 2**53) & (table.step % 1 == 0)).all():
        raise ValueError("step: must be integers from 0 on")
    return table


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file, with its columns of COLUMNS that hold words as they stand there.

    Raises:
        OSError, ValueError: there is no such file, or it is no table.
    """
    return _table(read_bytes(path))


def _table(content: bytes) -> pd.DataFrame:
    # An arm may be called 1, None or true.
    words: Any = dict.fromkeys(("run", "phase", "arm", "head", "status"), str)
    try:
        return pd.read_csv(io.BytesIO(content), dtype=words, keep_default_na=False, na_values=[""], low_memory=False)
    except (MemoryError, OverflowError, RecursionError) as error:
        raise ValueError(one_line(error)) from error


def results(runs: Iterable[RunRecord]) -> pd.DataFrame:
    """Tabulate runs, a row each, with COLUMNS, the final metrics and the tuned settings, as results.csv holds them."""
    runs = list(runs)
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    tuned = [key for key in dict.fromkeys(key for run in runs for key in run.tuned) if key not in metrics]
    rows = [
        [getattr(run, key) for key in COLUMNS]
        + [run.metrics.get(name) for name in metrics]
        + [run.tuned.get(key) for key in tuned]
        for run in runs
    ]
    numbers = [*metrics, *tuned]
    return pd.DataFrame(rows, columns=[*COLUMNS, *numbers]).astype(dict.fromkeys(numbers, float))


def blocks(runs: Iterable[RunRecord]) -> pd.DataFrame:
    """Tabulate the metrics of runs on blocks of examples, a row each: `run`, `block`, `size`, the metrics."""
    runs = [run for run in runs if run.blocks]
    counts = [len(run.blocks["size"]) for run in runs]
    table: dict[str, Any] = {
        "run": [run.run for run, count in zip(runs, counts, strict=True) for _ in range(count)],
        "block": [block for count in counts for block in range(count)],
    }
    for name in dict.fromkeys(["size", *(name for run in runs for name in run.blocks)]):
        values = (run.blocks.get(name, (None,) * count) for run, count in zip(runs, counts, strict=True))
        table[name] = np.array([*chain.from_iterable(values)], float)
    return pd.DataFrame(table)


def write_results(study: Path) -> pd.DataFrame:
    """Write results.csv from the records of a study's runs, and return the table."""
    table = results(read_runs(study)[0].values())
    write_atomically(study / "results.csv", table.to_csv(index=False))
    return table


def read_results(study: Path) -> pd.DataFrame:
    """Read results.csv as it was written. Older releases wrote no folds and no trials: these runs have 0."""
    table = read_table(study / "results.csv")
    for name, before in (("fold", "seed"), ("trial", "lr")):
        if name not in table and before in table:
            table.insert(list(table).index(before) + 1, name, 0)
    return table


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record, as JSON holds it, without its own checksum; layout and order do not matter."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _cell(value: float | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # numpy's shortest text that reads back as the same number of its own precision.
    return str(value)
