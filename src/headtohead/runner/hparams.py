"""Hyperparameters for TensorBoard's HParams page: the columns of a study, and the row of a run."""

from collections.abc import Sequence
from typing import Any

from headtohead.record import events
from headtohead.record.files import flat
from headtohead.record.run import Phase
from headtohead.runner.axes import LR, SEED
from headtohead.runner.resolve import Member

Columns = dict[str, tuple[int | float | str, ...]]

# Columns that a study always has, beside the settings that differ between its runs.
ALWAYS = ("arm", "phase", LR, SEED)


def hparam_columns(members: Sequence[Member], phases: Sequence[Phase], fresh_seeds: Sequence[int]) -> Columns:
    """Return the hyperparameters that tell the runs of a study apart, each with all values that occur."""
    rows = [_settings(member, phase) for member in members for phase in phases]
    rows += [{**row, SEED: seed} for row in rows[:1] for seed in fresh_seeds]
    keys = dict.fromkeys(key for row in rows for key in row)
    values = {key: [row.get(key, events.ABSENT) for row in rows] for key in keys}
    kept = [key for key in keys if key in ALWAYS or len({repr(value) for value in values[key]}) > 1]
    return {key: tuple(events.hparam_values(values[key])) for key in kept}


def hparam_row(member: Member, phase: Phase, columns: Columns) -> dict[str, float | str]:
    """Return a run's values in the columns of its study."""
    settings = _settings(member, phase)
    return {name: events.hparam_cell(settings.get(name, events.ABSENT), column) for name, column in columns.items()}


def _settings(member: Member, phase: Phase) -> dict[str, Any]:
    return {"arm": member.run.arm, "phase": phase, **flat(member.values)}
