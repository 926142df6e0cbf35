"""Arrays of the user's own as examples.

Shape suffixes: N examples, D features, C channels, H height, W width.
"""

import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headtohead.options import ConfigError, nearest, one_line, require
from headtohead.training.data import ROUNDED, Examples
from headtohead.training.image_files import MEMORY_SHARE
from headtohead.training.memory import memory, require_memory
from headtohead.training.places import A_NPY, A_NPZ, NAMES, require_arrays

Array = np.ndarray[Any, Any]

# The numbers of channels that an image may have.
CHANNELS = range(1, 5)
KEY, CPU = "dataset.path", torch.device("cpu")


def read_npz(path: str) -> dict[str, Array]:
    """Read the arrays of a file that `numpy.savez` wrote; nothing in it is unpickled.

    Raises:
        ConfigError: there is no such file, it does not fit into memory, or it holds other arrays than NAMES.
    """
    require_arrays(path, None)
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        require_memory(size, CPU, KEY, path)
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                require(name in NAMES, KEY, path, f"holds an array {name}; {nearest(name, NAMES)}")
            return {name: file[name] for name in file.files}
    except ConfigError:
        raise
    except Exception as error:  # the readers of archives and arrays raise errors of a dozen kinds
        raise _unreadable(KEY, path, error, A_NPZ) from error


def read_npy(path: str, labels: str) -> dict[str, Array]:
    """Map the inputs in a file that `numpy.save` wrote into memory, and read labels from another; never unpickle.

    Raises:
        ConfigError: there is no such file, it holds no array, or what is no image of bytes does not fit into memory.
    """
    require_arrays(path, labels)
    found = {}
    for name, key, file in (("X", KEY, path), ("y", "dataset.labels", labels)):
        try:
            # Copied where it is written to, which it never is, since PyTorch warns of arrays that are read-only.
            found[name] = np.load(file, mmap_mode="c", allow_pickle=False)
        except Exception as error:
            raise _unreadable(key, file, error, A_NPY) from error
        require(isinstance(found[name], np.ndarray), key, file, f"holds several arrays; accepted: {A_NPY}")
    inputs = found["X"]
    if inputs.dtype != np.uint8 or inputs.ndim == 2:
        require_memory(inputs.size * np.dtype(np.float32).itemsize, CPU, KEY, path)
    return found


def _unreadable(key: str, path: str, error: Exception, accepted: str) -> ConfigError:
    has_objects = "allow_pickle" in str(error) or "Python objects" in str(error)
    reason = "it holds objects, which could run code" if has_objects else one_line(error)
    return ConfigError(f"{key}={path}: cannot be read: {reason}; accepted: {accepted}")


def examples_of(arrays: Mapping[str, Array], source: str) -> Examples:
    """Return examples from arrays named as in NAMES; those of `X_test` are the test split, or there is none.

    Args:
        source: where they come from, for error messages.

    Raises:
        ConfigError: an array is missing, or cannot be used.
    """
    for name, other in (("X", "y"), ("y", "X"), ("X_test", "y_test"), ("y_test", "X_test")):
        is_needed = name in NAMES[:2] or other in arrays
        require(name in arrays or not is_needed, KEY, source, f"no {name}; accepted: {', '.join(NAMES)}")
    parts = [part for part in ("", "_test") if f"X{part}" in arrays]
    inputs = [inputs_of(arrays[f"X{part}"], f"X{part}", source) for part in parts]
    labels = [labels_of(arrays[f"y{part}"], f"y{part}", source) for part in parts]
    for part, input_Nx, label_N in zip(parts, inputs, labels, strict=True):
        sizes = f"{len(input_Nx)} examples in X{part} and {len(label_N)} in y{part}; accepted: as many, at least one"
        require(len(input_Nx) == len(label_N) >= 1, KEY, source, sizes)
    shapes = f"examples of the shape {tuple(inputs[0].shape[1:])} in X, {tuple(inputs[-1].shape[1:])} in X_test"
    same = inputs[0].shape[1:] == inputs[-1].shape[1:] and inputs[0].dtype == inputs[-1].dtype
    require(same, KEY, source, f"{shapes}; accepted: one shape and type")
    coded, classes = coded_of(labels, arrays.get("classes"), source)
    test = torch.arange(len(labels[0]), sum(map(len, labels))) if len(parts) == 2 else None
    groups = _groups(arrays, [f"groups{part}" for part in parts], [len(label_N) for label_N in labels], source)
    joined = torch.cat(inputs) if len(parts) == 2 else inputs[0]
    return Examples(joined, torch.from_numpy(np.concatenate(coded)), test, classes, groups=groups)


def _groups(arrays: Mapping[str, Array], names: Sequence[str], sizes: Sequence[int], source: str) -> Tensor | None:
    """Return the number of each example's group, (N,); None without groups."""
    if not {"groups", "groups_test"} & {*arrays}:
        return None
    for name, size in zip(names, sizes, strict=True):
        require(name in arrays, KEY, source, f"no {name}; accepted: {' and '.join(names)}, or neither")
        found = f"{name} has the type {arrays[name].dtype} and the shape {arrays[name].shape}"
        fits = arrays[name].shape == (size,) and arrays[name].dtype.kind in "iubU"
        require(fits, KEY, source, f"{found}; accepted: integers, strings or booleans ({size},)")
    require({*names} >= {"groups", "groups_test"} & {*arrays}, KEY, source, "has groups_test but no X_test")
    return torch.from_numpy(np.unique(np.concatenate([arrays[name] for name in names]), return_inverse=True)[1])


