from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import pictures
from omegaconf import OmegaConf

from headtohead.options import ConfigError, build_named
from headtohead.training import data
from headtohead.training.data import (
    Dataset,
    Examples,
    batches,
    crop_and_flip,
    evaluation_chunks,
    generator,
    load,
    split_sizes,
    steps_per_epoch,
    view,
)
from headtohead.training.datasets import DATASETS

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
CPU = torch.device("cpu")
SEEDS = (0, 1, 2**31)


def configured(name, **options):
    node = OmegaConf.merge(OmegaConf.load(CONFIGS / f"{name}.yaml"), options)
    return build_named(DATASETS, node, "dataset")


def viewed(name, seeds=SEEDS, **options):
    dataset = configured(name, **options)
    pool = load(dataset, CPU)
    return dataset, pool, [view(pool, dataset, seed) for seed in seeds]


def taken(pool, views, dataset, seeds, batch_size, count, dtype=torch.float32):
    steps = list(islice(batches(pool, views, dataset, seeds, batch_size, dtype), count))
    return torch.stack([inputs for inputs, _ in steps]), torch.stack([labels for _, labels in steps])


@dataclass(frozen=True)
class Given(Dataset):
    """Examples of a test: `given` has the inputs and labels; the last two examples are the test split."""

    given: tuple

    def read(self):
        inputs, labels = self.given
        return Examples(inputs, labels, torch.arange(len(labels) - 2, len(labels)), ("a", "b", "c"))


def given(inputs, labels, **options):
    defaults = {
        "train_size": None,
        "val_fraction": 0.25,
        "label_noise": 0.0,
        "imbalance": 1.0,
        "crop_padding": 0,
        "flip": False,
        "ood": None,
        "unknown_classes": 0,
    }
    return Given(given=(inputs, labels), **(defaults | options))


# Random streams


def test_generators_differ_by_seed_and_purpose_and_repeat():
    def drawn(seed, purpose):
        return tuple(torch.randint(2**60, (4,), generator=generator(seed, purpose)).tolist())

    keys = [(seed, purpose) for seed in (0, 1, 2, 2**40) for purpose in ("split", "noise", "order")]
    assert len({drawn(*key) for key in keys}) == len(keys)
    assert drawn(0, "split") == drawn(0, "split")


def test_the_stream_of_seed_zero_is_uniform():
    numbers = torch.rand(100_000, generator=generator(0, "order"))
    assert abs(numbers.mean().item() - 0.5) < 0.005
    assert abs(numbers.std().item() - 12**-0.5) < 0.005


# Splits


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer", "gaussians", "composite"])
def test_splits_cover_all_examples_once(name):
    _, pool, views = viewed(name)
    for one in views:
        everything = torch.cat([one.train, one.val, one.test])
        assert torch.equal(everything.sort().values, torch.arange(len(pool.labels)))


@pytest.mark.parametrize(("name", "folds"), [("digits", 5), ("iris", 5), ("wine", 3), ("breast_cancer", 10)])
def test_folds_test_every_example_once_and_are_stratified(name, folds):
    dataset, pool, _ = viewed(name, [], folds=folds)
    for seed in SEEDS:
        drawn = [view(pool, dataset, seed, fold) for fold in range(folds)]
        assert torch.equal(torch.cat([one.test for one in drawn]).sort().values, torch.arange(len(pool.labels)))
        counts = torch.stack([pool.labels[one.test].bincount(minlength=pool.num_classes) for one in drawn])
        assert (counts.amax(0) - counts.amin(0) <= 2).all()
        assert counts.sum(1).amax() - counts.sum(1).amin() <= 1
        for one in drawn:
            assert not {*one.test.tolist()} & {*one.train.tolist(), *one.val.tolist()}


def test_folds_are_drawn_anew_for_each_seed():
    dataset, pool, _ = viewed("wine", [])
    folds = [[view(pool, dataset, seed, fold) for fold in range(5)] for seed in (0, 1)]
    for first, second in zip(*folds, strict=True):
        assert {*first.test.tolist()} != {*second.test.tolist()}
    for number in range(5):
        sizes = split_sizes(pool, dataset, 1, number)
        one = folds[1][number]
        assert sizes == (len(one.train), len(one.val), len(one.test))


