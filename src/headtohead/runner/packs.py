"""Packs of a study: how many runs train at once, and which of them together."""

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise

from headtohead.record.run import ChosenBy
from headtohead.training.config import Config, resolve_device

# The most runs per pack on a GPU, which a pack should fill.
GPU_SIZE = 64
# Runs of a pack on the CPU. Where classifiers are trained on features, each pack builds the networks of its seeds.
USUAL, CLASSIFIERS, MOST = 16, 64, 256
# The fewest runs of a pack that is made smaller for the sake of idle cores.
FEWEST = 8
# A pack of small runs on the CPU is larger, up to this many parameters and inputs of a batch: calling the operations of
# a step takes as long for many runs as for one, until their numbers leave the cache.
NUMBERS = 1_600_000
# The most logits of a pack's batch on the CPU: the loss passes over them many times.
LOGITS = 2_000_000


@dataclass(frozen=True)
class Packing:
    """Size and threads of packs.

    Attributes:
        size: the most runs per pack.
        fewest: the fewest runs to which a pack may be made smaller, so that each process has as many packs.
        chosen_by: "user" or "planner".
        threads: the number of CPU threads per pack; None takes all.
    """

    size: int
    fewest: int
    chosen_by: ChosenBy
    threads: int | None


def choose_packing(config: Config, stackable: bool, parameters: int, inputs: int, num_classes: int) -> Packing:
    """Choose the packing that is fastest for a configuration, unless it names a pack size.

    Convolutions on the CPU are faster one run at a time. The operations of stacked packs are so short that threads
    cost more than they bring, many times more on a busy machine.

    Args:
        stackable: whether the layers of several runs can be stacked.
        parameters: number of trained parameters of a run.
        inputs: number of inputs of an example.
        num_classes: number of classes.
    """
    from headtohead.training.features import once  # imports torch

    device = resolve_device(config.settings.device).type
    threads = 1 if stackable and device == "cpu" else None
    if config.settings.pack_size is not None:
        return Packing(config.settings.pack_size, config.settings.pack_size, "user", threads)
    if device == "cpu":
        of_features = once(config.model, config.dataset)
        small = NUMBERS // max(parameters, config.training.batch_size * inputs)
        fit = LOGITS // (config.training.batch_size * num_classes)
        size = max(1, min(max(CLASSIFIERS if of_features else USUAL, small), fit, MOST)) if stackable else 1
        # Each process would compute the features again.
        return Packing(size, size if of_features else FEWEST, "planner", threads)
    return Packing(GPU_SIZE, GPU_SIZE, "planner", threads)


def into_packs(
    runs: Iterable[int],
    key: Callable[[int], Hashable],
    seed: Callable[[int], int],
    packing: Callable[[int], Packing],
    processes: int = 1,
) -> list[list[int]]:
    """Group runs, given by number, into packs of even length, if possible as many for each process.

    Runs with the same seed share batches: a seed whose runs fill more than half a pack has packs of its own, the
    other seeds stand together.

    Args:
        runs: the numbers of the runs.
        key: from a run to what it shares with all others of its pack.
        seed: from a run to its seed.
        packing: from a run to its packing.
        processes: number of processes that train packs side by side.
    """
    groups: dict[Hashable, list[int]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    packs = []
    for group in groups.values():
        group.sort(key=seed)
        most, fewest = packing(group[0]).size, packing(group[0]).fewest
        by_seed = [list(same) for _, same in groupby(group, key=seed)]
        alone = [same for same in by_seed if 2 * len(same) > most]
        together = [run for same in by_seed if 2 * len(same) <= most for run in same]
        for part in [*alone, together]:
            count = math.ceil(len(part) / most)
            count = max(count, min(math.ceil(count / processes) * processes, len(part) // fewest))
            edges = [round(i * len(part) / count) for i in range(count + 1)] if count else []
            # Within a pack the given order keeps runs of one head side by side: one loss computes them.
            packs += [sorted(part[start:end]) for start, end in pairwise(edges)]
    return packs
