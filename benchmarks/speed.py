"""Speed side by side: packs against what people would use instead, each case in one run on the same machine.

    python benchmarks/speed.py            all cases, about twenty minutes on two cores
    python benchmarks/speed.py digits     those whose name contains the word

Every way of training is a process of its own that warms up and then times blocks of steps; the ways of a case take
turns, round after round. "x2" are two processes side by side with one thread each, which share the machine as the
packs of a study do. Prints medians with quartiles, and the ratio to the fastest form of each peer.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROUNDS = 3
BLOCKS = 8
WARM_UP = 2
# Of each case its ways, each with the number of processes side by side; one alone has all cores.
PLAIN = [("headtohead", 2), ("eager", 1), ("eager", 2)]
EXTRA = {
    "digits": [("headtohead", 1), ("jax", 1)],
    "MLP 784": [("headtohead", 1), ("jax", 1), ("lightning", 1)],
    "cnn": [("eager_channels_last", 1), ("eager_channels_last", 2)],
    "resnet18": [("eager_channels_last", 1)],
    "linear": [("headtohead", 1)],
}
PACKAGES = ("torch", "jax", "lightning")


def child(way: str, case: str, threads: int) -> None:
    """Print the seconds per step and run of each block."""
    import torch

    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    from cases import CASES
    from peers import WAYS

    if way == "headtohead":
        from headtohead.runner.process import prepare_process

        prepare_process(threads)
    print(json.dumps([*WAYS[way](CASES[case], BLOCKS)][WARM_UP:]))


def seconds(way: str, case: str, processes: int) -> list[float]:
    """Per step and run, of the machine as a whole."""
    threads = os.cpu_count() if processes == 1 else 1
    command = [sys.executable, __file__, "--child", way, case, str(threads)]
    # XLA takes all cores it may use.
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        for _ in range(processes)
    ]
    blocks = []
    for process in running:
        printed, complaint = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{way}, {case}: {complaint.strip()}")
        blocks += json.loads(printed.splitlines()[-1])
    return [block / processes for block in blocks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("word", nargs="?", default="", help="only cases whose name contains it")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "CASE", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, case, threads = arguments.child
        child(way, case, int(threads))
        return
    from cases import CASES

    if not any(arguments.word in name for name in CASES):
        parser.error(f"{arguments.word}: no such case; there are: {'; '.join(CASES)}")
    table = Table(title="microseconds per step and run", title_justify="left")
    for header in ("case", "way", "median", "quartiles", "headtohead is"):
        table.add_column(header, justify="left" if header in ("case", "way") else "right")
    for case in [name for name in CASES if arguments.word in name]:
        ways = PLAIN + [way for word, more in EXTRA.items() if word in case for way in more]
        times: dict[tuple[str, int], list[float]] = defaultdict(list)
        for _ in track(range(ROUNDS), description=case, transient=True):
            for way in ways:
                times[way] += seconds(way[0], case, way[1])
        ours = min(np.median(times[way]) for way in ways if way[0] == "headtohead")
        for way in sorted(ways, key=lambda way: np.median(times[way])):
            low, middle, high = np.quantile(times[way], (0.25, 0.5, 0.75)) * 1e6
            ratio = "" if way[0] == "headtohead" else f"{ours / middle * 1e6:.2f} of it"
            named = way[0].replace("_", " ") + (f" x{way[1]}" if way[1] > 1 else "")
            table.add_row(case, named, f"{middle:,.0f}", f"{low:,.0f} to {high:,.0f}", ratio)
            case = ""
        table.add_section()
    console = Console(width=140)
    console.print(table)
    console.print(
        f"{processor()}, {os.cpu_count()} cores; " + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    )


def processor() -> str:
    """The processor's name where Linux tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


if __name__ == "__main__":
    main()
