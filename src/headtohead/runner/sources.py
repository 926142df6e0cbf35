"""Sources of a run: what its result depends on beside the configuration and the versions of a record.

These are the examples of the dataset, the code that a factory names, the files that it opens or that its options name,
and environment variables. Each has a name, such as "code of nets", and a checksum.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path
from threading import get_ident
from typing import Any

from headtohead.late import torch
from headtohead.record.files import flat, sha256_of, without_home
from headtohead.record.run import NOT_OF_A_RUN
from headtohead.runner.environment_values import fingerprint
from headtohead.runner.resolve import Member
from headtohead.training import data
from headtohead.training.config import Config, resolve_device
from headtohead.training.data import Pool
from headtohead.training.datasets import Factory as DataFactory
from headtohead.training.datasets import Gaussians, ood_dataset
from headtohead.training.examples import Dataset
from headtohead.training.heads import Head
from headtohead.training.models import Factory, Timm

# What names of sources begin with.
DATA, CODE, VERSION, FILE, VARIABLE = "data of ", "code of ", "version of ", "file ", "environment variable of "
# Names of folders that hold installed packages.
INSTALLED = {"site-packages", "dist-packages"}


class Contents:
    """Checksums of the contents of files, computed once while their names, sizes and times stay.

    Args:
        known: the checksums that are known, by that of names, sizes and times.

    Attributes:
        used: those of `known` that were used, and the new ones.
    """

    def __init__(self, known: Mapping[str, str]):
        self._known = known
        self.used: dict[str, str] = {}

    def of(self, files: Sequence[str | Path], order: bytes = b"") -> str:
        """Return the checksum of files in order, whatever their names and folders.

        Args:
            order: what beside the contents belongs to the checksum.
        """
        # The time of the last change of the entry cannot be set, as that of the contents can.
        stats = [(os.path.abspath(file), os.stat(file)) for file in files]
        listing = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]
        place = _sha256([repr(listing).encode(), order])
        if place not in self.used:
            self.used[place] = self._known.get(place) or self._read(files, order)
        return self.used[place]

    def _read(self, files: Sequence[str | Path], order: bytes) -> str:
        with ThreadPoolExecutor() as threads:
            return _sha256([*(digest.encode() for digest in threads.map(sha256_of, files)), order])


def sources_of(
    config: Config, hidden: Mapping[str, Any], contents: Contents, opened: Iterable[str] = ()
) -> dict[str, str]:
    """Return the sources of a run, by name.

    Args:
        config: the configuration of the run.
        hidden: the values of it that come from environment variables, by dotted key.
        contents: the checksums of files.
        opened: the files that its network or its head reads, beside those that its options name.
    """
    found = {f"{DATA}{key}": checksum for key, checksum in _data(config, contents).items()}
    model = config.model
    for part in (model, config.dataset):
        if isinstance(part, Factory | DataFactory):
            found |= _code(part.path)
    # It follows nothing of this package, whose heads have no code of their own.
    found |= _code(type(config.head).__module__)
    named: set[str] = set()
    options = {"model": getattr(model, "options", {}), "head": asdict(config.head) if _is_own(config.head) else {}}
    for key, value in flat(options).items():
        texts = value if isinstance(value, list | tuple) else [value]
        files = [file for text in texts if isinstance(text, str) for file in _files_at(text)]
        named |= {os.path.realpath(file) for file in files}
        if files:
            group, _, option = key.partition(".")
            found[f"{FILE}of {group}.options.{option}"] = contents.of(files)
    if model.pretrained and (file := model.pretrained.place) and file.is_file():
        found[f"{FILE}of model.weights"] = contents.of([file])
    if isinstance(model, Timm):
        found[f"{VERSION}timm"] = version("timm")
    for file in opened if isinstance(model, Factory) or _is_own(config.head) else ():
        if os.path.realpath(file) not in named and os.path.isfile(file):
            found[f"{FILE}{without_home(str(file))}"] = contents.of([file])
    for key, value in ((key, hidden[key]) for key in hidden if key not in NOT_OF_A_RUN):
        found[f"{VARIABLE}{key}"] = fingerprint(value, f"{config.settings.name} {key}")
    return found


def _is_own(head: Head) -> bool:
    """Return whether a head is the user's own."""
    return type(head).__module__.split(".")[0] != "headtohead"


def sources_by_arm(
    members: Iterable[Member], contents: Contents, opened: Iterable[str] = ()
) -> dict[str, dict[str, str]]:
    """Return the sources of the runs of each arm; see `sources_of`."""
    found: dict[str, dict[str, str]] = {}
    by_arm: dict[str, dict[str, str]] = {}
    for arm, member in {member.run.arm: member for member in members}.items():
        # Arms often differ in the head alone, and data take time.
        of_head = member.config.head if _is_own(member.config.head) else None
        key = repr((member.config.dataset, member.config.model, of_head, member.hidden))
        if key not in found:
            found[key] = sources_of(member.config, member.hidden, contents, opened)
        by_arm[arm] = found[key]
    return by_arm


def opened_files(sources: Mapping[str, str]) -> list[str]:
    """Return the files among sources that a network or a head read and no option names."""
    names = [name.removeprefix(FILE) for name in sources if name.startswith(FILE)]
    return [os.path.expanduser(name) for name in names if not name.startswith("of ")]


def changes(before: Mapping[str, str], now: Mapping[str, str], code: bool = True) -> list[str]:
    """List, a line each, the sources that differ; none where the record of an older release has no sources.

    Args:
        code: whether code counts; without it these are the differences that make another run.
    """
    if not before:
        return []
    lines = []
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old == new or (not code and name.startswith((CODE, VERSION))):
            continue
        if name.startswith(VERSION):
            lines.append(f"{name}: {old or 'nothing'}, now {new or 'nothing'}")
        else:
            lines.append(f"{name}: {'new' if old is None else 'gone' if new is None else 'changed'}")
    return lines


