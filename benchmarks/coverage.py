"""Measure how often intervals of trained runs contain the true difference of two heads on new seeds and new examples.

    python benchmarks/coverage.py fixed linear            one fixed test split
    python benchmarks/coverage.py folds mlp 360 100       5 folds of each of 100 datasets of 360 examples
    python benchmarks/coverage.py choice linear 100 100   whether the choice of a learning rate flatters the folds

The data are Gaussians, of which there are as many as one likes: a large test set gives the true difference. `fixed`
trains 200 seeds of each head and draws seeds and test examples from theirs. `folds` compares each dataset's interval
with what its own models do on the large test set. Each prints a table.

Shape suffixes: R runs, S seeds, F folds, N examples, G blocks of test examples, L learning rates.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from torch import Tensor

from headtohead.analysis.choice import ArmSearch
from headtohead.analysis.estimates import Crossed
from headtohead.analysis.pairing import Pairs
from headtohead.training import blocks, data, metrics, splits
from headtohead.training.config import Config, parse
from headtohead.training.data import Pool
from headtohead.training.evaluation import evaluate
from headtohead.training.loop import _Training
from headtohead.training.pack_data import Cohort

HEADS = ("softmax", "sigmoid")
METRICS = ("accuracy", "nll", "balanced_accuracy")
FOLDS = 5
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
# Of the fixed split: seeds that are trained, test examples, examples outside the test split.
SEEDS, TEST, REST = 200, 10_000, 1_000
# Of folds: the seeds of the interval, and all whose models give the truth.
REPETITIONS, ALL_REPETITIONS = 5, 8
# Of the choice of a rate: seeds that search; one more is tested.
SEARCH_SEEDS = 5
COMMON = (
    *("dataset=gaussians", "dataset.ood=null", "dataset.val_fraction=0.25", "device=cpu"),
    *("training.epochs=20", "training.batch_size=32", "training.points=1", "training.evaluations=1"),
)
MODELS = {"linear": ("model=linear",), "mlp": ("model=mlp", "model.widths=[64]")}
Row = tuple[str, str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how often intervals of trained runs cover the truth.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("fixed", "folds", "choice"):
        command = commands.add_parser(name)
        command.add_argument("model", choices=MODELS)
        if name == "fixed":
            command.add_argument("draws", type=int, nargs="?", default=500)
        else:
            command.add_argument("examples", type=int)
            command.add_argument("datasets", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="coverage by trained runs", title_justify="left")
    for header in ("rate", "measured", "seeds alone", "nominal"):
        table.add_column(header, justify="left" if header == "rate" else "right")
    if arguments.command == "fixed":
        rows = fixed(arguments.model, arguments.draws)
    else:
        rows = {"folds": folds, "choice": choice}[arguments.command](
            arguments.model, arguments.examples, arguments.datasets
        )
    for row in rows:
        table.add_row(*row)
    Console(width=130).print(table)


def fixed(model: str, draws: int) -> Iterator[Row]:
    """Yield rows on a fixed test split: seeds and test examples are drawn with replacement from many."""
    inputs, labels = gaussians(TEST + REST)
    where = torch.arange(len(labels))
    pool = pool_of(inputs, labels, test=where[REST:], rest=where[:REST])
    tested = trained_differences(configs(model, range(SEEDS), None), pool)
    labels = labels[REST:]
    truth = {name: float(value_S.mean()) for name, value_S in differences(*tested, labels).items()}
    stream = torch.Generator().manual_seed(0)
    for examples in (100, 360, 3000):
        counts = {(metric, seeds): Counts() for metric in METRICS for seeds in (5, 10, 40)}
        for _ in track(range(draws), f"{examples} examples", console=Console(stderr=True)):
            for seeds in (5, 10, 40):
                seed_S = torch.randint(SEEDS, (seeds,), generator=stream)
                example_N = torch.randint(TEST, (examples,), generator=stream)
                drawn = [value_SN[seed_S][:, example_N] for value_SN in tested]
                for metric, (crossed, alone) in estimates(drawn, labels[example_N]).items():
                    counts[metric, seeds].add(crossed, alone, truth[metric])
        for (metric, seeds), count in counts.items():
            yield f"{model}, fixed split, {examples} examples, {seeds} seeds, {metric}", *count.shares(), "93 to 99 %"


def folds(model: str, examples: int, datasets: int) -> Iterator[Row]:
    """Yield rows on folds: a dataset's interval against what its models, and those of other datasets, do elsewhere."""
    own = {metric: Counts() for metric in METRICS}
    found: dict[str, list[tuple[Crossed, Crossed, float]]] = {metric: [] for metric in METRICS}
    for pool, elsewhere in drawn_datasets(examples, datasets):
        cohort = trained(configs(model, range(ALL_REPETITIONS), range(FOLDS)), pool)
        truth = differences(*contrast(cohort, elsewhere), elsewhere.labels)
        for metric, (crossed, alone) in estimates_of_folds(cohort).items():
            true = float(truth[metric].mean())
            own[metric].add(crossed, alone, true)
            found[metric].append((crossed, alone, true))
    for metric in METRICS:
        title = f"{model}, folds, {examples} examples, {REPETITIONS} seeds, {metric}"
        yield title, *own[metric].shares(), "93 to 99 %"
        others = Counts()
        mean = float(np.mean([true for _, _, true in found[metric]]))
        for crossed, alone, _ in found[metric]:
            others.add(crossed, alone, mean)
        yield "  of the mean over datasets of this size", *others.shares(), "not promised"


