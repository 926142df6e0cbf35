"""Data for the training loop: datasets, the splits of each seed, and seeded batches.

A `Dataset` names the source of the examples and how to split them. `load` reads it into a `Pool`, which all runs share;
`view` picks the examples of one seed and fold for each split; `batches` and `evaluation_chunks` gather, augment and
standardise them for many views at once.

Shape suffixes: N examples, V views (one per seed and fold), S steps, B batch, n examples of a chunk, K classes, D
features, C channels, H height, W width; x any axes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import tee
from typing import TYPE_CHECKING

from headtohead.late import F, torch
from headtohead.options import nearest, require
from headtohead.training.examples import Dataset, Examples, Skipped, Split
from headtohead.training.image_files import MEMORY_SHARE, ImageFiles
from headtohead.training.memory import memory
from headtohead.training.splits import (
    assign_blocks,
    folds_of_blocks,
    generator,
    rank_within_class,
    split_off,
    stream_seed,
)

if TYPE_CHECKING:
    from torch import Tensor

# Largest part of the range of a feature by which float32 may round it.
ROUNDED = 1e-4
# Largest evaluation chunk in numbers per layer: 32 MiB as float32.
CHUNK_NUMBERS = 2**23
# Every example counts as at least this many numbers, since layers may be wider than the inputs.
CHUNK_WIDTH = 1000
# The most numbers of training inputs that are prepared at once, but for one step: about as many as a cache holds.
AT_ONCE = 2**17
# Largest evaluation chunk in examples, since convolutions compute many numbers from each pixel.
CHUNK_EXAMPLES = 1024


@dataclass(frozen=True, eq=False)
class Pool:
    """All examples of a dataset on one device, or in files from which they are read onto it. All runs share it."""

    inputs: Tensor | ImageFiles  # (N, D) float32 for tables, (N, C, H, W) uint8 for images
    labels: Tensor  # (N,) int64
    test: Tensor  # (N_test,) indices of the test split, the same for every seed; with folds, of all examples
    rest: Tensor  # (N_rest,) indices of all other examples, without `val`; with folds, of all examples
    classes: tuple[str, ...]  # K names
    folds: int | None = None  # number of folds that each seed draws, each of which is a test split; None without
    skipped: tuple[Skipped, ...] = ()  # what the source has beside the examples
    files: tuple[str, ...] = ()  # paths of the N files from which the inputs are read; empty where they are not files
    val: Tensor | None = None  # (N_val,) indices of the validation split; None if each seed draws its own
    lacks: bool = False  # whether inputs are missing: NaN, for which each view has its training mean
    source: Dataset | None = None  # what the examples were read from
    groups: Tensor | None = None  # (N,) int64 on the CPU: the group of each example, which no split divides
    unknown: Tensor | None = None  # (N_unknown,) indices of test examples of classes that are not trained on

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: (D,) or (C, H, W)."""
        return tuple(self.inputs.shape[1:])

    @property
    def is_image(self) -> bool:
        return len(self.inputs.shape) == 4

    @cached_property
    def rest_labels(self) -> Tensor:
        """Labels of `rest`, (N_rest,), on the CPU, where splits are drawn so that they are equal on all devices."""
        return self.labels[self.rest].cpu()

    @cached_property
    def block_N(self) -> Tensor:
        """Block of each example, (N,) int64 on the CPU; -1 for those that are never tested."""
        tested = self.test.cpu()
        groups = None if self.groups is None else self.groups[tested]
        block_N = torch.full((len(self.labels),), -1)
        block_N[tested] = assign_blocks(self.labels[self.test].cpu(), self.folds, groups)
        return block_N

    @property
    def block_sizes(self) -> Tensor:
        """Number of examples of each block, (G,) int64."""
        return self.block_N[self.block_N >= 0].bincount()


@dataclass(frozen=True, eq=False)
class View:
    """Examples of one seed and fold."""

    train: Tensor  # (N_train,) indices into the pool
    train_labels: Tensor  # (N_train,) int64, after label noise
    val: Tensor  # (N_val,) indices into the pool, which has their labels
    test: Tensor  # (N_test,) indices into the pool
    prior: Tensor  # (K,) float64, class frequencies of `train_labels`
    inputs: Tensor | ImageFiles  # inputs of the pool
    scaling: tuple[float, float] | None = None  # mean and standard deviation in place of those of the training inputs

    @property
    def mean(self) -> Tensor:
        """Mean of the training inputs that are not missing, float64: (D,) for tables, (C, 1, 1) for images."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation of the training inputs, shaped as `mean`, with the mean for missing ones.

        It is 1 for a channel that is constant. It is infinite for a feature of a table that is constant or missing in
        all training examples, so that it is 0 in all others, as nothing was learnt about it.
        """
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.scaling is not None:
            mean, std = torch.tensor(self.scaling, dtype=torch.float64, device=self.train.device)
            shape = (self.inputs.shape[1], 1, 1)
            return mean.expand(shape), std.expand(shape)
        # Computed when first needed, since all files are read for it.
        return _moments(self.inputs, self.train)


