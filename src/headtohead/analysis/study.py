"""A study's folder, read with care: what is broken or missing is named, never dropped."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from headtohead.analysis.predictions import Picked, Predictions
from headtohead.analysis.statistics import best_learning_rates, target_accuracy
from headtohead.analysis.text import listed
from headtohead.options import ConfigError, require
from headtohead.record.run import (
    COLUMNS,
    NOT_OF_A_RUN,
    flat,
    read_arrays,
    read_history,
    read_results,
    results,
    write_atomically,
)

# Of a run's config: what differs between the runs of one arm by design, or says where it ran and not what.
NOT_OF_AN_ARM = NOT_OF_A_RUN | {"seed", "optimizer.lr", "pack_size"}
REMEDY = "delete it: the report writes it anew from the records of the runs"


@dataclass(frozen=True)
class Study:
    """A study's folder as it was read.

    Attributes:
        asked: study.json.
        results: a row per run of the study's last command that has a record.
        records: `run.json` of these, by name.
        broken: of the runs whose `run.json` cannot be read, the reason.
        others: how many runs in the folder belong to earlier commands.
    """

    folder: Path
    asked: Mapping[str, Any]
    results: pd.DataFrame
    records: Mapping[str, Mapping[str, Any]]
    broken: Mapping[str, str]
    others: int

    @cached_property
    def arms(self) -> list[str]:
        return list(self.asked["arms"])

    @cached_property
    def num_classes(self) -> dict[str, int]:
        """Of each arm the classes that it tells apart, as far as the study tells."""
        found = self.asked.get("num_classes") or {}
        return dict(found) if isinstance(found, dict) else dict.fromkeys(self.arms, found)

    @cached_property
    def common_num_classes(self) -> int | None:
        """The classes that all arms tell apart; None where they differ or the study does not tell."""
        found = {*self.num_classes.values()}
        return found.pop() if len(found) == 1 and {*self.num_classes} == {*self.arms} else None

    @cached_property
    def ladder(self) -> list[str]:
        """The arms of `protocol.ladder`; none where the study names no ladder."""
        return list(self.asked["protocol"].get("ladder") or [])

    @cached_property
    def finite(self) -> pd.DataFrame:
        """The results with NaN for infinities."""
        return self.results.replace([math.inf, -math.inf], math.nan)

    @cached_property
    def grid(self) -> list[float]:
        return sorted(self.asked["grid"].get("optimizer.lr", []))

    @cached_property
    def tuned(self) -> bool:
        """Whether each arm's learning rate was searched for."""
        return "search" in self.asked["runs"]

    @cached_property
    def searched(self) -> pd.DataFrame:
        """The runs over the grid, from which each arm's learning rate is chosen."""
        return self.results[self.results.phase == "search"] if self.tuned else self.results

    @cached_property
    def best(self) -> dict[str, float]:
        """Each arm's learning rate; an arm without a run that ended has none."""
        return best_learning_rates(self.searched) if {"val_accuracy", "val_nll"} <= set(self.results) else {}

    @cached_property
    def final(self) -> pd.DataFrame:
        """The runs by which the arms are compared, without failed ones.

        Those of the confirm phase; before it has begun, and in a study without one, each arm's at its best rate.
        """
        confirmed = self.results[self.results.phase == "confirm"]
        at_best = self.results.lr == self.results.arm.map(self.best)
        rows = confirmed if len(confirmed) else self.results[at_best]
        return rows[rows.status != "failed"]

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row per logged step of each final run, with the column `run`."""
        return self._histories[0]

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Why the history of a final run cannot be read."""
        return self._histories[1]

    @cached_property
    def _histories(self) -> tuple[pd.DataFrame, dict[str, str]]:
        return read_histories(self.folder, self.final.run)

    @cached_property
    def predictions(self) -> dict[str, Predictions]:
        """What the final runs said of test examples, those that have been tested."""
        return self._predictions[0]

    @cached_property
    def unreadable_predictions(self) -> dict[str, str]:
        """Why the predictions of a final run cannot be read."""
        return self._predictions[1]

    @cached_property
    def _predictions(self) -> tuple[dict[str, Predictions], dict[str, str]]:
        found, unreadable = {}, {}
        for run in self.final.run:
            path = self.folder / "runs" / run / "predictions.npz"
            if not path.is_file():
                continue  # not tested, or diverged
            try:
                found[run] = Predictions.of(read_arrays(path))
            except (OSError, ValueError) as error:
                unreadable[run] = f"{type(error).__name__}: {error}".splitlines()[0]
        return found, unreadable

    @cached_property
    def picked(self) -> Picked | None:
        """The test examples to look at, if the study has chosen some; without them a report lacks their picture."""
        with suppress(OSError, ValueError, KeyError):
            arrays = read_arrays(self.folder / "examples.npz")
            return Picked(arrays["index"], arrays["inputs"])
        return None

    @cached_property
    def target(self) -> float | None:
        """Validation accuracy that the time to target asks for, as in the claims."""
        if "val_accuracy" not in self.searched or self.searched.empty:
            return None
        target = float(target_accuracy(self.searched))
        return target if math.isfinite(target) else None

    @cached_property
    def missing(self) -> dict[str, list[str]]:
        """By phase, the runs that were asked for and have neither ended nor left a record, not even a broken one."""
        known = {*self.results.run, *self.broken}
        missing = {phase: [run for run in runs if run not in known] for phase, runs in self.asked["runs"].items()}
        return {phase: runs for phase, runs in missing.items() if runs}