def test_a_class_of_fewer_examples_than_folds_is_refused():
    dataset = configured("gaussians", folds=5, test_fraction=None, classes=3, examples=13)
    with pytest.raises(
        ConfigError, match=r"dataset.folds=5: at most 4, the number of examples of the class 1, or null"
    ):
        load(dataset, CPU)


def test_sizes_follow_the_fractions():
    _, pool, [one] = viewed("digits", [0], val_fraction=0.25, folds=None, test_fraction=0.1)
    assert len(pool.test) == 180
    assert len(one.val) == round(0.25 * 1617)
    assert len(one.train) == 1617 - round(0.25 * 1617)


@pytest.mark.parametrize("options", [{}, {"train_size": 100}, {"imbalance": 7.0}])
def test_class_counts_are_equal_for_all_seeds_but_examples_differ(options):
    _, pool, views = viewed("digits", folds=None, test_fraction=0.2, **options)
    for split in ("train", "val"):
        indices = [getattr(one, split) for one in views]
        counts = [pool.labels[index].bincount().tolist() for index in indices]
        assert counts[0] == counts[1] == counts[2]
        assert len({tuple(index.sort().values.tolist()) for index in indices}) == 3


def test_splits_are_stratified():
    _, pool, [one] = viewed("breast_cancer", [3])
    share = pool.labels.double().mean()
    for split in (one.train, one.val, pool.test):
        assert abs(pool.labels[split].double().mean() - share) < 1 / len(split)


def test_a_view_is_reproducible_and_does_not_depend_on_augmentation():
    dataset, pool, [one] = viewed("digits", [4])
    again = view(pool, replace(dataset, crop_padding=1, flip=True), 4)
    for field in ("train", "train_labels", "val", "mean", "std", "prior"):
        assert torch.equal(getattr(one, field), getattr(again, field))


def test_the_validation_split_does_not_depend_on_training_options():
    _, _, [plain] = viewed("digits", [1])
    _, _, [changed] = viewed("digits", [1], train_size=200, label_noise=0.3, imbalance=3.0)
    assert torch.equal(plain.val, changed.val)


def test_train_size_takes_that_many_in_proportion():
    _, pool, [one] = viewed("breast_cancer", [0], train_size=100)
    assert len(one.train) == 100
    assert abs(pool.labels[one.train].sum().item() - 100 * pool.labels.double().mean().item()) <= 1


# Label noise and imbalance


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_label_noise_replaces_its_share_of_training_labels(share):
    _, pool, views = viewed("digits", label_noise=share)
    for one in views:
        wrong = one.train_labels != pool.labels[one.train]
        assert wrong.sum().item() == round(share * len(one.train))
        assert one.train_labels.min() >= 0
        assert one.train_labels.max() <= 9


def test_label_noise_draws_the_other_classes_uniformly():
    _, pool, [one] = viewed("gaussians", [0], classes=4, examples=40_000, label_noise=1.0)
    offset = (one.train_labels - pool.labels[one.train]) % 4
    share = offset.bincount(minlength=4) / len(offset)
    assert share[0] == 0
    assert (share[1:] - 1 / 3).abs().max() < 0.02


def test_label_noise_differs_by_seed():
    _, pool, [first, second] = viewed("digits", [0, 1], label_noise=0.5)
    noisy = [set(one.train[one.train_labels != pool.labels[one.train]].tolist()) for one in (first, second)]
    assert noisy[0] != noisy[1]


@pytest.mark.parametrize("train_size", [None, 600])
def test_imbalance_gives_the_long_tail_of_cui(train_size):
    # There are 6400 training examples, 640 per class.
    _, pool, views = viewed(
        "gaussians",
        examples=10_000,
        imbalance=100.0,
        train_size=train_size,
        val_fraction=0.2,
        test_fraction=0.2,
    )
    tail = 100 ** (-np.arange(10) / 9)
    largest = 640 if train_size is None else train_size / tail.sum()
    for one in views:
        counts = pool.labels[one.train].bincount().numpy()
        assert np.abs(counts - largest * tail).max() < 1
        assert counts.sum() == (train_size or round(largest * tail.sum()))
        assert pool.labels[one.val].bincount().tolist() == [160] * 10