def load(dataset: Dataset, device: torch.device) -> Pool:
    """Load the examples of a dataset onto a device. Datasets that differ only in their splits share one pool.

    Raises:
        ConfigError: the data is missing, damaged, or holds inputs or labels that cannot be trained on.
    """
    # The same relative path is another folder in another working directory.
    named = {key: getattr(dataset, key) for key in (dataset.place, *dataset.more_places) if key is not None}
    places = {key: path and os.path.abspath(os.path.expanduser(path)) for key, path in named.items()}
    source = replace(
        dataset,
        **places,
        train_size=None,
        val_fraction=0.5,
        label_noise=0.0,
        imbalance=1.0,
        crop_padding=0,
        flip=False,
        ood=None,
    )
    return _load(source, device)


@lru_cache(maxsize=4)
def _load(source: Dataset, device: torch.device) -> Pool:
    inputs, labels, test, classes, skipped, val, groups, may_lack = source.read()
    require(len(classes) >= 2, "dataset", f"{len(classes)} class", "2 or more classes are needed")
    tested = 1 if test is None else len(test)
    sizes = f"{inputs.shape[0]} inputs, {len(labels)} labels, {tested} test indices"
    require(
        inputs.shape[0] == len(labels) > tested > 0,
        "dataset",
        sizes,
        "one label per input, and a test split that is not empty",
    )
    require(not labels.is_floating_point(), "dataset labels", labels.dtype, "integers")
    low, high = labels.min().item(), labels.max().item()
    require(low >= 0 and high < len(classes), "dataset labels", f"{low}..{high}", f"0..{len(classes) - 1}")
    labels, classes = _without_unknown(labels.long(), classes, source)
    is_known_N = labels >= 0
    files = tuple(inputs.paths) if isinstance(inputs, ImageFiles) and not source.by_own_code else ()
    if isinstance(inputs, ImageFiles):
        inputs = inputs.on(device)
    else:
        known = inputs.nan_to_num(posinf=math.inf, neginf=-math.inf) if may_lack else inputs
        broken = (~known.flatten(1).isfinite().all(1)).sum().item() if inputs.is_floating_point() else 0
        require(broken == 0, "dataset inputs", f"NaN or infinity in {broken} examples", "finite numbers")
        # Larger inputs may lie in a file, and are not copied into memory.
        inputs = (inputs.contiguous() if inputs.nbytes <= MEMORY_SHARE * memory(device) else inputs).to(device)
    is_test_N, is_val_N = torch.zeros(2, len(labels), dtype=torch.bool)
    if test is not None:
        is_test_N[test] = True
    if val is not None:
        is_val_N[val] = True
    rest = (is_known_N & ~(is_test_N | is_val_N)).nonzero().flatten().to(device)
    folds = getattr(source, "folds", None) if test is None else None
    if folds is not None:
        foldable_N = is_known_N & ~is_val_N
        _check_folds(folds, labels[foldable_N], classes, None if groups is None else groups[foldable_N])
    if groups is not None:
        _check_groups(groups, is_test_N, is_val_N)
    return Pool(
        inputs=inputs,
        labels=labels.to(device),
        test=rest if test is None else (is_test_N & is_known_N).nonzero().flatten().to(device),
        rest=rest,
        classes=classes,
        folds=folds,
        skipped=skipped,
        files=files,
        val=None if val is None else (is_val_N & is_known_N).nonzero().flatten().to(device),
        lacks=may_lack and isinstance(inputs, torch.Tensor) and bool(inputs.isnan().any()),
        source=source,
        groups=groups,
        unknown=(~is_known_N & (is_test_N | (test is None))).nonzero().flatten().to(device),
    )


