"""The choice of trials, against hand calculation."""

import math

import numpy as np
import pandas as pd
import pytest

from headtohead.analysis.choice import ArmSearch, best_trials, searches
from headtohead.record.study import Trial


def search(values: dict[float, list[tuple[float, float]]], **more: object) -> pd.DataFrame:
    """Return the search of one arm from the accuracy and NLL of each seed at each rate."""
    rows = [(lr, seed, *both) for lr, runs in values.items() for seed, both in enumerate(runs)]
    table = pd.DataFrame(rows, columns=["lr", "seed", "val_accuracy", "val_nll"])
    return table.assign(arm="a", trial=0, status="finished", **more)


def test_of_rates_within_a_standard_error_of_the_best_accuracy_the_lower_nll_wins():
    # The best mean is 0.9 with a standard error of 0.02, so that 0.885 is near it and 0.875 is not.
    best = [(0.88, 0.5), (0.92, 0.5)]
    table = search({0.1: best, 0.3: [(0.885, 0.4)] * 2, 1.0: [(0.875, 0.1)] * 2})
    assert best_trials(table) == {"a": Trial(0.3)}
    # Without spread, as with one seed, the best accuracy alone counts.
    assert best_trials(table[table.seed == 1]) == {"a": Trial(0.1)}
    # Equal in both: the lower rate.
    assert best_trials(search({0.3: best, 0.1: best, 1.0: best})) == {"a": Trial(0.1)}
    # NLL has no such rule.
    table = search({0.1: [(0.9, 0.1), (0.9, 0.9)], 0.3: [(0.9, 0.49), (0.9, 0.49)], 0.05: [(0.9, 0.49)] * 2})
    assert best_trials(table, "val_nll") == {"a": Trial(0.05)}


def test_a_seed_with_several_runs_counts_once():
    # Seed 1 has three runs at 0.1. The mean of runs favours that rate, the mean of seeds the other.
    table = search({0.1: [(0.5, 1.0), (0.9, 0.4)], 0.3: [(0.72, 0.6), (0.72, 0.6)]})
    again = table[(table.lr == 0.1) & (table.seed == 1)]
    table = pd.concat([table, again, again])
    assert table.groupby("lr")[["val_accuracy", "val_nll"]].mean().val_nll.idxmin() == 0.1
    assert best_trials(table, "val_nll") == {"a": Trial(0.3)}


def test_diverged_runs_count_as_a_guess_and_failed_ones_not_at_all():
    chance = math.log(10)
    table = search({0.1: [(0.8, 0.6), (0.8, 0.6)], 0.3: [(0.9, 0.3), (0.9, 0.3)]})
    second = (table.lr == 0.3) & (table.seed == 1)
    failed = table.assign(status=np.where(second, "failed", "finished"), val_accuracy=table.val_accuracy.mask(second))
    assert best_trials(failed) == {"a": Trial(0.3)}
    diverged = table.assign(
        status=np.where(second, "diverged", "finished"),
        val_accuracy=table.val_accuracy.mask(second, 0.1),
        val_nll=table.val_nll.mask(second, chance),
    )
    for criterion in ("val_accuracy", "val_nll"):
        assert best_trials(diverged, criterion) == {"a": Trial(0.1)}
    # Worse than a guess, but trained; and a metric that a guess has not.
    hopeless = search({0.1: [(0.1, 5.0)] * 2, 0.3: [(0.1, chance)] * 2}, val_aurc=[0.5, 0.5, math.nan, math.nan])
    hopeless["status"] = np.where(hopeless.lr == 0.3, "diverged", "finished")
    for criterion in ("val_accuracy", "val_nll", "val_aurc"):
        assert best_trials(hopeless, criterion) == {"a": Trial(0.1)}
    assert best_trials(hopeless, "val_charm") == {}


def on_blocks(table: pd.DataFrame, sizes: list[int], values: dict[float, list[float]]) -> pd.DataFrame:
    """Return the validation accuracy of each run on blocks, the same for all seeds of a rate."""
    rows = [
        (run, block, size, accuracy, -math.log(accuracy))
        for run, lr in zip(table.run, table.lr, strict=True)
        for block, (size, accuracy) in enumerate(zip(sizes, values[lr], strict=True))
    ]
    return pd.DataFrame(rows, columns=["run", "block", "size", "val_accuracy", "val_nll"])


def test_a_fold_chooses_by_the_examples_that_it_does_not_test():
    sizes, values = [10, 30, 20], {0.1: [0.9, 0.6, 0.6], 0.3: [0.1, 0.7, 0.65]}
    means = {lr: np.average(of_blocks, weights=sizes) for lr, of_blocks in values.items()}
    table = search({lr: [(mean, -math.log(mean))] * 2 for lr, mean in means.items()})
    table["run"] = [f"{lr},{seed}" for lr, seed in zip(table.lr, table.seed, strict=True)]
    one = searches(table, "val_accuracy", on_blocks(table, sizes, values))["a"]
    assert means[0.1] > means[0.3]
    assert one.best() == one.best_outside([]) == Trial(0.1)
    assert one.best_outside([0]) == Trial(0.3)
    # 0.9 * 10 + 0.6 * 20 = 21 against 0.1 * 10 + 0.65 * 20 = 14, of 30.
    assert one.best_outside([1]) == Trial(0.1)
    # Without an example outside, and without values on blocks, all count.
    assert one.best_outside([0, 1, 2]) == Trial(0.1)
    assert searches(table, "val_accuracy")["a"].best_outside([0]) == Trial(0.1)
    lacking = on_blocks(table[:3], sizes, values)
    assert searches(table, "val_accuracy", lacking)["a"].best_outside([0]) == Trial(0.1)


@pytest.mark.parametrize("criterion", ["val_accuracy", "val_nll", "val_aurc"])
def test_the_choice_is_that_of_plain_means(criterion):
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.random((3, 4, 2))
        table = search({lr: [tuple(pair) for pair in values[index]] for index, lr in enumerate((0.1, 0.3, 1.0))})
        table["val_aurc"] = rng.random(len(table))
        means = table.groupby("lr")[["val_accuracy", "val_nll", "val_aurc"]].mean()
        chosen = best_trials(table, criterion)["a"]
        if criterion != "val_accuracy":
            assert chosen == Trial(means[criterion].idxmin())
        else:
            first = means.val_accuracy.idxmax()
            error = table.val_accuracy[table.lr == first].sem()
            near = means.val_nll[means.val_accuracy >= means.val_accuracy[first] - error]
            assert chosen == Trial(near.idxmin())


def test_an_empty_block_counts_for_nothing():
    table = search({0.1: [(0.5, 0.7)], 0.3: [(0.6, 0.5)]})
    blocks = {"size": np.array([[0.0, 5.0, 5.0], [3.0, 0.0, 7.0]])}
    blocks |= {"val_accuracy": np.array([[math.nan, 0.9, 0.1], [0.6, math.nan, 0.6]])}
    blocks |= {"val_nll": -np.log(blocks["val_accuracy"])}
    one = ArmSearch(table, "val_accuracy", blocks)
    assert one.best_outside([2]) == Trial(0.1)
    assert one.best_outside([1]) == Trial(0.3)
