"""Splits of examples: orders, blocks and folds."""

import pytest
import torch

from headtohead.training.splits import (
    assign_blocks,
    blocks_of_folds,
    divide,
    folds_of_blocks,
    generator,
    split_off,
    stratified_order,
)


def test_every_prefix_of_a_stratified_order_holds_the_classes_in_proportion():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=generator(0, "x"))]
    ordered = labels[stratified_order(labels, generator(5, "split"))]
    for size in range(1, 101):
        counts = ordered[:size].bincount(minlength=3)
        assert (counts - size * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 1


def test_stratified_orders_are_permutations_with_the_same_classes_and_other_examples():
    labels = torch.arange(90) % 7
    first, second = (stratified_order(labels, generator(seed, "split")) for seed in (0, 1))
    assert torch.equal(first.sort().values, torch.arange(90))
    assert torch.equal(labels[first], labels[second])
    assert not torch.equal(first, second)


def test_a_stratified_order_gives_every_member_of_a_class_the_same_chance():
    labels = torch.tensor([0] * 6 + [1] * 3)
    stream = generator(0, "split")
    chosen = torch.zeros(9)
    for _ in range(300):
        chosen[stratified_order(labels, stream)[:3]] += 1
    assert (chosen / 300 - 1 / 3).abs().max() < 0.12


@pytest.mark.parametrize("sizes", [(36, 35, 34), (500, 30, 3), (4, 4, 4), (1, 1), (200,) * 10])
def test_blocks_are_disjoint_stratified_and_fixed(sizes):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    block = assign_blocks(labels)
    assert torch.equal(block, assign_blocks(labels))
    counts = torch.zeros(20, len(sizes), dtype=torch.int64).index_put_(
        (block, labels), torch.tensor(1), accumulate=True
    )
    used = min(20, max(1, len(labels) // 2))
    assert (counts[used:] == 0).all()
    counts = counts[:used]
    assert (counts.amax(0) - counts.amin(0) <= 1).all()
    assert counts.sum(1).amax() - counts.sum(1).amin() <= 1


@pytest.mark.parametrize("sizes", [(50, 50, 50), (59, 71, 48), (10, 10), (200, 7, 5), (31, 6)])
@pytest.mark.parametrize("folds", [2, 3, 5, 7, 10])
def test_folds_are_whole_blocks_of_nearly_the_same_size_and_stratified(sizes, folds):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    block_N = assign_blocks(labels, folds)
    size_G = block_N.bincount()
    count = len(size_G)
    assert count % folds == 0 and min(20, len(labels) // 2 - folds + 1) <= count <= max(folds, len(labels) // 2)
    seen = set()
    for seed in range(4):
        fold_G = folds_of_blocks(size_G, folds, seed)
        assert fold_G.bincount().tolist() == [count // folds] * folds
        seen.add(tuple(fold_G.tolist()))
        of_folds = blocks_of_folds(size_G, folds, seed)
        assert [fold_G[of_fold].unique().item() for of_fold in of_folds] == list(range(folds))
        fold_N = fold_G[block_N]
        size_F = fold_N.bincount(minlength=folds)
        assert size_F[0] - size_F[-1] <= 1 and (size_F.diff() <= 0).all()
        counts = torch.stack([labels[fold_N == fold].bincount(minlength=len(sizes)) for fold in range(folds)])
        assert (counts.amax(0) - counts.amin(0) <= 2).all()
    assert len(seen) > 1


def in_groups(examples: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw labels of three classes and groups of very different sizes."""
    stream = generator(0, "groups")
    group_N = (torch.rand(examples, generator=stream) ** 1.3 * groups).long()
    labels_N = (torch.rand(examples, generator=stream) * 3).long()
    return labels_N, group_N * 10 + 3  # the numbers need not be consecutive


@pytest.mark.parametrize(("examples", "groups", "folds"), [(400, 60, None), (400, 60, 5), (90, 12, 5), (90, 6, 3)])
def test_blocks_hold_whole_groups_and_are_stratified(examples, groups, folds):
    labels_N, group_N = in_groups(examples, groups)
    block_N = assign_blocks(labels_N, folds, group_N)
    for group in group_N.unique():
        assert len(block_N[group_N == group].unique()) == 1
    size_G = block_N.bincount()
    assert (size_G > 0).all() and len(size_G) <= min(20, groups) and len(size_G) % (folds or 1) == 0
    if groups == 60:
        # A part of the data as large as the largest group is the least that can be told apart.
        largest = group_N.bincount().max()
        assert size_G.max() - size_G.min() <= largest
        share_GK = torch.stack([labels_N[block_N == block].bincount(minlength=3) / 400 for block in range(20)])
        assert (share_GK - share_GK.mean(0)).abs().max() < 0.02


def test_a_share_of_groups_is_split_off_whole_and_differs_between_seeds():
    labels_N, group_N = in_groups(400, 60)
    drawn = []
    for seed in range(3):
        first, rest = split_off(labels_N, 0.25, generator(seed, "split"), group_N)
        assert torch.cat([first, rest]).sort().values.tolist() == list(range(400))
        assert not {*group_N[first].tolist()} & {*group_N[rest].tolist()}
        assert len(first) / 400 == pytest.approx(0.25, abs=0.05)
        drawn.append({*first.tolist()})
    assert drawn[0] != drawn[1] != drawn[2]


def test_a_group_of_its_own_for_each_example_is_no_group():
    labels_N = torch.arange(60) % 3
    part_N = divide(labels_N, 6, generator(0, "x"), torch.arange(60))
    counts = torch.stack([labels_N[part_N == part].bincount(minlength=3) for part in range(6)])
    assert (counts.amax(0) - counts.amin(0) <= 1).all()
