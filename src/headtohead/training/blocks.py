"""Blocks of test examples: fixed, disjoint, stratified groups, by which a metric's dependence on examples is measured.

A difference between two heads on one test split may be owed to its examples. Each run records its test metrics for each
block, so that the analysis can tell how much they vary over examples.

Shape suffixes: R runs, N examples of the test split, G blocks.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from headtohead.training.data import divide, generator

# Number of blocks of a test split with enough examples.
BLOCKS = 20
# Fewer test examples have fewer blocks, so that each holds this many.
EXAMPLES_PER_BLOCK = 2


def assign_blocks(labels_N: Tensor) -> Tensor:
    """Return the block of each test example, (N,) int64 on the CPU. It depends on the labels alone.

    The sizes of blocks, and the numbers of examples of a class in them, differ by at most one.
    """
    count = max(1, min(BLOCKS, len(labels_N) // EXAMPLES_PER_BLOCK))
    return divide(labels_N.cpu(), count, generator(0, "blocks"))


def pseudo_values(metrics: Callable[[Tensor], Mapping[str, Tensor]], block_N: Tensor, count: int) -> dict[str, Tensor]:
    """Return the jackknife's pseudo-value of each metric for each block, (R, G) float64.

    With h = N / size of the block it is h f - (h - 1) f without the block (Busing, Meijer and van der Leeden, 1999,
    "Delete-m jackknife for unequal m"). For a mean over examples it is the mean over the block. A block without
    examples has NaN.

    Args:
        metrics: from the examples to use, a mask (N,) on the CPU, to metrics, (R,) each.
        block_N: block of each example.
        count: number of blocks, G. Below two there are no pseudo-values.
    """
    if count < 2:
        return {}
    whole = {name: value_R.double() for name, value_R in metrics(torch.ones_like(block_N, dtype=torch.bool)).items()}
    columns: dict[str, list[Tensor]] = {name: [] for name in whole}
    for block in range(count):
        kept_N = block_N != block
        size = int((~kept_N).sum())
        without = metrics(kept_N) if 0 < size < len(block_N) else whole
        share = len(block_N) / size if size else math.nan
        for name, without_R in without.items():
            columns[name].append(share * whole[name] - (share - 1) * without_R.double())
    return {name: torch.stack(values, 1) for name, values in columns.items()}
