"""Runs that another program trained, as a checked table: who is compared, by what, and in what pairs.

Shape suffixes: S pairs, G blocks of test examples.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

from headtohead.analysis.checks import Check
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
from headtohead.analysis.pairing import Direction, Pairs, Unjudged
from headtohead.analysis.scores import Scores, check_scores
from headtohead.analysis.text import in_percent, listed, plural
from headtohead.late import pd
from headtohead.options import ConfigError, nearest, require

# Names of the column that says how a run ended, and what it may say: W&B, MLflow, Optuna, Ray Tune, headtohead.
STATUS = ("status", "state")
ENDED = {"finished", "complete", "completed", "terminated", "success", "succeeded", "ok", "done", "diverged"}
NOT_ENDED = {"crashed", "failed", "fail", "failure", "error", "killed", "running", "pruned", "scheduled", "pending",
             "waiting", "paused", "preempted", "preempting", "aborted", "cancelled", "canceled", "timeout",
             "oom"}  # fmt: skip
# Parts of the names of metrics of which the lower value is the better one, and the higher one.
LOWER = {"loss", "nll", "ce", "bce", "error", "err", "errors", "perplexity", "ppl", "mse", "rmse", "mae", "mape",
         "brier", "ece", "wer", "cer", "fid", "regret", "time", "seconds", "latency"}  # fmt: skip
HIGHER = {"acc", "accuracy", "f1", "auc", "auroc", "auprc", "map", "precision", "recall", "iou", "miou", "dice", "bleu",
          "rouge", "r2", "psnr", "ssim", "score", "reward", "return", "top1", "top5"}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A metric by which arms are compared.

    Attributes:
        name: Name of its column.
        margin: Size below which a difference does not matter, in the metric's unit.
        direction: Which value is the better one.
    """

    name: str
    margin: float
    direction: Direction

    def __post_init__(self):
        holds = isinstance(self.margin, Real) and math.isfinite(self.margin) and self.margin > 0
        require(holds, f"margin of {self.name}", self.margin, "must be a positive number, in the metric's unit")

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Read `accuracy:0.005` or `nll:0.02:lower`. Without a direction the name must tell it.

        Raises:
            ConfigError: the text is no such thing.
        """
        accepted = "accepted: NAME:MARGIN or NAME:MARGIN:higher|lower, such as accuracy:0.005"
        parts = text.split(":")
        # A name may hold colons itself.
        direction = parts.pop() if len(parts) > 2 and not _is_number(parts[-1]) else None
        size = parts.pop() if len(parts) > 1 else ""
        name = ":".join(parts)
        if not name or not _is_number(size):
            found = f"{size!r} is no number" if size else "the margin, below which a difference does not matter, lacks"
            raise ConfigError(f"metric={text}: {found}; {accepted}")
        if direction is None:
            words = {*re.split(r"[^a-z0-9]+", name.lower())}
            known = {word for word, names in (("lower", LOWER), ("higher", HIGHER)) if words & names}
            unknown = f"write {name}:{size}:higher or {name}:{size}:lower, as the name does not tell which is better"
            require(len(known) == 1, "metric", text, unknown)
            direction = known.pop()
        if direction not in ("higher", "lower"):
            raise ConfigError(f"metric={text}: {direction} is no direction; {nearest(direction, ('higher', 'lower'))}")
        return cls(name, float(size), direction)


@dataclass(frozen=True)
class Asked:
    """Question that is asked of a table of runs.

    Attributes:
        arm: Column of the arms.
        pair: Column of what pairs runs of two arms, such as the seed.
        metrics: Metrics, the primary one first.
        settings: Columns of the settings that arms share, such as the dataset; empty for one setting.
        against: Arm that every other one is compared with; None takes the first one of the table.
        look: Number of the look, from 1 on: how often these runs have been judged, each time with more of them.
    """

    arm: str
    pair: str
    metrics: tuple[Metric, ...]
    settings: tuple[str, ...] = ()
    against: str | None = None
    look: int = 1

    def __post_init__(self):
        names = [metric.name for metric in self.metrics]
        for name in names:
            require(names.count(name) == 1, "metric", name, "is given twice; accepted: each metric once")
        columns = [self.arm, self.pair, *self.settings]
        for name in [*columns, *names]:
            require([*columns, *names].count(name) == 1, "column", name, "has two roles; accepted: one for each column")
        require(names, "metric", "", "accepted: one or more")
        require(isinstance(self.look, Integral) and self.look >= 1, "look", self.look, "must be 1 or more, an integer")


@dataclass(frozen=True)
class Runs:
    """A checked table of runs.

    Attributes:
        name: Name of the table.
        asked: What is asked of it; its metrics have the names that they have in `values`.
        values: A row per run: `setting`, `arm` and `pair`, as text, and the metrics.
        arms: The arms, first the one that every other one is compared with.
        settings: The settings, in the order of the table; "" alone for one setting.
        scores: Scores per example of some metrics.
        checks: What a reader must know.
    """

    name: str
    asked: Asked
    values: pd.DataFrame
    arms: tuple[str, ...]
    settings: tuple[str, ...]
    scores: Scores
    checks: tuple[Check, ...]

    def pairs(self, setting: str, metric: str, versus: str) -> Pairs | Unjudged:
        """Return the paired values of the first arm and another one, or why no two pairs tell an error."""
        arm = self.arms[0]
        rows = self.values.loc[(self.values.setting == setting) & self.values.arm.isin([arm, versus])]
        values = rows.pivot(index="pair", columns="arm", values=metric)
        both = values.dropna()
        if len(both) < 2:
            shared = plural(len(both), short_name(self.asked.pair))
            return Unjudged(f"{arm} and {versus} share {shared} with {metric}, at least 2 are needed")
        left = len(values) - len(both)
        pairs = Pairs(both, f"{left} of {len(values)} pairs of runs lack {metric}" if left else None)
        if metric in self.scores.blocks:
            blocks = {name: self.scores.on_blocks(metric, setting, name, [*both.index]) for name in (arm, versus)}
            size_G, of_examples = self.scores.sizes[setting], metric in self.scores.of_examples
            pairs = replace(pairs, blocks=blocks, size_G=size_G, of_examples=of_examples)
        difference_SG = pairs.differences(arm, versus)
        if np.ptp(difference_SG) <= 1e-9 * both.abs().to_numpy().max():
            mean = float(difference_SG.mean())
            same = f"differs by {mean:+.4g} in each of {len(both)} pairs" if mean else "is the same run by run"
            return Unjudged(f"{metric} of {arm} and {versus} {same}, so that nothing tells its error")
        return pairs


def check_runs(
    frame: pd.DataFrame, asked: Asked, source: str, scores: pd.DataFrame | None = None, scores_source: str = "examples"
) -> Runs:
    """Check a table of runs.

    Args:
        frame: A row per run. Messages name rows by its index.
        source: Name of the table in messages.
        scores: Scores per example, as `check_scores` takes them.
        scores_source: Name of their table in messages.

    Raises:
        ConfigError: naming the column and the rows that are wrong, and what is accepted.
    """
    asked_columns = [asked.arm, asked.pair, *asked.settings, *(metric.name for metric in asked.metrics)]
    frame = with_distinct_names(frame, "runs", source, asked_columns)
    arm, pair = column(frame, "arm", asked.arm, source), column(frame, "pair", asked.pair, source)
    settings = [column(frame, "setting", name, source) for name in asked.settings]
    columns = {metric: column(frame, "metric", metric.name, source) for metric in asked.metrics}
    frame, checks = _ended(frame, source)
    values = keys_of(frame, arm, pair, settings, source)
    names = {}
    for name in columns.values():
        numbers = numbers_of(frame, "metric", name, source)
        _refuse_constant(numbers, name, source)
        names[name] = _shown_name(name, numbers)
        unclear = [*RUN, *names.values()].count(names[name]) > 1
        require(not unclear, "metric", name, f"would be a second {names[name]}; accepted: another name")
        values[names[name]] = numbers
    arms = _arms(values, asked, source)
    _refuse_duplicates(values, pair, source)
    checked = Scores()
    if scores is not None:
        checked, means = check_scores(scores, values, (arm, pair, settings), names, scores_source)
        values[[*means]] = means
    checks += [check for name in names.values() for check in _lacking(values, name)]
    metrics = tuple(replace(metric, name=names[name]) for metric, name in columns.items())
    asked = replace(asked, arm=arm, pair=pair, settings=tuple(settings), metrics=metrics)
    runs = Runs(source, asked, values, arms, tuple(values.setting.unique()), checked, ())
    return replace(runs, checks=(*checks, *_pairings(runs)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ended(frame: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[Check]]:
    """Return the runs that have ended, where a column tells, and a warning of the others."""
    for name in frame:
        if short_name(name).lower() not in STATUS:
            continue
        words = [text.rpartition(".")[2].lower() for text in texts_of(frame, name)]
        if not {*words} - {""} <= ENDED | NOT_ENDED:
            continue
        lost = np.array([word in NOT_ENDED for word in words])
        if not lost.any():
            return frame, []
        counts = listed(f"{count} {word}" for word, count in Counter(words).items() if word in NOT_ENDED)
        require(not lost.all(), name, counts, f"no run of {source} has ended; accepted: runs that have")
        which = f"{counts}; {rows_of(frame.index[lost])}"
        text = f"{plural(int(lost.sum()), 'run')} did not end ({which}) and are left out."
        return frame.loc[~lost], [Check("warning", text)]
    return frame, []


def _refuse_constant(numbers: pd.Series, name: str, source: str) -> None:
    count = int(numbers.count())
    require(count, "metric", name, f"has no number in {source}; accepted: a column of numbers")
    same = f"is {numbers.max():g} in all {count} rows of {source}; accepted: a metric that differs between runs"
    require(numbers.nunique() > 1, "metric", name, same)


def _shown_name(name: str, numbers: pd.Series) -> str:
    """Return the name of a metric in reports, which show accuracies in percent unless they are in percent already."""
    name = short_name(name)
    return f"{name}, %" if in_percent(name) and float(numbers.max()) > 1.5 else name


def _arms(values: pd.DataFrame, asked: Asked, source: str) -> tuple[str, ...]:
    arms = [*values.arm.unique()]
    require(len(arms) > 1, "arm", asked.arm, f"{arms[0]} is the only value in {source}; accepted: two or more arms")
    if asked.against is not None:
        require(asked.against in arms, "against", asked.against, f"no arm of {source}; {nearest(asked.against, arms)}")
        arms = [asked.against, *(arm for arm in arms if arm != asked.against)]
    return tuple(arms)


def _refuse_duplicates(values: pd.DataFrame, pair: str, source: str) -> None:
    keys = [*zip(*(values[name] for name in RUN), strict=True)]
    counts = Counter(keys)
    setting, arm, value = first = max(keys, key=lambda key: counts[key])
    if counts[first] == 1:
        return
    same = np.array([key == first for key in keys])
    of = f"{arm}, {short_name(pair)}={value}" + (f" in {setting}" if setting else "")
    others = sum(count > 1 for count in counts.values()) - 1
    more = f", and so for {others} more" if others else ""
    accepted = "accepted: one run for each; --where COLUMN=VALUE keeps some runs, --setting COLUMN tells them apart"
    raise ConfigError(f"pair={pair}: {rows_of(values.index[same])} of {source} are all of {of}{more}; {accepted}")


def _lacking(values: pd.DataFrame, name: str) -> list[Check]:
    empty = [*values.index[np.isnan(values[name].to_numpy(float))]]
    if not empty:
        return []
    text = (
        f"{name} has no finite value in {rows_of(empty)}. These runs are left out, with their partners, which flatters "
        "an arm whose runs diverge: give such runs the value of a guess."
    )
    return [Check("warning", text)]


def _pairings(runs: Runs) -> list[Check]:
    """Say which runs have no partner; refuse runs of which no two arms share two pairs.

    Raises:
        ConfigError: naming the pairs.
    """
    first, pair, primary = runs.arms[0], short_name(runs.asked.pair), runs.asked.metrics[0].name
    checks, reasons, judged = [], [], False
    for setting, rows in by_setting(runs.values):
        of_arm = {arm: {*rows.pair[rows.arm == arm]} for arm in runs.arms}
        valued = {*zip(rows.arm[rows[primary].notna()], rows.pair[rows[primary].notna()], strict=True)}
        where = f" in {setting}" if setting else ""
        paired = of_arm[first] & set.union(*(of_arm[arm] for arm in runs.arms[1:]))
        for arm in runs.arms[1:]:
            shared = {own for own in of_arm[first] & of_arm[arm] if {(first, own), (arm, own)} <= valued}
            judged |= len(shared) > 1
            at = rows.index[(rows.arm.isin([first, arm]) & rows.pair.isin(shared)).to_numpy()]
            each = f"{_listed(of_arm[first])} of {first}, {_listed(of_arm[arm])} of {arm}"
            one = f"share {pair} {_listed(shared)} alone ({rows_of(at)}) with {primary}"
            how = one if shared else f"share no {pair} with {primary}: {each}"
            reasons.append(f"{first} and {arm}{where} {how}")
        alone = [row for row, own in zip(rows.index, rows.pair, strict=True) if own not in paired]
        if alone:
            text = f"No partner of the same {pair}{where}: {rows_of(alone)}. These runs are left out."
            checks.append(Check("warning", text))
    require(judged, "pair", pair, f"{reasons[0]}; accepted: two pairs or more")
    return checks


def _listed(pairs: Iterable[str]) -> str:
    return listed(sorted(pairs, key=_natural)) or "none"


def _natural(pair: str) -> tuple[int, str]:
    return len(pair), pair


def by_setting(values: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split rows by setting, in the order of the table."""
    return [(str(setting), values.loc[values.setting == setting]) for setting in values.setting.unique()]
