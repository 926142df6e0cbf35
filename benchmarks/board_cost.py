"""Measure the cost of TensorBoard: the default study with all that is written for it, and without, in turn.

    python benchmarks/board_cost.py

Either is a whole process from start to end, its packs one after another. "Without" writes no event file, neither of
runs nor of arms, follows no records while training, and draws no pictures for the page; the records, results.csv
and the report stay. Prints the seconds of each and their ratio.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from unittest.mock import MagicMock, patch

REPEATS = 3
STUDY = ["experiment=digits", "hydra/launcher=basic", "device=cpu"]


def seconds(*child: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([sys.executable, __file__, *child], cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - started


def study(with_board: bool) -> None:
    from headtohead import cli
    from headtohead.record import events
    from headtohead.report import dashboard

    with contextlib.ExitStack() as stack:
        if not with_board:
            stack.enter_context(patch.object(events, "Events", MagicMock()))
            for name in ("session_start", "session_end", "histogram", "scalars"):
                stack.enter_context(patch.object(events, name, lambda *_: []))
            stack.enter_context(patch.object(dashboard, "Live", MagicMock()))
            stack.enter_context(patch.object(dashboard, "write_dashboard", lambda *_: None))
        sys.argv = ["headtohead", *STUDY]
        cli.main()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", choices=["with", "without"], help=argparse.SUPPRESS)
    child = parser.parse_args().child
    if child:
        study(child == "with")
        return
    pairs = [(seconds("--child", "with"), seconds("--child", "without")) for _ in range(REPEATS)]
    whole, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{whole:.1f} s with, {bare:.1f} s without, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
