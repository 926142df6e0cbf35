"""Pairs of runs by seed and fold, against numpy."""

import numpy as np
import pandas as pd
import pytest

from headtohead.analysis.estimates import Crossed
from headtohead.analysis.pairing import pair_up
from headtohead.analysis.study import read_study
from headtohead.testing import make_study

FOLDS, SEEDS, BLOCKS, EXAMPLES = 3, 4, 5, 60
ARMS = ("softmax", "sigmoid")


@pytest.fixture
def folded(tmp_path):
    """Return a study in folds without a search, with the accuracy of each example, (arms, S, N), and the examples."""
    study = make_study(tmp_path / "s", arms=ARMS, seeds=SEEDS, tuned=False, records=False)
    rng = np.random.default_rng(0)
    correct_ASN = (rng.random((2, SEEDS, EXAMPLES)) < np.array([0.8, 0.6])[:, None, None]).astype(float)
    block_N = np.arange(EXAMPLES) % BLOCKS
    # Some folds have no example of the last block.
    fold_SN = np.stack([rng.permutation(np.arange(EXAMPLES) % FOLDS) for _ in range(SEEDS)])
    fold_SN[:, block_N == BLOCKS - 1] = 0
    table, rows, blocks = pd.read_csv(study / "results.csv"), [], []
    for _, row in table.iterrows():
        correct_N = correct_ASN[ARMS.index(row.arm), row.seed]
        for fold in range(FOLDS):
            tested_N = fold_SN[row.seed] == fold
            run = f"{row.run},fold={fold}"
            rows.append(row.to_dict() | {"run": run, "fold": fold, "test_accuracy": correct_N[tested_N].mean()})
            for block in range(BLOCKS):
                own_N = tested_N & (block_N == block)
                mean = correct_N[own_N].mean() if own_N.any() else np.nan
                blocks.append({"run": run, "block": block, "size": own_N.sum(), "test_accuracy": mean})
    pd.DataFrame(rows).to_csv(study / "results.csv", index=False)
    pd.DataFrame(blocks).to_csv(study / "blocks.csv", index=False)
    record = study / "study.json"
    for run in table.run:
        names = ", ".join(f'"{run},fold={fold}"' for fold in range(FOLDS))
        record.write_text(record.read_text().replace(f'"{run}"', names))
    return study, correct_ASN, block_N, fold_SN


def test_a_seed_counts_by_its_folds_and_a_block_by_its_examples(folded):
    study, correct_ASN, block_N, fold_SN = folded
    pairs = pair_up(read_study(study), "test_accuracy", "confirm", ARMS)
    for index, arm in enumerate(ARMS):
        by_fold = [
            [correct_ASN[index, seed, fold_SN[seed] == fold].mean() for fold in range(FOLDS)] for seed in range(SEEDS)
        ]
        assert pairs.values[arm].to_numpy() == pytest.approx(np.mean(by_fold, axis=1))
        by_block = np.stack([correct_ASN[index][:, block_N == block].mean(1) for block in range(BLOCKS)], axis=1)
        assert pairs.blocks is not None and pairs.blocks[arm] == pytest.approx(by_block)
    assert pairs.size_G is not None and pairs.size_G.tolist() == [EXAMPLES / BLOCKS] * BLOCKS
    estimate = pairs.estimate(*ARMS)
    assert isinstance(estimate, Crossed) and (estimate.seeds, estimate.blocks) == (SEEDS, BLOCKS)


@pytest.mark.parametrize("gone", ["missing", "failed"])
def test_a_seed_that_lacks_a_fold_is_left_out(folded, gone):
    study, *_ = folded
    table = pd.read_csv(study / "results.csv")
    one = (table.arm == "sigmoid") & (table.seed == 2) & (table.fold == 1)
    if gone == "failed":
        table.loc[one, "status"] = "failed"
    else:
        table = table[~one]
    table.to_csv(study / "results.csv", index=False)
    pairs = pair_up(read_study(study), "test_accuracy", "confirm", ARMS)
    assert pairs.values.index.tolist() == [0, 1, 3]
    assert pairs.blocks is not None and len(pairs.blocks["sigmoid"]) == 3
    assert pairs.note is not None and "1 of 12 pairs of runs lack test_accuracy" in pairs.note


def test_the_spread_over_seeds_is_that_of_means_over_folds(folded):
    study, *_ = folded
    table = pd.read_csv(study / "results.csv")
    table["val_accuracy"] = np.random.default_rng(1).random(len(table))
    table.to_csv(study / "results.csv", index=False)
    pairs = pair_up(read_study(study), "seed_spread", "confirm", ARMS)
    for arm in ARMS:
        means = table[table.arm == arm].groupby("seed").val_accuracy.mean()
        assert pairs.values[arm].to_numpy() == pytest.approx((means - means.median()).abs().to_numpy())


def test_one_fold_alone_has_no_interval_for_new_examples(folded):
    study, *_ = folded
    table = pd.read_csv(study / "results.csv")
    table[table.fold == 1].to_csv(study / "results.csv", index=False)
    pairs = pair_up(read_study(study), "test_accuracy", "confirm", ARMS)
    assert pairs.blocks is None and pairs.note is not None and "these examples alone" in pairs.note
    interval = pairs.estimate(*ARMS).interval(0.95)
    assert interval == pytest.approx(
        Crossed.over_seeds((pairs.values["softmax"] - pairs.values["sigmoid"]).to_numpy()).interval(0.95)
    )
