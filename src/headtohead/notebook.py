"""Functions for notebooks and scripts: load a study that has run, compare runs that any program trained.

docs/notebook.md shows how to use it.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from headtohead.analysis.claims import KEYS
from headtohead.analysis.judging import judge_runs
from headtohead.analysis.runs import Asked, Metric
from headtohead.analysis.settings import SETTINGS_KEYS
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import Answer, Summary, summarise
from headtohead.options import ConfigError, nearest, require

if TYPE_CHECKING:
    from headtohead.report.drawing import Drawing


class Findings:
    """Verdicts and answer of runs, which a notebook displays.

    Attributes:
        summary: All that a report says.
    """

    def __init__(self, summary: Summary):
        self.summary = summary

    @property
    def answer(self) -> Answer:
        """The answer: `str(answer)` is its text, `answer.winner` and the like are its fields."""
        return self.summary.answer

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """A row per claim, or metric, and pair of arms, with the columns of `claims` in verdicts.json."""
        rows = [{key: getattr(row, key) for key in KEYS} for row in self.summary.verdicts]
        return pd.DataFrame(rows, columns=pd.Index(KEYS))

    @cached_property
    def settings(self) -> pd.DataFrame:
        """A row per claim, or metric, and pair of arms across settings; empty with one setting."""
        rows = [{key: getattr(row, key) for key in SETTINGS_KEYS} for row in self.summary.settings]
        return pd.DataFrame(rows, columns=pd.Index(SETTINGS_KEYS))

    @cached_property
    def warnings(self) -> list[str]:
        """Warnings of what could be wrong, a sentence or two each."""
        return [check.text for check in self.summary.checks if check.kind == "warning"]

    def figure(self, name: str) -> "Drawing":
        """Draw a figure of the report by its name, such as "forest".

        A notebook displays it. `svg` and `png` are it as an image, `spec` is its chart of Vega-Lite, which
        `altair.Chart.from_dict` takes.

        Raises:
            ConfigError: there is no such figure, or these runs lack what it shows.
        """
        # What draws takes longer to import than judging takes.
        from headtohead.report.figures import FIGURES, draw_judged

        if name not in FIGURES:
            raise ConfigError(f"figure={name}: no such figure; {nearest(name, FIGURES)}")
        drawings, failures = draw_judged(self.summary, [name])
        if not drawings:
            reason = failures.get(name, "these runs lack what it shows")
            raise ConfigError(f"figure={name}: cannot be drawn ({reason})")
        return drawings[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.summary.study.record.name}: {self.answer.headline}>"

    def _repr_html_(self) -> str:
        from headtohead.report.render import first_screen

        return first_screen(self.summary)


class Study(Findings):
    """A study that has run, or that runs."""

    def __init__(self, folder: Path):
        self._study = read_study(folder)
        super().__init__(summarise(self._study))

    @property
    def results(self) -> pd.DataFrame:
        """A row per run, with the columns of docs/metrics.md."""
        return self._study.results

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row per logged step of each run that the arms are compared by, with its `run`, `arm` and `seed`."""
        runs = self._study.final.set_index("run")
        history = self._study.history
        return history.assign(**{key: history.run.map(runs[key]) for key in ("arm", "seed")})


def load(folder: str | os.PathLike[str]) -> Study:
    """Read a study's folder, such as "outputs/digits", and judge it. Nothing is written.

    Raises:
        ConfigError: the folder holds no study, or it is broken.
    """
    return Study(Path(folder).expanduser())


def compare(
    frame: pd.DataFrame,
    *,
    arm: str,
    pair: str,
    metric: str,
    margin: float,
    higher_is_better: bool = True,
    setting: str | Sequence[str] | None = None,
    against: str | None = None,
    examples: pd.DataFrame | None = None,
    look: int = 1,
) -> Findings:
    """Judge runs that any program trained, by one metric.

    Args:
        frame: A row per run.
        arm: Column of the arms.
        pair: Column of what pairs the runs of two arms, such as the seed.
        metric: Column of the metric.
        margin: Size below which a difference does not matter, in the metric's unit.
        higher_is_better: Whether the higher value of the metric is the better one.
        setting: Column, or columns, of what the arms of a comparison share, such as the dataset; None for one setting.
        against: Arm that every other one is compared with; None takes the first one of the table.
        examples: Scores of the runs on single test examples, a row each: the columns of arm, pair and setting,
            `example`, and `score` or the metric. With them the verdict holds for new examples too.
        look: How often these runs have been judged, each time with more of them.

    Raises:
        ConfigError: naming the column and the rows that are wrong, and what is accepted.
    """
    accepted = "accepted: True or False"
    require(isinstance(higher_is_better, (bool, np.bool_)), "higher_is_better", higher_is_better, accepted)
    metrics = (Metric(str(metric), margin, "higher" if higher_is_better else "lower"),)
    names = () if setting is None else (setting,) if isinstance(setting, str) else setting
    first = None if against is None else str(against)
    asked = Asked(str(arm), str(pair), metrics, tuple(map(str, names)), first, look)
    scores = None if examples is None else _table(examples, "examples")
    return Findings(judge_runs(_table(frame, "frame"), asked, "the frame", scores, "the examples"))


def _table(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return a table with the named levels of its index as columns, as `groupby` leaves them.

    Raises:
        ConfigError: it is no table.
    """
    require(isinstance(frame, pd.DataFrame), key, type(frame).__name__, "accepted: a DataFrame of pandas")
    levels = [name for name in frame.index.names if name is not None and name not in frame]
    return frame.reset_index(levels)
