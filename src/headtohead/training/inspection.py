"""A look at data before anything is trained: the kinds of columns, the classes, and what looks wrong.

Shape suffixes: N examples, D features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headtohead.late import pd, torch
from headtohead.training.class_counts import digests, seen_test_examples
from headtohead.training.data import Pool
from headtohead.training.table import Kind, kind

# In a table with fewer rows, numbers may all differ by chance.
LEAST_IDENTIFIED = 20
# Numbers of texts in a column, of classes of a table, and of examples of a class that look wrong above or below.
MANY_CATEGORIES, MANY_CLASSES, FEW_EXAMPLES = 30, 50, 10
# A column looks wrong if more of its values are missing, or numbers among text.
MOST_MISSING, MOST_NUMBERS = 0.5, 0.5
# The most names in a sentence.
NAMED = 5

Counts = list[tuple[str, int]]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its name.
        kind: what it holds.
        missing: number of rows without a value.
        different: number of different values.
        values: the values in short.
    """

    name: str
    kind: Kind
    missing: int
    different: int
    values: str


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong: the code of a check, and a sentence or two."""

    code: str
    text: str


def describe_column(values: pd.Series) -> Column:
    """Return what a column holds."""
    found, known = kind(values), values.dropna()
    shown = ""
    if found in ("number", "date"):
        low, high = known.min(), known.max()
        shown = f"{low:g} to {high:g}" if found == "number" else f"{low} to {high}"
    elif found != "empty":
        shown = _named(_counts(known))
    return Column(str(values.name), found, int(values.isna().sum()), known.astype(str).nunique(), shown)


def check_table(inputs: pd.DataFrame, target: pd.Series) -> Iterator[Finding]:
    """Yield what looks wrong with columns of inputs, and beside them with their target."""
    codes = pd.factorize(target)[0]
    numeric = [name for name in map(str, inputs) if _is_number(name)]
    if len(numeric) > len(inputs.columns) / 2:
        yield Finding("names", f"The columns have numbers as names, such as {numeric[0]}. Is the first line a row?")
    for name, values in inputs.items():
        if str(name).strip():
            yield from _check_column(str(name), values, codes)


def _check_column(name: str, values: pd.Series, target: np.ndarray) -> Iterator[Finding]:
    """Yield what looks wrong with a column, beside the classes of its rows as integers."""
    known, found = values.dropna(), kind(values)
    leave_out = f"dataset.ignore=['{name}'] leaves it out."
    if found == "empty":
        yield Finding("empty", f"The column {name} has no value. It is left out.")
        return
    numbers, different = pd.factorize(values, use_na_sentinel=False)
    is_whole = found == "category" or (found == "number" and bool((known % 1 == 0).all()))
    if len(different) == 1:
        yield Finding("constant", f"The column {name} has the same value in every row. It says nothing.")
    elif is_whole and len(different) == len(values) >= LEAST_IDENTIFIED:
        text = f"The column {name} differs in every row, as the number or the name of a row does. {leave_out}"
        yield Finding("identifier", text)
    # As many pairs as values of either: each value of one is one of the other.
    elif len(values) > len(different) == target.max() + 1 == len({*zip(numbers, target, strict=True)}):
        text = f"The column {name} has a value of its own for each class, and so is the target again. {leave_out}"
        yield Finding("copy", text)
    else:
        if len(known) < (1 - MOST_MISSING) * len(values):
            text = f"The column {name} has no value in {len(values) - len(known)} of {len(values)} rows."
            yield Finding("missing", text)
        if found == "category":
            yield from _check_texts(name, _counts(known))


def _check_texts(name: str, counts: Counts) -> Iterator[Finding]:
    others = [(text, count) for text, count in counts if not _is_number(text)]
    if sum(count for _, count in others) < (1 - MOST_NUMBERS) * sum(count for _, count in counts):
        because = f"because of {_named(others)}. Leave missing values empty" if others else "as it is stored so"
        yield Finding("text", f"The column {name} has numbers but counts as text, {because}.")
    elif len(counts) > MANY_CATEGORIES:
        rare = sum(count < FEW_EXAMPLES for _, count in counts)
        text = f"The column {name} has {len(counts)} different texts, {rare} of them in fewer than {FEW_EXAMPLES} rows."
        yield Finding("categories", text)


def check_classes(labels: pd.Series, is_column: bool) -> Iterator[Finding]:
    """Yield what looks wrong with the names of the classes of all examples.

    Args:
        is_column: whether they are a column of a table, which could be a quantity.
    """
    counts = _counts(labels)
    few = [(name, count) for name, count in counts[::-1] if count < FEW_EXAMPLES]
    if is_column and len(counts) > MANY_CLASSES:
        text = f"The target has {len(counts)} different values. Is it a quantity or an identifier, and no class?"
        yield Finding("many_classes", text)
    elif few:
        yield Finding("small_class", f"Classes with fewer than {FEW_EXAMPLES} examples: {_named(few)}.")


def check_examples(pool: Pool) -> Iterator[Finding]:
    """Yield what looks wrong with examples whose inputs are equal."""
    (rows,) = digests(pool, [torch.arange(len(pool.labels), device=pool.device)])
    classes: dict[bytes, set[int]] = {}
    for row, label in zip(rows, pool.labels.tolist(), strict=True):
        classes.setdefault(row, set()).add(label)
    repeated = [row for row, count in Counter(rows).items() if count > 1]
    count = sum(row in {*repeated} for row in rows) - len(repeated)
    if count:
        text = f"{count} of {len(rows)} examples repeat the inputs of another one. Training and test may share them."
        yield Finding("duplicates", text)
    conflicts = sum(len(classes[row]) > 1 for row in repeated)
    if conflicts:
        yield Finding("conflicts", f"{conflicts} of the repeated inputs have examples of several classes.")
    seen = 0 if pool.folds else seen_test_examples(pool)
    if seen:
        yield Finding("leak", f"{seen} of {len(pool.test)} test examples also occur in training or validation.")


def _counts(values: pd.Series) -> Counts:
    """Return the different values as text, each with its number, the most frequent first."""
    return Counter(map(str, values)).most_common()


def _named(counts: Counts) -> str:
    """Return names with how often each occurs."""
    parts = [f"{name} ({count})" for name, count in counts[:NAMED]]
    return ", ".join([*parts, f"{len(counts) - NAMED} more"] if len(counts) > NAMED else parts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
