"""Columns of tables that others wrote: found by name, read as text or numbers, with errors that name the rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from headtohead.analysis.text import listed
from headtohead.late import pd
from headtohead.options import ConfigError, nearest, printable, require

# What exports write before the names of columns: MLflow, W&B's summaries and configurations, TensorBoard's HParams.
PREFIX = re.compile(r"^(params|metrics|tags|config|summary|hparams?)[./]")
# How tables write a number that is none.
NO_NUMBER = {"", "nan", "none", "null", "na", "n/a", "-"}
# How they write what is so and what is not.
TRUTH = {"true": 1.0, "false": 0.0}
# Numbers from here on have overflowed, or their squares would.
LARGEST = 1e100
# The columns by which runs are told apart.
RUN = ["setting", "arm", "pair"]


def short_name(column: str) -> str:
    """Return the name of a column without the prefix of an export: `seed` for `params.seed`."""
    return PREFIX.sub("", column)


def with_distinct_names(frame: pd.DataFrame, key: str, source: str, asked: Iterable[str]) -> pd.DataFrame:
    """Return a table of one row or more whose columns have distinct texts as names.

    Columns that share a name are left out unless they are asked for: exports have such columns.

    Args:
        asked: Names of the columns that are needed.

    Raises:
        ConfigError: there is no row, or a name that is asked for occurs twice.
    """
    require(len(frame) > 0, key, source, "has no rows; accepted: a line of names, then rows")
    frame = frame.set_axis([_name_of(name) for name in frame], axis=1)
    twice = frame.columns[frame.columns.duplicated()].unique()
    needed = {*map(short_name, asked)}
    unclear = [name for name in twice if short_name(name) in needed]
    require(not unclear, key, source, f"{listed(unclear)} names several columns; accepted: a name once")
    return frame.drop(columns=twice)


def _name_of(column: object) -> str:
    """Return the name of a column; its levels are joined: `accuracy.mean`."""
    parts = column if isinstance(column, tuple) else (column,)
    return ".".join(str(part) for part in parts if part != "")


def column(frame: pd.DataFrame, key: str, name: str, source: str) -> str:
    """Return the column that a name means: the one so called, or the only one so called after a prefix of exports.

    Raises:
        ConfigError: there is none, or there are several.
    """
    if name in frame:
        return name
    found = [known for known in frame if short_name(known) == short_name(name)]
    if len(found) > 1:
        raise ConfigError(f"{key}={name}: {source} has {listed(found)}; accepted: one of them")
    if not found:
        raise ConfigError(f"{key}={name}: no such column of {source}; {nearest(name, {*map(short_name, frame)})}")
    return found[0]


def text_of(value: Any) -> str:
    """Return a value of a column as text: `3` also for 3.0, as which whole numbers are written beside empty cells."""
    text = printable(value).strip()
    return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def texts_of(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as text, each value as `text_of` gives it."""
    values = frame[name]
    try:
        places, distinct = pd.factorize(values)
    except TypeError:  # lists and the like have no hash
        places, distinct = pd.factorize(pd.Series([*map(text_of, values)], dtype=object))
    return np.array([*map(text_of, distinct), ""], dtype=object)[places]


def rows_of(index: Iterable[object]) -> str:
    """Name rows in a sentence: `row 3`, `rows 3, 5 and 8`."""
    names = [*index]
    return f"row{'' if len(names) == 1 else 's'} {listed(names)}"


def kept(frame: pd.DataFrame, conditions: Iterable[str], source: str) -> pd.DataFrame:
    """Return the rows that meet all conditions, each `column=value`.

    Raises:
        ConfigError: a condition is none, or no row meets it.
    """
    for condition in conditions:
        key, separator, value = condition.partition("=")
        require(separator, "where", condition, "accepted: COLUMN=VALUE, such as phase=confirm")
        name = column(frame, "where", key, source)
        texts = texts_of(frame, name)
        met = texts == value
        if not met.any():
            raise ConfigError(f"where={condition}: no such row of {source}; {nearest(value, {*texts.tolist()})}")
        frame = pd.DataFrame(frame.iloc[np.flatnonzero(met)])
    return frame


def keys_of(frame: pd.DataFrame, arm: str, pair: str, settings: Sequence[str], source: str) -> pd.DataFrame:
    """Return setting, arm and pair of each row as text.

    Raises:
        ConfigError: a row lacks one.
    """
    texts = {name: texts_of(frame, name) for name in (arm, pair, *settings)}
    for key, name in (("arm", arm), ("pair", pair), *(("setting", name) for name in settings)):
        empty = [*frame.index[texts[name] == ""]]
        require(not empty, key, name, f"is empty in {rows_of(empty)} of {source}; accepted: a value in each row")
    setting = [", ".join(values) for values in zip(*(texts[name] for name in settings), strict=True)] or ""
    return pd.DataFrame({"setting": setting, "arm": texts[arm], "pair": texts[pair]}, index=frame.index)


def numbers_of(frame: pd.DataFrame, key: str, name: str, source: str) -> pd.Series:
    """Return a column as numbers, true as 1 and false as 0; NaN where it is empty or not finite.

    Raises:
        ConfigError: a row holds something else.
    """
    values = frame[name]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_complex_dtype(values):
        values = pd.Series([*map(_plain, values)], frame.index, dtype=object)
    numbers = pd.Series(pd.to_numeric(values, errors="coerce"), dtype=float)
    lacking = np.flatnonzero((numbers.isna() & values.notna()).to_numpy())
    texts = [printable(values.iloc[place]).strip() for place in lacking]
    wrong = [place for place, text in zip(lacking, texts, strict=True) if text.lower() not in NO_NUMBER]
    if wrong:
        found, where = printable(values.iloc[wrong[0]]).strip(), f"{rows_of(frame.index[np.array(wrong)])} of {source}"
        raise ConfigError(f"{key}={name}: {found!r} is no number ({where}); accepted: numbers")
    return numbers.where(numbers.abs() < LARGEST)


def _plain(value: Any) -> Any:
    """Return a cell as a number, None or a text. What holds one number, such as a tensor, is this number."""
    if isinstance(value, str):
        return TRUTH.get(value.strip().lower(), value)
    if value is None or value is pd.NA or isinstance(value, (bool, int, float)):
        return value
    try:
        return float(value) if np.ndim(value) == 0 and not hasattr(value, "year") else str(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)
