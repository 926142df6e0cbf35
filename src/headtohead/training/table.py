"""Tables in files: reads CSV, TSV and Parquet, and turns their columns into numbers.

Nothing here is fitted to the examples. A category becomes a column of zeros and ones, whichever split it occurs in; a
missing number stays NaN. `data` imputes and scales by the training examples of each seed and fold.

Shape suffixes: N examples, D features.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from pandas.errors import EmptyDataError, ParserError, ParserWarning
from torch import Tensor

from headtohead.options import ConfigError, nearest, one_line, require
from headtohead.training.data import Skipped
from headtohead.training.memory import require_memory

DELIMITERS = {".csv": ",", ".tsv": "\t"}
# A column of text may have this many categories, or a tenth of the rows up to the second number.
CATEGORIES, MOST_CATEGORIES = 100, 1000
MOST_CLASSES = 500
# Text that is read as a date, the first day of the numbers that dates become, and the parts that they have too.
DATE = r"\d{4}-\d{2}-\d{2}(?:[ T].*)?"
EPOCH = pd.Timestamp("2000-01-01", tz="UTC")
DATE_PARTS = ("year", "month", "day_of_week")
MISSING = "(missing)"


class Columns(NamedTuple):
    """The columns of a table as numbers."""

    inputs: Tensor  # (N, D) float32; NaN where a number is missing
    names: tuple[str, ...]  # D names
    skipped: tuple[Skipped, ...]  # columns that are left out


def read_frame(path: str) -> pd.DataFrame:
    """Read a file as a table with one or more rows, two or more columns, and names that differ.

    Raises:
        ConfigError: there is no such file, or it is no such table.
    """
    suffix = Path(path).suffix.lower()
    require(suffix in (*DELIMITERS, ".parquet"), "dataset.path", path, "a .csv, .tsv or .parquet file")
    require(os.path.isfile(path), "dataset.path", path, "no such file; accepted: a .csv, .tsv or .parquet file")
    try:
        frame = _parquet(path) if suffix == ".parquet" else _text(path, DELIMITERS[suffix])
    except EmptyDataError:
        raise ConfigError(f"dataset.path={path}: the file is empty; accepted: a line of names, then rows") from None
    except UnicodeError as error:
        raise ConfigError(f"dataset.path={path}: not UTF-8 ({one_line(error)}); accepted: UTF-8") from None
    except (ParserError, ParserWarning, ValueError, OSError) as error:
        reason = f"cannot be read ({one_line(error)}); accepted: rows with a value for each name of the first line"
        raise ConfigError(f"dataset.path={path}: {reason}") from None
    frame = with_names(frame, path)
    one = f"found one column, {frame.columns[0]!r}; accepted: columns divided by commas in a .csv, by tabs in a .tsv"
    require(frame.shape[1] > 1, "dataset.path", path, one)
    return frame


def with_names(frame: pd.DataFrame, path: str) -> pd.DataFrame:
    """Return a table of one or more rows with names of columns that are texts and differ.

    Raises:
        ConfigError: there is no row, or a name occurs twice.
    """
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    twice = frame.columns[frame.columns.duplicated()]
    require(twice.empty, "dataset.path", path, f"{[*twice.unique()]} names several columns; accepted: a name once")
    require(len(frame) > 0, "dataset.path", path, "there are names but no rows; accepted: one or more rows")
    return frame


def _text(path: str, delimiter: str) -> pd.DataFrame:
    common = {"sep": delimiter, "encoding": "utf-8-sig", "skipinitialspace": True}
    # With names in a row of their own pandas leaves them as they are; else it renames those that occur twice.
    names = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **common).iloc[0]
    with warnings.catch_warnings():
        # Rows that are longer than the first line would be cut.
        warnings.simplefilter("error", ParserWarning)
        frame = pd.read_csv(path, low_memory=False, index_col=False, **common)
    frame.columns = names
    return frame


def _parquet(path: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(path).reset_index(drop=True)
    except ImportError:
        raise ConfigError(f"dataset.path={path}: a .parquet file needs pyarrow: pip install pyarrow") from None


def column(frame: pd.DataFrame, key: str, name: str) -> pd.Series:
    """Return the column that an option names; it has no missing values.

    Raises:
        ConfigError: there is no such column, or a row has no value in it.
    """
    require(name in frame, key, name, f"no such column; {nearest(name, frame.columns)}")
    values: pd.Series = frame.loc[:, name]  # pyright: ignore[reportAssignmentType]
    empty = np.flatnonzero(values.isna())
    if len(empty):
        reason = f"missing in {len(empty)} of {len(values)} rows, such as row {empty[0] + 1} after the names"
        raise ConfigError(f"{key}={name}: {reason}; accepted: a value in every row (NA and None count as missing)")
    return values


def classes_of(target: pd.Series, key: str = "dataset.target") -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels (N,) and the sorted names of the classes of a target.

    Args:
        key: what names the target, for error messages.

    Raises:
        ConfigError: the target has one value or too many, or numbers that are not whole.
    """
    if pd.api.types.is_float_dtype(target):
        broken = target.loc[target % 1 != 0]
        found = f"has the value {broken.iloc[0] if len(broken) else None}"
        accepted = "text, whole numbers, or true and false: a class, not a quantity"
        require(len(broken) == 0, key, target.name, f"{found}; accepted: {accepted}")
        target = target.astype("int64")
    elif not pd.api.types.is_bool_dtype(target) and not pd.api.types.is_numeric_dtype(target):
        target = target.astype(object).map(str)
    names, labels = np.unique(target.to_numpy(), return_inverse=True)
    accepted = f"{len(names)} different values; accepted: 2 to {MOST_CLASSES} classes"
    require(2 <= len(names) <= MOST_CLASSES, key, target.name, accepted)
    return torch.from_numpy(labels), tuple(map(str, names))


