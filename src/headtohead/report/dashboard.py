"""A study's own page in TensorBoard: a run per arm with bands over seeds, pictures that compare them, the verdicts.

All of it is a view of the records, in `arms/` beside them; the layout of the page is written too.
"""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd

from headtohead.analysis.predictions import above_thresholds, pooled
from headtohead.analysis.study import Study, read_histories, read_study
from headtohead.analysis.summary import Findings
from headtohead.options import ConfigError
from headtohead.record import events as board
from headtohead.record.run import folder_name
from headtohead.report.figures.evidence import Evidence, histories
from headtohead.report.figures.style import Drawing, band
from headtohead.report.render import evidence, verdicts_in_markdown

# The folder of arms, and in it that of what compares them, whose name no arm can have.
ARMS, COMPARISON = "arms", "all arms"
# Up to so many classes each has a precision-recall curve of its own.
MOST_CURVES = 20
# Columns of the HParams page.
METRICS = (
    "val_accuracy",
    "val_nll",
    "test_accuracy",
    "test_nll",
    "test_brier",
    "test_ece",
    "test_ambiguity_none",
    "test_ambiguity_several",
)
# Values by step.
Steps = dict[int, list[board.Value]]
# Of its time that a study in progress spends on its page, at most, and the least seconds between two states of it.
SHARE, PAUSE = 0.02, 5.0


@dataclass(frozen=True)
class Chart:
    """A line with its band.

    Attributes:
        tag: of the runs.
        lost: stands for a run that has diverged: "accuracy" or "nll" of a guess; None leaves it out from there on.
        scale: of the values: "log" takes means and bands of logarithms, "ln K" divides by the NLL of a guess.
        against_first: the difference from the study's first arm, paired by seed.
    """

    tag: str
    lost: str | None = None
    scale: str | None = None
    against_first: bool = False

    @property
    def tags(self) -> tuple[str, str, str]:
        name = f"{self.tag}_over_ln_K" if self.scale == "ln K" else self.tag
        kind = "difference" if self.against_first else "mean"
        return f"{kind}/{name}", f"{kind}_lower/{name}", f"{kind}_upper/{name}"

    def bands(self, evidence: Evidence) -> dict[str, pd.DataFrame]:
        """For each arm the mean, lower and upper bound by step; of a single run the bounds are its values."""
        if self.against_first and len(evidence.arms) == 1:
            return {}
        classes = evidence.num_classes
        lost = {"accuracy": 1 / classes, "nll": np.log(classes)}.get(self.lost) if classes else None
        unit = np.log(classes) if self.scale == "ln K" and classes else 1
        seeds = dict(zip(evidence.final.run, evidence.final.seed, strict=True))
        tables = {arm: table / unit for arm, table in histories(evidence, self.tag, lost).items()}
        if self.against_first:
            tables = {arm: table.rename(columns=seeds) for arm, table in tables.items()}
            first = tables.get(evidence.arms[0], pd.DataFrame())
            tables = {arm: (table - first).dropna(how="all").dropna(how="all", axis=1) for arm, table in tables.items()}
        bands = {}
        for arm, values_SR in tables.items():
            mean, lower, upper = band(values_SR, self.scale == "log")
            unknown = np.isnan(lower)
            lower, upper = np.where(unknown, mean, lower), np.where(unknown, mean, upper)
            bands[arm] = pd.DataFrame({"mean": mean, "lower": lower, "upper": upper}, values_SR.index)
        return bands


CHARTS = {
    "Which head is ahead, and do the bands part? Mean and 95 % interval over seeds": {
        "validation accuracy": Chart("val/accuracy", "accuracy"),
        "validation accuracy less {first}'s": Chart("val/accuracy", "accuracy", against_first=True),
        "validation NLL / ln K (1 is a guess)": Chart("val/nll", "nll", "ln K"),
        "validation NLL / ln K less {first}'s": Chart("val/nll", "nll", "ln K", against_first=True),
    },
    "Training": {
        "training accuracy": Chart("train/accuracy", "accuracy"),
        "training loss (each head's own, not comparable)": Chart("train/loss"),
        "validation loss (each head's own, not comparable)": Chart("val/loss"),
    },
    "Gradient norms (geometric mean)": {
        "at the logits, per example": Chart("grad_norm/logits", scale="log"),
        "backbone": Chart("grad_norm/backbone", scale="log"),
        "total": Chart("grad_norm/total", scale="log"),
    },
    "Ambiguity (share of validation examples)": {
        "no class above 0.5": Chart("ambiguity/none"),
        "several classes above 0.5": Chart("ambiguity/several"),
    },
}


class Live:
    """Keeps the page of a study in progress up to date, as a context: from the records, while packs are trained."""

    def __init__(self, study: Path):
        self._study = study
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        self._thread.join()

    def _follow(self) -> None:
        pause = PAUSE
        while not self._left.wait(pause):
            started = time.perf_counter()
            # A page is worth less than the study: what hinders it hinders the report at the end, which tells.
            with suppress(OSError, ConfigError):
                write_curves(read_study(self._study))
            pause = max(PAUSE, (time.perf_counter() - started) / SHARE)


