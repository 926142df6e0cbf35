"""Tables in files: reads CSV, TSV and Parquet, and turns their columns into numbers.

Nothing here is fitted to labels or splits. A category becomes a column of zeros and ones, whichever split it occurs in;
a missing number stays NaN. `data` imputes and scales by the training examples of each seed and fold, and silences what
these lack, such as a category that is new in the test split.

Shape suffixes: N examples, D features.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from headtohead.late import pd, torch
from headtohead.options import ConfigError, nearest, one_line, require
from headtohead.training.data import ROUNDED
from headtohead.training.examples import Skipped
from headtohead.training.image_folder import split_of
from headtohead.training.memory import require_memory
from headtohead.training.places import DELIMITERS, PARQUET, require_table

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["number", "truth", "date", "category", "empty"]
# A column of text may have this many categories, or a tenth of the rows up to the second number.
CATEGORIES, MOST_CATEGORIES = 100, 1000
MOST_CLASSES = 500
# A column that says which split a row is in has at most this many values.
MOST_SPLITS = 3
# Text that is read as a date, the first day of the numbers that dates become, and the parts that they have too.
DATE = r"\d{4}-\d{2}-\d{2}(?:[ T].*)?"
EPOCH = "2000-01-01"
DATE_PARTS = ("year", "month", "day_of_week")
MISSING = "(missing)"
# The largest float64 up to which all whole numbers are told apart.
MOST_INTEGER = 2**53
# A number as it is often written where the point is no decimal mark.
COMMAS = r"[+-]?\d[\d.]*(?:,\d+)*"


class Columns(NamedTuple):
    """The columns of a table as numbers."""

    inputs: Tensor  # (N, D) float32; NaN where a number is missing
    names: tuple[str, ...]  # D names
    skipped: tuple[Skipped, ...]  # columns that are left out


def read_frame(path: str, key: str = "dataset.path", texts: Iterable[str] = ()) -> pd.DataFrame:
    """Read a file as a table with one or more rows, two or more columns, and names that differ.

    Args:
        key: the option that names the file.
        texts: names of columns that are text even where all values are numbers.

    Raises:
        ConfigError: there is no such file, or it is no such table.
    """
    require_table(path, key)
    path = os.path.expanduser(path)
    suffix = Path(path).suffix.lower()
    try:
        frame = _parquet(path, key) if suffix == PARQUET else _text(path, DELIMITERS[suffix], key, texts)
    except UnicodeError as error:
        raise ConfigError(f"{key}={path}: not UTF-8 ({one_line(error)}); accepted: UTF-8") from None
    except (csv.Error, ValueError, OSError) as error:
        reason = f"cannot be read ({one_line(error)}); accepted: rows with a value for each name of the first line"
        raise ConfigError(f"{key}={path}: {reason}") from None
    frame = with_names(frame, path, key)
    require(frame.shape[1] > 1, key, path, "found one column; accepted: two or more")
    return frame


def with_names(frame: pd.DataFrame, path: str, key: str = "dataset.path") -> pd.DataFrame:
    """Return a table of one or more rows with names of columns that are texts and differ.

    Raises:
        ConfigError: there is no row, or a name occurs twice.
    """
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    twice = frame.columns[frame.columns.duplicated()]
    require(twice.empty, key, path, f"{[*twice.unique()]} names several columns; accepted: a name once")
    require(len(frame) > 0, key, path, "there are names but no rows; accepted: one or more rows")
    return frame


def _text(path: str, delimiter: str, key: str, texts: Iterable[str]) -> pd.DataFrame:
    names = _checked_names(path, delimiter, key)
    dtypes = {place: str for place, name in enumerate(names) if name in {*texts}}
    frame = pd.read_csv(
        path, sep=delimiter, encoding="utf-8-sig", skipinitialspace=True, low_memory=False, index_col=False,
        dtype=cast(Any, dtypes),
    )  # fmt: skip
    # pandas renames names that occur twice.
    frame.columns = names
    return frame


def _checked_names(path: str, delimiter: str, key: str) -> list[str]:
    """Return the names in the first line of a file, and refuse rows with more or fewer values, which pandas takes."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        names = next(filter(None, reader), [])
        require(names, key, path, "the file is empty; accepted: a line of names, then rows")
        divided = "accepted: columns divided by commas in a .csv, by tabs in a .tsv"
        require(len(names) > 1, key, path, f"found one column, {names[0]!r}; {divided}")
        for row in filter(None, reader):
            found = f"cannot be read: line {reader.line_num} has {len(row)} values for {len(names)} names"
            require(len(row) == len(names), key, path, f"{found}; accepted: a value for each name, which may be empty")
    return names