def choice(model: str, examples: int, datasets: int) -> Iterator[Row]:
    """Yield rows on the optimism of the test on folds, accuracy and NLL minus those of the same models elsewhere.

    A validation example of one fold is a test example of another, so that a study chooses for each fold by the examples
    outside of it. What is owed to the choice of the rate is the
    optimism at the chosen rate minus its mean over all rates, which is zero without a choice. A comparison needs that
    of the difference of two heads alone.
    """
    rows = [
        pd.DataFrame({head: optimism(model, head, *pools) for head in HEADS})
        for pools in drawn_datasets(examples, datasets)
    ]
    for name in rows[0].index:
        table = pd.DataFrame([row.loc[name] for row in rows])
        first, other = HEADS
        for title, values in ((first, table[first]), (f"{first} less {other}", table[first] - table[other])):
            interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            measured = f"{np.mean(values):+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
            yield f"{model}, optimism of folds, {examples} examples, {name}, {title}", measured, "", "0"


def optimism(model: str, head: str, pool: Pool, elsewhere: Pool) -> pd.Series:
    """Return the optimism of one head that is owed to the choice of its rate, by metric and way of choosing."""
    # As in a study, the search trains one fold of each seed, and fresh seeds test all folds.
    searched, tested = (
        trained([run for rate in RATES for run in configs(model, seeds, of_folds, (head,), rate)], pool)
        for seeds, of_folds in ((range(SEARCH_SEEDS), (0,)), ((SEARCH_SEEDS,), range(FOLDS)))
    )
    here, there = (metrics_of(tested, where) for where in (pool, elsewhere))
    values: dict[str, float] = {}
    for metric, criterion in (("accuracy", "val_accuracy"), ("nll", "val_nll")):
        error_LF = here[metric] - there[metric]
        search = search_of(searched, criterion)
        of_folds = splits.blocks_of_folds(pool.block_sizes, FOLDS, SEARCH_SEEDS)
        # A run's own validation split has none of its test examples.
        own = search_of(tested, criterion)
        chosen = {
            "by all validation examples": [search.best()] * FOLDS,
            "by those outside the fold": [search.best_outside(blocks_of_fold) for blocks_of_fold in of_folds],
            "by those of the fold's own runs": [
                replace(own, runs=own.runs.loc[own.runs.seed == fold]).best() for fold in range(FOLDS)
            ],
        }
        for how, trials in chosen.items():
            error = error_LF[[int(trial.lr) for trial in trials], range(FOLDS)].mean()
            values[f"{metric}, {how}"] = float(error - error_LF.mean())
    return pd.Series(values)


class Counts:
    """How many intervals contain the truth: crossed, and over seeds alone."""

    def __init__(self) -> None:
        self.crossed = self.alone = self.total = 0

    def add(self, crossed: Crossed, alone: Crossed, truth: float) -> None:
        self.crossed += covers(crossed, truth)
        self.alone += covers(alone, truth)
        self.total += 1

    def shares(self) -> tuple[str, str]:
        bounds = stats.binomtest(self.crossed, self.total).proportion_ci(method="wilson")
        crossed = f"{self.crossed / self.total:.1%} ({bounds.low:.0%} to {bounds.high:.0%})"
        return crossed, f"{self.alone / self.total:.0%}"


