"""A study's own page in TensorBoard: a run per arm with bands over seeds, figures that compare arms, the verdicts.

All of it is a view of the records, and lies in `arms/` beside them with the layout of the page.

S steps, R runs (one per seed), K classes, T thresholds.
"""

import math
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import pandas as pd

from headtohead.analysis.predictions import above_thresholds, pooled
from headtohead.analysis.study import Study, joined, over_steps, read_study
from headtohead.analysis.summary import Answer, Summary
from headtohead.options import one_line, printable
from headtohead.record import events
from headtohead.record.files import folder_name
from headtohead.record.tags import final_tag
from headtohead.report.drawing import Drawing
from headtohead.report.figures.style import band
from headtohead.report.render import verdicts_in_markdown

# The folder of the arms, and in it the folder of what compares them, whose name no arm can have.
ARMS, COMPARISON = "arms", "all arms"
# Group of the tags of a band's bounds: below all others, where TensorBoard keeps it closed.
BOUNDS = "~ bounds of bands"
# Characters of a heading that are surely seen, and sentences that stand above a chart.
LINE, SENTENCES = 100, 3
# Up to this number of classes each has a precision-recall curve of its own.
MOST_CURVES = 20
# Final metrics that are columns of the HParams page.
HPARAM_METRICS = (
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
Steps = dict[int, list[events.Value]]
# The largest share of its time that a study in progress spends on its page, and the least seconds between two updates.
SHARE, PAUSE = 0.02, 5.0


@dataclass(frozen=True)
class Chart:
    """A line with its band.

    Attributes:
        tag: Tag of the line: the group of its question, and what is shown; TensorBoard misreads brackets in it.
        title: Title of the chart; `{first}` stands for the study's first arm.
        metric: Metric of the histories.
        diverged: Value of a diverged run: "accuracy" or "nll" at chance level; None leaves the run out from there on.
        scale: "%" shows shares in percent, "log" takes means and bands of logarithms, "ln K" divides by the NLL at
            chance level.
        against_first: Whether to show the difference from the study's first arm, paired by seed.
    """

    tag: str
    title: str
    metric: str
    diverged: Literal["accuracy", "nll"] | None = None
    scale: Literal["%", "log", "ln K"] | None = None
    against_first: bool = False

    @property
    def tags(self) -> tuple[str, str, str]:
        """Tags of the line and of its band's bounds."""
        return self.tag, f"{BOUNDS}/{self.tag}, lower", f"{BOUNDS}/{self.tag}, upper"

    def bands(self, study: Study, rows: pd.DataFrame, history: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return for each arm the mean, lower and upper bound by step; the bounds of a single run are its values.

        Args:
            rows: Rows of results.csv for the runs to show.
            history: Their histories, with the column `run`.
        """
        if self.against_first and len(study.arms) == 1:
            return {}
        bands = {}
        for arm, values_SR in self._values(study, rows, history).items():
            mean, lower, upper = band(values_SR, self.scale == "log")
            unknown = np.isnan(lower)
            lower, upper = np.where(unknown, mean, lower), np.where(unknown, mean, upper)
            bands[arm] = pd.DataFrame({"mean": mean, "lower": lower, "upper": upper}, values_SR.index)
        return bands

    def _values(self, study: Study, rows: pd.DataFrame, history: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Return for each arm the values that the chart averages, (S, R)."""
        classes = study.common_num_classes
        chance = {"accuracy": 1 / classes, "nll": math.log(classes)} if classes else {}
        diverged = chance.get(self.diverged) if self.diverged else None
        unit = {"%": 0.01, "ln K": chance.get("nll", 1.0)}.get(self.scale or "", 1.0)
        tables = over_steps(study.by_arm(rows), history, self.metric, diverged)
        tables = {arm: table / unit for arm, table in tables.items()}
        if self.against_first:
            first = tables.get(study.arms[0], pd.DataFrame())
            tables = {arm: (table - first).dropna(how="all").dropna(how="all", axis=1) for arm, table in tables.items()}
        return tables


# By question. TensorBoard sorts the groups of tags by name: the digits keep this order.
CHARTS = {
    "Which arm is ahead, and do the bands part? Mean and 95 % interval over seeds": (
        Chart("1 ahead/accuracy, %", "validation accuracy, %", "val_accuracy", "accuracy", "%"),
        Chart(
            "1 ahead/accuracy, lead in points",
            "validation accuracy less {first}'s, points",
            "val_accuracy",
            "accuracy",
            "%",
            against_first=True,
        ),
        Chart("1 ahead/loss, NLL over ln K", "validation NLL / ln K (1 is chance level)", "val_nll", "nll", "ln K"),
        Chart(
            "1 ahead/loss, difference in NLL over ln K",
            "validation NLL / ln K less {first}'s",
            "val_nll",
            "nll",
            "ln K",
            against_first=True,
        ),
    ),
    "How does training go?": (
        Chart("2 training/accuracy, %", "training accuracy, %", "train_accuracy", "accuracy", "%"),
        Chart("2 training/loss", "training loss (each head's own, not comparable)", "train_loss"),
        Chart("2 training/validation loss", "validation loss (each head's own, not comparable)", "val_loss"),
    ),
    "How large are the gradients? Norms, geometric mean": (
        Chart("3 gradients/logits", "at the logits, per example", "grad_norm_logits", scale="log"),
        Chart("3 gradients/backbone", "backbone", "grad_norm_backbone", scale="log"),
        Chart("3 gradients/total", "total", "grad_norm_total", scale="log"),
    ),
    "Are outputs ambiguous? Share of validation examples": (
        Chart("4 ambiguity/none, %", "no class above 0.5, %", "val_ambiguity_none", scale="%"),
        Chart("4 ambiguity/several, %", "several classes above 0.5, %", "val_ambiguity_several", scale="%"),
    ),
}


class Live:
    """Keeps the page of a study in progress up to date with its records, as a context around the training.

    Args:
        study: Folder of the study.
    """

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
            # No error may stop the study. The report at the end meets the same error and reports it.
            with suppress(Exception):
                write_curves(read_study(self._study))
            pause = max(PAUSE, (time.perf_counter() - started) / SHARE)


def write_curves(study: Study) -> None:
    """Write the curves of each arm at its best trial, as far as its runs have ended, and the page's layout."""
    arms = _curves(study)
    if any(arms.values()):
        _write(study, arms, [_layout(study, arms)])


def write_dashboard(summary: Summary, drawings: Iterable[Drawing]) -> None:
    """Write the whole page of a study.

    Each arm has curves, distributions and precision-recall curves. The answer above them, the verdicts as text and the
    figures as pictures compare them. The columns of the HParams page go to the study's runs.
    """
    study = summary.study
    arms = _curves(study)
    for arm in arms:
        for step, values in _distributions(study, arm):
            arms[arm].setdefault(step, []).extend(values)
    pictures = [_picture(place, drawing) for place, drawing in enumerate(drawings, 1)]
    verdicts = events.text("answer and verdicts", verdicts_in_markdown(summary))
    _write(study, arms, [_layout(study, arms, summary.answer), verdicts, *pictures])
    _write_columns(study)


def _picture(place: int, drawing: Drawing) -> events.Value:
    """Return a figure as a picture, or as a text that says why there is none; tags sort as the report does."""
    tag = f"figures/{place:02d} {drawing.name}"
    try:
        return events.picture(tag, drawing.png)
    except Exception as error:  # whatever it is, it never costs the rest of the page
        return events.text(tag, f"This figure could not be drawn ({one_line(error)}).")


def _write(study: Study, arms: Mapping[str, Steps], comparison: Sequence[events.Value]) -> None:
    """Write a folder of events for what compares the arms, and for each arm.

    TensorBoard gives its colours to runs in the order of their first events. So the comparison, which has no line,
    comes first, and then the arms in their order, before all runs of the study.
    """
    last = max((step for steps in arms.values() for step in steps), default=0)
    folders = {folder_name(arm): steps for arm, steps in arms.items()}
    for place, (name, steps) in enumerate({COMPARISON: {last: comparison}, **folders}.items()):
        with events.Events(study.folder / ARMS / name, replace=True, started=1.0 + place) as file:
            for step in sorted(steps):
                file.add(step, steps[step])
    for stale in {*(study.folder / ARMS).glob("*/")} - {study.folder / ARMS / name for name in (COMPARISON, *folders)}:
        # What a person has put there stays.
        if not stale.is_symlink() and all("tfevents" in path.name for path in stale.iterdir()):
            shutil.rmtree(stale)


def _layout(study: Study, arms: Mapping[str, Steps], answer: Answer | None = None) -> events.Value:
    """Return the layout of the charts that have something to show, under the answer where there is one."""
    drawn = {value.tag for steps in arms.values() for values in steps.values() for value in values}
    categories = {
        question: {
            chart.title.format(first=study.arms[0]): chart.tags for chart in charts if drawn.issuperset(chart.tags)
        }
        for question, charts in CHARTS.items()
    }
    categories = {question: charts for question, charts in categories.items() if charts}
    if answer and categories:
        first, *others = categories.items()
        categories = {answer.headline: _told(first[1], answer), **dict(others)}
    return events.margin_charts(categories)


def _told(charts: Mapping[str, tuple[str, str, str]], answer: Answer) -> dict[str, tuple[str, str, str]]:
    """Return the charts under an answer; the title of the first one goes on with what the answer rests on."""
    (title, tags), *others = charts.items()
    cut = [answer.headline] if len(answer.headline) > LINE else []
    sentences = [*cut, *answer.sentences[:SENTENCES], *(["More under Text."] if answer.sentences[SENTENCES:] else [])]
    return {" ".join([f"{title}.", *sentences]): tags, **dict(others)}


def _curves(study: Study) -> dict[str, Steps]:
    """Return for each arm the mean and band of every chart, by step."""
    rows = _shown(study)
    history = joined(study.histories.read(rows.run)[0])
    arms: dict[str, Steps] = {arm: {} for arm in study.arms}
    for charts in CHARTS.values():
        for chart in charts:
            for arm, table in chart.bands(study, rows, history).items():
                for step, *values in table.itertuples():
                    values = events.scalars(dict(zip(chart.tags, values, strict=True)))
                    arms[arm].setdefault(int(step), []).extend(values)
    return arms


def _shown(study: Study) -> pd.DataFrame:
    """Return the runs of each arm at its best trial: those of the confirm phase as soon as there is one."""
    parts = []
    for arm in study.arms:
        runs = study.results.loc[(study.results.arm == arm) & (study.results.status != "failed")]
        runs = study.at_best(runs)
        confirmed = runs.loc[runs.phase == "confirm"]
        parts.append(confirmed if len(confirmed) else runs)
    return pd.concat(parts)


def _distributions(study: Study, arm: str) -> Iterator[tuple[int, list[events.Value]]]:
    """Yield by step the pooled histograms of an arm's final runs, and at the last step precision-recall curves."""
    rows = study.final.loc[study.final.arm == arm]
    pools: dict[str, list] = {}
    # A run whose record is broken still has its row of results.
    for run in [study.records[name] for name in rows.run if name in study.records]:
        for name, histogram in (run.curves or {}).get("histograms", {}).items():
            pools.setdefault(name, []).append((histogram.get("edges", ()), histogram.get("counts", ())))
    for name, histograms in pools.items():
        values, _, step = name.partition("@")
        # A histogram that is none, in a record from elsewhere, costs the page nothing else.
        with suppress(ValueError, IndexError, OverflowError):
            edges, counts = pooled(histograms)
            yield int(step), [events.histogram(f"distribution/{values}", edges.tolist(), counts.tolist())]

    predictions = [study.predictions[run] for run in rows.run if run in study.predictions]
    if predictions:
        positives_KT, negatives_KT = above_thresholds(predictions)
        curves = [events.precision_recall("all classes", positives_KT.sum(0), negatives_KT.sum(0))]
        num_classes = len(positives_KT)
        if num_classes <= MOST_CURVES:
            classes = study.record.classes
            names = classes if len(classes) == num_classes else range(num_classes)
            curves += [
                events.precision_recall(f"class/{printable(name)}", positives_T, negatives_T)
                for name, positives_T, negatives_T in zip(names, positives_KT, negatives_KT, strict=True)
            ]
        yield int(rows.steps.to_numpy().max()), curves


def _write_columns(study: Study) -> None:
    """Write the columns of the HParams page to the folder of the study's first run; without them it finds its own."""
    domains = study.record.hparams
    if domains and len(study.results):
        metrics = {final_tag(name): name for name in HPARAM_METRICS if name in study.results}
        events.append(study.folder / "runs" / study.results.run.iloc[0], [events.experiment(domains, metrics)])
