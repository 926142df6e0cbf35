"""Compare a tuned study of the digits with the same trials by Optuna over an eager PyTorch loop.

    python benchmarks/tuned.py

The study searches five settings of two heads, each by 64 trials with 4 seeds: 512 runs. Its time is that of the whole
command, from its imports to its report. Beside it stands training alone: the time of all packs, divided by the cores,
each of which trains one at a time.

The peer replays 24 runs of the study in each round, other ones each time, as trials of Optuna. It trains one after
another as a careful user would write it: tensors in memory, a fused optimiser, no logging, one evaluation of the
validation split. It runs in one process, or in two side by side with half of the runs each, on one thread and with
Optuna's storage in memory. Its time is scaled to all runs, and the start of Python with Optuna and PyTorch is added
once.

Both have the same splits, initial weights and batches. What their validation accuracies differ by is owed to rounding,
which decides much where a run nearly diverges and little elsewhere. Ours and theirs take turns, and each round has a
new study. Prints medians with quartiles.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from speed import processor

from headtohead.record.files import flat
from headtohead.record.run import read_runs
from headtohead.runner.process import cores
from headtohead.training import data
from headtohead.training.config import parse
from headtohead.training.loop import schedule_factors
from headtohead.training.models import initialise
from headtohead.training.splits import generator

ROUNDS, TIMED, SEEDS = 5, 24, 4
# The ends of each tuned setting, and whether its scale is logarithmic.
RANGES = {
    "optimizer.lr": (1e-3, 1, True),
    "optimizer.weight_decay": (1e-6, 1e-2, True),
    "optimizer.momentum": (0.5, 0.99, False),
    "training.warmup": (0, 0.3, False),
    "head.label_smoothing": (0, 0.2, False),
}
STUDY = [
    "name=tuned", "head=softmax,sigmoid", "dataset=digits", "model=mlp", "device=cpu", f"seed=range({SEEDS})",
    "protocol.trials=64", "protocol.confirm_seeds=0",
    *(f"{key}=" + ("tag(log,interval({},{}))" if log else "interval({},{})").format(low, high)
      for key, (low, high, log) in RANGES.items()),
]  # fmt: skip
START = "import optuna, torch; from sklearn.datasets import load_digits; load_digits()"


def settings(config):
    """Return what distinguishes a run, by its configuration, as Optuna names it."""
    values = flat(config)
    return {key: values[key] for key in (*RANGES, "head.name", "seed")}


def given(config):
    """Return the initial network of a run's seed, its training split and its validation split."""
    run = parse(OmegaConf.create(config))
    pool = data.load(run.dataset, torch.device("cpu"))
    view = data.view(pool, run.dataset, run.settings.seed)
    network = initialise(run.model, run.head, pool.input_shape, pool.num_classes, run.settings.seed)
    torch.nn.init.zeros_(network.classifier.bias)
    inputs = ((pool.inputs - view.mean) / view.std).float()
    return network, (inputs[view.train], view.train_labels), (inputs[view.val], pool.labels[view.val]), run.training


def eager(values, network, train, val, training):
    """Train one run, and return its validation accuracy."""
    lr, decay, momentum, warmup, smoothing, head, seed = values.values()
    network, (inputs, labels), size = copy.deepcopy(network), train, training.batch_size
    steps = len(inputs) // size
    targets = labels if head == "softmax" else F.one_hot(labels, 10) * (1 - smoothing) + smoothing / 10
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": decay}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr, momentum, fused=True)
    rates_S = lr * schedule_factors(replace(training, warmup=warmup), training.epochs * steps)
    order = generator(seed, "order")
    for of_epoch in rates_S.reshape(-1, steps).tolist():
        index = torch.randperm(len(inputs), generator=order)[: steps * size]
        for rate, x, y in zip(of_epoch, inputs[index].split(size), targets[index].split(size), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits = network(x)
            if head == "softmax":
                loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
            else:
                loss = F.binary_cross_entropy_with_logits(logits, y, reduction="sum") / size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return (network(val[0]).argmax(1) == val[1]).double().mean().item()


def child(folder, part, parts):
    """Print the seconds per run of one of the peer's processes, and the accuracy of each of its runs."""
    import optuna

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runs = json.loads((folder / "runs.json").read_text())
    of_seed = {config["seed"]: given(config) for config in runs.values()}
    found = {}

    def objective(trial):
        values = {key: trial.suggest_float(key, low, high, log=log) for key, (low, high, log) in RANGES.items()}
        values["head.name"] = trial.suggest_categorical("head.name", ["softmax", "sigmoid"])
        values["seed"] = trial.suggest_int("seed", 0, SEEDS - 1)
        found[trial.user_attrs["run"]] = accuracy = eager(values, *of_seed[values["seed"]])
        return accuracy

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(), direction="maximize")  # in memory, the fastest
    own = [*runs.items()][part::parts]
    for name, config in own:
        study.enqueue_trial(settings(config), user_attrs={"run": name})
    for config in [*runs.values()][:2]:  # warms up
        eager(settings(config), *of_seed[config["seed"]])
    print("ready", flush=True)
    input()
    started = time.perf_counter()
    study.optimize(objective, n_trials=len(own))
    print(json.dumps([(time.perf_counter() - started) / len(own), found]))


