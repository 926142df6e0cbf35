"""One run on disk: `history.csv`, `predictions.npz` if it was tested, and `run.json`, written once, by rename, and
read back.

The record is what a study's analysis reads; everything else, TensorBoard included, is a view of it.
"""

import csv
import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# The first columns of results.csv; the final metrics follow.
COLUMNS = ("run", "phase", "arm", "head", "seed", "lr", "status", "steps", "wall_s")

# What else a record of a run needs or may have, with its type.
KINDS = {
    **dict.fromkeys(("run", "phase", "arm", "head"), str),
    **dict.fromkeys(("seed", "lr", "steps", "wall_s"), int | float),
    **dict.fromkeys(("metrics", "config", "environment", "pack", "bytes"), dict),
}
STATUSES = ("finished", "diverged", "failed")

# Of a run's config: what says how a study goes on or where, and not what a run is.
NOT_OF_A_RUN = {
    "name", "device", "dataset.root", "dataset.stream", "dataset.workers", "checkpoint_s", "accept_drift",
    "protocol.confirm_seeds", "protocol.ladder",
}  # fmt: skip


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` so that a reader, or a crash, sees the old file or the new one, never a part.

    Raises:
        OSError: with the path, also where the system names another or none, as on a full disk.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def folder_name(text: str) -> str:
    """The name of a folder for a run or an arm, from what tells it from others."""
    name = re.sub(r"[^\w=,.+-]", "_", text).lstrip(".") or "default"
    if len(name.encode()) <= 200:
        return name
    # File systems take 255 bytes; the digest keeps names apart that differ in what is cut off.
    return f"{name.encode()[:180].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def to_json(value: Any) -> str:
    """Strict JSON: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config with dotted keys."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def write_run(
    folder: Path,
    run: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    predictions: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the record of one run. `run.json` comes last: where it lies, the run is complete. It also tells how many
    `bytes` each file beside it has.

    Args:
        folder: of the run, made if missing.
        run: the columns of results.csv, `metrics`, and whatever describes how the run was made.
        history: a row per logged step, each with `step`; a key that a row lacks stays empty.
        predictions: for test examples in order `label` and `prediction`, (N,) each, and `activations`, (N, K).
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in history for key in row))
    lines = [columns, *([_cell(row.get(key)) for key in columns] for row in history)]
    write_atomically(folder / "history.csv", _csv(lines))
    if predictions is not None:
        write_arrays(folder / "predictions.npz", predictions)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "run.json"}
    write_atomically(folder / "run.json", to_json({**run, "bytes": sizes}))


def read_run(folder: Path) -> dict[str, Any] | None:
    """The record of a run, or None where there is none or it is broken."""
    run = read_json(folder / "run.json") or {}
    whole = run.get("run") == folder.name and {*COLUMNS, "metrics"} <= {*run} and run["status"] in STATUSES
    whole = whole and all(isinstance(run[key], kind) for key, kind in KINDS.items() if key in run)
    whole = whole and all(isinstance(value, int | float | None) for value in run["metrics"].values())
    return run if whole and (folder / "history.csv").exists() else None


def torn(folder: Path, run: Mapping[str, Any]) -> list[str]:
    """The files beside a `run.json` that have lost bytes since it was written. Event files may have grown."""
    sizes = run.get("bytes") or {}
    return [name for name, size in sizes.items() if (path := folder / name).exists() and path.stat().st_size < size]


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, or None where there is none or it holds anything but named values."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], but: Collection[str] = ()) -> list[str]:
    """A line for each dotted key, `but` those, whose value differs between two nested configs, as JSON holds them."""
    old, new = (flat(json.loads(to_json(node))) for node in (before, now))
    keys = [key for key in {**old, **new} if key not in but]
    return [
        f"{key}: {old.get(key, 'nothing')}, now {new.get(key, 'nothing')}"
        for key in keys
        if old.get(key, ...) != new.get(key, ...)
    ]


def read_runs(study: Path) -> list[dict[str, Any]]:
    """The `run.json` of every complete run of a study, by the names of their folders; broken ones are left out."""
    return [run for path in sorted(study.glob("runs/*/run.json")) if (run := read_run(path.parent))]


def read_history(folder: Path) -> pd.DataFrame:
    """The logged steps of one run: `step`, `epoch` and a column per tag, NaN where not measured."""
    return pd.read_csv(folder / "history.csv")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, as `numpy.load` reads them."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    write_atomically(path, sink.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Named arrays.

    Raises:
        OSError, ValueError: there is no such file, or it holds something else.
    """
    try:
        arrays = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("holds no named arrays")
        with arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(str(error)) from error


def results(runs: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per run with COLUMNS and the final metrics, as in results.csv."""
    runs = list(runs)
    metrics = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    rows = [[*(run[key] for key in COLUMNS), *(run["metrics"].get(name) for name in metrics)] for run in runs]
    return pd.DataFrame(rows, columns=[*COLUMNS, *metrics]).astype(dict.fromkeys(metrics, float))


def write_results(study: Path) -> pd.DataFrame:
    """Write results.csv from the records of a study's runs, and return it."""
    table = results(read_runs(study))
    write_atomically(study / "results.csv", table.to_csv(index=False))
    return table


def read_results(study: Path) -> pd.DataFrame:
    """results.csv as it was written."""
    return pd.read_csv(study / "results.csv")


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # numpy's shortest text that reads back as the same number of its own precision.
    return str(value)


def _csv(lines: Iterable[Sequence[str]]) -> str:
    class Lines(list):
        write = list.append

    sink = Lines()
    csv.writer(sink, lineterminator="\n").writerows(lines)
    return "".join(sink)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
