"""The command `headtohead data`: what a command line would train on, and what looks wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hydra.types import HydraContext
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from headtohead.analysis.text import plural
from headtohead.late import pd, torch
from headtohead.options import ConfigError, printable
from headtohead.runner.axes import read_axes, search
from headtohead.runner.process import import_from_here
from headtohead.runner.resolve import Member, compose
from headtohead.training import data
from headtohead.training.data import Pool
from headtohead.training.datasets import DATASETS, TableFile
from headtohead.training.inspection import (
    Finding,
    check_classes,
    check_examples,
    check_table,
    describe_column,
)

# The most columns, classes, and findings of a check that are listed, and the width of a column of names.
SHOWN_COLUMNS, SHOWN_CLASSES, SHOWN_FINDINGS, MOST_WIDTH = 60, 20, 5, 30


def print_data(arguments: Sequence[str], config: DictConfig, context: HydraContext) -> None:
    """Print what the data of a command line are and what looks wrong with them; nothing is written or trained.

    Args:
        arguments: the overrides of the command line, without Hydra's own.
        config: the configuration that Hydra composed for the sweep.
        context: the context with Hydra's loader of configs.

    Raises:
        ConfigError: there are several datasets, or a run would refuse the data. What is known is printed before.
    """
    member = _only_dataset(arguments, config, context)
    dataset, console = member.config.dataset, Console(highlight=False)
    # Before it is read, which can take long.
    console.print(f"dataset: {next(name for name, kind in DATASETS.items() if kind is type(dataset))}")
    findings: list[Finding] = []
    if isinstance(dataset, TableFile):
        findings = _columns(console, dataset)
    try:
        pool = data.load(dataset, torch.device("cpu"))
        data.verify(pool)
        labels = pd.Series(np.array([*pool.classes, "(unknown)"])[pool.labels.numpy()])
        _print_classes(console, labels)
        if not isinstance(dataset, TableFile):
            findings += check_classes(labels, is_column=False)
            if isinstance(pool.inputs, torch.Tensor) and not pool.is_image:
                numbered = pd.DataFrame(pool.inputs.numpy())
                findings += check_table(numbered.rename(columns=lambda place: f"number {place + 1}"), labels)
        findings += check_examples(pool)
        _print_facts(console, member, pool)
    finally:
        _print_findings(console, findings)
    if not findings:
        console.print("Nothing looks wrong.")


def _only_dataset(arguments: Sequence[str], config: DictConfig, context: HydraContext) -> Member:
    """Return a run of a command line whose runs share a dataset."""
    import_from_here()
    axes = read_axes(arguments, config.hydra.sweeper.params, context.config_loader)
    first = replace(axes, lrs=axes.lrs[:1], seeds=axes.seeds[:1], space={})
    fold = axes.folds[0] if axes.folds else None
    members = [compose(config.hydra.job.config_name, axes.common, replace(run, fold=fold)) for run in search(first)]
    if len({repr(member.config.dataset) for member in members}) > 1:
        overrides = [override for arm in axes.arms.values() for override in arm if override.startswith("dataset")]
        several = ", ".join(dict.fromkeys(overrides))
        raise ConfigError(f"{several}: several datasets; accepted: one value for each key of a dataset")
    members[0].config.dataset.require_place()
    return members[0]


def _columns(console: Console, dataset: TableFile) -> list[Finding]:
    """Print the columns of a table, and return what looks wrong with them."""
    frame, _ = dataset.rows()
    target = pd.Series(frame[dataset.target])
    roles = {dataset.target: "target", dataset.split_column: "split", dataset.groups: "groups"}
    _print_columns(console, frame, roles)
    inputs = frame.loc[:, [name not in roles for name in frame]]
    return [*check_table(inputs, target), *check_classes(target, is_column=True)]


def _print_columns(console: Console, frame: pd.DataFrame, roles: dict[str | None, str]) -> None:
    table = _table("column", "missing", "different", expand=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("values", no_wrap=True, overflow="ellipsis", ratio=1)
    for name, values in [*frame.items()][:SHOWN_COLUMNS]:
        column = describe_column(values)
        role = roles.get(str(name))
        shown = f"{column.kind}, {role}" if role else column.kind
        table.add_row(*map(_shown, (column.name, column.missing, column.different, shown, column.values)))
    console.print(table)
    _print_rest(console, len(frame.columns) - SHOWN_COLUMNS, "columns")


def _print_classes(console: Console, labels: pd.Series) -> None:
    table = _table("class", "examples", "share")
    counts = labels.value_counts().sort_values(ascending=False, kind="stable")
    for name, count in [*counts.items()][:SHOWN_CLASSES]:
        table.add_row(*map(_shown, (name, count, f"{100 * count / len(labels):.1f} %")))
    console.print(table)
    _print_rest(console, len(counts) - SHOWN_CLASSES, "classes")


def _table(name: str, *numbers: str, expand: bool = False) -> Table:
    """Return a table with a column of names and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, expand=expand)
    table.add_column(name, overflow="fold", max_width=MOST_WIDTH)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _print_rest(console: Console, count: int, what: str) -> None:
    if count > 0:
        console.print(f"and {count:,} {what} more")
    console.print()


def _print_facts(console: Console, member: Member, pool: Pool) -> None:
    dataset, settings = member.config.dataset, member.config.settings
    shape = " x ".join(map(str, pool.input_shape))
    inputs = f"images of {shape} bytes" if pool.is_image else plural(pool.input_shape[0], "number")
    facts = {"data": f"{len(pool.labels):,} examples of {inputs} in {len(pool.classes):,} classes"}
    train, val, test = data.split_sizes(pool, dataset, settings.seed, settings.fold)
    folds = f", in each of {getattr(dataset, 'folds', None)} folds" if pool.folds else ""
    facts["splits"] = f"{train:,} train, {val:,} val, {test:,} test{folds}"
    ignored = [f"{len(dataset.ignore)} ignored"] if isinstance(dataset, TableFile) and dataset.ignore else []
    left_out = [*ignored, *(f"{part.count} {part.reason}, such as {part.example}" for part in pool.skipped)]
    if left_out:
        facts["left out"] = "; ".join(left_out)
    for fact, text in facts.items():
        console.print(f"{fact}: {_shown(text)}")
    console.print()


def _print_findings(console: Console, findings: Sequence[Finding]) -> None:
    by_code: dict[str, list[str]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding.text)
    for code, texts in by_code.items():
        more = len(texts) - SHOWN_FINDINGS
        for text in [*texts[:SHOWN_FINDINGS], *([f"The same holds for {more} columns more."] if more > 0 else [])]:
            console.print(f"[bold]! [/bold]{code}: {_shown(text)}")


def _shown(text: object) -> str:
    return escape(printable(text))
