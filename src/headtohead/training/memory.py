"""The memory that this process may use, which in a container is less than the machine's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from headtohead.late import torch
from headtohead.options import require


def memory(device: torch.device) -> int:
    """Return the memory of a device in bytes; on the CPU, what this process may use of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, *_group_limits(Path("/")), *_process_limits())


def require_memory(size: int, device: torch.device, key: str, value: object) -> None:
    """Refuse the value of a key for which a device lacks memory.

    Args:
        size: number of bytes that are needed.

    Raises:
        ConfigError: the device has less.
    """
    available = memory(device)
    require(size <= available, key, value, f"{size / 2**30:,.1f} GiB needed, {available / 2**30:,.1f} GiB there")


def _process_limits() -> Iterator[int]:
    """Yield the limits that the shell or a scheduler has set for this process (ulimit -v, -d)."""
    if sys.platform != "win32":
        import resource

        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                yield soft


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the control groups of this process, of version 1 and 2, and of all groups above them.

    Args:
        root: the folder in which /proc and /sys lie.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        number, controllers, group = line.split(":", 2)
        if number == "0":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.high")
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes",)
        else:
            continue
        # A container shows its own group at the top, whatever the name of the group is outside.
        folder = top / group.strip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top):
                yield from _limits(place, names)


def _limits(folder: Path, names: tuple[str, ...]) -> Iterator[int]:
    for name in names:
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():  # not "max"
            yield int(text)