def write_curves(study: Study) -> None:
    """The curves of each arm at its best learning rate, as far as its runs have ended, and the page's layout."""
    arms = _curves(study)
    if any(arms.values()):
        _write(study, arms, [_layout(study, arms)])


def write_dashboard(findings: Findings, drawings: Iterable[Drawing]) -> None:
    """The whole page of a study: curves, distributions and precision-recall curves of each arm, and what compares
    them: the verdicts as text and the figures as pictures. The columns of the HParams page go to the study's runs.
    """
    study = findings.study
    arms = _curves(study)
    for arm in arms:
        for step, values in _distributions(study, arm):
            arms[arm].setdefault(step, []).extend(values)
    pictures = [board.picture(f"figure/{drawing.name}", drawing.png) for drawing in drawings]
    verdicts = board.text("verdicts", verdicts_in_markdown(findings))
    _write(study, arms, [_layout(study, arms), verdicts, *pictures])
    _write_columns(study)


def _write(study: Study, arms: Mapping[str, Steps], comparison: Sequence[board.Value]) -> None:
    folders = {study.folder / ARMS / folder_name(arm): steps for arm, steps in arms.items() if steps}
    folders[study.folder / ARMS / COMPARISON] = {0: comparison}
    for folder, steps in folders.items():
        with board.Events(folder, replace=True) as events:
            for step in sorted(steps):
                events.add(step, steps[step])
    for stale in set((study.folder / ARMS).glob("*/")) - set(folders):
        shutil.rmtree(stale)


def _layout(study: Study, arms: Mapping[str, Steps]) -> board.Value:
    """Those charts that have something to show."""
    drawn = {value.tag for steps in arms.values() for values in steps.values() for value in values}
    categories = {}
    for category, titles in CHARTS.items():
        charts = {title: chart.tags for title, chart in titles.items() if drawn.issuperset(chart.tags)}
        categories[category] = {title.format(first=study.arms[0]): tags for title, tags in charts.items()}
    return board.margin_charts({category: charts for category, charts in categories.items() if charts})


def _curves(study: Study) -> dict[str, Steps]:
    """Mean and band of every chart, for each arm by step."""
    rows = _shown(study)
    history, _ = read_histories(study.folder, rows.run)
    shown = replace(evidence(study), final=rows, history=history)
    arms: dict[str, Steps] = {arm: {} for arm in study.arms}
    for titles in CHARTS.values():
        for chart in titles.values():
            for arm, table in chart.bands(shown).items():
                for step, *values in table.itertuples():
                    values = board.scalars(dict(zip(chart.tags, values, strict=True)))
                    arms[arm].setdefault(int(step), []).extend(values)
    return arms


def _shown(study: Study) -> pd.DataFrame:
    """The runs of each arm at its best learning rate: those of the confirm phase as soon as there is one."""
    parts = []
    for arm in study.arms:
        runs = study.results[(study.results.arm == arm) & (study.results.status != "failed")]
        confirmed = runs[runs.phase == "confirm"]
        parts.append(confirmed if len(confirmed) else runs[runs.lr == study.best.get(arm)])
    return pd.concat(parts)


def _distributions(study: Study, arm: str) -> Iterator[tuple[int, list[board.Value]]]:
    """By step, the values of the arm's final runs pooled; at the last step how well classes are told apart."""
    runs = study.final[study.final.arm == arm]
    drawn: dict[str, list] = {}
    for run in runs.run:
        # A run whose record is broken still has its row of results.
        curves = study.records.get(run, {}).get("curves") or {}
        for name, curve in (curves.get("histograms") or {}).items():
            drawn.setdefault(name, []).append((curve["edges"], curve["counts"]))
    for name, histograms in drawn.items():
        tag, _, step = name.partition("@")
        yield int(step), [board.histogram(f"distribution/{tag}", *pooled(histograms))]

    said = [study.predictions[run] for run in runs.run if run in study.predictions]
    if said:
        positives_KT, negatives_KT = above_thresholds(said)
        curves = [board.precision_recall("all classes", positives_KT.sum(0), negatives_KT.sum(0))]
        if len(positives_KT) <= MOST_CURVES:
            names = study.asked.get("classes") or ()
            names = names if len(names) == len(positives_KT) else range(len(positives_KT))
            curves += [
                board.precision_recall(f"class/{name}", *counts)
                for name, *counts in zip(names, positives_KT, negatives_KT, strict=True)
            ]
        yield int(runs.steps.max()), curves


def _write_columns(study: Study) -> None:
    """The columns of the HParams page, in the folder of the study's first run; without them it finds its own."""
    domains = study.asked.get("hparams")
    if domains and len(study.results):
        metrics = {f"final/{name}": name for name in METRICS if name in study.results}
        board.append(study.folder / "runs" / study.results.run.iloc[0], [board.experiment(domains, metrics)])
