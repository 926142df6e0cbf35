"""Data that functions of the user's own return, by the examples that become of them."""

import io
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from headtohead.options import ConfigError
from headtohead.runner.sources import Contents, _examples
from headtohead.training import data, factory

CPU = torch.device("cpu")
DIGITS = load_digits()
IMAGES, LABELS = DIGITS.images.astype(np.uint8)[:100], DIGITS.target[:100]


class Items:
    """A map-style dataset of no library."""

    def __init__(self, item, count=100):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


@pytest.fixture
def load(config, monkeypatch):
    """Return a function that loads what a function returns, as if it stood in a module of the user's."""

    def call(function, *options):
        data._load.cache_clear()
        monkeypatch.setattr(sys.modules[__name__], "made", function, raising=False)
        monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
        return data.load(config("dataset=factory", "dataset.path=mine:made", *options).dataset, CPU)

    return call


FRAME = pd.DataFrame(
    {
        "number": [0.5, np.nan, 2.5, -1.0] * 6,
        "whole": range(24),
        "truth": [True, False, False] * 8,
        "text": ["a", "b", None, "a"] * 6,
        "kind": pd.Categorical(["x", "y", "z"] * 8),
        "day": pd.to_datetime([*["2024-02-29", "1999-12-31"] * 11, None, "2000-01-01"]),
        "nullable": pd.array([1, None, 3, 4] * 6, dtype="Int64"),
        "maybe": pd.array([True, None, False, True] * 6, dtype="boolean"),
        "species": ["cat", "dog"] * 12,
    }
)


def test_a_frame_is_read_as_the_same_table_in_a_file(tmp_path, config, load):
    """Its types are those of pandas, which the file holds as text; its index names the rows that are left."""
    FRAME.to_csv(tmp_path / "frame.csv", index=False)
    table = config("dataset=table", f"dataset.path={tmp_path}/frame.csv", "dataset.target=species")
    expected = data.load(table.dataset, CPU)
    doubled = pd.concat([FRAME, FRAME.assign(species=None)]).dropna(subset="species")
    for frame in (FRAME, doubled.sort_index(ascending=False)[::-1]):
        pool = load(lambda frame=frame: (frame, "species"))
        np.testing.assert_array_equal(pool.inputs.numpy(), expected.inputs.numpy())
        assert torch.equal(pool.labels, expected.labels) and pool.classes == ("cat", "dog")
        assert pool.lacks and pool.folds == 5
    assert load(lambda: [FRAME, "truth"]).classes == ("False", "True")


@pytest.mark.parametrize(
    ("frame", "target", "words"),
    [
        (FRAME, "specis", "dataset.path=mine:made: the target=specis: no such column; did you mean"),
        (FRAME, "number", "the target=number: missing in 6 of 24 rows"),
        (FRAME.dropna(), "number", "the target=number: has the value 0.5; accepted: text, whole numbers"),
        (FRAME[:0], "species", "names but no rows"),
        (FRAME.assign(whole=1j * FRAME.whole), "species", "the column whole has complex numbers"),
        (FRAME[["species", "species"]], "species", "['species'] names several columns"),
        (FRAME[["species"]], "species", "no column is left as an input"),
    ],
)
def test_frames_that_cannot_be_used_are_refused(load, frame, target, words):
    with pytest.raises(ConfigError) as refused:
        load(lambda: (frame, target))
    assert words in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "item",
    [
        lambda n: (IMAGES[n], LABELS[n]),
        lambda n: [torch.from_numpy(IMAGES[n][None]), torch.tensor(LABELS[n])],
        lambda n: {"image": IMAGES[n], "label": LABELS[n]},
        lambda n: {"labels": int(LABELS[n]), "pixels": IMAGES[n].tolist()} | {"pixels": IMAGES[n] / np.float32(255)},
        lambda n: {"y": str(LABELS[n]), "x": Image.fromarray(IMAGES[n])},
        lambda n: {"img": Image.fromarray(IMAGES[n]), "digit": LABELS[n]},
    ],
)
def test_items_are_pairs_or_dictionaries(load, item):
    pool = load(lambda: Items(item))
    assert torch.equal(pool.inputs, torch.from_numpy(IMAGES)[:, None])
    assert pool.labels.tolist() == LABELS.tolist() and pool.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            lambda n: {"a": IMAGES[n], "fine": 0, "coarse": 1},
            "of dict with the keys a, fine, coarse; accepted",
        ),
        (
            lambda n: {"a": IMAGES[n], "b": 0, "label": 1},
            "the keys a, b, label; accepted: pairs of input and label",
        ),
        (lambda n: {"label": 0, "target": 1}, "with the keys label, target; accepted"),
        (lambda n: {"label": n}, "with the keys label; accepted"),
        (lambda n: IMAGES[n], "a dataset of ndarray; accepted"),
        (lambda n: (Image.new("I;16", (8, 8)), n % 2), "X has the type uint16"),
        (lambda n: (IMAGES[n][: 4 + n % 2], n % 2), "the shapes (1, 4, 8) and (1, 5, 8)"),
        (lambda n: (np.array([1.0, np.nan]), n % 2), "NaN or infinity in 1 examples"),
        (lambda n: (1.0 / (5 - n), 0), "X has the type float64 and the shape (1,)"),
        (lambda n: ([1.0 / (5 - n)], n % 2), "item 5 raised ZeroDivisionError: float division by zero"),
        (lambda n: ([1.0], None), "y has the type object"),
    ],
)
def test_items_that_are_no_examples_are_refused(load, item, words):
    with pytest.raises(ConfigError) as refused:
        load(lambda: Items(item))
    assert str(refused.value).startswith("dataset.path=mine:made: ") and words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_images_of_pillow_have_the_colours_that_a_person_sees(load):
    colours = np.random.default_rng(0).integers(0, 4, (12, 5, 7)).astype(np.uint8)
    palette = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 90], [9, 9, 9]], np.uint8)

    def indexed(n):
        image = Image.fromarray(colours[n])
        image.putpalette(palette.tobytes())
        assert image.mode == "P"
        return image, n % 2

    expected = torch.from_numpy(palette[colours]).permute(0, 3, 1, 2)
    assert torch.equal(load(lambda: Items(indexed, 12)).inputs, expected)
    rgb = load(lambda: Items(lambda n: (Image.fromarray(palette[colours[n]]), n % 2), 12))
    assert torch.equal(rgb.inputs, expected)
    black = load(lambda: Items(lambda n: (Image.fromarray(colours[n] > 1), n % 2), 12))
    assert torch.equal(black.inputs, torch.from_numpy((colours > 1) * np.uint8(255))[:, None])


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_black_shapes_of_pillow_on_a_transparent_ground_are_seen(load, mode):
    shapes = np.random.default_rng(0).integers(0, 2, (12, 5, 7)).astype(np.uint8)

    def picture(n):
        # Both colours are black, or nearly so; the first is transparent.
        image = Image.fromarray(shapes[n])
        if mode == "P":
            image.putpalette([0] * 6)
        image = image.convert(mode)
        image.info["transparency"] = (0, 0, 0) if mode == "RGB" else 0
        return image, n % 2

    inputs = load(lambda: Items(picture, 12)).inputs
    assert torch.equal(inputs[:, 0] > 127, torch.from_numpy(shapes == 0))
    assert inputs.shape[1] == (1 if mode == "L" else 3)