def covers(estimate: Crossed, truth: float) -> bool:
    interval = estimate.interval(0.95)
    return interval.lower <= truth <= interval.upper


def gaussians(examples: int) -> tuple[Tensor, Tensor]:
    """Draw examples of one problem: inputs, and labels, in which every class has its turn."""
    with initialize_config_module("headtohead.configs", version_base="1.3"):
        dataset = parse(compose("config", overrides=[*COMMON, f"dataset.examples={examples}"])).dataset
    read = dataset.read()
    assert isinstance(read.inputs, Tensor)
    return read.inputs, read.labels


def pool_of(inputs: Tensor, labels: Tensor, test: Tensor | None = None, rest: Tensor | None = None) -> Pool:
    """Return a pool of examples: in folds, unless it is said which are the test split."""
    everything = torch.arange(len(labels))
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    test_N, rest_N = (everything if part is None else part for part in (test, rest))
    return Pool(inputs, labels, test_N, rest_N, classes, FOLDS if test is None else None)


def drawn_datasets(examples: int, datasets: int) -> Iterator[tuple[Pool, Pool]]:
    """Yield datasets of one problem, each with the same large test set."""
    large = max(20_000, 20 * examples)
    inputs, labels = gaussians(large + examples * datasets)
    elsewhere = pool_of(inputs[:large], labels[:large])
    for start in track(range(large, len(labels), examples), "datasets", console=Console(stderr=True)):
        yield pool_of(inputs[start : start + examples], labels[start : start + examples]), elsewhere


def configs(
    model: str, seeds: Sequence[int], of_folds: Sequence[int] | None, heads: Sequence[str] = HEADS, rate: float = 0.1
) -> list[Config]:
    """Return the configurations of each head, seed and fold, in this order; without folds where they are None."""
    result = []
    for head in heads:
        overrides = [*COMMON, *MODELS[model], f"head={head}", f"optimizer.lr={rate}"]
        if of_folds is not None:
            overrides += [f"dataset.folds={FOLDS}", "dataset.test_fraction=null"]
        with initialize_config_module("headtohead.configs", version_base="1.3"):
            config = parse(compose("config", overrides=overrides))
        result += [
            replace(config, settings=replace(config.settings, seed=seed, fold=fold))
            for seed, fold in product(seeds, of_folds or (0,))
        ]
    return result


def trained(runs: Sequence[Config], pool: Pool) -> Cohort:
    """Train runs in a pack."""
    training = _Training(runs, pool, test=False)
    for _ in training.run():
        pass
    return training.cohort


def predicted(cohort: Cohort, pool: Pool) -> metrics.PerExample:
    """Let trained runs predict their own test split or, of another pool, all its test examples."""
    views = cohort.views if pool is cohort.pool else [replace(view, test=pool.test) for view in cohort.views]
    return cohort.examples(data.evaluation_chunks(pool, views, "test", cohort.dtype, cohort.at_once))


def contrast(cohort: Cohort, pool: Pool) -> tuple[Tensor, Tensor]:
    """Return accuracy and NLL of the first head's runs minus the other's on each test example, (R/2, N) float64."""
    examples = predicted(cohort, pool)
    (first, second), (nll, other) = (examples[name].double().chunk(2) for name in ("accuracy", "nll"))
    return first - second, nll - other