def inputs_of(array: Array, name: str, source: str) -> Tensor:
    """Return a table (N, D) as float32, or images as bytes (N, C, H, W), which stay in a file if they are large.

    Args:
        name: what the array is called, and `source` where it comes from, for error messages.

    Raises:
        ConfigError: the array holds something else.
    """
    found = f"{name} has the type {array.dtype} and the shape {array.shape}"
    if array.ndim == 2 and array.dtype.kind in "biuf":
        with np.errstate(over="ignore"):
            table_ND = array.astype(np.float32)
        broken = int((~np.isfinite(table_ND)).any(1).sum())
        require(broken == 0, KEY, source, f"NaN or infinity in {broken} examples of {name}; accepted: finite numbers")
        require(array.size >= 1, KEY, source, f"{found}; accepted: one example and one column or more")
        if name == "X":
            _refuse_rounding(array, table_ND, source)
        return torch.from_numpy(table_ND)
    if array.dtype.kind == "f" and array.ndim in (3, 4):
        array = _bytes(array)
    accepted = "numbers (N, D), or images (N, H, W), (N, H, W, C) or (N, C, H, W) of bytes, or of bytes over 255"
    is_image = array.dtype == np.uint8 and array.ndim in (3, 4) and 0 not in array.shape[1:]
    require(is_image, KEY, source, f"{found}; accepted: {accepted}")
    if array.ndim == 3:
        return _images(array[:, None])
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    accepted = f"{CHANNELS[0]} to {CHANNELS[-1]} channels, on the second or the last axis but not on both"
    require(first != last, KEY, source, f"{found}; accepted: {accepted}")
    return _images(array if first else array.transpose(0, 3, 1, 2))


def _refuse_rounding(array_ND: Array, table_ND: Array, source: str) -> None:
    """Refuse numbers that float32 rounds by a part of their range that matters, such as times in seconds since 1970."""
    for place, (exact_N, rounded_N) in enumerate(zip(array_ND.T, table_ND.T, strict=True)):
        if exact_N.dtype.itemsize < 4 or exact_N.dtype == np.float32:
            return
        span = float(exact_N.max()) - float(exact_N.min())
        found = f"float32 rounds column {place} of X by more than {ROUNDED:g} of its range"
        is_close = span == 0 or np.abs(exact_N - rounded_N.astype(np.float64)).max() <= ROUNDED * span
        require(is_close, KEY, source, f"{found}; accepted: smaller numbers, such as these less their mean")


def _images(array: Array) -> Tensor:
    is_large = array.nbytes > MEMORY_SHARE * memory(CPU)
    return torch.from_numpy(array if isinstance(array, np.memmap) and is_large else np.array(array))


def _bytes(array: Array) -> Array:
    """Return the bytes of images that were divided by 255, as torchvision's ToTensor does; others as they are."""
    scaled = array * 255
    with np.errstate(invalid="ignore"):
        whole = np.rint(scaled)
        is_exact = bool(((np.abs(scaled - whole) < 1e-2) & (whole >= 0) & (whole <= 255)).all())
    return whole.astype(np.uint8) if is_exact else array


def labels_of(array: Array, name: str, source: str) -> Array:
    """Return labels (N,) if they are integers, strings or booleans.

    Raises:
        ConfigError: they are something else.
    """
    found = f"{name} has the type {array.dtype} and the shape {array.shape}"
    if array.dtype.kind == "f" and array.ndim == 1:
        missing = int(np.isnan(array).sum())
        require(missing == 0, KEY, source, f"NaN in {missing} labels of {name}; accepted: a label for each example")
    accepted = "integers, strings or booleans (N,)"
    require(array.ndim == 1 and array.dtype.kind in "iubU", KEY, source, f"{found}; accepted: {accepted}")
    missing = int((array == "").sum()) if array.dtype.kind == "U" else 0
    require(missing == 0, KEY, source, f"no text in {missing} labels of {name}; accepted: a label for each example")
    return array


def coded_of(labels: list[Array], classes: Array | None, source: str) -> tuple[list[Array], tuple[str, ...]]:
    """Return labels as indices of classes, with the names of the classes: those given, or the labels in order.

    Raises:
        ConfigError: the labels of two arrays differ in type, a label is not among the classes, or a class has no label.
    """
    kinds = {"text" if label_N.dtype.kind == "U" else label_N.dtype.kind == "b" for label_N in labels}
    require(len(kinds) == 1, KEY, source, f"{labels[0].dtype} in y, {labels[-1].dtype} in y_test; accepted: one type")
    if classes is None:
        values = np.unique(np.concatenate(labels))
        names = tuple(map(str, values))
    else:
        require(classes.ndim == 1 and classes.dtype.kind in "iubU", KEY, source, "classes must be names (K,)")
        names = tuple(map(str, classes))
        require(len({*names}) == len(names), KEY, source, "classes names one twice")
        # Labels are names, or places in the list of names.
        values = np.array(names) if labels[0].dtype.kind == "U" else np.arange(len(names))
        unknown = np.setdiff1d(np.concatenate(labels), values)
        require(unknown.size == 0, KEY, source, f"the label {next(iter(unknown), None)} is not among the classes")
    require(len(names) >= 2, KEY, source, f"{len(names)} class in y; accepted: 2 or more")
    order = values.argsort()
    coded = [order[np.searchsorted(values, label_N, sorter=order)] for label_N in labels]
    count_K = np.bincount(coded[0], minlength=len(names))
    require(count_K.min() >= 1, KEY, source, f"no example in y has the class {names[count_K.argmin()]}")
    return coded, names
