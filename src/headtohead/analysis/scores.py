"""Scores of runs on single test examples, by which verdicts hold for new examples too.

Shape suffixes: S pairs, N examples, G blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headtohead.analysis.columns import (
    RUN,
    column,
    keys_of,
    numbers_of,
    rows_of,
    short_name,
    texts_of,
    with_distinct_names,
)
from headtohead.analysis.text import plural
from headtohead.late import pd
from headtohead.options import ConfigError, require

# The number of blocks of test examples, and the fewest examples of a block.
BLOCKS, LEAST = 20, 2
# How far the mean of a run's scores may be from its metric, which a table may round: a share of the metric.
ROUNDED = 0.01
# How far it may be besides: a share of the largest score.
ROUNDING = 1e-9
# The columns of the examples, and of the scores where there is one metric.
EXAMPLE, SCORE = "example", "score"
ACCEPTED = "accepted: one score for each run and example"


@dataclass(frozen=True)
class Scores:
    """Mean scores of runs on blocks of test examples.

    Attributes:
        blocks: By metric, a row per run with the index setting, arm, pair, and a column per block.
        sizes: Number of examples of each block, by setting.
        of_examples: Metrics whose scores are 0 or 1.
    """

    blocks: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    sizes: Mapping[str, np.ndarray] = field(default_factory=dict)
    of_examples: frozenset[str] = frozenset()

    def on_blocks(self, metric: str, setting: str, arm: str, pairs: Sequence[str]) -> np.ndarray:
        """Return the mean scores of an arm for each pair and block of a setting, (S, G)."""
        rows = self.blocks[metric].loc[[(setting, arm, pair) for pair in pairs]]
        return rows.to_numpy()[:, : len(self.sizes[setting])]


def check_scores(
    frame: pd.DataFrame,
    runs: pd.DataFrame,
    roles: tuple[str, str, Sequence[str]],
    metrics: Mapping[str, str],
    source: str,
) -> tuple[Scores, pd.DataFrame]:
    """Check scores per example, and return them with the mean of each run.

    Args:
        frame: A row per run and example: the columns of arm, pair and settings, `example`, and a column for each metric
            that is a mean over examples, by its name; or `score` for the first metric.
        runs: The runs: `setting`, `arm`, `pair` and the metrics. Scores of other runs are no concern.
        roles: Columns of the arms, the pairs and the settings.
        metrics: Name in `runs` of each metric, by that of its column.
        source: Name of the table in messages.

    Raises:
        ConfigError: the scores are not those of the runs, or not of the same examples for all runs of a setting.
    """
    arm, pair, settings = roles
    frame = with_distinct_names(frame, "examples", source, [arm, pair, *settings, *metrics, EXAMPLE, SCORE])
    arm, pair, *settings = (column(frame, "examples", short_name(name), source) for name in (arm, pair, *settings))
    example = column(frame, "examples", EXAMPLE, source)
    columns = {name: known for name in metrics for known in frame if short_name(known) == short_name(name)}
    if not columns:
        columns = {next(iter(metrics)): column(frame, "examples", SCORE, source)}
    known = _index(runs)
    keys = keys_of(frame, arm, pair, settings, source)
    kept = _index(keys).isin(known)
    frame, long = frame.loc[kept], keys.loc[kept]
    long = long.assign(example=texts_of(frame, example))
    empty = [*long.index[long.example == ""]]
    require(not empty, "examples", example, f"is empty in {rows_of(empty)} of {source}; {ACCEPTED}")
    # A run without a metric or without a partner is left out, whether or not it has scores.
    valued = np.isfinite(runs[[metrics[name] for name in columns]].to_numpy(float)).any(axis=1)
    paired = runs.duplicated(["setting", "pair"], keep=False).to_numpy()
    _refuse_other_examples(long, _index(runs.loc[valued & paired]), source)
    for name, of_scores in columns.items():
        numbers = numbers_of(frame, "examples", of_scores, source)
        empty = [*frame.index[numbers.isna()]]
        require(not empty, "examples", of_scores, f"holds no finite number in {rows_of(empty)}; {ACCEPTED}")
        long[metrics[name]] = numbers
    found = [metrics[name] for name in columns]
    means = pd.DataFrame(long.groupby(RUN)[found].mean()).reindex(known)
    for name in found:
        largest = float(long[name].abs().max())
        _refuse_other_means(runs, means[name].to_numpy(float), largest, name, source)
    blocks, sizes = _on_blocks(long, found)
    binary = frozenset(name for name in found if long[name].isin((0.0, 1.0)).all())
    return Scores(blocks, sizes, binary), means.set_axis(runs.index)


def _index(runs: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([runs[name] for name in RUN], names=RUN)


def _refuse_other_examples(long: pd.DataFrame, runs: pd.MultiIndex, source: str) -> None:
    """Refuse scores that lack a run, or an example of a run, or that have one twice."""
    key = [*RUN, "example"]
    twice = long.loc[long.duplicated(key, keep=False), key]
    if len(twice):
        same = (twice == twice.iloc[0]).all(axis=1)
        of = ", ".join(filter(None, twice.iloc[0]))
        raise ConfigError(f"examples={source}: {rows_of(twice.index[same])} are all of {of}; {ACCEPTED}")
    examples = {str(setting): {*rows} for setting, rows in long.groupby("setting").example}
    of_runs = {run: {*rows} for run, rows in long.groupby(RUN).example}
    none: set[str] = set()
    lacking = [run for run in runs if not of_runs.get(run) or len(of_runs[run]) < len(examples[run[0]])]
    if not lacking:
        return
    run = lacking[0]
    of = ", ".join(filter(None, run)) + (f" and {plural(len(lacking) - 1, 'other run')}" if lacking[1:] else "")
    missing = sorted(examples.get(run[0], none) - of_runs.get(run, none))
    what = f"{len(missing)} of {len(examples[run[0]])} examples, such as {missing[0]}" if run in of_runs else "any row"
    raise ConfigError(f"examples={source}: lacks {what} of {of}; {ACCEPTED}")


def _refuse_other_means(runs: pd.DataFrame, means: np.ndarray, largest: float, metric: str, source: str) -> None:
    """Refuse scores, up to a largest size, whose mean is not the metric of their run, as far as a table rounds."""
    recorded = runs[metric].to_numpy(float)
    size = np.maximum(np.abs(recorded), np.abs(means))
    # A mean of 0 is a rounding error away from it.
    wrong = np.flatnonzero(np.abs(recorded - means) > ROUNDED * size + ROUNDING * largest)
    if not len(wrong):
        return
    first = wrong[0]
    of = ", ".join(filter(None, runs[RUN].iloc[first]))
    found = f"the mean score of {of} is {means[first]:.4g}, its {metric} {recorded[first]:.4g}"
    where = rows_of(runs.index[wrong])
    raise ConfigError(f"examples={source}: {found} ({where} of the runs); accepted: scores whose mean is the metric")


def _on_blocks(long: pd.DataFrame, metrics: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """Divide the examples of each setting into blocks of one size, at random, and return the mean scores on them.

    Settings with the same examples have the same blocks.
    """
    sizes, parts = {}, []
    for setting, rows in long.groupby("setting", sort=False):
        examples = np.sort(rows.example.unique())
        count = min(BLOCKS, len(examples) // LEAST)
        require(count > 1, "examples", f"{len(examples)} examples", f"accepted: {2 * LEAST} or more")
        block_N = np.random.default_rng(0).permutation(len(examples)) % count
        sizes[str(setting)] = np.bincount(block_N, minlength=count).astype(float)
        parts.append(rows.assign(block=block_N[np.searchsorted(examples, rows.example)]))
    table = pd.DataFrame(pd.concat(parts).groupby([*RUN, "block"])[[*metrics]].mean())
    return {metric: pd.DataFrame(table[[metric]].unstack("block")) for metric in metrics}, sizes
