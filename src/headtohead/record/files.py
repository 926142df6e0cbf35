"""Files of a study: written by rename, so that a reader sees the old one or the new one, never a part."""

import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headtohead.options import ConfigError, one_line

# A folder may come from somebody else. Files of a study are far smaller than this, and their JSON is nested less.
MOST_BYTES, MOST_LEVELS = 2**30, 50


def write_atomically(path: Path, content: str | bytes, wait: bool = True) -> None:
    """Write `content` so that a reader, or a crash, sees the old file or the new one, never a part.

    Args:
        wait: Whether to wait for the disk, which can take longer than all else. Without it a file may be lost or empty
            after the machine has lost its power.

    Raises:
        OSError: with the path, also where the system names another or none, as on a full disk.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            if wait:
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
    text = without_home(text)
    if re.fullmatch(r"[a-z0-9_=,+-][a-z0-9_=,.+-]{0,159}", text):
        return text
    name = re.sub(r"[^\w=,.+-]", "_", text).lstrip(".") or "default"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{name.encode()[:140].decode(errors='ignore')}-{digest}" if text else name


def without_home(text: str) -> str:
    """Return a text with `~` where a path begins with the home folder: it is the machine's, not the study's."""
    names, path = _home(os.path.expanduser("~"))
    return path.sub("~", text) if any(name in text for name in names) else text


@cache
def _home(folder: str) -> tuple[list[str], re.Pattern[str]]:
    """Return the names of a home folder, none for the root, and what finds them where a path begins."""
    names = sorted({name.rstrip("/") for name in (folder, os.path.realpath(folder)) if name.strip("~/")})
    return names, re.compile(rf"(?<![\w.~-])({'|'.join(map(re.escape, names))})(?![\w.-])")


def with_home(value: Any) -> Any:
    """Return a nested value from JSON with the home folder where a text begins with `~/`; undoes `without_home`."""
    if isinstance(value, dict):
        return {key: with_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def to_json(value: Any) -> str:
    """Encode nested dataclasses, mappings and lists as strict JSON; see `plain`."""
    return encoded(plain(value))


def encoded(value: Any) -> str:
    """Encode what `plain` returns."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Return nested dataclasses, mappings and lists as JSON holds them.

    Numbers that are not finite become None, and texts lose the home folder.
    """
    if isinstance(value, float):  # first: most of what a record holds
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return without_home(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, (list, tuple)):
        return [*map(plain, value)]
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def read_bytes(path: Path) -> bytes:
    """Read a file that may be anything.

    Raises:
        OSError, ValueError: there is none, it is a folder, a pipe or a device, or it is too large.
    """
    # Opening a pipe that nobody writes to would block for good.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        if status.st_size > MOST_BYTES:
            raise ValueError(f"has {status.st_size} bytes, more than {MOST_BYTES}")
        return file.read()


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        content = read_bytes(path)
    except (OSError, ValueError) as error:
        raise ConfigError(one_line(error)) from error
    return parse_json(content)


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the object in the text of a JSON file.

    Raises:
        ConfigError: it is broken, or holds something else.
    """
    try:
        text = content.decode("utf-8-sig")  # editors of some systems begin a file with a mark
        value = json.loads(text, object_pairs_hook=_with_distinct_keys, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        if not isinstance(value, dict):
            raise ConfigError("no JSON object")
        _refuse_deep(value)
    except RecursionError as error:
        raise ConfigError(f"nested in more than {MOST_LEVELS} levels") from error
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    return value


def _with_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)}: more than one value")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _refuse_deep(content: Any) -> None:
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > MOST_LEVELS:
            raise RecursionError
        nodes = [node.values() if isinstance(node, dict) else node for node in level]
        level = [item for node in nodes for item in node if isinstance(item, (dict, list))]


def to_csv(lines: Iterable[Sequence[str]]) -> str:
    """Encode rows of cells as CSV."""
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(lines)
    return sink.getvalue()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], wait: bool = True) -> None:
    """Write named arrays, as `numpy.load` reads them; see `write_atomically`."""
    sink = io.BytesIO()
    np.savez(sink, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomically(path, sink.getvalue(), wait)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read named arrays.

    Raises:
        OSError, ValueError: there is no such file, or it holds something else.
    """
    content = io.BytesIO(read_bytes(path))
    try:
        with zipfile.ZipFile(content) as file:
            unpacked = sum(member.file_size for member in file.infolist())
        if unpacked > MOST_BYTES:
            raise ValueError(f"unpacks to {unpacked} bytes, more than {MOST_BYTES}")
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # the readers of archives and arrays raise errors of a dozen kinds
        raise ValueError(f"no named arrays ({one_line(error)})") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("holds something else than arrays")
    return arrays


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
    old, new = (flat(plain(node)) for node in (before, now))
    ignored = {*ignore}
    return [
        f"{key}: {old.get(key, 'nothing')}, now {new.get(key, 'nothing')}"
        for key in {**old, **new}
        if key not in ignored and old.get(key, ...) != new.get(key, ...)
    ]