def leave(*arguments):
    sys.exit(3)


def test_a_function_that_ends_the_process_is_refused(load):
    for function in (leave, lambda: Items(leave)):
        with pytest.raises(ConfigError, match=r"^dataset\.path=mine:made: .*raised SystemExit: 3$"):
            load(function)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((Items(None), Items(None)), "returned a Items as X"),
        (([[1.0], [2.0, 3.0]], [0, 1]), "returned a list as X"),
        ((np.empty((0, 3)), np.empty(0, int)), "the shape (0, 3); accepted: one example"),
    ],
)
def test_pairs_that_are_no_arrays_are_refused(load, result, words):
    with pytest.raises(ConfigError) as refused:
        load(lambda: result)
    assert words in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("format_name", [None, "torch", "numpy"])
def test_datasets_of_hugging_face_are_read_in_any_format(load, format_name):
    datasets, arrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    files = []
    for image in IMAGES:
        files.append({"bytes": io.BytesIO(), "path": None})
        Image.fromarray(image).save(files[-1]["bytes"], "png")
    table = arrow.table({"image": [file | {"bytes": file["bytes"].getvalue()} for file in files], "label": LABELS})
    made = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="made")
    made = made.cast_column("image", datasets.Image())
    pool = load(lambda: made.with_format(format_name))
    assert torch.equal(pool.inputs, torch.from_numpy(IMAGES)[:, None]) and pool.labels.tolist() == LABELS.tolist()
    with pytest.raises(ConfigError, match="returned a DatasetDict; accepted"):
        load(lambda: datasets.DatasetDict({"train": made}))


def noisy(n):
    """An item that draws from every generator that is global."""
    noise = torch.randint(9, (8, 8)).numpy() + np.random.randint(9, size=(8, 8))  # noqa: NPY002
    return (IMAGES[n] + noise).astype(np.uint8), LABELS[n]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_do_not_fit_into_memory_are_streamed_and_are_the_same(load, monkeypatch, workers):
    kept = load(lambda: Items(noisy))
    data.verify(kept)
    monkeypatch.setattr(factory, "memory", lambda device: 4 * IMAGES.nbytes - 1)
    streamed = load(lambda: Items(noisy), f"dataset.workers={workers}")
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert isinstance(kept.inputs, torch.Tensor) and not isinstance(streamed.inputs, torch.Tensor)
    data.verify(streamed)
    index = torch.tensor([[3, 99], [0, 3]])
    assert torch.equal(streamed.inputs[index], kept.inputs[index])
    assert torch.equal(next(iter(streamed.inputs.stream([index]))), kept.inputs[index])
    assert torch.equal(streamed.labels, kept.labels) and streamed.input_shape == kept.input_shape
    assert _examples(streamed, Contents({})) == _examples(kept, Contents({}))
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002


@pytest.mark.parametrize("share", [1, 5])
def test_examples_that_change_are_told_from_those_that_do_not(load, monkeypatch, share):
    """Whether they are in memory or streamed; one of 100 items differs at a later reading."""
    monkeypatch.setattr(factory, "memory", lambda device: share * IMAGES.nbytes)
    read = []

    def changing(n):
        read.append(n)
        return (IMAGES[n] + (n == 70) * (len(read) // 100)).astype(np.uint8), LABELS[n]

    pool = load(lambda: Items(changing))
    with pytest.raises(ConfigError, match=r"^dataset\.path=mine:made: gives other data at a second call; accepted"):
        data.verify(pool)


@pytest.mark.parametrize("part", [0, 1])
def test_arrays_and_labels_that_change_are_refused(load, part):
    calls = []

    def changing():
        calls.append(0)
        arrays = [IMAGES.copy(), LABELS.copy()]
        if len(calls) > 1:
            arrays[part][0] = 5
        return arrays

    with pytest.raises(ConfigError, match="other data at a second call"):
        data.verify(load(changing))