def read_study(folder: Path) -> Study:
    """What a study's folder holds, of its last command.

    results.csv is rewritten where it lacks a run that has a record, as it does after an interrupted study.

    Raises:
        ConfigError: the folder holds no study, or study.json or results.csv is broken.
    """
    path = folder / "study.json"
    require(path.is_file(), "study", folder, "not a study's folder, as it has no study.json; see outputs/")
    asked = _read_json(path)
    reason = asked if isinstance(asked, str) else _problem_of_study(asked)
    if reason:
        raise ConfigError(f"{path}: broken ({reason}); run the study's command again to write it anew")

    # What older studies lack, or leave null, is empty.
    asked |= {key: asked.get(key) or {} for key in ("grid", "protocol", "environment", "claims")}
    records, broken = {}, {}
    for run in sorted(path for path in folder.glob("runs/*") if path.is_dir()):
        if (run / "run.json").is_file():
            record = _read_json(run / "run.json")
            reason = record if isinstance(record, str) else _problem(record, run.name)
            if reason:
                broken[run.name] = reason
            else:
                records[run.name] = record
    table = _results(folder, records.values())

    names = {run for runs in asked["runs"].values() for run in runs}
    return Study(
        folder=folder,
        asked=asked,
        results=table[table.run.isin(names)].reset_index(drop=True),
        records={run: record for run, record in records.items() if run in names},
        broken={run: reason for run, reason in broken.items() if run in names},
        others=len({*table.run, *broken} - names),
    )