def _parquet(path: str, key: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        message = "a .parquet file needs pyarrow: pip install 'headtohead[parquet]'"
        raise ConfigError(f"{key}={path}: {message}") from None
    # An index without a name is the numbers of the rows.
    frame = frame.reset_index(drop=frame.index.names == [None])
    return pd.concat([_plain(values) for _, values in frame.items()], axis=1)


def _plain(values: pd.Series) -> pd.Series:
    """Return a column of a kind that text has too: durations become days, decimals floats, and lists text."""
    if pd.api.types.is_timedelta64_dtype(values):
        return values / pd.Timedelta(days=1)
    if values.dtype != object:
        return values
    kinds = {type(value) for value in values.dropna()}
    if kinds <= {bool}:
        return values
    return values.astype("float64") if kinds == {Decimal} else values.map(str, na_action="ignore")


def joined(train: pd.DataFrame, test: pd.DataFrame, path: str) -> pd.DataFrame:
    """Return the rows of two tables with the same columns in any order, those of `train` first.

    Args:
        path: the file of `test`, for error messages.

    Raises:
        ConfigError: a column is missing or another one, or its values are of another kind.
    """
    key = "dataset.test_path"
    lacking, added = (list(one.difference(other)) for one, other in permutations([train.columns, test.columns]))
    found = ", ".join([*(f"no column {name}" for name in lacking), *(f"a column {name}" for name in added)][:5])
    require(not lacking and not added, key, path, f"has {found}; accepted: the names of dataset.path, in any order")
    columns = []
    for name, values in train.items():
        parts = [values, test.loc[:, name]]
        kinds = [kind(part) for part in parts]
        if parts[0].dtype != parts[1].dtype:
            parts = [part.astype("float64" if {*kinds} <= {"number", "truth", "empty"} else object) for part in parts]
            kinds = ["number" if one == "truth" else one for one in kinds] if "number" in kinds else kinds
        found = f"the column {name} is of the kind {kinds[1]}, in dataset.path of the kind {kinds[0]}"
        require(kinds[0] == kinds[1] or "empty" in kinds, key, path, f"{found}; accepted: one kind")
        columns.append(pd.concat(parts, ignore_index=True))
    return pd.concat(columns, axis=1)


def column(frame: pd.DataFrame, key: str, name: str, path: str) -> pd.Series:
    """Return the column that an option names; it has no missing values.

    Args:
        path: the file of the table, for error messages.

    Raises:
        ConfigError: there is no such column, or a row has no value in it.
    """
    require(name in frame, key, name, f"no such column; {nearest(name, frame.columns)}")
    values: pd.Series = frame.loc[:, name]  # pyright: ignore[reportAssignmentType]
    empty = np.flatnonzero(values.isna())
    if len(empty):
        reason = f"missing in {len(empty)} of {len(values)} rows of {path}, such as row {empty[0] + 1} after the names"
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
        broken = target.loc[(target % 1 != 0) | (target.abs() > MOST_INTEGER)]
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

    A number stays as it is, but for a shift of large ones; true and false become 1 and 0; a date becomes days, year,
    month and weekday. These are NaN where they are missing, and a further column says where. A category becomes a
    column of zeros and ones, and so does a missing one.

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
            is_complex = pd.api.types.is_complex_dtype(values)
            require(not is_complex, "dataset.path", path, f"the column {name} has complex numbers; accepted: real ones")
            parts.append(encoded(values))
            width += parts[-1].shape[1]
            require_memory(4 * len(frame) * width, torch.device("cpu"), "dataset.path", path)
    require(parts, "dataset.path", path, "no column is left as an input; accepted: one or more beside the target")
    numbers = pd.concat(parts, axis=1)
    left_out = {"without a name": unnamed, "without any value": empty}
    skipped = tuple(Skipped(reason, len(names), names[0]) for reason, names in left_out.items() if names)
    return Columns(torch.from_numpy(numbers.to_numpy(np.float32, copy=True)), tuple(numbers.columns), skipped)


def kind(values: pd.Series) -> Kind:
    """Return the kind of a column."""
    known = values.dropna()
    if known.empty:
        return "empty"
    if pd.api.types.is_numeric_dtype(values):
        return "truth" if pd.api.types.is_bool_dtype(values) else "number"
    if all(isinstance(value, bool) for value in known):
        return "truth"
    return "category" if _times(known) is None else "date"


def encoded(values: pd.Series) -> pd.DataFrame:
    """Turn a column with a value into columns of numbers, (N, D).

    Raises:
        ConfigError: it has too many categories or values that are not finite.
    """
    name, missing = str(values.name), values.isna()
    match kind(values):
        case "category":
            return _categories(values)
        case "date":
            numbers = _dates(values)
        case _:
            numbers = _centred(values.astype("float64")).to_frame()
    return numbers.assign(**{f"{name} {MISSING}": missing.astype(float)}) if missing.any() else numbers


def _centred(numbers: pd.Series) -> pd.Series:
    """Return numbers as they are or, where float32 would round them too much, less their median.

    This fits nothing to examples of the test split: all inputs are centred later by their training mean.
    """
    with np.errstate(over="ignore"):
        rounded = numbers.to_numpy(np.float32)
    infinite = np.isinf(rounded)
    if infinite.any():
        found = f"infinite or too large in {infinite.sum()} rows, such as row {infinite.argmax() + 1} after the names"
        accepted = "accepted: finite numbers below 3e38"
        raise ConfigError(f"dataset.path: the column {numbers.name} is {found}; {accepted}")
    middle = numbers.median()
    span = numbers.max() - numbers.min()
    is_exact = span == 0 or (numbers - rounded).abs().max() <= ROUNDED * span
    return numbers if is_exact else (numbers - middle).rename(f"{numbers.name} less {middle:.12g}")


def _times(values: pd.Series) -> pd.Series | None:
    """Return values as times; None where one of them is no date."""
    texts = values.astype(object).map(str, na_action="ignore")
    if not texts.dropna().str.fullmatch(DATE).all():
        return None
    try:
        return pd.to_datetime(texts, format="ISO8601", utc=True)
    except (ValueError, OverflowError):
        return None


def _dates(values: pd.Series) -> pd.DataFrame:
    name, time = str(values.name), _times(values)
    assert time is not None
    days = {f"{name} days": (time - pd.Timestamp(EPOCH, tz="UTC")) / pd.Timedelta(days=1)}
    return pd.DataFrame(days | {f"{name} {part}": getattr(time.dt, part).astype("float64") for part in DATE_PARTS})


def _categories(values: pd.Series) -> pd.DataFrame:
    name = str(values.name)
    texts = values.astype(object).map(str, na_action="ignore")
    known = texts.dropna()
    leave_out = f"dataset.ignore=['{name}'] to leave it out of a file"
    if known.str.contains(",").any() and known.str.fullmatch(COMMAS).all():
        example = known.loc[known.str.contains(",")].iloc[0]
        accepted = f"accepted: a point as the decimal mark, none for thousands, or {leave_out}"
        raise ConfigError(f"dataset.path: the column {name} has numbers with commas, such as {example}; {accepted}")
    most, count = max(CATEGORIES, min(MOST_CATEGORIES, len(values) // 10)), known.nunique()
    if count > most:
        accepted = f"accepted: at most {most}, or {leave_out}"
        raise ConfigError(f"dataset.path: the column {name} has {count:,} different texts; {accepted}")
    dummies = pd.get_dummies(texts, dummy_na=bool(texts.isna().any()), dtype=np.float32)
    return dummies.set_axis([f"{name}={MISSING if pd.isna(text) else text}" for text in dummies], axis=1)


def given_splits(values: pd.Series, labels: Tensor, classes: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Return the indices of the test split and of the validation split that a column gives; None where it has no val.

    Raises:
        ConfigError: the column has another value, lacks train or test, or a class has no example in train.
    """
    texts = values.astype(str)
    key, name = "dataset.split_column", values.name
    split_by_text = {text: split_of(text) for text in sorted(set(texts))}
    found = {*split_by_text.values()}
    shown = ", ".join([*split_by_text][:5])
    accepted = f"has the values {shown}; accepted: train and test, and val if you like"
    require(None not in found and {"train", "test"} <= found, key, name, accepted)
    splits = texts.map(split_by_text)
    index = {split: torch.from_numpy(np.flatnonzero(splits == split)) for split in found}
    require_trained(labels[index["train"]], classes, key, name)
    return index["test"], index.get("val")


def refuse_splits(frame: pd.DataFrame) -> None:
    """Refuse a column of inputs that says which split a row is in."""
    for name, values in frame.items():
        known = values.dropna().astype(str).unique() if kind(values) == "category" else []
        splits = {split_of(text) for text in known[:MOST_SPLITS]}
        if "train" in splits and None not in splits and 2 <= len(splits) == len(known):
            accepted = f"dataset.split_column={name}, or dataset.ignore=['{name}']"
            found = f"the column {name} says {', '.join(sorted(known))}; accepted: {accepted}"
            raise ConfigError(f"dataset.split_column=null: {found}")


def require_trained(labels: Tensor, classes: Sequence[str], key: str, value: object) -> None:
    """Refuse the value of an option where a class has no example among the labels of the training rows."""
    count_K = labels.bincount(minlength=len(classes))
    reason = f"no row of train has the class {classes[int(count_K.argmin())]}; accepted: all classes in train"
    require(int(count_K.min()) > 0, key, value, reason)
