"""Splits: how examples are divided into blocks and folds, and in which order they are drawn, by their labels alone.

A difference between two heads may be owed to the test examples. Blocks are fixed, disjoint, stratified groups of these,
by which the analysis tells how much a metric varies over examples. Folds are made of whole blocks, so that what is
known of a block is known of all its examples.

Shape suffixes: N examples, K classes, G blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from headtohead.late import torch

if TYPE_CHECKING:
    from torch import Tensor

# Number of blocks of a test split with enough examples.
BLOCKS = 20
# Fewer test examples have fewer blocks, so that each holds this many.
EXAMPLES_PER_BLOCK = 2


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a CPU generator with an independent stream for each `seed` (0 or more) and `purpose`."""
    state = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state.item()))


def stream_seed(seed: int, fold: int) -> int:
    """Return the seed of all that is drawn for a fold: that of its repetition for the first, else one of its own."""
    return seed if fold == 0 else int(np.random.SeedSequence([seed, fold]).generate_state(1, np.uint64)[0] >> 1)


def stratified_order(labels_N: Tensor, stream: torch.Generator) -> Tensor:
    """Return a random order of N examples in which every prefix has the classes in proportion.

    The number of examples of each class in a prefix depends only on the class sizes, not on the stream.

    Returns:
        Indices (N,), int64.
    """
    shuffled_N = torch.randperm(len(labels_N), generator=stream)
    labels_N = labels_N[shuffled_N]
    place_N = (rank_within_class(labels_N) + 0.5) / labels_N.bincount()[labels_N].double()
    return shuffled_N[torch.from_numpy(np.lexsort((labels_N.numpy(), place_N.numpy())))]


def rank_within_class(labels_N: Tensor) -> Tensor:
    """Count the earlier examples of each example's class, (N,) int64."""
    by_class_N = labels_N.argsort(stable=True)
    size_K = labels_N.bincount()
    start_K = size_K.cumsum(0) - size_K
    rank_N = torch.empty_like(by_class_N)
    rank_N[by_class_N] = torch.arange(len(labels_N)) - start_K.repeat_interleave(size_K)
    return rank_N


def divide(labels_N: Tensor, parts: int, stream: torch.Generator, group_N: Tensor | None = None) -> Tensor:
    """Divide N examples into stratified parts of nearly the same size, and return the part of each, (N,) int64.

    The sizes of parts, and the numbers of examples of a class in them, differ by at most one. Where parts must hold
    whole groups, they differ by more. No part is empty if there are as many examples, or groups.

    Args:
        group_N: number of the group of each example, from 0 on; None without groups.
    """
    if group_N is not None:
        return _divide_groups(labels_N, parts, stream, group_N)
    order_N = torch.randperm(len(labels_N), generator=stream)
    by_class_N = order_N[labels_N[order_N].argsort(stable=True)]
    part_N = torch.empty_like(order_N)
    # Neighbours go to different parts, so that a class spreads over as many as it has examples for.
    part_N[by_class_N] = torch.arange(len(labels_N)) % parts
    return part_N


def _divide_groups(labels_N: Tensor, parts: int, stream: torch.Generator, group_N: Tensor) -> Tensor:
    """Give each group, the largest first, to the part that has the least of its classes, then the fewest examples."""
    classes = int(labels_N.max()) + 1
    _, group_N = group_N.unique(return_inverse=True)
    groups = int(group_N.max()) + 1
    count_gK = (group_N * classes + labels_N).bincount(minlength=groups * classes).view(groups, classes).numpy()
    share_gK = count_gK / np.maximum(count_gK.sum(0), 1)
    shuffled_g = torch.randperm(groups, generator=stream).numpy()
    largest_g = shuffled_g[np.argsort(-count_gK[shuffled_g].sum(1), kind="stable")]
    held_PK, size_P, part_g = np.zeros((parts, classes)), np.zeros(parts), np.empty(groups, dtype=np.int64)
    for group in largest_g:
        part = np.lexsort((size_P, (held_PK @ share_gK[group]).round(12)))[0]
        part_g[group] = part
        held_PK[part] += share_gK[group]
        size_P[part] += count_gK[group].sum()
    # The largest group is not to be in the same part each time.
    return torch.randperm(parts, generator=stream)[torch.from_numpy(part_g)][group_N]


def split_off(
    labels_N: Tensor, share: float, stream: torch.Generator, group_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split examples into a stratified share and the rest: their indices, each in stratified order.

    Where splits must hold whole groups, the share is met as nearly as parts of a twentieth allow.

    Args:
        group_N: number of the group of each example; None without groups.
    """
    order_N = stratified_order(labels_N, stream)
    if group_N is None:
        size = round(share * len(order_N))
        return order_N[:size], order_N[size:]
    parts = min(BLOCKS, len(group_N.unique()))
    part_N = divide(labels_N, parts, stream, group_N)
    reached_P = part_N.bincount().cumsum(0) / len(part_N)
    is_first_N = part_N <= (reached_P - share).abs()[:-1].argmin() if parts > 1 else part_N < 0
    return order_N[is_first_N[order_N]], order_N[~is_first_N[order_N]]


def assign_blocks(labels_N: Tensor, folds: int | None = None, group_N: Tensor | None = None) -> Tensor:
    """Return the block of each test example, (N,) int64 on the CPU. It does not depend on a seed.

    Args:
        folds: number of folds, each of which has equally many blocks; None without folds.
        group_N: number of the group of each example; a block holds whole groups. None without groups.
    """
    most = len(labels_N) // EXAMPLES_PER_BLOCK
    if group_N is not None:
        most = min(most, len(group_N.unique()))
    folds = folds or 1
    count = folds * max(1, min(math.ceil(BLOCKS / folds), most // folds))
    return divide(labels_N.cpu(), count, generator(0, "blocks"), group_N)


def folds_of_blocks(size_G: Tensor, folds: int, seed: int) -> Tensor:
    """Divide blocks of some sizes into folds, anew for each seed: the fold of each block, (G,) int64.

    The sizes of folds differ by at most one example, and the numbers of examples of a class in them by at most two, if
    those of the blocks differ by at most one. No fold is larger than those before it, so that a fold has the same size
    for every seed.
    """
    stream = generator(seed, "folds")
    # Neighbours go to different folds, since a class with few examples has them in neighbouring blocks.
    fold_G = torch.cat([torch.randperm(folds, generator=stream) for _ in range(len(size_G) // folds)])
    size_F = torch.zeros(folds, dtype=torch.int64).index_add_(0, fold_G, size_G)
    return size_F.argsort(descending=True, stable=True).argsort()[fold_G]


def blocks_of_folds(size_G: Tensor, folds: int, seed: int) -> list[list[int]]:
    """Return the blocks that each fold of a seed tests."""
    fold_G = folds_of_blocks(size_G, folds, seed)
    return [(fold_G == fold).nonzero().flatten().tolist() for fold in range(folds)]
