"""The process that trains: how it is set up, and the environment that its records name."""

import ctypes
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from headtohead.late import torch
from headtohead.record.run import Environment

# The packages whose versions a record holds.
PACKAGES = ("headtohead", "torch", "torchvision", "hydra-core", "omegaconf", "tensorboard", "numpy", "scikit-learn")
# Options of glibc's malloc.h with their values: freed memory goes back to the system above 2 GiB only, large tensors
# come from the heap too, and the heap grows by 64 MiB.
MALLOPT = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_TOP_PAD": (-2, 64 * 2**20)}


def cores() -> int:
    """Return the number of processor cores that this process may use: of its affinity and of its container's quota."""
    import joblib  # takes as long as all else that is imported here

    return joblib.cpu_count()


@cache
def all_threads() -> int:
    """Return the number of CPU threads that this process may use, as PyTorch finds it at first."""
    return min(torch.get_num_threads(), cores())


def import_from_here() -> None:
    """Let modules in the working directory be imported, after all others of the same name."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def prepare_process(threads: int | None) -> None:
    """Set up this process to train.

    Numbers below the normal range become zero: a processor can take tens of times as long for each of them, and
    momentum decays to them wherever a gradient stays zero. The process keeps the memory of freed tensors: by default
    glibc returns it, and every step faults it in again. Tensors of 2 MiB and more lie in pages of that size where
    Linux gives them on request: PyTorch reads the variable when it first allocates so much.

    Args:
        threads: the number of CPU threads; None takes all.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    most = all_threads()
    torch.set_num_threads(threads or most)
    torch.set_flush_denormal(True)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for name, value in MALLOPT.values():
            libc.mallopt(name, value)


@cache
def environment(device: str) -> Environment:
    """Return the environment of runs that are trained by this process on a device."""
    return Environment(
        python=platform.python_version(),
        versions={package: version(package) for package in PACKAGES},
        device=device,
        device_name=torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine(),
        commit=_commit(),
    )


def _commit() -> str | None:
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    """Return what git prints about the folder of this package."""
    command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