def read_histories(folder: Path, runs: Iterable[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """A row per logged step of each run, with the column `run`; of those that cannot be read the reason."""
    histories, unreadable = [], {}
    for run in runs:
        try:
            history = read_history(folder / "runs" / run)
        except (OSError, ValueError) as error:
            unreadable[run] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        words = list(history.select_dtypes(exclude="number"))
        if "step" not in history or words:
            unreadable[run] = f"{listed(words)}: no numbers" if words else "no column step"
        else:
            histories.append(history.assign(run=run))
    columns = pd.DataFrame(columns=["run", "step"])
    return pd.concat(histories, ignore_index=True) if histories else columns, unreadable


def settings(record: Mapping[str, Any]) -> dict[str, str]:
    """A run's config as flat text, without what belongs to the run and not to its arm."""
    flat = _flat(record.get("config") or {})
    return {key: value for key, value in flat.items() if key not in NOT_OF_AN_ARM and not key.startswith("claims.")}


def environment_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Where a run was made, as flat text: `device`, `commit`, `versions.torch`, ..."""
    flat = _flat(record.get("environment") or {})
    return {key: value for key, value in flat.items() if value != "null"}


def device(environment: Mapping[str, Any]) -> str | None:
    names = [environment.get("device"), environment.get("device_name")]
    return " ".join(str(name) for name in names if name) or None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _problem_of_study(asked: Any) -> str | None:
    """Why study.json does not say what was asked; None where it does."""
    if not (isinstance(asked, dict) and isinstance(asked.get("arms"), dict) and asked["arms"]):
        return "it must name the study's arms"
    if not (_is_table(asked.get("runs")) and all(isinstance(runs, list) for runs in asked["runs"].values())):
        return "it must name the study's runs"
    optional = {key: asked.get(key) or {} for key in ("grid", "protocol", "environment", "claims")}
    accepted = {key: isinstance(value, dict) for key, value in optional.items()}
    if all(accepted.values()):
        protocol = optional["protocol"]
        accepted |= {
            "grid": _is_table(optional["grid"], _are_numbers),
            "protocol.extended": _is_table(protocol.get("extended") or {}, is_number),
            "environment.versions": _is_table(optional["environment"].get("versions") or {}),
            "command": isinstance(asked.get("command") or [], list),
            "classes": isinstance(asked.get("classes") or [], list)
            and all(isinstance(name, str) for name in asked.get("classes") or []),
            "hparams": _is_table(asked.get("hparams") or {}, lambda values: isinstance(values, list)),
            "num_classes": asked.get("num_classes") is None
            or is_number(asked["num_classes"])
            or _is_table(asked["num_classes"], is_number),
        }
        for key in ("search_seeds", "confirm_seeds"):
            accepted[f"protocol.{key}"] = _are_numbers(protocol.get(key) or [])
        ladder = protocol.get("ladder") or []
        accepted["protocol.ladder"] = isinstance(ladder, list) and all(
            isinstance(arm, str) and arm in asked["arms"] for arm in ladder
        )
    refused = [key for key, holds in accepted.items() if not holds]
    return f"it has no valid {listed(refused)}" if refused else None


def _problem(record: Any, folder: str) -> str | None:
    """Why a `run.json` is no record of the run in `folder`; None where it is one."""
    if not isinstance(record, dict):
        return "holds no record of a run"
    lacking = [key for key in (*COLUMNS, "metrics") if key not in record]
    if lacking:
        return f"lacks {listed(lacking)}"
    if record["run"] != folder:
        return f"is the record of another run, {record['run']}"
    accepted = {
        "phase": record["phase"] in ("search", "confirm", "run"),
        "status": record["status"] in ("finished", "diverged", "failed"),
        "metrics": _is_table(record["metrics"], lambda value: value is None or is_number(value)),
        "environment": _is_table(record.get("environment") or {}),
        "config": _is_table(record.get("config") or {})
        and _is_table((record.get("config") or {}).get("optimizer", {})),
        "pack": _is_table(record.get("pack") or {}),
        "curves": _is_table(record.get("curves") or {}, lambda curves: curves is None or _are_curves(curves)),
    }
    accepted |= {key: isinstance(record[key], str) for key in ("arm", "head")}
    accepted |= {key: is_number(record[key]) for key in ("seed", "lr", "steps", "wall_s")}
    refused = [key for key, holds in accepted.items() if not holds]
    return f"has no valid {listed(refused)}" if refused else None


def _is_table(value: Any, accepts: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(value, dict) and all(map(accepts, value.values()))


def _are_curves(kinds: Any) -> bool:
    """Whether they are lists of numbers by name, by kind."""
    gappy = partial(_are_numbers, gaps=True)
    return _is_table(kinds, lambda curves: curves is None or _is_table(curves, gappy))


def _are_numbers(values: Any, gaps: bool = False) -> bool:
    return isinstance(values, list) and all(is_number(value) or (gaps and value is None) for value in values)


def _read_json(path: Path) -> Any:
    """What the file holds, or a str: why it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _results(folder: Path, records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """results.csv with the rows of the records that came after it.

    A run whose record is broken keeps its row: what was measured is not lost.
    """
    path = folder / "results.csv"
    table = results(records)
    if path.exists():
        try:
            written = read_results(folder)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: broken ({str(error).splitlines()[0]}); {REMEDY}") from error
        lacking = [column for column in COLUMNS if column not in written]
        if lacking:
            raise ConfigError(f"{path}: broken (no column {listed(lacking)}); {REMEDY}")
        measured = written[[column for column in written if column not in COLUMNS] + ["seed", "lr"]]
        words = [column for column in measured if not pd.api.types.is_numeric_dtype(measured[column])]
        if (len(written) and words) or written[["run", "phase", "arm", "status"]].isna().any(axis=None):
            raise ConfigError(f"{path}: broken (cells that are no numbers or are empty); {REMEDY}")
        twice = written.run[written.run.duplicated()]
        if len(twice):
            raise ConfigError(f"{path}: broken (more than one row of {listed(twice)}); {REMEDY}")
        kept = written[~written.run.isin(table.run)]
        parts = [part for part in (table, kept) if len(part)]
        table = pd.concat(parts, ignore_index=True) if parts else written
        # Kept rows are not worth a rewrite: reading and writing may change a number's last digit.
        if {*table.run} == {*written.run} and (len(kept) or table.to_csv(index=False) == path.read_text("utf-8")):
            return table
    write_atomically(path, table.to_csv(index=False))
    return table


def _flat(node: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat(node).items()}
