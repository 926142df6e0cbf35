"""A study on disk: `study.json` says what was asked, which runs belong to it, and what it claims."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headtohead.options import ConfigError, build, nearest, require
from headtohead.record.files import to_json, write_atomically
from headtohead.record.run import VERSION, Environment, OtherReleaseError, build_record


@dataclass(frozen=True)
class Claim:
    """What is commonly claimed of one head against every other.

    Attributes:
        sentence: as it is commonly put.
        metric: a column of results.csv, or a metric derived from several runs.
        phase: "confirm" judges each arm at its best learning rate, "search" over the whole grid.
        direction: of the favoured head's metric.
        margin: differences within it do not matter; in the metric's unit, fixed before any run.
        favours: the head that the claim prefers, as in `head=softmax`.
    """

    sentence: str
    metric: str
    phase: Literal["search", "confirm"]
    direction: Literal["higher", "lower"]
    margin: float
    favours: str

    def __post_init__(self):
        holds = math.isfinite(self.margin) and self.margin > 0
        require(holds, "claim.margin", self.margin, "must be positive and finite, in the metric's unit")


@dataclass(frozen=True)
class StudyProtocol:
    """How a study chose and compared.

    Attributes:
        confirm_seeds: fresh ones; empty without a confirm phase.
        selected_by: the validation metric that chose each arm's learning rate.
        extended: by how many learning rates the grid grew, `below` and `above`.
        ladder: arms, in order, between whose ends the report splits the difference; empty without a ladder.
    """

    search_seeds: tuple[int, ...]
    confirm_seeds: tuple[int, ...]
    selected_by: str
    extended: dict[str, int]
    ladder: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """What `study.json` holds.

    Attributes:
        version: of the layout of this file.
        command: as it was typed.
        common: the overrides that all runs share.
        started: when, as ISO 8601 in UTC.
        num_classes: of each arm.
        classes: their names; empty where arms differ in them.
        arms: for each arm's label its own overrides.
        grid: for each tuned key its values, ascending.
        runs: the names of the runs by phase.
        hparams: columns of TensorBoard's HParams page, with all values that occur.
        claims: that the study tests, by id.
    """

    version: int = VERSION
    name: str
    command: tuple[str, ...]
    common: tuple[str, ...]
    started: str
    num_classes: dict[str, int]
    classes: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    grid: dict[str, tuple[float, ...]]
    protocol: StudyProtocol
    runs: dict[str, tuple[str, ...]]
    hparams: dict[str, tuple[int | float | str, ...]]
    claims: dict[str, Claim]
    environment: Environment

    def __post_init__(self):
        require(self.arms, "arms", "{}", "a study has one arm or more")
        for arm in self.protocol.ladder:
            require(arm in self.arms, "protocol.ladder", arm, f"no arm of the study; {nearest(arm, self.arms)}")
        missing = [arm for arm in self.arms if arm not in self.num_classes]
        require(not missing, "num_classes", ", ".join(self.num_classes), f"must name every arm, also {missing}")


def read_claims(nodes: Mapping[str, Any]) -> dict[str, Claim]:
    """Check claims from their configuration, the node `claims`.

    Raises:
        ConfigError: a claim has an unknown or missing key, or a value that is not accepted.
    """
    return {claim: build(Claim, node, f"claims.{claim}") for claim, node in nodes.items()}


def write_study(folder: Path, study: StudyRecord) -> None:
    """Write study.json."""
    write_atomically(folder / "study.json", to_json(study))


def read_study_record(folder: Path) -> StudyRecord:
    """Read study.json.

    Raises:
        OtherReleaseError: it has another layout.
        ConfigError: there is none, or it is broken; the message says how to go on.
    """
    path = folder / "study.json"
    require(path.is_file(), "study", folder, "not a study's folder, as it has no study.json; see outputs/")
    try:
        return build_record(StudyRecord, path)
    except OtherReleaseError:
        raise
    except ConfigError as error:
        raise ConfigError(f"{path}: broken ({error}); run the study's command again to write it anew") from error
