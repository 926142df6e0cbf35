"""A study on disk: `study.json` says what was asked, which runs belong to it, and what it claims."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headtohead.options import ConfigError, build, nearest, require
from headtohead.record.files import to_json, write_atomically
from headtohead.record.run import VERSION, Environment, OtherReleaseError, build_record

Search = Literal["full", "halving"]


@dataclass(frozen=True)
class Claim:
    """A claim that is commonly made of one head against every other.

    Attributes:
        sentence: The claim as it is commonly put.
        metric: Column of results.csv, or metric derived from several runs.
        phase: "confirm" judges each arm at its best trial, "search" over all trials.
        direction: Whether the favoured head is said to have the higher or the lower metric.
        margin: Size below which a difference does not matter, in the metric's unit. It is fixed before any run.
        favours: Name of the favoured head, as in `head=softmax`.
        weight: Share of the level of the claims about a pair of arms, in [0, 1]. None shares what others leave. 0 is
            for a fact of construction, which is shown and takes no part in the correction.
        selected_by: Validation metric, such as "val_nll", by whose best trial of each arm a claim of the phase
            "confirm" is judged; None takes the study's primary one.
    """

    sentence: str
    metric: str
    phase: Literal["search", "confirm"]
    direction: Literal["higher", "lower"]
    margin: float
    favours: str
    weight: float | None = None
    selected_by: str | None = None

    def __post_init__(self):
        weight = self.weight
        require(
            weight is None or 0 <= weight <= 1, "claim.weight", weight, "from 0 to 1, or null for what others leave"
        )
        holds = math.isfinite(self.margin) and self.margin > 0
        require(holds, "claim.margin", self.margin, "must be positive and finite, in the metric's unit")
        all_trials = "null, as a claim of the phase search is judged over all trials"
        require(self.phase == "confirm" or self.selected_by is None, "claim.selected_by", self.selected_by, all_trials)


@dataclass(frozen=True)
class Range:
    """Range of a tuned setting.

    Attributes:
        low: Lower end.
        high: Upper end, above the lower one.
        log: Whether the logarithm of the setting is uniform over the range, not the setting.
    """

    low: float
    high: float
    log: bool

    def __post_init__(self):
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        require(finite and self.low < self.high, "range.low", self.low, f"must be finite and below high={self.high}")
        require(self.low > 0 or not self.log, "range.low", self.low, "must be above 0 for a logarithm")

    @property
    def override(self) -> str:
        """Range as it is written on a command line."""
        interval = f"interval({self.low:g},{self.high:g})"
        return f"tag(log,{interval})" if self.log else interval


@dataclass(frozen=True, order=True)
class Trial:
    """One point of the tuned settings.

    Attributes:
        lr: Learning rate.
        number: Number of the point of the study's space, from 1 on; 0 where the study tunes no range.
    """

    lr: float
    number: int = 0

    def __post_init__(self):
        require(math.isfinite(self.lr), "trial.lr", self.lr, "must be finite")
        require(0 <= self.number < 2**63, "trial.number", self.number, "must be 0 or more")


@dataclass(frozen=True)
class FoldChoice:
    """The trial of an arm in one fold, chosen by the validation examples that the fold does not test.

    Attributes:
        criterion: Validation metric.
        arm: Label of the arm.
        seed: Seed of the repetition.
        fold: Number of the fold.
        trial: Best trial.
    """

    criterion: str
    arm: str
    seed: int
    fold: int
    trial: Trial

    @property
    def of(self) -> tuple[str, int, int]:
        """Arm, seed and fold."""
        return self.arm, self.seed, self.fold


@dataclass(frozen=True)
class StudyProtocol:
    """Protocol of a study: its seeds, the choice of trials and the ladder.

    Attributes:
        search_seeds: Seeds of the search, or of all runs where there is none.
        confirm_seeds: Fresh seeds of the confirm phase; empty without one.
        selected_by: Primary criterion: the validation metric that chooses each arm's trial.
        extended: Number of learning rates that were added to the grid `below` and `above`.
        ladder: Labels of arms, in order: the report splits the difference between the first and the last into steps.
            Empty without a ladder.
        looks: Number of seeds that each arm is compared by at each look, ascending. A look is a moment at which
            verdicts are computed with more seeds than before.
        best: For each criterion the best trial of each arm. Empty before the confirm phase, and in records of older
            releases.
        of_folds: Choices for folds of the confirm phase that differ from `best`.
        search: "full" where every trial has all seeds of the search; "halving" where the worse half of an arm's trials
            is dropped after each doubling of the seeds.
        trials: Number of points of the space; 0 without one.
    """

    search_seeds: tuple[int, ...]
    confirm_seeds: tuple[int, ...]
    selected_by: str
    extended: dict[str, int]
    ladder: tuple[str, ...]
    looks: tuple[int, ...] = ()
    best: dict[str, dict[str, Trial]] = field(default_factory=dict)
    of_folds: tuple[FoldChoice, ...] = ()
    search: Search = "full"
    trials: int = 0


@dataclass(frozen=True)
class DataSummary:
    """Data of some arms of a study.

    Attributes:
        arms: Labels of the arms that have these data.
        name: Name of the dataset.
        classes: Names of the classes.
        counts: Number of examples of each class, by split: "train", "val" and "test". With folds, those that are tested
            in all of them.
        skipped: Files, or columns of a table, that were taken for no data.
        seen: Number of test examples that also occur outside the test split.
        folds: Number of folds; None with a fixed test split.
    """

    arms: tuple[str, ...]
    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    skipped: tuple[str, ...]
    seen: int = 0
    folds: int | None = None


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """Contents of `study.json`.

    Attributes:
        version: Version of the layout of this file.
        name: Name of the study, which is that of its folder.
        command: Command line, as it was typed.
        common: Overrides that all runs share.
        started: Time of the command, as ISO 8601 in UTC.
        num_classes: Number of classes of each arm.
        classes: Names of the classes; empty where arms differ in them.
        arms: Overrides of each arm, by its label.
        grid: Values of each key that is tuned by a list, the learning rate, ascending.
        protocol: Protocol of the study.
        runs: Names of the runs, by phase.
        hparams: Columns of TensorBoard's HParams page, each with all values that occur.
        claims: Claims that the study tests, by id.
        environment: Versions, device and commit of the command.
        data: Data of the arms; empty in records of older releases, as are the attributes below.
        settings: Resolved settings that all runs share, by dotted key, but for seed and learning rate.
        sources: For each arm the sources of its runs, as in `run.json`.
        contents: Checksum of the contents of files, by that of their names, sizes and times: while these stay, the
            files need not be read.
        space: Ranges of the settings that are tuned, by dotted key. An arm may lack some of them.
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
    data: tuple[DataSummary, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    space: dict[str, Range] = field(default_factory=dict)

    def __post_init__(self):
        require(self.arms, "arms", "{}", "a study has one arm or more")
        for arm in self.protocol.ladder:
            require(arm in self.arms, "protocol.ladder", arm, f"no arm of the study; {nearest(arm, self.arms)}")
        missing = [arm for arm in self.arms if arm not in self.num_classes]
        for arm, count in self.num_classes.items():
            require(2 <= count < 2**31, f"num_classes.{arm}", count, "must be 2 or more")
        for key, values in self.grid.items():
            require(all(map(math.isfinite, values)), f"grid.{key}", values, "must be finite")
        for key in self.space:
            require("." in key, "space", key, "must be dotted keys, such as optimizer.momentum")
        for key, values in self.hparams.items():
            require(values, f"hparams.{key}", "[]", "must name a value or more")
        for phase, runs in self.runs.items():
            for run in runs:
                is_name = run not in ("", ".", "..") and not {"/", "\\", "\0"} & {*run}
                require(is_name, f"runs.{phase}", run, "must be names of folders in runs/")
        for criterion, trials in self.protocol.best.items():
            for arm in trials:
                require(arm in self.arms, f"protocol.best.{criterion}", arm, f"no arm; {nearest(arm, self.arms)}")
        for arm in (choice.arm for choice in self.protocol.of_folds):
            require(arm in self.arms, "protocol.of_folds", arm, f"no arm; {nearest(arm, self.arms)}")
        require(not missing, "num_classes", ", ".join(self.num_classes), f"must name every arm, also {missing}")

    @property
    def criteria(self) -> tuple[str, ...]:
        """The validation metrics by whose best trials the study compares: the primary one, those of claims."""
        of_claims = [claim.selected_by for claim in self.claims.values() if claim.selected_by]
        return tuple(dict.fromkeys([self.protocol.selected_by, *of_claims]))


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
    if not path.is_file():
        accepted = "the folder of a study, such as outputs/digits"
        raise ConfigError(f"{folder}: not a study's folder, as it has no study.json; accepted: {accepted}")
    try:
        return build_record(StudyRecord, path)
    except OtherReleaseError as error:
        raise OtherReleaseError(f"{path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: broken ({error}); run the study's command again to write it anew") from error