@pytest.mark.parametrize(("name", "imbalance"), [("breast_cancer", 2.0), ("wine", 1.1), ("iris", 5.0)])
def test_imbalance_takes_as_many_examples_as_an_uneven_dataset_has(name, imbalance):
    _, pool, [plain] = viewed(name, [0])
    _, _, [one] = viewed(name, [0], imbalance=imbalance)
    available = pool.labels[plain.train].bincount().numpy()
    tail = imbalance ** (-np.arange(len(available)) / (len(available) - 1))
    counts = pool.labels[one.train].bincount().numpy()
    assert np.abs(counts - (available / tail).min() * tail).max() < 1
    assert (counts <= available).all()
    assert (counts == available).any()


def test_the_prior_counts_noisy_training_labels():
    _, _, [one] = viewed("digits", [0], label_noise=0.4, imbalance=5.0)
    assert one.prior.dtype == torch.float64
    expected = np.bincount(one.train_labels.numpy(), minlength=10) / len(one.train_labels)
    np.testing.assert_allclose(one.prior.numpy(), expected, rtol=1e-15)


# Standardisation


@pytest.mark.parametrize("name", ["digits", "iris", "breast_cancer", "gaussians"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_inputs_have_mean_0_and_deviation_1(name, dtype):
    _, pool, views = viewed(name)
    inputs = torch.cat([inputs for inputs, _ in evaluation_chunks(pool, views, "train", dtype, len(views))], dim=1)
    assert inputs.dtype == dtype
    axes = (0, 2, 3) if pool.is_image else (0,)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for one in inputs.double().numpy():
        np.testing.assert_allclose(one.mean(axes), 0, atol=tolerance)
        np.testing.assert_allclose(one.std(axes), 1, atol=tolerance)


@pytest.mark.parametrize("name", ["digits", "wine"])
def test_statistics_come_from_the_training_split_alone(name):
    _, pool, [one] = viewed(name, [2], train_size=40)
    train = pool.inputs[one.train].double().numpy()
    axes = (0, 2, 3) if pool.is_image else (0,)
    np.testing.assert_allclose(one.mean.flatten().numpy(), train.mean(axes).flatten(), rtol=1e-12)
    np.testing.assert_allclose(one.std.flatten().numpy(), train.std(axes).flatten(), rtol=1e-12)
    inputs, _ = next(evaluation_chunks(pool, [one], "test", torch.float64, 1))
    expected = (pool.inputs[one.test].double() - one.mean) / one.std
    torch.testing.assert_close(inputs[0], expected, rtol=1e-12, atol=1e-12)


def test_channels_are_standardised_separately():
    images = torch.randint(0, 100, (20, 3, 4, 4), generator=generator(0, "x")).to(torch.uint8)
    images[:, 1] += 100
    dataset = given(images, torch.arange(20) % 3)
    one = view(load(dataset, CPU), dataset, 0)
    assert one.mean.shape == one.std.shape == (3, 1, 1)
    train = images[one.train].numpy()
    np.testing.assert_allclose(one.mean.flatten().numpy(), train.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(one.std.flatten().numpy(), train.std((0, 2, 3)), rtol=1e-12)


def test_constant_features_become_zero():
    table = torch.randn(20, 3, generator=generator(0, "x"))
    table[:, 1], table[:, 2] = 0.1, 0.0
    dataset = given(table, torch.arange(20) % 3)
    pool = load(dataset, CPU)
    one = view(pool, dataset, 0)
    assert one.std[1:].tolist() == [np.inf, np.inf]
    inputs, _ = next(evaluation_chunks(pool, [one], "train", torch.float32, 1))
    assert inputs[..., 1:].abs().max() < 1e-6


def test_large_offsets_keep_their_precision():
    table = torch.arange(20.0)[:, None] + 1e6
    dataset = given(table, torch.arange(20) % 3)
    pool = load(dataset, CPU)
    one = view(pool, dataset, 0)
    single, _ = next(evaluation_chunks(pool, [one], "train", torch.float32, 1))
    double, _ = next(evaluation_chunks(pool, [one], "train", torch.float64, 1))
    assert (single - double).abs().max() < 0.01


# Batches


def test_an_epoch_shows_every_example_once():
    table = torch.arange(34.0)[:, None]
    dataset = given(table, torch.arange(34) % 3)
    pool = load(dataset, CPU)
    views = [view(pool, dataset, seed) for seed in SEEDS]
    assert steps_per_epoch(views[0], 8) == 3
    inputs, _ = taken(pool, views, dataset, SEEDS, 8, 6, torch.float64)
    for number, one in enumerate(views):
        for epoch in (inputs[:3, number], inputs[3:, number]):
            shown = (epoch * one.std + one.mean).round().long().flatten()
            assert torch.equal(shown.sort().values, one.train.sort().values)


def test_incomplete_batches_are_dropped_and_another_permutation_drops_others():
    table = torch.arange(29.0)[:, None]
    dataset = given(table, torch.arange(29) % 3)
    pool = load(dataset, CPU)
    one = view(pool, dataset, 0)
    assert len(one.train) == 20
    assert steps_per_epoch(one, 6) == 3
    inputs, _ = taken(pool, [one], dataset, [0], 6, 60, torch.float64)
    shown = (inputs * one.std + one.mean).round().long().view(20, 18)
    dropped = set()
    for epoch in shown:
        assert len(set(epoch.tolist())) == 18
        assert set(epoch.tolist()) <= set(one.train.tolist())
        dropped |= set(one.train.tolist()) - set(epoch.tolist())
    assert len(dropped) > 10
    assert not torch.equal(shown[0], shown[1])


def test_labels_belong_to_their_inputs():
    table = torch.arange(50.0)[:, None]
    dataset = given(table, torch.arange(50) % 3, label_noise=0.3)
    pool = load(dataset, CPU)
    views = [view(pool, dataset, seed) for seed in (0, 1)]
    inputs, labels = taken(pool, views, dataset, (0, 1), 8, 10, torch.float64)
    for number, one in enumerate(views):
        noisy = dict(zip(one.train.tolist(), one.train_labels.tolist(), strict=True))
        index = (inputs[:, number] * one.std + one.mean).round().long().flatten().tolist()
        assert [noisy[i] for i in index] == labels[:, number].flatten().tolist()


def test_a_batch_size_above_the_training_size_takes_the_whole_split():
    dataset, pool, views = viewed("iris", train_size=30)
    assert steps_per_epoch(views[0], 1000) == 1
    inputs, labels = next(batches(pool, views, dataset, SEEDS, 1000, torch.float32))
    assert inputs.shape == (3, 30, 4)
    assert labels.shape == (3, 30)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize(
    ("name", "options"), [("digits", {"crop_padding": 2, "flip": True}), ("digits", {}), ("wine", {})]
)
def test_the_batches_of_a_seed_do_not_depend_on_the_other_seeds(name, options, batch_size):
    dataset, pool, views = viewed(name, train_size=90, **options)
    together = taken(pool, views, dataset, SEEDS, batch_size, 200 // batch_size + 3)
    for number, seed in enumerate(SEEDS):
        alone = taken(pool, [views[number]], dataset, [seed], batch_size, 200 // batch_size + 3)
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[:, 0], all_of_them[:, number])


@pytest.mark.parametrize(("name", "options"), [("digits", {"crop_padding": 2, "flip": True}), ("wine", {})])
def test_batches_do_not_depend_on_how_many_are_prepared_at_once(monkeypatch, name, options):
    dataset, pool, views = viewed(name, **options)
    usual = taken(pool, views, dataset, SEEDS, 32, 120)
    for numbers in (1, 3 * 32 * len(views) * pool.inputs[0].numel()):
        monkeypatch.setattr(data, "AT_ONCE", numbers)
        for expected, found in zip(usual, taken(pool, views, dataset, SEEDS, 32, 120), strict=True):
            assert torch.equal(expected, found)


def test_seeds_differ_in_order_and_batches_leave_the_pool_as_it_was():
    dataset, pool, views = viewed("wine")
    before = pool.inputs.clone()
    _, labels = taken(pool, views, dataset, SEEDS, 16, 3)
    assert not torch.equal(labels[:, 0], labels[:, 1])
    assert torch.equal(pool.inputs, before)


def test_augmentation_does_not_change_the_order():
    plain, pool, views = viewed("digits")
    augmented = replace(plain, crop_padding=1, flip=True)
    _, expected = taken(pool, views, plain, SEEDS, 32, 100)
    _, labels = taken(pool, views, augmented, SEEDS, 32, 100)
    assert torch.equal(labels, expected)


# Augmentation


def test_crops_are_windows_of_the_zero_padded_image():
    images = torch.randint(1, 256, (6, 3, 5, 4), generator=generator(0, "x")).to(torch.uint8)
    top, left = torch.tensor([0, 1, 2, 3, 4, 2]), torch.tensor([4, 3, 2, 1, 0, 2])
    flip = torch.tensor([0, 1, 0, 1, 0, 1])
    moved = crop_and_flip(images, top, left, flip, 2).numpy()
    for number, image in enumerate(images.numpy()):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        window = padded[:, top[number] : top[number] + 5, left[number] : left[number] + 4]
        np.testing.assert_array_equal(moved[number], window[:, :, ::-1] if flip[number] else window)


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (1, False), (0, True)])
def test_training_images_are_all_windows_and_no_others(padding, flip):
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    dataset = given(image.repeat(102, 1, 1, 1), torch.arange(102) % 3, crop_padding=padding, flip=flip)
    pool = load(dataset, CPU)
    one = view(pool, dataset, 0)
    inputs, _ = taken(pool, [one], dataset, [0], 25, 60, torch.float64)
    shown = {tuple(row) for row in (inputs * one.std + one.mean).round().long().view(-1, 25).tolist()}
    padded = np.pad(image[0, 0].numpy(), padding)
    expected = set()
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            window = padded[row : row + 5, column : column + 5]
            expected |= {tuple(window.flatten())} | ({tuple(window[:, ::-1].flatten())} if flip else set())
    assert shown == expected


def test_half_of_the_images_are_flipped_and_windows_are_uniform():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    dataset = given(image.repeat(402, 1, 1, 1), torch.arange(402) % 3, crop_padding=1, flip=True)
    pool = load(dataset, CPU)
    one = view(pool, dataset, 1)
    inputs, _ = taken(pool, [one], dataset, [1], 100, 60, torch.float64)
    rows = (inputs * one.std + one.mean).round().long().view(-1, 9)
    _, counts = rows.unique(dim=0, return_counts=True)
    assert len(counts) == 18
    assert (counts / len(rows) - 1 / 18).abs().max() < 0.02


def test_evaluation_is_not_augmented():
    _, pool, views = viewed("digits", crop_padding=2, flip=True)
    _, _, plain = viewed("digits")
    for split in ("train", "val", "test"):
        for (first, _), (second, _) in zip(
            evaluation_chunks(pool, views, split, torch.float32, len(views)),
            evaluation_chunks(pool, plain, split, torch.float32, len(plain)),
            strict=True,
        ):
            assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iris", {"flip": True}, "dataset.flip=True"),
        ("iris", {"crop_padding": 1}, "dataset.crop_padding=1"),
        ("digits", {"crop_padding": 8}, "dataset.crop_padding=8: at most 7"),
        ("composite", {"flip": True}, "dataset.flip=True"),
    ],
)
def test_augmentation_that_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        viewed(name, **options)