def _without_unknown(labels_N: Tensor, classes: tuple[str, ...], source: Dataset) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels among the classes that are trained on, -1 for the others, and these classes."""
    unknown = source.unknown_classes
    if isinstance(unknown, int):
        unknown = classes[max(len(classes) - unknown, 0) :]
    for name in unknown:
        require(name in classes, "dataset.unknown_classes", name, nearest(name, classes))
    known = tuple(name for name in classes if name not in unknown)
    accepted = f"fewer than {len(classes) - 1} of {len(classes)} classes, so that two are left to train on"
    require(len(known) >= 2, "dataset.unknown_classes", len(classes) - len(known), accepted)
    place_K = torch.tensor([known.index(name) if name in known else -1 for name in classes])
    return place_K[labels_N], known


def _check_folds(folds: int, labels_N: Tensor, classes: Sequence[str], group_N: Tensor | None) -> None:
    """Refuse more folds than a class has examples, or than there are groups."""
    size_K = labels_N.bincount(minlength=len(classes))
    smallest = int(size_K.argmin())
    accepted = f"at most {int(size_K[smallest])}, the number of examples of the class {classes[smallest]}, or null"
    require(int(size_K[smallest]) >= folds, "dataset.folds", folds, accepted)
    if group_N is not None:
        groups = len(group_N.unique())
        require(groups >= folds, "dataset.folds", folds, f"at most {groups}, the number of groups, or null")


def _check_groups(group_N: Tensor, is_test_N: Tensor, is_val_N: Tensor) -> None:
    """Refuse groups that a given split divides."""
    split_N = is_test_N + 2 * is_val_N
    divided = len((3 * group_N + split_N).unique()) - len(group_N.unique())
    require(divided == 0, "dataset.groups", f"{divided} lie in several splits", "each group in one split")


@lru_cache(maxsize=4)
def verify(pool: Pool) -> None:
    """Read all files of a pool that is not kept in memory, once; the others were read when it was loaded.

    What code of the user's made is made once more.

    Raises:
        ConfigError: a file cannot be read, or the code makes other examples.
    """
    if pool.source is not None and pool.source.by_own_code:
        path, accepted = getattr(pool.source, "path", None), "gives other data at a second call; accepted: the same"
        require(_holds(pool, pool.source.read()), "dataset.path", path, accepted)
    elif isinstance(pool.inputs, ImageFiles):
        pool.inputs.verify()


def _holds(pool: Pool, examples: Examples) -> bool:
    """Return whether these are the examples of a pool."""
    test = torch.arange(len(examples.labels)) if examples.test is None else examples.test.sort().values
    assert pool.source is not None
    labels, classes = _without_unknown(examples.labels, examples.classes, pool.source)
    test = test[labels[test] >= 0]
    same_shape = classes == pool.classes and examples.inputs.shape == pool.inputs.shape
    if not (same_shape and torch.equal(labels, pool.labels.cpu()) and torch.equal(test, pool.test.cpu())):
        return False
    every = torch.arange(len(examples.labels))
    pairs = zip(in_parts(examples.inputs, every), in_parts(pool.inputs, every.to(pool.device)), strict=True)
    return all(torch.equal(first.nan_to_num(), second.cpu().nan_to_num()) for first, second in pairs)


def in_parts(inputs: Tensor | ImageFiles, index_N: Tensor) -> Iterator[Tensor]:
    """Yield the inputs of an index in order, in parts that fit into memory."""
    yield from _gathered(inputs, inputs.pieces(index_N) if isinstance(inputs, ImageFiles) else index_N.split(1024))


def view(pool: Pool, dataset: Dataset, seed: int, fold: int = 0) -> View:
    """Draw the examples of a seed and fold.

    Without groups sizes are the same for every seed, and class counts too without folds. With `imbalance` sizes follow
    class counts.

    Raises:
        ConfigError: there are too few examples for the splits, or the augmentation does not fit the inputs.
    """
    _check_augmentation(pool, dataset)
    if pool.folds is None:
        return _view(pool, dataset, seed, pool.rest, pool.rest_labels, pool.test)
    fold_N = folds_of_blocks(pool.block_sizes, pool.folds, seed)[pool.block_N[pool.rest.cpu()]].to(pool.device)
    rest, test = pool.rest[fold_N != fold], pool.rest[fold_N == fold]
    return _view(pool, dataset, stream_seed(seed, fold), rest, pool.labels[rest].cpu(), test)


def split_sizes(pool: Pool, dataset: Dataset, seed: int, fold: int) -> tuple[int, int, int]:
    """Return the numbers of training, validation and test examples of a seed and fold.

    Those of different seeds may differ where there are groups, or folds of imbalanced classes.
    """
    drawn = view(pool, dataset, seed, fold)
    return len(drawn.train), len(drawn.val), len(drawn.test)


def _view(pool: Pool, dataset: Dataset, seed: int, rest: Tensor, labels_N: Tensor, test: Tensor) -> View:
    """Draw the training and validation examples from those outside the test split.

    Args:
        rest: indices of these examples into the pool, (N,).
        labels_N: their labels, on the CPU.
    """
    share = 0.0 if pool.val is not None else dataset.val_fraction
    groups = None if pool.groups is None or pool.val is not None else pool.groups[rest.cpu()]
    val, train = split_off(labels_N, share, generator(seed, "split"), groups)
    require(
        pool.val is not None or (len(val) and len(train)),
        "dataset.val_fraction",
        dataset.val_fraction,
        f"a share of {len(labels_N)} examples that leaves at least one on both sides",
    )
    train = train[_kept(labels_N[train], pool.num_classes, dataset)]
    labels = _with_noise(labels_N[train], pool.num_classes, dataset.label_noise, generator(seed, "noise"))
    train = rest[train.to(rest.device)]
    return View(
        train=train,
        train_labels=labels.to(train.device),
        val=rest[val.to(rest.device)] if pool.val is None else pool.val,
        test=test,
        prior=(labels.bincount(minlength=pool.num_classes).double() / len(labels)).to(train.device),
        inputs=pool.inputs,
    )


def steps_per_epoch(view: View, batch_size: int) -> int:
    """Return the number of full batches in the training split."""
    return len(view.train) // min(batch_size, len(view.train))


def batches(
    pool: Pool,
    views: Sequence[View],
    dataset: Dataset,
    seeds: Sequence[int],
    batch_size: int,
    dtype: torch.dtype,
    start: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented and standardised training batches of several seeds, endlessly.

    Every epoch is a fresh permutation of the training split, without the examples that do not fill a batch. The batches
    of a seed are bitwise equal whatever the other seeds are.

    Args:
        views: views with equal numbers of training examples.
        seeds: seed of the order and the augmentation of each view.
        start: number of batches to skip.

    Yields:
        inputs (V, B, ...) of `dtype` and labels (V, B), where B = min(batch_size, N_train).
    """
    plan = _plan(pool, views, dataset, seeds, batch_size, start)
    scaling = _scaling(views, dtype)
    # Inputs in files are read ahead.
    ahead, now = tee(plan)
    read = _gathered(pool.inputs, (index_SVB for index_SVB, _, _ in ahead))
    for inputs, (_, labels_SVB, moves_S3VB) in zip(read, now, strict=False):
        if moves_S3VB is not None:
            top, left, flip = moves_S3VB.movedim(1, 0).flatten(1)
            moved = crop_and_flip(inputs.flatten(0, 2), top, left, flip, dataset.crop_padding)
            inputs = moved.view(inputs.shape)
        yield from zip(_standardised(inputs, *scaling, pool.lacks), labels_SVB, strict=True)


