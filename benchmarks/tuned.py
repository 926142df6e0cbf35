"""Compare a tuned study of the digits with the same trials by Optuna over an eager PyTorch loop.

The study searches five settings of two heads, each by 64 trials with 4 seeds: 512 runs. Its time is that of the whole
command, from its imports to its report.

The peer replays 24 runs of the study in each round, other ones each time, as trials of Optuna. It trains one after
another as a careful user would write it: tensors in memory, a fused optimiser, no logging, one evaluation of the
validation split. It runs in one process, or in two side by side with half of the runs each, on one thread and with
Optuna's storage in memory. Its time is scaled to all runs, and the start of Python with Optuna and PyTorch is added
once.

Both have the same splits, initial weights and batches. What their validation accuracies differ by is owed to rounding,
which decides much where a run nearly diverges and little elsewhere. Each round has a new study.
"""

import copy
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import cores, seconds
from omegaconf import OmegaConf

from headtohead.record.files import flat
from headtohead.record.run import read_runs
from headtohead.training import data
from headtohead.training.config import parse
from headtohead.training.loop import schedule_factors
from headtohead.training.models import initialise
from headtohead.training.splits import generator

ROUNDS, TIMED, SEEDS = 2, 24, 4
# The most that validation accuracies of ours and theirs may differ by in the mean: above it they train something else.
SAME = 0.02
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
    command = [sys.executable, __file__, folder]
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


def one_round(number):
    """Return the seconds of each way, and what the validation accuracies of ours and theirs differ by."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"headtohead": seconds("-m", "headtohead", *STUDY, folder=folder)}
        runs, broken = read_runs(Path(folder, "outputs", "tuned"))
        if broken or any(run.phase != "search" or run.status == "failed" for run in runs.values()):
            raise RuntimeError(f"not every run was searched: {broken}")
        shuffled, first = np.random.default_rng(0).permutation(sorted(runs)), number * TIMED
        chosen = np.take(shuffled, range(first, first + TIMED), mode="wrap").tolist()
        Path(folder, "runs.json").write_text(json.dumps({name: runs[name].config for name in chosen}))
        start = seconds("-c", START, folder=folder)
        for processes in (1, 2)[: cores()]:
            each, accuracies = theirs(folder, processes)
            found["Optuna" + " x2" * (processes - 1)] = start + each * len(runs)
        return found, [accuracies[name] - runs[name].metrics["val_accuracy"] for name in chosen]


def measure():
    """Return the seconds of each way in each round."""
    if not find_spec("optuna"):
        return dict.fromkeys(("headtohead", "Optuna", "Optuna x2"), "optuna not installed")
    times, differences = defaultdict(list), []
    for number in range(ROUNDS):
        found, different = one_round(number)
        differences += different
        for way, taken in found.items():
            times[way].append(taken)
    if abs(np.mean(differences)) > SAME:
        raise RuntimeError(f"theirs and ours differ by {np.mean(differences):.3f} in accuracy")
    return times


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    else:
        print(json.dumps(measure()))