def theirs(folder, processes):
    """Return the seconds per run of the peer's processes side by side, and the accuracy of each run."""
    command = [sys.executable, __file__, "--child", folder]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(part), str(processes)], **pipes) for part in range(processes)]
    for process in running:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the peer could not start")
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    results = [json.loads(process.communicate()[0]) for process in running]
    return 1 / sum(1 / seconds for seconds, _ in results), {k: v for _, found in results for k, v in found.items()}


def timed(folder, *command):
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def one_round(number):
    """Return the seconds of each way, whole and training alone, and a table of our runs with their accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        whole = timed(folder, "-m", "headtohead", *STUDY)
        runs, broken = read_runs(Path(folder, "outputs", "tuned"))
        if broken or any(run.phase != "search" or run.status == "failed" for run in runs.values()):
            raise RuntimeError(f"not every run was searched: {broken}")
        seconds = {"headtohead": (whole, sum(run.wall_s for run in runs.values()) / cores())}
        table = pd.DataFrame({name: settings(run.config) for name, run in runs.items()}).T.infer_objects()
        table["ours"] = [run.metrics["val_accuracy"] for run in runs.values()]
        shuffled, first = np.random.default_rng(0).permutation(sorted(runs)), number * TIMED
        chosen = np.take(shuffled, range(first, first + TIMED), mode="wrap").tolist()
        Path(folder, "runs.json").write_text(json.dumps({name: runs[name].config for name in chosen}))
        start = timed(folder, "-c", START)
        for processes in (1, 2):
            each, found = theirs(folder, processes)
            seconds[f"Optuna, eager x{processes}"] = (start + each * len(runs), each * len(runs))
        return seconds, table.assign(theirs=pd.Series(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    if of_peer := parser.parse_args().child:
        child(Path(of_peer[0]), *map(int, of_peer[1:]))
        return
    times, tables = defaultdict(list), []
    for number in range(ROUNDS):
        seconds, table = one_round(number)
        tables.append(table)
        for way, pair in seconds.items():
            times[way].append(pair)
        print(
            f"round {number + 1}: " + ", ".join(f"{way} {pair[0]:.1f} s" for way, pair in seconds.items()), flush=True
        )
    print(f"{len(table)} runs of ours in a round, {TIMED} of each form of the peer, whose time is scaled to as many")
    for column, part in enumerate(("whole", "training")):
        for way, pairs in times.items():
            low, median, high = np.quantile(np.array(pairs)[:, column], (0.25, 0.5, 0.75))
            print(f"{part}, {way}: {median:.1f} s ({low:.1f} to {high:.1f}), {median / len(table):.4f} s a run", end="")
            if way != "headtohead":
                shares = [ours[column] / other[column] for ours, other in zip(times["headtohead"], pairs, strict=True)]
                low, median, high = np.quantile(shares, (0.25, 0.5, 0.75))
                print(f"; headtohead takes {median:.3f} ({low:.3f} to {high:.3f}) of it", end="")
            print()
    difference = pd.concat([table.theirs - table.ours for table in tables]).dropna()
    size, noise = difference.abs(), table.groupby([*RANGES, "head.name"]).ours.std()
    print(
        f"validation accuracy, theirs less ours: mean {difference.mean():+.4f}, mean size {size.mean():.4f}, median "
        f"{size.median():.4f}; standard deviation over the seeds of a trial: mean {noise.mean():.4f}, median "
        f"{noise.median():.4f}"
    )
    print(f"{processor()}, {os.cpu_count()} cores; torch {version('torch')}, optuna {version('optuna')}")


if __name__ == "__main__":
    main()