# Evaluation


def test_chunks_join_to_the_split_in_order_and_are_bounded(monkeypatch):
    _, pool, views = viewed("digits", label_noise=0.2)
    monkeypatch.setattr("headtohead.training.data.CHUNK_NUMBERS", 1000 * 3 * 50)
    for split, indices, labels in (
        ("train", [one.train for one in views], [one.train_labels for one in views]),
        ("val", [one.val for one in views], [pool.labels[one.val] for one in views]),
        ("test", [one.test for one in views], [pool.labels[one.test] for one in views]),
    ):
        chunks = list(evaluation_chunks(pool, views, split, torch.float64, len(views)))
        assert {inputs.shape[1] for inputs, _ in chunks[:-1]} == {50}
        assert chunks[-1][0].shape[1] <= 50
        assert torch.equal(torch.cat([part for _, part in chunks], dim=1), torch.stack(labels))
        joined = torch.cat([part for part, _ in chunks], dim=1)
        for number, one in enumerate(views):
            expected = (pool.inputs[indices[number]].double() - one.mean) / one.std
            torch.testing.assert_close(joined[number], expected, rtol=1e-12, atol=1e-12)


# Loading


def test_a_pool_is_read_once_whatever_the_views_are():
    dataset = configured("digits")
    pool = load(dataset, CPU)
    other = replace(dataset, train_size=5, val_fraction=0.5, label_noise=0.5, imbalance=2.0, crop_padding=1, flip=True)
    assert load(other, CPU) is pool
    assert load(replace(dataset, folds=None, test_fraction=0.3), CPU) is not pool
    assert load(configured("iris"), CPU) is not load(configured("wine"), CPU)


