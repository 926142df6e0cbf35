"""The machine at hand, and other programs that are run and timed on it."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "jax", "lightning", "optuna")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Return the processor's name with its model, since one name has several, and the number of cores."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name", "unknown processor")
    return f"{name}, family {facts.get('cpu family')}, model {facts.get('model')}, {cores()} cores"


def has_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16."""
    return any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))


def versions() -> str:
    """Return the versions of Python and of the packages that are compared, as far as they are installed."""
    found = ["Python " + sys.version.split()[0]]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def result(script: str, *arguments: str, folder: str | Path = ".", threads: int | None = 1) -> Any:
    """Run a script of this folder on one thread, or on all for None, and return the JSON of its last line."""
    environment = {**os.environ} if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, Path(__file__).with_name(script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def seconds(*arguments: str, folder: str | Path = ".", status: int = 0) -> float:
    """Return how long Python takes with the arguments, which must end with the status."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if done.returncode != status:
        raise RuntimeError(f"{' '.join(arguments)}: ended with {done.returncode}: {done.stderr.strip()}")
    return taken
