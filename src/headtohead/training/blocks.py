"""Values of metrics on blocks of test examples, by which the analysis tells how much they vary over examples.

Shape suffixes: R runs, N examples of a split, G blocks.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def pseudo_values(metrics: Callable[[Tensor], Mapping[str, Tensor]], block_N: Tensor, count: int) -> dict[str, Tensor]:
    """Return the jackknife's pseudo-value of each metric for each block, (R, G) float64.

    With h = N / size of the block it is h f - (h - 1) f without the block (Busing, Meijer and van der Leeden, 1999,
    "Delete-m jackknife for unequal m"). For a mean over examples it is the mean over the block. A block without
    examples has NaN.

    Args:
        metrics: from the examples to use, a mask (N,) on the CPU, to metrics, (R,) each.
        block_N: block of each example, of `splits.assign_blocks`.
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