def test_a_relative_root_is_another_place_in_another_folder(tmp_path, monkeypatch):
    pools = []
    for place, count in (("here", 4), ("there", 5)):
        pictures(tmp_path / place / "root", count=count)
        monkeypatch.chdir(tmp_path / place)
        pools.append(load(configured("image_folder", root="root"), CPU))
    assert [len(pool.labels) for pool in pools] == [12, 15]


def test_a_root_may_be_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures(tmp_path / "pictures")
    assert len(load(configured("image_folder", root="~/pictures"), CPU).labels) == 12
    with pytest.raises(ConfigError, match=r"^dataset\.root=.*~missing-user/pictures: an existing folder"):
        load(configured("image_folder", root="~missing-user/pictures"), CPU)


@pytest.mark.parametrize("name", ["image_folder", "mnist", "composite"])
def test_a_root_has_a_name(name):
    with pytest.raises(ConfigError, match=r"^dataset\.root=' ': a folder"):
        configured(name, root=" ")


def test_the_test_split_is_stratified_and_leaves_the_rest():
    pool = load(configured("digits", folds=None, test_fraction=0.2), CPU)
    share = pool.labels.bincount() / len(pool.labels)
    assert (pool.labels[pool.test].bincount() - len(pool.test) * share).abs().max() <= 1
    assert torch.equal(torch.cat([pool.test, pool.rest]).sort().values, torch.arange(1797))


