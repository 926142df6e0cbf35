"""Drift: a study's folder was made with another configuration, claims, code, data or libraries than the command."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from headtohead.options import ConfigError
from headtohead.record.files import differences, flat
from headtohead.record.run import NOT_OF_A_RUN, Environment, OtherReleaseError, read_run
from headtohead.record.study import StudyRecord, read_study_record
from headtohead.runner.axes import FOLD, LR, SEED
from headtohead.runner.resolve import Member
from headtohead.runner.sources import changes

# The most differences that a refusal shows.
SHOWN_DIFFERENCES = 3
# Keys in which two commands on one study may differ.
MAY_DIFFER = NOT_OF_A_RUN | {SEED, FOLD, LR, "pack_size"}


def shared_settings(members: Sequence[Member]) -> dict[str, Any]:
    """Return the settings that all runs of a command share, by dotted key, as far as another command must keep them."""
    first, *others = (flat(values) for values in {id(member.values): member.values for member in members}.values())
    return {
        key: value
        for key, value in first.items()
        if key not in MAY_DIFFER and all(key in other and other[key] == value for other in others)
    }


def previous_record(folder: Path) -> StudyRecord | None:
    """Read the study.json of a folder; None where there is none, or a broken one, which is written anew.

    Raises:
        OtherReleaseError: it has another layout.
    """
    try:
        return read_study_record(folder)
    except OtherReleaseError:
        raise
    except ConfigError:
        return None  # the runs have records of their own


def refuse_drift(members: Sequence[Member], before: StudyRecord | None, now: StudyRecord) -> None:
    """Refuse to go on with a study that was made otherwise.

    Args:
        members: the runs of the command.
        before: the study.json of the folder.
        now: the study.json of the command.

    Raises:
        ConfigError: with the first differences.
    """
    lines = _study_drift(before, now) if before else []
    lines = lines or next(filter(None, (_run_drift(member, now) for member in members)), [])
    if lines:
        more = f" and {len(lines) - SHOWN_DIFFERENCES} more" if len(lines) > SHOWN_DIFFERENCES else ""
        raise ConfigError(
            f"{members[0].study} was made otherwise ({'; '.join(lines[:SHOWN_DIFFERENCES])}{more})\n"
            "accepted: another name=, or accept_drift=true to keep its runs of the same configuration and data"
        )


def _study_drift(before: StudyRecord, now: StudyRecord) -> list[str]:
    """List, a line each, how two records of a study differ in what both commands give all their runs."""
    common = before.settings.keys() & now.settings.keys()
    settings = [{key: record.settings[key] for key in now.settings if key in common} for record in (before, now)]
    lines = differences(*settings) + differences(*_claims(before, now))
    for arm in before.sources.keys() & now.sources.keys():
        lines += [line for line in changes(before.sources[arm], now.sources[arm]) if line not in lines]
    if before.space and now.space:
        spaces = [{"space": {key: asdict(of) for key, of in record.space.items()}} for record in (before, now)]
        lines += differences(*spaces)
    return lines + differences(_software(before.environment), _software(now.environment))


def _claims(before: StudyRecord, now: StudyRecord) -> list[dict[str, Any]]:
    """Return the claims of two records as far as they must agree.

    Claims may be judged at other learning rates. With another primary metric those on accuracy are about that metric.
    """
    primary = {f"test_{record.protocol.selected_by.removeprefix('val_')}" for record in (before, now)}
    free = primary | {"test_accuracy"} if len(primary) > 1 else set()
    return [
        {
            "claims": {
                name: replace(claim, selected_by=None)
                for name, claim in record.claims.items()
                if claim.metric not in free
            }
        }
        for record in (before, now)
    ]


def _run_drift(member: Member, now: StudyRecord) -> list[str]:
    """List, a line each, how the record of a run differs from the command."""
    try:
        run = read_run(member.folder)
    except OtherReleaseError as error:
        raise OtherReleaseError(f"{member.folder / 'run.json'}: {error}") from error
    except ConfigError:
        return []  # a run without a record, or with a broken one, is trained
    return [
        *differences(run.config, member.values, NOT_OF_A_RUN),
        *changes(run.sources, now.sources[member.run.arm]),
        *differences(_software(run.environment), _software(now.environment)),
    ]


def _software(environment: Environment) -> dict[str, Any]:
    return {"python": environment.python, "versions": environment.versions, "commit": environment.commit}
