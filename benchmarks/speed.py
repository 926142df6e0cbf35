"""Time ways of training side by side, as the pace of the whole machine.

Every way is one process with all cores, or two side by side with one thread each, as a study has them. All processes
start once, warm up and wait. The ways then take turns, round after round: a turn begins for all processes of a way at
once and ends for all at once, and only blocks of steps that lie within it count. Their rates add up to the pace of
the machine, also where the processes are not equally fast.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import IO

from machine import cores

ROUNDS, SECONDS, WARM_UP = 8, 3.0, 2
NEEDS = {"jax": ("jax", "optax"), "lightning": ("lightning",)}


class Way:
    """Processes that train the runs of a case in one way, and wait for their turns.

    Args:
        name: of a function in `peers.WAYS`, with " x2" for two processes.
        case: of `cases.CASES`.
    """

    def __init__(self, name: str, case: str, errors: IO[bytes]):
        self.name, self._errors = name, errors
        function, _, count = name.partition(" x")
        threads = 1 if count else cores()
        self._running = [
            subprocess.Popen(
                [sys.executable, __file__, function, case, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            for _ in range(int(count or 1))
        ]

    def wait(self) -> list[list[float]]:
        """Return what each process prints next."""
        printed = [process.stdout.readline() for process in self._running]
        if not all(printed):
            self._errors.seek(0)
            raise RuntimeError(f"{self.name}: {self._errors.read().decode().strip()}")
        return [json.loads(line) for line in printed]

    def turn(self, seconds: float) -> float:
        """Return the seconds per step and run of the machine as a whole."""
        self._tell(b"+")
        select.select([], [], [], seconds)
        self._tell(b"-")
        return 1 / sum(len(times) / sum(times) for times in self.wait())

    def _tell(self, sign: bytes) -> None:
        for process in self._running:
            os.write(process.stdin.fileno(), sign)

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


def paces(
    case: str, ways: Sequence[str], busy: bool = False, rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, list[float] | str]:
    """Return for each way the microseconds per step and run in each round, or why it was not measured.

    Args:
        busy: whether one core computes something else all the time.
        seconds: length of a turn.
    """
    found: dict[str, list[float] | str] = {way: reason for way in ways if (reason := missing(way))}
    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        if busy:
            stack.enter_context(busy_core())
        taking_part = [Way(way, case, errors) for way in ways if way not in found]
        for way in taking_part:
            stack.callback(way.end)
        for way in taking_part:
            way.wait()
        for _ in range(rounds):
            for way in taking_part:
                found.setdefault(way.name, []).append(way.turn(seconds) * 1e6)
    return found


def missing(way: str) -> str | None:
    """Return what a way needs and this machine lacks."""
    lacking = [package for package in NEEDS.get(way.partition(" x")[0], ()) if not find_spec(package)]
    if lacking:
        return f"{' and '.join(lacking)} not installed"
    return "only one core" if way.endswith(" x2") and cores() < 2 else None


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep the first core busy."""
    first = min(os.sched_getaffinity(0))
    # It ends with this process, however that ends.
    code = f"import os; os.sched_setaffinity(0, [{first}])\nwhile os.getppid() == {os.getpid()}: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def limit_xla() -> None:
    """Let XLA compute on one thread, which may run on any core: it starts as many as there are cores to run on."""
    import jax

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(allowed)])
    jax.devices()
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), allowed)


def child(way: str, case: str, threads: int) -> None:
    """Train, and print the seconds per step and run of the blocks in each turn."""
    import torch
    from cases import CASES
    from peers import WAYS

    printed = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    if way.startswith(("headtohead", "products")):
        from headtohead.runner.process import prepare_process

        prepare_process(threads)
    if way == "jax" and threads == 1:
        limit_xla()
    blocks = WAYS[way](CASES[case])
    times = [next(blocks) for _ in range(WARM_UP)]
    print(json.dumps(times), file=printed, flush=True)
    while os.read(0, 1):  # a turn begins
        times = []
        while not select.select([0], [], [], 0)[0]:
            times.append(next(blocks))
        if not os.read(0, 1):
            return
        # The first block finds cold caches, the last one ended after the turn.
        print(json.dumps(times[1:-1] or times[-1:]), file=printed, flush=True)


if __name__ == "__main__":
    child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