FINE = torch.zeros(9, 2)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (FINE, torch.arange(9) % 4, r"dataset labels=0\.\.3: 0\.\.2"),
        (FINE, torch.arange(9) % 3 - 1, r"dataset labels=-1\.\.1: 0\.\.2"),
        (FINE, torch.arange(9) % 3 + 0.5, "dataset labels=torch.float32: integers"),
        (
            FINE.index_fill(0, torch.tensor([4]), torch.nan),
            torch.arange(9) % 3,
            "NaN or infinity in 1 examples",
        ),
        (
            FINE.index_fill(0, torch.tensor([4]), torch.inf),
            torch.arange(9) % 3,
            "NaN or infinity in 1 examples",
        ),
        (FINE, torch.arange(8) % 3, "9 inputs, 8 labels"),
        (FINE[:2], torch.arange(2) % 3, "2 inputs, 2 labels, 2 test"),
    ],
)
def test_examples_that_cannot_be_trained_on_are_refused(inputs, labels, message):
    with pytest.raises(ConfigError, match=message):
        load(given(inputs, labels), CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 91}, "dataset.train_size=91: at most 90"),
        ({"train_size": 0}, "dataset.train_size=0: "),
        ({"val_fraction": 0.001}, "dataset.val_fraction=0.001: "),
        ({"val_fraction": 0.999}, "dataset.val_fraction=0.999: "),
        ({"val_fraction": 0.0}, "dataset.val_fraction=0.0: "),
        ({"val_fraction": 1.0}, "dataset.val_fraction=1.0: "),
        ({"val_fraction": float("nan")}, "dataset.val_fraction=nan: "),
        ({"folds": None, "test_fraction": 0.001}, "dataset.test_fraction=0.001: "),
        ({"folds": None, "test_fraction": 1.0}, "dataset.test_fraction=1.0: "),
        ({"label_noise": -0.1}, "dataset.label_noise=-0.1: "),
        ({"label_noise": 1.1}, "dataset.label_noise=1.1: "),
        ({"imbalance": 0.5}, "dataset.imbalance=0.5: "),
        ({"imbalance": float("inf")}, "dataset.imbalance=inf: "),
        ({"imbalance": 1000.0}, "dataset.imbalance=1000.0: "),
        (
            {"imbalance": 10.0, "train_size": 80},
            "dataset.train_size=80: at most 42 with dataset.imbalance=10.0",
        ),
        ({"crop_padding": -1}, "dataset.crop_padding=-1: "),
        ({"train_size": "many"}, "dataset.train_size=many: "),
        ({"colour": 1}, "dataset.colour: no such key"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        viewed("iris", **options)
    assert len(str(caught.value).splitlines()) <= 2


def test_the_largest_accepted_train_size_is_the_one_that_the_error_names():
    _, _, [one] = viewed("iris", [0], imbalance=10.0, train_size=42)
    assert len(one.train) == 42
