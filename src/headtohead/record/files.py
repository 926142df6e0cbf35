"""Files of a study: written by rename, so that a reader sees the old one or the new one, never a part."""

import csv
import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headtohead.options import ConfigError


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
    """Return the folder name of a run or an arm that `text` tells from all others.

    File systems differ in the characters that they take, and some take names for one that differ in case or in the
    form of an accent. A text of other characters than those that all keep apart carries its digest, as does a long one.
    """
    if re.fullmatch(r"[a-z0-9_=,+-][a-z0-9_=,.+-]{0,159}", text):
        return text
    name = re.sub(r"[^\w=,.+-]", "_", text).lstrip(".") or "default"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{name.encode()[:140].decode(errors='ignore')}-{digest}" if text else name


def to_json(value: Any) -> str:
    """Encode nested dataclasses, mappings and lists as strict JSON; numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    if not isinstance(content, dict):
        raise ConfigError("no JSON object")
    return content


def to_csv(lines: Iterable[Sequence[str]]) -> str:
    """Encode rows of cells as CSV."""
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(lines)
    return sink.getvalue()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, as `numpy.load` reads them."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomically(path, sink.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read named arrays.

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


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested config to dotted keys."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def differences(before: Any, now: Any, ignore: Iterable[str] = ()) -> list[str]:
    """List, a line each, the dotted keys whose values differ between two nested configs, as JSON holds them.

    Args:
        ignore: dotted keys that may differ.
    """
    old, new = (flat(json.loads(to_json(node))) for node in (before, now))
    ignored = {*ignore}
    return [
        f"{key}: {old.get(key, 'nothing')}, now {new.get(key, 'nothing')}"
        for key in {**old, **new}
        if key not in ignored and old.get(key, ...) != new.get(key, ...)
    ]


def _finite(value: Any) -> Any:
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
