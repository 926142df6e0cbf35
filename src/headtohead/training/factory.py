"""Data that a function of the user's own returns: arrays, a DataFrame, or a dataset of PyTorch or Hugging Face.

Shape suffixes: N examples, D features, C channels, H height, W width; x the axes of one input.
"""

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from headtohead.options import ConfigError, one_line, require
from headtohead.training.arrays import CPU, KEY, Array, coded_of, inputs_of, labels_of
from headtohead.training.arrays import examples_of as examples_of_arrays
from headtohead.training.data import Examples
from headtohead.training.decoding import on_a_ground
from headtohead.training.dropout import global_states, seed_other_libraries
from headtohead.training.image_files import MEMORY_SHARE, ImageFiles
from headtohead.training.memory import memory, require_memory
from headtohead.training.places import NAMES, require_function
from headtohead.training.table import classes_of, column, encode, with_names

# The keys that a label may have in an item that is a dictionary.
LABELS = ("label", "labels", "target", "y")
# The modes of Pillow whose pixels are numbers that mean brightness; images of other modes become RGB.
MODES = ("L", "LA", "RGB", "RGBA", "I", "I;16", "F")
ACCEPTED = '(X, y), (X, y, X_test, y_test), (DataFrame, "column of classes"), or a dataset with a length and items'


def examples_of(path: str, options: Mapping[str, Any], workers: int) -> Examples:
    """Call a function of the user's own and return its examples. Random numbers in it are always the same.

    Args:
        path: "package.module:function".
        options: keyword arguments of the function.
        workers: number of processes that read the images of a dataset which does not fit into memory.

    Returns:
        The examples: with the test split where there are X_test and y_test, else with None.

    Raises:
        ConfigError: there is no such function, it raises an error, or it returns something else.
    """
    function = _resolved(path)
    with _restored_generators():
        try:
            _seed(0)
            result = function(**options)
            count = len(result) if _is_map_style(result) else None
        except (Exception, SystemExit) as error:  # a function of the user may raise anything
            raise ConfigError(f"{KEY}={path}: raised {one_line(error)}") from error
        if isinstance(result, tuple | list) and len(result) in (2, 4):
            if isinstance(result[0], pd.DataFrame) and isinstance(result[1], str):
                return _of_frame(result[0], result[1], path)
            found = {name: _of_result(value, name, path) for name, value in zip(NAMES, result, strict=False)}
            return examples_of_arrays(found, path)
        if count is not None:
            return _of_items(_Items(path, result), count, workers)
    found = "nothing" if result is None else f"a {type(result).__name__}"
    raise ConfigError(f"{KEY}={path}: returned {found}; accepted: {ACCEPTED}")


def _resolved(path: str) -> Callable[..., Any]:
    require_function(path)
    try:
        return pkgutil.resolve_name(path)
    except (Exception, SystemExit) as error:  # an import runs code, which may raise anything
        raise ConfigError(f"{KEY}={path}: {one_line(error)}; accepted: package.module:function") from error


@contextmanager
def _restored_generators() -> Iterator[None]:
    """Restore the global generators of PyTorch, NumPy and Python afterwards."""
    with torch.random.fork_rng(devices=[]), global_states():
        yield


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    seed_other_libraries(seed)


def _of_frame(frame: pd.DataFrame, target: str, path: str) -> Examples:
    """Return the rows of a DataFrame, as those of a table in a file."""
    frame, key = with_names(frame.reset_index(drop=True), path), f"{KEY}={path}: the target"
    labels, classes = classes_of(column(frame, key, target, path), key)
    columns = encode(frame.drop(columns=target), path)
    return Examples(columns.inputs, labels, None, classes, columns.skipped, may_lack=True)


def _is_map_style(value: Any) -> bool:
    """Return whether a value is a dataset of PyTorch or Hugging Face, and no container of Python, NumPy or pandas."""
    containers = (tuple, list, Mapping, str, bytes, np.ndarray, Tensor, pd.DataFrame, pd.Series)
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, containers)


