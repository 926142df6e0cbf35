"""Runs in folders of TensorBoard's event files, whoever wrote them: the last value of each tag, and what names a run.

What tells the arm and the seed of a run is, the later the stronger: the hyperparameters in its events, `hparams.yaml`
beside them (Lightning), the configuration in `.hydra` (its values, its choices of groups, its overrides), parts of the
folder's name such as `seed=3`, and a pattern of folders such as `runs/{head}/seed_{seed}`.
"""

# No stubs describe the protocol buffers of TensorBoard.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from headtohead.late import pd
from headtohead.options import ConfigError, require
from headtohead.record.files import flat, read_bytes

Named = dict[str, Any]
# The last value of each tag: its time, the value, its step.
Last = dict[str, tuple[float, float, int]]
# Attribute of the table: the step of the last value, by tag and row.
STEPS = "steps"
EVENTS = "*tfevents*"
PLACE = re.compile(r"\{([^{}]+)\}")


def read_logged(place: Path) -> pd.DataFrame:
    """Read the runs in a folder as a table: a row per run, with its folder as the name of the row.

    Its attribute `STEPS` holds the step of each last value, by tag and row.

    Args:
        place: Folder of runs, or a pattern of their folders.

    Raises:
        ConfigError: there is no run, or nothing tells what a run is.
    """
    depth = next((depth for depth, part in enumerate(place.parts) if PLACE.search(part)), len(place.parts))
    root, pattern = Path(*place.parts[:depth]), place.parts[depth:]
    require(root.is_dir(), "runs", place, f"there is no folder {root}; accepted: a folder of TensorBoard's event files")
    require(not (root / "study.json").is_file(), "runs", place, f"is a study: headtohead report {root} judges it")
    runs: dict[str, tuple[Named, Last]] = {}
    for path in sorted(path for path in root.rglob(EVENTS) if _is_shown_file(path, root)):
        folder = _run_folder(path.parent, root, len(pattern))
        named = None if folder is None else _named(folder, path.parent, root, pattern)
        if folder is None or named is None:
            continue
        names, values = runs.setdefault(folder.relative_to(root).as_posix(), ({}, {}))
        hparams = _read_events(path, values)
        names.update(hparams | named)
    if not runs:
        found = "no folder fits the pattern" if pattern else "has no event file"
        raise ConfigError(f"runs={place}: {found}; accepted: a folder of TensorBoard's event files")
    if not any(names for names, _ in runs.values()):
        example = f"'{root}/{{head}}/seed_{{seed}}'"
        accepted = f"accepted: a pattern of folders, such as {example}, or runs with .hydra/config.yaml or hparams"
        raise ConfigError(f"runs={place}: nothing tells what its runs are, such as {next(iter(runs))}; {accepted}")
    rows = [names | {tag: value for tag, (_, value, _) in values.items()} for names, values in runs.values()]
    frame = pd.DataFrame(rows, index=pd.Index([*runs]))
    steps: dict[str, dict[str, int]] = {}
    for run, (_, values) in runs.items():
        for tag, (_, _, step) in values.items():
            steps.setdefault(tag, {})[run] = step
    frame.attrs[STEPS] = steps
    return frame


def _is_shown_file(path: Path, root: Path) -> bool:
    """Return whether a path is a file in no hidden folder: editors keep copies in such folders."""
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)


def _run_folder(folder: Path, root: Path, levels: int) -> Path | None:
    """Return the folder of the run that events in a folder are of: by a pattern, by `.hydra`, or this folder."""
    parts = folder.relative_to(root).parts
    if levels:
        return root.joinpath(*parts[:levels]) if len(parts) >= levels else None
    above = (root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
    return next((path for path in above if (path / ".hydra").is_dir()), folder)


def _named(run: Path, events: Path, root: Path, pattern: tuple[str, ...]) -> Named | None:
    """Return what files and folders tell of a run; None where its folder does not fit the pattern."""
    named = _values(events / "hparams.yaml") | _values(run / ".hydra" / "config.yaml")
    choices = _values(run / ".hydra" / "hydra.yaml")
    start = "hydra.runtime.choices."
    named |= {key.removeprefix(start): value for key, value in choices.items() if key.startswith(start)}
    overrides = _yaml(run / ".hydra" / "overrides.yaml")
    for override in overrides if isinstance(overrides, list) else ():
        key, separator, value = str(override).lstrip("+").partition("=")
        named |= {key: value} if separator else {}
    parts = run.relative_to(root).parts
    for piece in (piece for part in parts for piece in part.split(",")):
        key, separator, value = piece.partition("=")
        named |= {key: value} if separator else {}
    for part, expected in zip(parts, pattern, strict=False):
        keys = PLACE.findall(expected)
        fits = re.fullmatch("(.+?)".join(map(re.escape, PLACE.split(expected)[::2])), part)
        if fits is None:
            return None
        named |= dict(zip(keys, fits.groups(), strict=True))
    return named


def _values(path: Path) -> Named:
    """Return the values of a YAML file by dotted key; none where it cannot be read, as it is not ours."""
    node = _yaml(path)
    return flat({str(key): value for key, value in node.items()}) if isinstance(node, dict) else {}


def _yaml(path: Path) -> Any:
    """Return what a YAML file holds; None where it cannot be read."""
    if not path.is_file():
        return None
    try:
        return yaml.load(read_bytes(path), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


class _Loader(yaml.SafeLoader):
    """A reader of plain values. An object of Python, as Lightning writes some, is None."""


_Loader.add_constructor(None, lambda loader, node: None)  # pyright: ignore[reportArgumentType]


def _read_events(path: Path, values: Last) -> Named:
    """Add the last value of each tag in an event file to `values`, and return the hyperparameters."""
    # Protocol buffers take long to import.
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.util.tensor_util import make_ndarray

    hparams: Named = {}
    scalar_tags: set[str] = set()
    for record in _records(read_bytes(path)):
        try:
            event = Event.FromString(record)
        except Exception:  # whatever a broken record raises, those before it hold
            break
        for value in event.summary.value:
            plugin = value.metadata.plugin_data
            if plugin.plugin_name == "scalars":
                scalar_tags.add(value.tag)
            if value.tag == SESSION_START_INFO_TAG:
                with suppress(DecodeError):
                    info = HParamsPluginData.FromString(plugin.content).session_start_info
                    kinds = {key: cell.WhichOneof("kind") for key, cell in info.hparams.items()}
                    hparams |= {key: getattr(info.hparams[key], kind) for key, kind in kinds.items() if kind}
                continue
            if value.WhichOneof("value") == "simple_value":
                number = float(value.simple_value)
            elif value.tag in scalar_tags and (array := make_ndarray(value.tensor)).size == 1:
                number = float(array.item())
            else:
                continue
            if event.wall_time >= values.get(value.tag, (event.wall_time,))[0]:
                values[value.tag] = event.wall_time, number, int(event.step)
    return hparams


def _records(content: bytes) -> Iterator[bytes]:
    """Split a TFRecord file: each record is its length, a checksum, its data, a checksum. A part of one ends it."""
    start = 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        end = start + 12 + length
        if end + 4 > len(content):
            return
        yield content[start + 12 : end]
        start = end + 4
