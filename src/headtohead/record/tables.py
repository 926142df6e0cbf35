"""Tables of runs in files that other programs wrote: CSV, TSV, JSON lines, Parquet.

A table's index holds the number of each row, as an editor or a spreadsheet shows it: the line of names is row 1.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from headtohead.late import pd
from headtohead.options import ConfigError, one_line, printable, require
from headtohead.record.files import flat, read_bytes

TEXT, LINES, PARQUET = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson"), (".parquet", ".pq")
ACCEPTED = "accepted: a table .csv, .tsv, .jsonl or .parquet, or a folder of TensorBoard's event files"
# Columns in which an export of W&B's API holds a dictionary as Python writes it.
NESTED = ("config", "summary")
# Numbers that Python writes and does not read.
NOT_FINITE = re.compile(r"(?<![\w'\"])(nan|inf|NaN|Infinity)(?![\w'\"])")


def read_frame(path: Path, key: str = "runs") -> pd.DataFrame:
    """Read a file as a table. Cells of text files are text; empty ones are missing.

    Args:
        key: Option that names the file.

    Raises:
        ConfigError: there is no such file, or it is no table.
    """
    suffix = path.suffix.lower()
    require(suffix in (*TEXT, *LINES, *PARQUET), key, path, ACCEPTED)
    require(path.is_file(), key, path, f"there is no such file; {ACCEPTED}")
    try:
        if suffix in PARQUET:
            return _parquet(path, key)
        content = read_bytes(path).decode("utf-8-sig")
    except UnicodeError as error:
        raise ConfigError(f"{key}={path}: not UTF-8 ({one_line(error)}); {ACCEPTED}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}={path}: cannot be read ({one_line(error)}); {ACCEPTED}") from error
    require(content.strip(), key, path, "is empty; accepted: a line of names, then a row per run")
    require("\0" not in content, key, path, f"holds no text; {ACCEPTED}")
    return _lines(content, path, key) if suffix in LINES else _with_nested(_text(content, path, key))


def _text(content: str, path: Path, key: str) -> pd.DataFrame:
    first = content.lstrip("\n\r").splitlines()[0]
    delimiter = max("\t,;", key=first.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, skipinitialspace=True)
    numbers, rows = [], []
    try:
        for row in reader:
            if any(map(str.strip, row)):
                numbers.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        raise ConfigError(f"{key}={path}: line {reader.line_num} cannot be read ({error}); {ACCEPTED}") from None
    names = [name.strip() for name in rows[0]]
    require(len(names) > 1, key, path, f"has one column, {printable(names[0])[:80]!r}; {ACCEPTED}")
    for number, row in zip(numbers, rows, strict=True):
        counts = f"line {number} has {len(row)} values for {len(names)} names"
        require(len(row) == len(names), key, path, f"{counts}; accepted: a value for each name, which may be empty")
    cells = [[cell or None for cell in row] for row in rows[1:]]
    return pd.DataFrame(cells, columns=pd.Index(names), index=pd.Index(numbers[1:]), dtype=object)


def _lines(content: str, path: Path, key: str) -> pd.DataFrame:
    rows: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(io.StringIO(content), start=1):  # a text may hold other breaks of lines
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{key}={path}: line {number} is no JSON ({one_line(error)}); {ACCEPTED}") from None
        require(isinstance(row, dict), key, path, f"line {number} holds no object; accepted: an object per line")
        rows[number] = flat(row)
    return pd.DataFrame.from_dict(rows, orient="index")


def _parquet(path: Path, key: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise ConfigError(f"{key}={path}: needs pyarrow: pip install 'headtohead[parquet]'") from None
    # An index without a name is the numbers of the rows.
    frame = frame.reset_index(drop=frame.index.names == [None])
    return frame.set_axis(range(1, len(frame) + 1))


def _with_nested(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a column per key in place of columns of dictionaries."""
    for name in (name for name in NESTED if list(frame).count(name) == 1):
        try:
            nodes = [ast.literal_eval(NOT_FINITE.sub("None", text)) for text in frame[name]]
        except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if all(isinstance(node, dict) for node in nodes):
            parts = pd.DataFrame([flat(node, f"{name}.") for node in nodes], index=frame.index)
            frame = pd.concat([frame.drop(columns=name), parts], axis=1)
    return frame