def trained_differences(runs: Sequence[Config], pool: Pool) -> tuple[Tensor, Tensor]:
    """Train the runs of two heads in packs of some seeds, and return their `contrast`, (S, N) each."""
    first, second = runs[: len(runs) // 2], runs[len(runs) // 2 :]
    parts = [
        contrast(trained([*first[start : start + 20], *second[start : start + 20]], pool), pool)
        for start in track(range(0, len(first), 20), "training", console=Console(stderr=True))
    ]
    accuracy, nll = (torch.cat(values) for values in zip(*parts, strict=True))
    return accuracy, nll


def differences(
    accuracy_SN: Tensor, nll_SN: Tensor, labels_N: Tensor, kept_N: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the differences of the metrics over some of the examples, (S,) each.

    Balanced accuracy weights examples such that every class has the same share, so that its difference is a weighted
    mean.
    """
    if kept_N is not None:
        accuracy_SN, nll_SN, labels_N = accuracy_SN[:, kept_N], nll_SN[:, kept_N], labels_N[kept_N]
    size_K = labels_N.bincount()
    weight_N = 1 / (size_K[labels_N] * (size_K > 0).sum()).double()
    return {"accuracy": accuracy_SN.mean(1), "nll": nll_SN.mean(1), "balanced_accuracy": accuracy_SN @ weight_N}


def estimates(drawn: Sequence[Tensor], labels_N: Tensor) -> dict[str, tuple[Crossed, Crossed]]:
    """Estimate each metric's difference on a fixed test split: crossed, and over seeds alone."""
    block_N = splits.assign_blocks(labels_N)
    size_G = block_N.bincount()
    value_SG = blocks.pseudo_values(partial(differences, *drawn, labels_N), block_N, len(size_G))
    return {
        metric: estimate(metric, mean_S, value_SG[metric], size_G)
        for metric, mean_S in differences(*drawn, labels_N).items()
    }


def estimates_of_folds(cohort: Cohort) -> dict[str, tuple[Crossed, Crossed]]:
    """Estimate each metric's difference from the first repetitions of all folds, as a study does."""
    pool = cohort.pool
    block_N = pool.block_N
    size_G = block_N.bincount()
    accuracy_RN, nll_RN = contrast(cohort, pool)
    means: dict[str, list[Tensor]] = {metric: [] for metric in METRICS}
    totals = {metric: torch.zeros(REPETITIONS, len(size_G), dtype=torch.float64) for metric in METRICS}
    for run in range(REPETITIONS * FOLDS):
        test_n = cohort.views[run].test
        own = (accuracy_RN[run : run + 1], nll_RN[run : run + 1], pool.labels[test_n])
        values = blocks.pseudo_values(partial(differences, *own), block_N[test_n], len(size_G))
        size_g = block_N[test_n].bincount(minlength=len(size_G))
        for metric, mean_1 in differences(*own).items():
            means[metric].append(mean_1)
            # A fold tests some of the blocks, and has NaN for the others.
            totals[metric][run // FOLDS] += (values[metric][0] * size_g).nan_to_num()
    return {
        metric: estimate(metric, torch.cat(means[metric]).view(-1, FOLDS).mean(1), totals[metric] / size_G, size_G)
        for metric in METRICS
    }


def estimate(metric: str, mean_S: Tensor, value_SG: Tensor, size_G: Tensor) -> tuple[Crossed, Crossed]:
    """Return the estimates of the analysis from the differences of two heads."""
    values = pd.DataFrame({"arm": mean_S.numpy(), "versus": 0.0})
    of_blocks = {"arm": value_SG.numpy(), "versus": np.zeros(value_SG.shape)}
    is_share = metric == "accuracy"
    crossed = Pairs(values, None, of_blocks, size_G.numpy().astype(float), of_examples=is_share).estimate(*values)
    assert isinstance(crossed, Crossed)
    return crossed, Crossed.over_seeds(mean_S.numpy())


def metrics_of(cohort: Cohort, pool: Pool) -> dict[str, np.ndarray]:
    """Return accuracy and NLL of the runs of each rate on their test splits, or on another pool, (L, R / L)."""
    examples = predicted(cohort, pool)
    return {name: examples[name].double().mean(1).view(len(RATES), -1).numpy() for name in ("accuracy", "nll")}


def search_of(cohort: Cohort, criterion: str) -> ArmSearch:
    """Return runs as an arm's search; rates and the runs of each are counted."""
    evaluation = evaluate(cohort, test=False)
    values = {name: value_R.double().numpy() for name, value_R in evaluation.metrics.items()}
    rate, run = np.divmod(np.arange(len(cohort)), len(cohort) // len(RATES))
    runs = pd.DataFrame(values).assign(lr=rate, trial=0, seed=run, status="finished")
    return ArmSearch(runs, criterion, {name: value_RG.numpy() for name, value_RG in evaluation.blocks.items()})


if __name__ == "__main__":
    main()