def _plan(
    pool: Pool, views: Sequence[View], dataset: Dataset, seeds: Sequence[int], batch_size: int, start: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield a few steps at a time, endlessly: indices and labels (S, V, B), and moves (S, 3, V, B) of augmented images.

    Short operations take as long for a few steps as for one.
    """
    count, device = len(views[0].train), pool.device
    steps, size = steps_per_epoch(views[0], batch_size), min(batch_size, count)
    numbers = len(views) * size * math.prod(pool.input_shape)
    at_once = 1 if isinstance(pool.inputs, ImageFiles) else max(1, AT_ONCE // numbers)
    augmented = dataset.crop_padding > 0 or dataset.flip
    order_streams = [generator(seed, "order") for seed in seeds]
    augmentation_streams = [generator(seed, "augmentation") for seed in seeds]

    def by_step(drawn: list[Tensor]) -> Tensor:
        """Turn one (..., N) tensor per view into (S, ..., V, B), without the examples that this epoch drops."""
        kept = torch.stack(drawn, dim=-2)[..., : steps * size].to(device)
        return kept.unflatten(-1, (steps, size)).movedim(-2, 0).contiguous()

    for _ in range(start // steps):
        # Epochs that are left out draw as much as the others.
        for order_stream, augmentation_stream in zip(order_streams, augmentation_streams, strict=True):
            torch.randperm(count, generator=order_stream)
            if augmented:
                _moves(count, dataset, augmentation_stream)
    first = start % steps
    while True:
        orders = [torch.randperm(count, generator=stream).to(device) for stream in order_streams]
        index_SVB = by_step([view.train[order] for view, order in zip(views, orders, strict=True)])
        labels_SVB = by_step([view.train_labels[order] for view, order in zip(views, orders, strict=True)])
        moves_S3VB = by_step([_moves(count, dataset, stream) for stream in augmentation_streams]) if augmented else None
        for step in range(first, steps, at_once):
            few = slice(step, step + at_once)
            yield index_SVB[few], labels_SVB[few], None if moves_S3VB is None else moves_S3VB[few]
        first = 0


def evaluation_chunks(
    pool: Pool,
    views: Sequence[View],
    split: Split,
    dtype: torch.dtype,
    runs: int,
    limit: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one split of every view in order, standardised but not augmented, in chunks of limited size.

    Training labels include label noise.

    Args:
        runs: number of runs, of all views, that use each chunk; more runs get smaller chunks.
        limit: number of examples to take, from the first; None takes all.

    Yields:
        inputs (V, n, ...) of `dtype` and labels (V, n).
    """
    if split == "train":
        index_VN = torch.stack([view.train[:limit] for view in views])
        labels_VN = torch.stack([view.train_labels[:limit] for view in views])
    else:
        index_VN = torch.stack([(view.test if split == "test" else view.val)[:limit] for view in views])
        labels_VN = pool.labels[index_VN]
    chunks = standardised_chunks(pool, views, index_VN, dtype, runs)
    start = 0
    for inputs in chunks:
        stop = start + inputs.shape[1]
        yield inputs, labels_VN[:, start:stop]
        start = stop


def standardised_chunks(
    pool: Pool, views: Sequence[View], index_VN: Tensor, dtype: torch.dtype, runs: int
) -> Iterator[Tensor]:
    """Yield examples of every view, standardised, in chunks (V, n, ...) of limited size.

    Args:
        index_VN: their indices into the pool.
        runs: number of runs, of all views, that use each chunk; more runs get smaller chunks.
    """
    scaling = _scaling(views, dtype)
    width = max(math.prod(pool.input_shape), pool.num_classes, CHUNK_WIDTH)
    size = max(1, min(CHUNK_EXAMPLES, CHUNK_NUMBERS // (width * runs)))
    for inputs in _gathered(pool.inputs, index_VN.split(size, dim=1)):
        yield _standardised(inputs, *scaling, pool.lacks)


def crop_and_flip(images_BCHW: Tensor, top_B: Tensor, left_B: Tensor, flip_B: Tensor, padding: int) -> Tensor:
    """Crop a window of each zero-padded image, mirrored left to right where `flip_B` is 1.

    Args:
        top_B, left_B: upper left corner of the window in the padded image, int64 in [0, 2 * padding].

    Returns:
        Images (B, C, H, W).
    """
    channels, height, width = images_BCHW.shape[1:]
    padded_BCP = F.pad(images_BCHW, (padding,) * 4).flatten(2)
    columns_W = torch.arange(width, device=images_BCHW.device)
    rows_BH = top_B[:, None] + torch.arange(height, device=images_BCHW.device)
    columns_BW = left_B[:, None] + torch.where(flip_B[:, None] == 1, columns_W.flip(0), columns_W)
    # One gather over flattened pixels, since indexing rows and columns separately is several times slower.
    pixels_BP = (rows_BH[:, :, None] * (width + 2 * padding) + columns_BW[:, None, :]).flatten(1)
    return padded_BCP.gather(2, pixels_BP[:, None].expand(-1, channels, -1)).view(images_BCHW.shape)


def _moves(count: int, dataset: Dataset, stream: torch.Generator) -> Tensor:
    """Draw the top, left and flip of `crop_and_flip` for an epoch of one seed, (3, count)."""
    corners = torch.randint(2 * dataset.crop_padding + 1, (2, count), generator=stream)
    flips = torch.randint(2 if dataset.flip else 1, (1, count), generator=stream)
    return torch.cat([corners, flips])


def _check_augmentation(pool: Pool, dataset: Dataset) -> None:
    require(
        pool.is_image or not dataset.flip, "dataset.flip", dataset.flip, "must be false for inputs that are not images"
    )
    limit = min(pool.input_shape[1:]) - 1 if pool.is_image else 0
    require(
        dataset.crop_padding <= limit,
        "dataset.crop_padding",
        dataset.crop_padding,
        f"at most {limit} for inputs of shape {pool.input_shape}",
    )


def _kept(labels_N: Tensor, num_classes: int, dataset: Dataset) -> Tensor:
    """Choose the training split from N candidates in stratified order, (N,) bool."""
    size, imbalance = dataset.train_size, dataset.imbalance
    if imbalance == 1:
        require(
            size is None or size <= len(labels_N),
            "dataset.train_size",
            size,
            f"at most {len(labels_N)}, which the test and validation splits leave",
        )
        return torch.arange(len(labels_N)) < (len(labels_N) if size is None else size)
    share_K = imbalance ** (-torch.arange(num_classes).double() / (num_classes - 1))
    most = (labels_N.bincount(minlength=num_classes) / share_K).min()
    largest = most if size is None else size / share_K.sum()
    require(
        bool(largest <= most),
        "dataset.train_size",
        size,
        f"at most {int(most * share_K.sum())} with dataset.imbalance={imbalance}",
    )
    # Round to whole numbers with the same sum: the largest remainders are rounded up.
    exact_K = largest * share_K
    count_K = exact_K.floor().long()
    missing = round(exact_K.sum().item()) - int(count_K.sum())
    count_K[(count_K - exact_K).argsort(stable=True)[:missing]] += 1
    require(
        int(count_K.min()) >= 1,
        "dataset.imbalance",
        imbalance,
        f"must be lower: the largest class has {int(largest)} examples, so the smallest would have none",
    )
    return rank_within_class(labels_N) < count_K[labels_N]


def _with_noise(labels_N: Tensor, num_classes: int, share: float, stream: torch.Generator) -> Tensor:
    """Replace a share of the labels by other classes, drawn uniformly."""
    wrong = torch.randperm(len(labels_N), generator=stream)[: round(share * len(labels_N))]
    noisy_N = labels_N.clone()
    noisy_N[wrong] += torch.randint(1, num_classes, (len(wrong),), generator=stream)
    return noisy_N % num_classes


def _moments(inputs: Tensor | ImageFiles, index_N: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation, float64: per feature (D,) of a table, per channel (C, 1, 1) of images."""
    if len(inputs.shape) == 4:
        # A histogram of bytes is exact and takes an eighth of the memory of float64 pixels.
        level = torch.arange(256, device=index_N.device).double()
        pieces = inputs.pieces(index_N) if isinstance(inputs, ImageFiles) else index_N.split(CHUNK_EXAMPLES)
        count_C256 = torch.zeros(inputs.shape[1], 256, dtype=torch.long, device=index_N.device)
        for images in _gathered(inputs, pieces):
            count_C256 += torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)])
        share_C256 = count_C256.double() / count_C256[0].sum()
        mean_C1 = (share_C256 * level).sum(1, keepdim=True)
        std_C1 = (share_C256 * (level - mean_C1).square()).sum(1, keepdim=True).sqrt()
        mean, std = mean_C1[..., None], std_C1[..., None].where(std_C1[..., None] > 0, 1.0)
    else:
        rows_ND = inputs[index_N].double()
        std, mean = torch.std_mean(rows_ND, dim=0, correction=0)
        if mean.isnan().any():
            mean = rows_ND.nanmean(0)
            std = rows_ND.where(~rows_ND.isnan(), mean).std(0, correction=0)
            mean = mean.nan_to_num(0.0)
        # The mean of equal numbers is rounded.
        std = std.where(std > 1e-12 * mean.abs(), math.inf)
    return mean, std


def _scaling(views: Sequence[View], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the means and inverse standard deviations of views, (V, 1, ...) each."""
    mean = torch.stack([view.mean for view in views])[:, None]
    std = torch.stack([view.std for view in views])[:, None]
    return mean.to(dtype), std.reciprocal().to(dtype)


def _standardised(gathered: Tensor, mean: Tensor, inverse_std: Tensor, lacks: bool) -> Tensor:
    """Return (gathered - mean) * inverse_std, in place if possible: another large tensor would take longer.

    Args:
        lacks: whether there may be NaN, which become 0: the training mean.
    """
    # Two operations, not a fused multiply-add, so that the result does not depend on the size of the pack.
    scaled = gathered.to(mean.dtype).sub_(mean).mul_(inverse_std)
    return scaled.nan_to_num_(0.0) if lacks else scaled


def _gathered(inputs: Tensor | ImageFiles, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the inputs of each index."""
    if isinstance(inputs, ImageFiles):
        yield from inputs.stream(indices)
        return
    for index_x in indices:
        # index_select copies whole examples, indexing with [] single numbers.
        yield inputs.index_select(0, index_x.flatten()).view(*index_x.shape, *inputs.shape[1:])
