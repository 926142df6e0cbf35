"""Measure the cost of the metrics: a pack of the default study with them and without, in turn.

    python benchmarks/metrics_cost.py

"Without" leaves out the Hessian, the coupling of the classes and all final metrics but those that are followed
while training; the loop, its gradient norms and its evaluations stay. Prints the seconds of each and their ratio.
"""

import statistics
import time
from contextlib import ExitStack
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_module

from headtohead.runner.process import prepare_process
from headtohead.training import data, loop, metrics
from headtohead.training.config import parse
from headtohead.training.evaluation import Evaluation

REPEATS = 5


def pack(confirm: bool):
    """A search pack of 16 runs, or a confirm pack of 14, as the default study packs them."""
    made = []
    with initialize_config_module("headtohead.configs", version_base="1.3"):
        heads = ("softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean")
        if confirm:
            grid = [(head, 0.1, seed) for head in heads for seed in (10, 11, 12, 13)][:14]
        else:
            grid = [(head, lr, 0) for head in heads for lr in (0.003, 0.03, 0.1, 0.3)]
        for head, lr, seed in grid:
            made.append(
                parse(compose("config", ["experiment=digits", f"head={head}", f"optimizer.lr={lr}", f"seed={seed}"]))
            )
    return made


def light(cohort, test):
    """Return the metrics that are followed while training as the final ones."""
    final = {}
    for split in ("val", "test") if test else ("val",):
        summary = metrics.summarise(cohort.examples(cohort.chunks(split)))
        final |= {f"{split}_{name}": value for name, value in summary.items()}
    return Evaluation(final, {}, {})


def seconds(runs, pool, test: bool, with_metrics: bool) -> float:
    with ExitStack() as stack:
        if not with_metrics:
            few = loop.logged_steps
            stack.enter_context(patch.object(loop, "evaluate", light))
            stack.enter_context(patch.object(loop.diagnostics, "coupling", lambda *_: {}))
            stack.enter_context(patch.object(loop, "logged_steps", lambda *at: (*few(*at)[:2], set())))
        started = time.perf_counter()
        for _ in loop.train(runs, pool, test):
            pass
        return time.perf_counter() - started


def main() -> None:
    prepare_process(1)
    for phase in ("search", "confirm"):
        runs = pack(phase == "confirm")
        pool = data.load(runs[0].dataset, torch.device("cpu"))
        pairs = [
            (seconds(runs, pool, phase == "confirm", True), seconds(runs, pool, phase == "confirm", False))
            for _ in range(REPEATS + 1)
        ][1:]
        whole, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{phase:8} {len(runs)} runs: {whole:.3f} s with, {bare:.3f} s without, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
