"""Provenance of a study: all that is needed to repeat it."""

import shlex
from collections import Counter

import pandas as pd

from headtohead.analysis.study import Study, arm_config
from headtohead.analysis.text import listed, plural, ranges
from headtohead.record.run import RunRecord
from headtohead.record.study import Range, StudyRecord

LR = "optimizer.lr"
# The most classes whose numbers of examples are listed.
SHOWN_CLASSES = 20


def differing_keys(study: Study) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the config keys in which arms differ, (keys, arms), and the values that all arms share, by key."""
    configs = {}
    for arm in study.arms:
        run = next((run for run in study.records.values() if run.arm == arm), None)
        if run is not None:
            configs[arm] = arm_config(run)
    table = pd.DataFrame(configs).sort_index()
    if table.empty:
        return table, {}
    differs = table.nunique(axis=1, dropna=False) > 1
    return table.loc[differs].fillna("–"), table.loc[~differs].iloc[:, 0].to_dict()


def command(study: Study) -> str:
    """Return the study's command, quoted for a shell."""
    return shlex.join(study.record.command)


def facts(study: Study) -> dict[str, str]:
    """Return what there is to know about how a study was made, by name; facts without a value are left out."""
    protocol, environment = study.record.protocol, study.record.environment
    packs = Counter(_pack(run) for run in study.records.values())
    of_space = LR in study.record.space  # the trials have rates of their own
    learning_rates = study.grid or ([] if of_space else sorted(set(study.results.lr.dropna())))
    points = f"{protocol.trials}, the same for all arms" if study.record.space else ""
    lines = {
        "started": study.record.started,
        "data": "; ".join(data(study.record)),
        "arms": listed(study.arms, most=20),
        "learning rates": ", ".join(f"{lr:g}" for lr in learning_rates),
        "tuned settings": listed(map(_range, study.record.space.items()), most=20),
        "trials": f"{points}, by halving" if points and protocol.search == "halving" else points,
        "search seeds" if study.tuned else "seeds": ranges(protocol.search_seeds),
        "confirm seeds": ranges(protocol.confirm_seeds),
        f"{'trials' if study.record.space else 'rates'} chosen by": _choice(study) if study.tuned else "nobody",
        "comparisons": "paired by seed and crossed with blocks of test examples: t tests, Holm's correction with "
        "weights over the claims; equivalence by two one-sided tests against the claim's margin",
        "looks": f"{len(protocol.looks)}, at {listed(protocol.looks)} seeds" if protocol.looks else "not recorded",
        "runs": f"{len(study.results)}, {study.results.wall_s.sum():.0f} s of training in total",
        "packs": listed(f"{mode} ({plural(count, 'run')})" for mode, count in packs.most_common()),
        "device": environment.full_device,
        "commit": environment.commit or "",
    }
    return {name: text for name, text in lines.items() if text}


def _range(item: tuple[str, Range]) -> str:
    key, space = item
    return f"{key} from {space.low:g} to {space.high:g}{' (log)' if space.log else ''}"


def _choice(study: Study) -> str:
    """Return by what trials were chosen."""
    chosen = f"mean {listed(study.record.criteria)}"
    if not any(part.folds for part in study.record.data):
        return chosen
    others = plural(len(study.record.protocol.of_folds), "choice")
    return f"{chosen} of the validation examples outside the fold; {others} of folds differ from the arm's"


def data(record: StudyRecord) -> list[str]:
    """Return a line on each dataset of a study: its classes, and how many examples each has in each split."""
    lines = []
    for part in record.data:
        named = f"{part.name} of {listed(part.arms, most=3)}" if len(record.data) > 1 else part.name
        splits = ", ".join(f"{sum(counts):,} {split}" for split, counts in part.counts.items())
        splits += f" (in {part.folds} folds)" if part.folds else ""
        if len(part.classes) <= SHOWN_CLASSES:
            each = zip(part.classes, zip(*part.counts.values(), strict=True), strict=True)
            classes = ", ".join(f"{name} ({' + '.join(f'{count:,}' for count in counts)})" for name, counts in each)
        else:
            ranges_of_splits = (f"{min(counts):,} to {max(counts):,}" for counts in part.counts.values())
            classes = f"{listed(part.classes, most=SHOWN_CLASSES)} ({' + '.join(ranges_of_splits)} each)"
        skipped = f"; skipped: {'; '.join(part.skipped)}" if part.skipped else ""
        lines.append(f"{named}: {splits} examples in {len(part.classes):,} classes: {classes}{skipped}")
    return lines


def versions(study: Study) -> dict[str, str]:
    """Return the versions of Python and of the packages that the study's command ran with."""
    environment = study.record.environment
    return {"python": environment.python, **environment.versions}


def _pack(run: RunRecord) -> str:
    return f"{run.pack.mode or 'unknown'}, size {run.pack.size}"