def _data(config: Config, contents: Contents) -> dict[str, str]:
    """Return a checksum of the examples of a run's datasets, by the key that names them."""
    dataset, device = config.dataset, resolve_device(config.settings.device)
    outliers = ood_dataset(dataset)
    named = {f"dataset.{dataset.place}" if dataset.place else "dataset": dataset}
    if outliers is not None and outliers is not dataset:
        named["dataset.ood"] = outliers
    # What the package generates is fixed by its version; its last bits may depend on the processor.
    return {
        key: _examples(data.load(kind, device), contents)
        for key, kind in named.items()
        if not isinstance(kind, Gaussians)
    }


def _examples(pool: Pool, contents: Contents) -> str:
    splits = (pool.test.tolist(), None if pool.val is None else pool.val.tolist())
    groups = () if pool.groups is None else (pool.groups.tolist(),)
    order = repr((pool.classes, pool.labels.tolist(), splits, *groups)).encode()
    if pool.files:
        return contents.of(pool.files, order)
    every = torch.arange(len(pool.labels), device=pool.device)
    parts = (part.cpu().numpy() for part in data.in_parts(pool.inputs, every))
    first = next(parts)
    return _sha256(chain([order, repr((first.dtype, tuple(pool.inputs.shape))).encode(), first], parts))


def _files_at(text: str) -> list[Path]:
    """Return the file that an option names, or all files of a folder; none for any other text."""
    try:
        path = Path(text).expanduser()
        if path.is_file():
            return [path]
        # A word may happen to be the name of a folder; that of the studies changes while they run.
        outputs = Path("outputs").resolve()
        if path.is_dir() and not outputs.is_relative_to(path.resolve()) and not path.resolve().is_relative_to(outputs):
            return sorted(file for file in path.rglob("*") if file.is_file())
    except (OSError, ValueError, RuntimeError):
        pass  # too long, with a zero byte, or in the home of nobody
    return []


def _code(path: str) -> dict[str, str]:
    """Return checksums of the modules that a factory is made of, and the versions of installed packages.

    The modules are those that its own module imports, anywhere in its text, and so on; installed packages and this
    one are not followed. An import whose name is computed is not seen.
    """
    found: dict[str, str] = {}
    waiting, seen = [path.partition(":")[0]], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.split(".")[0] in sys.stdlib_module_names | {"headtohead"}:
            continue
        seen.add(name)
        top, _, rest = name.partition(".")
        spec = _find(top)
        if spec is None:
            continue
        places = [spec.origin, *(spec.submodule_search_locations or [])]
        if INSTALLED & {part for place in places if place for part in Path(place).parts}:
            for distribution in _distributions().get(top, []):
                found[f"{VERSION}{distribution}"] = version(distribution)
            continue
        waiting.append(name.rpartition(".")[0] or name)
        spec = _find(name) if rest else spec
        if spec is None or not spec.origin or not os.path.isfile(spec.origin):
            continue
        found[f"{CODE}{name}"] = sha256_of(spec.origin)
        if spec.origin.endswith(".py"):
            waiting += _imports(spec.origin, name, spec.submodule_search_locations is not None)
    return found


# It reads the description of every installed package.
_distributions = cache(packages_distributions)


def _find(name: str) -> Any:
    """Return where Python finds a module; None where it does not."""
    try:
        return importlib.util.find_spec(name)
    except Exception:  # it imports the packages that hold the module, whose code may raise anything
        return None


def _imports(file: str, module: str, is_package: bool) -> Iterator[str]:
    """Yield the names of modules that a file imports, and of what may be one."""
    package = module if is_package else module.rpartition(".")[0]
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return  # Python cannot import it either
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            try:
                base = importlib.util.resolve_name(relative, package) if node.level else relative
            except ImportError:
                continue  # beyond the top, as where a module is tried as a part of a package first
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def import_dataset(dataset: Dataset, opened: set[str]) -> None:
    """Import the module of a dataset of the user's own, and add to `opened` the files that this opens to read.

    The module may have heads or networks too. What it raises is told where the dataset is loaded.
    """
    if isinstance(dataset, DataFactory):
        with watched_files(opened), suppress(Exception, SystemExit):
            importlib.import_module(dataset.path.partition(":")[0])


@contextmanager
def watched_files(opened: set[str]) -> Iterator[None]:
    """Add to `opened`, as a context, the files that this thread opens to read: those of the user, but no modules."""
    _install_hook()
    paths: set[str] = set()
    _watch[get_ident()] = paths
    try:
        yield
    finally:
        del _watch[get_ident()]
        opened |= {path for path in paths if _may_be_read(path)}


# The paths that each thread has opened.
_watch: dict[int, set[str]] = {}


@cache
def _install_hook() -> None:
    sys.addaudithook(_note_opened)  # Python has no way to remove it


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or get_ident() not in _watch:
        return
    path, _, flags = arguments
    if isinstance(path, str | bytes) and not flags & (os.O_WRONLY | os.O_RDWR):
        path = os.path.abspath(os.fsdecode(path))
        _watch[get_ident()].add(path.removeprefix(f"{os.getcwd()}/"))


def _may_be_read(path: str) -> bool:
    """Return whether a file is the user's: neither a module nor a part of the system or of an installed package."""
    foreign = (sysconfig.get_path("stdlib"), "/proc/", "/sys/", "/dev/")
    place = Path(path).resolve()
    return place.is_file() and not (
        str(place).startswith(foreign) or INSTALLED & {*place.parts} or place.suffix in (".py", ".pyc")
    )


def _sha256(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