@dataclass(frozen=True, eq=False)
class _Items:
    """The items of a dataset, each a pair of input and label. Each draws random numbers that depend on its place."""

    path: str
    source: Any

    def pair(self, place: int) -> tuple[Tensor, Any]:
        """Return an input, float32 (D,) or uint8 (C, H, W), and a label. It sets the global generators."""
        try:
            _seed(place)
            example, label = self._parts(self.source[place])
            return inputs_of(_array(example)[None], "X", self.path)[0], _array(label)[()]
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # a dataset of the user may raise anything
            raise ConfigError(f"{KEY}={self.path}: item {place} raised {one_line(error)}") from error

    def image(self, place: int) -> Tensor:
        """Return an image (C, H, W)."""
        with _restored_generators():
            return self.pair(place)[0]

    def _parts(self, item: Any) -> tuple[Any, Any]:
        found = f"returned a dataset of {type(item).__name__}"
        if isinstance(item, Mapping):
            found = f"{found} with the keys {', '.join(map(str, item))}"
            named = [key for key in item if key in LABELS]
            if len(item) == 2 and len(named) < 2:
                # Without a known name the label stands second, as it does in a pair.
                label = named[0] if named else [*item][1]
                (other,) = (key for key in item if key != label)
                return item[other], item[label]
        elif isinstance(item, tuple | list) and len(item) == 2:
            return item[0], item[1]
        keys = f"{', '.join(LABELS[:-1])} or {LABELS[-1]}"
        raise ConfigError(
            f"{KEY}={self.path}: {found}; accepted: pairs of input and label, or the key {keys} and one other"
        )


def _of_items(items: _Items, count: int, workers: int) -> Examples:
    """Read all items, but keep no images where they would take more than MEMORY_SHARE of the memory."""
    path = items.path
    require(count >= 1, KEY, path, "returned a dataset without examples")
    first, _ = items.pair(0)
    size = count * first.nbytes
    keep = first.dim() == 1 or size <= MEMORY_SHARE * memory(CPU)
    if keep:
        require_memory(size, CPU, KEY, path)
    kept = torch.empty((count if keep else 0, *first.shape), dtype=first.dtype)
    labels: list[Any] = []
    for place in range(count):
        example, label = items.pair(place)
        shapes = f"inputs of the shapes {tuple(first.shape)} and {tuple(example.shape)}"
        same = example.shape == first.shape and example.dtype == first.dtype
        require(same, KEY, path, f"returned {shapes}; accepted: inputs of one shape")
        labels.append(label)
        if keep:
            kept[place] = example
    coded, classes = coded_of([labels_of(np.array(labels), "y", path)], None, path)
    inputs = kept if keep else ImageFiles(range(count), _image_shape(first), items.image, False, workers)
    return Examples(inputs, torch.from_numpy(coded[0]), None, classes)


def _with_plain_numbers(image: Image.Image) -> Image.Image:
    """Return an image whose numbers mean brightness or opacity."""
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        return on_a_ground(image).convert("L" if image.mode in ("1", "L") else "RGB")
    return image if image.mode in MODES else image.convert("L" if image.mode == "1" else "RGB")


def _image_shape(image: Tensor) -> tuple[int, int, int]:
    channels, height, width = image.shape
    return channels, height, width


def _of_result(value: Any, name: str, path: str) -> Array:
    """Return an array of a part of what a function returned."""
    if not (_is_map_style(value) and not hasattr(value, "__array__")):
        try:
            return _array(value)
        except Exception:  # the value may be of any class
            pass
    raise ConfigError(f"{KEY}={path}: returned a {type(value).__name__} as {name}; accepted: {ACCEPTED}")


def _array(value: Any) -> Array:
    """Return an array of a tensor, an image, a list or anything else that NumPy takes."""
    if isinstance(value, Image.Image):
        value = _with_plain_numbers(value)
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype == object and all(isinstance(item, str) for item in array.flat):
        return array.astype(str)
    return array
