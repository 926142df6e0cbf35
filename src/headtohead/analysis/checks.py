"""What could be wrong with a study."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

from headtohead.analysis.claims import ALPHA, Verdict
from headtohead.analysis.statistics import smallest_sign_flip_p
from headtohead.analysis.study import Study, device, environment_of, settings
from headtohead.analysis.text import capitalised, listed, many_runs

# Intervals are honest with any number of seeds, but wide: fewer than these are a warning, and a remark.
FEW_SEEDS, MODEST_SEEDS = 10, 20


class Doubt(NamedTuple):
    """Something that could be wrong. A remark is no reason to distrust the answer."""

    kind: Literal["warning", "remark"]
    text: str


def doubts(study: Study, verdicts: Sequence[Verdict]) -> list[Doubt]:
    """What could be wrong, the gravest first."""
    found = [*_completeness(study), *_mixtures(study)]
    if len(study.arms) > 1:
        found = [*_tuning(study), *found, *_seeds(study), *_power(verdicts)]
    if not study.asked["claims"]:
        found.append(Doubt("remark", "study.json names no claims, so there are no verdicts on them."))
    unjudged: dict[str, list[str]] = {}
    if verdicts and study.final.groupby("arm").seed.nunique().max() < 2:
        found.append(Doubt("warning", "No claim is judged: it takes at least 2 seeds."))
        verdicts = []
    for verdict in verdicts:
        if not verdict.seeds:
            unjudged.setdefault(verdict.note or "not judged", []).append(verdict.claim)
    for note, claims in unjudged.items():
        claims = list(dict.fromkeys(claims))
        found.append(
            Doubt("warning", f"{'Claim' if len(claims) == 1 else 'Claims'} {listed(claims, most=20)}: {note}.")
        )
    return sorted(found, key=lambda doubt: doubt.kind == "remark")


def _tuning(study: Study) -> Iterable[Doubt]:
    if not study.tuned:
        rates = sorted(set(study.results.lr.dropna()))
        shared = f"one learning rate, {rates[0]:g}" if len(rates) == 1 else "learning rates that nobody searched"
        yield Doubt(
            "warning",
            f"The arms are not tuned: all ran at {shared}. The verdicts tell how the heads do there and say "
            "little about the heads; sweep optimizer.lr, so that every arm is compared at its own best rate.",
        )
    for arm, lr in study.best.items():
        if len(study.grid) > 1 and lr in (study.grid[0], study.grid[-1]):
            side = "lowest" if lr == study.grid[0] else "highest"
            yield Doubt(
                "warning",
                f"{arm} may not be tuned: its best learning rate, {lr:g}, is the {side} of the grid "
                f"({study.grid[0]:g} to {study.grid[-1]:g}).",
            )
    extended = study.asked["protocol"].get("extended") or {}
    if any(extended.values()):
        sides = [f"{count} {side}" for side, count in extended.items() if count]
        yield Doubt(
            "remark",
            f"The grid of every arm was extended by learning rates ({listed(sides)}), since an arm's best lay on its "
            "edge.",
        )


def _completeness(study: Study) -> Iterable[Doubt]:
    for phase, runs in study.missing.items():
        asked = len(study.asked["runs"][phase])
        yield Doubt(
            "warning",
            f"Half-finished: {len(runs)} of {asked} runs of the phase {phase} have no record, such as {runs[0]}.",
        )
    if study.tuned and not study.asked["runs"].get("confirm") and study.asked["protocol"].get("confirm_seeds"):
        yield Doubt("warning", "Half-finished: the confirm phase has not begun.")
    absent = [arm for arm in study.arms if not (study.final.arm == arm).any()]
    if absent:
        yield Doubt("warning", f"No run to compare by: {listed(absent)}.")
    for run, reason in study.broken.items():
        yield Doubt("warning", f"Broken record: runs/{run}/run.json ({reason}).")
    for run, reason in study.unreadable.items():
        yield Doubt("warning", f"Broken history: runs/{run}/history.csv ({reason}); no curve shows this run.")
    for run, reason in study.unreadable_predictions.items():
        yield Doubt("warning", f"Broken predictions: runs/{run}/predictions.npz ({reason}); no picture counts them.")
    failed = study.results[study.results.status == "failed"]
    if len(failed):
        reasons = Counter(_reason(study.records.get(run, {})) for run in failed.run)
        names = listed(failed.run, most=10)
        yield Doubt(
            "warning",
            f"{many_runs(len(failed))} failed: {names}. {capitalised(listed(reasons))}.",
        )
    diverged = study.results[study.results.status == "diverged"]
    if len(diverged):
        chosen = diverged.run.isin(study.final.run)
        each = listed(f"{count} of {arm}" for arm, count in diverged.arm.value_counts().sort_index().items())
        at_best = f", {chosen.sum()} of them at a chosen learning rate" if chosen.any() else ""
        yield Doubt(
            "warning" if chosen.any() else "remark",
            f"{many_runs(len(diverged))} diverged ({each}){at_best}; each counts as a guess.",
        )
    if study.others:
        yield Doubt("remark", f"{many_runs(study.others)} in the folder belong to earlier commands and are left out.")


def _seeds(study: Study) -> Iterable[Doubt]:
    counts = study.final.groupby("arm").seed.nunique()
    if counts.empty:
        return
    seeds = int(counts.min())
    plural = "seed" if seeds == 1 else "seeds"
    if seeds < FEW_SEEDS:
        yield Doubt("warning", f"Few seeds: an arm has {seeds} {plural} to compare by; {FEW_SEEDS} are the default.")
    elif seeds < MODEST_SEEDS:
        yield Doubt("remark", f"{seeds} {plural} per arm find large differences only; small ones need more.")
    if counts.nunique() > 1:
        each = listed(f"{count} of {arm}" for arm, count in counts.items())
        yield Doubt("warning", f"Arms have different numbers of seeds ({each}); only shared seeds are compared.")


def _power(verdicts: Sequence[Verdict]) -> Iterable[Doubt]:
    """Whether so many pairs of runs can pass the correction for so many claims at all."""
    families: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        families.setdefault((verdict.arm, verdict.versus), []).append(verdict)
    for (arm, versus), family in families.items():
        pairs = max(verdict.seeds for verdict in family)
        tests = sum(math.isfinite(verdict.p) for verdict in family)
        if tests and smallest_sign_flip_p(pairs) > ALPHA / tests:
            enough = next(n for n in range(pairs + 1, 64) if smallest_sign_flip_p(n) <= ALPHA / tests)
            yield Doubt(
                "warning",
                f"No claim on {arm} and {versus} can be supported or refuted: {pairs} pairs of runs cannot reach "
                f"p < {ALPHA:g} / {tests}, which the correction for {tests} claims asks of the clearest one. It takes "
                f"{enough} seeds, or fewer claims.",
            )


def _mixtures(study: Study) -> Iterable[Doubt]:
    """Differences between runs that are no part of the comparison."""
    records = study.records.values()
    environments = [environment_of(record) for record in records]
    columns = {
        "devices": [device(environment) for environment in environments],
        "pack modes": [(record.get("pack") or {}).get("mode") for record in records],
        "commits": [environment.get("commit") for environment in environments],
        "versions of Python": [environment.get("python") for environment in environments],
    }
    for key in sorted({key for environment in environments for key in environment if key.startswith("versions.")}):
        columns[f"versions of {key.partition('.')[2]}"] = [environment.get(key) for environment in environments]
    for what, values in columns.items():
        counts = Counter(str(value) for value in values if value is not None)
        if len(counts) > 1:
            each = listed(f"{value} ({count})" for value, count in counts.most_common())
            yield Doubt("warning", f"Mixed {what}: {each} runs.")
    if any(environment.get("commit", "").endswith("+") for environment in environments):
        yield Doubt("remark", "The code differed from its commit when runs were made (marked with a +).")
    yield from _strays(study)


def _strays(study: Study) -> Iterable[Doubt]:
    """Runs whose config differs from that of most runs of their arm, or from their own row."""
    for arm in study.arms:
        configs = {run: settings(record) for run, record in study.records.items() if record["arm"] == arm}
        if not configs:
            continue
        table = pd.DataFrame.from_dict(configs, orient="index").fillna("-")
        odd = table != table.mode().iloc[0]
        strays = odd.any(axis=1)
        if strays.any():
            keys = odd.columns[odd.any()]
            yield Doubt(
                "warning",
                f"Records of other configs under one name: {many_runs(int(strays.sum()))} of {arm}, such as "
                f"{strays.idxmax()}, differ from the rest in {listed(keys)}.",
            )
    for run, record in study.records.items():
        config = record.get("config") or {}
        lr = (config.get("optimizer") or {}).get("lr", record["lr"])
        if config.get("seed", record["seed"]) != record["seed"] or lr != record["lr"]:
            yield Doubt("warning", f"The record of {run} does not fit its config: another seed or learning rate.")


def _reason(record: Mapping[str, Any]) -> str:
    """The last line of a traceback."""
    lines = str(record.get("error") or "no reason given").strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else "no reason given"