def numbered(values: pd.Series) -> Tensor:
    """Return the number of each row's value, (N,): rows have the same one where their values are equal."""
    return torch.from_numpy(pd.factorize(values)[0])


def encode(frame: pd.DataFrame, path: str) -> Columns:
    """Turn columns into numbers.

    A number stays as it is; true and false become 1 and 0; a date becomes days, year, month and weekday. These are
    NaN where they are missing, and a further column says where. A category becomes a column of zeros and ones, and so
    does a missing one.

    Args:
        frame: the columns that are inputs.
        path: the file, for error messages.

    Raises:
        ConfigError: a column has too many categories or values that are not finite, or none is left.
    """
    unnamed = [f"column {number}" for number, name in enumerate(frame, 1) if not str(name).strip()]
    empty = [str(name) for name, count in frame.count().items() if count == 0]
    parts: list[pd.DataFrame] = []
    width = 0
    for name, values in frame.items():
        if str(name).strip() and name not in empty:
            parts.append(_encoded(values))
            width += parts[-1].shape[1]
            require_memory(4 * len(frame) * width, torch.device("cpu"), "dataset.path", path)
    require(parts, "dataset.path", path, "no column is left as an input; accepted: one or more beside the target")
    encoded = pd.concat(parts, axis=1)
    left_out = {"without a name": unnamed, "without any value": empty}
    skipped = tuple(Skipped(reason, len(names), names[0]) for reason, names in left_out.items() if names)
    return Columns(torch.from_numpy(encoded.to_numpy(np.float32, copy=True)), tuple(encoded.columns), skipped)


def _encoded(values: pd.Series) -> pd.DataFrame:
    name = str(values.name)
    numbers = _numbers(values)
    if numbers is None:
        return _categories(values)
    with np.errstate(over="ignore"):
        infinite = np.isinf(numbers.to_numpy(np.float32)).any(1)
    if infinite.any():
        found = f"infinite or too large in {infinite.sum()} rows, such as row {infinite.argmax() + 1} after the names"
        raise ConfigError(f"dataset.path: the column {name} is {found}; accepted: finite numbers below 3e38")
    missing = values.isna()
    return numbers.assign(**{f"{name} {MISSING}": missing.astype(float)}) if missing.any() else numbers


def _numbers(values: pd.Series) -> pd.DataFrame | None:
    """Return the columns of numbers that a column of numbers, truths or dates becomes; None for one of categories."""
    name = str(values.name)
    known = values.dropna()
    if pd.api.types.is_numeric_dtype(values) or known.map(lambda value: isinstance(value, bool)).all():
        return values.astype("float64").to_frame(name)
    texts = values.astype(object).map(str, na_action="ignore")
    if not texts.dropna().str.fullmatch(DATE).all():
        return None
    try:
        time = pd.to_datetime(texts, format="ISO8601", utc=True)
    except (ValueError, OverflowError):
        return None
    days = {f"{name} days": (time - EPOCH) / pd.Timedelta(days=1)}
    return pd.DataFrame(days | {f"{name} {part}": getattr(time.dt, part).astype("float64") for part in DATE_PARTS})


def _categories(values: pd.Series) -> pd.DataFrame:
    name, count = str(values.name), values.nunique()
    most = max(CATEGORIES, min(MOST_CATEGORIES, len(values) // 10))
    if count > most:
        accepted = f"accepted: at most {most}, or dataset.ignore=['{name}'] to leave it out of a file"
        raise ConfigError(f"dataset.path: the column {name} has {count:,} different texts; {accepted}")
    texts = values.astype(object).map(str, na_action="ignore")
    dummies = pd.get_dummies(texts, dummy_na=bool(texts.isna().any()), dtype=np.float32)
    return dummies.set_axis([f"{name}={MISSING if pd.isna(text) else text}" for text in dummies], axis=1)


def given_splits(values: pd.Series, labels: Tensor, classes: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Return the indices of the test split and of the validation split that a column gives; None where it has no val.

    Raises:
        ConfigError: the column has another value, lacks train or test, or a class has no example in train.
    """
    texts = values.astype(str)
    key, name = "dataset.split_column", values.name
    found = sorted(set(texts))
    fits = {"train", "test"} <= set(found) <= {"train", "val", "test"}
    shown = ", ".join(found[:5])
    require(fits, key, name, f"has the values {shown}; accepted: train and test, and val if you like")
    index = {split: torch.from_numpy(np.flatnonzero(texts == split)) for split in found}
    lacking = labels[index["train"]].bincount(minlength=len(classes)) == 0
    reason = f"no row of train has the class {classes[int(lacking.int().argmax())]}; accepted: all classes in train"
    require(not lacking.any(), key, name, reason)
    return index["test"], index.get("val")
