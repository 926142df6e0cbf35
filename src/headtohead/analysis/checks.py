"""Checks of a study: what could be wrong with it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from headtohead.analysis.claims import Verdict
from headtohead.analysis.guess import beats_a_guess, beats_by_accuracy, final_interval, guess
from headtohead.analysis.pairing import HALVED
from headtohead.analysis.study import Study, arm_config
from headtohead.analysis.text import capitalised, decimal, listed, plural, plus_minus
from headtohead.analysis.tuning import at_ends, halving
from headtohead.record.files import flat
from headtohead.record.run import RunRecord

# Intervals cover with any number of seeds, but few seeds make them wide. Fewer than FEW_SEEDS are a warning, fewer
# than MODEST_SEEDS a remark.
FEW_SEEDS, MODEST_SEEDS = 10, 20
# Fewer blocks of test examples say little about other examples.
FEW_BLOCKS = 5
# Two arms are the same where in so large a share of their pairs the accuracy is equal and the NLL differs by less than
# this share of it: the same mathematics, computed in another order.
SAME_PAIRS, SAME_NLL = 0.9, 1e-3
# Numbers of examples of a class, and of a validation split, up to which there is a warning.
FEW_EXAMPLES, FEW_VALIDATED = 2, 10


@dataclass(frozen=True)
class Check:
    """Result of a check.

    Attributes:
        kind: "warning" where it is a reason to distrust the answer, else "remark".
        text: One or two sentences.
    """

    kind: Literal["warning", "remark"]
    text: str


def run_checks(study: Study, verdicts: Sequence[Verdict]) -> list[Check]:
    """Return what could be wrong with a study, warnings first."""
    checks = [*_completeness(study), *_mixtures(study)]
    if len(study.arms) > 1:
        checks = [*_tuning(study), *checks, *_seeds(study), *_test_examples(study), *_same_arms(study)]
    if not study.record.claims:
        checks.append(Check("remark", "study.json names no claims, so there are no verdicts."))
    checks += [*_unjudged(study, verdicts), *_guesses(study), *_small_data(study)]
    return sorted(checks, key=lambda check: check.kind == "remark")


def _tuning(study: Study) -> Iterable[Check]:
    if not study.tuned:
        rates = sorted(set(study.results.lr.dropna()))
        shared = f"one learning rate, {rates[0]:g}" if len(rates) == 1 else "learning rates without a search"
        yield Check(
            "warning",
            f"The arms are not tuned: all of them ran at {shared}. The verdicts hold at that rate and say little about "
            "the heads. Sweep optimizer.lr to compare every arm at its own best rate.",
        )
    chosen = [choice for criterion in study.record.criteria for choice in study.best_by(criterion).items()]
    for arm, lr in dict.fromkeys((arm, trial.lr) for arm, trial in chosen):
        if len(study.grid) > 1 and lr in (study.grid[0], study.grid[-1]):
            side = "lowest" if lr == study.grid[0] else "highest"
            yield Check(
                "warning",
                f"{arm} may not be tuned: its best learning rate, {lr:g}, is the {side} of the grid "
                f"({study.grid[0]:g} to {study.grid[-1]:g}).",
            )
    for setting in at_ends(study):
        yield Check("warning", setting.text)
    if halving(study):
        yield Check("remark", halving(study))
    extended = [f"{count} {side}" for side, count in study.record.protocol.extended.items() if count]
    if extended:
        yield Check(
            "remark",
            f"headtohead extended the grid of every arm by learning rates ({listed(extended)}), because the best rate "
            "of an arm was on its edge.",
        )


def _completeness(study: Study) -> Iterable[Check]:
    for phase, runs in study.missing.items():
        planned = len(study.record.runs[phase])
        yield Check(
            "warning",
            f"Half-finished: {len(runs)} of {planned} runs of the phase {phase} have no record, such as {runs[0]}.",
        )
    if study.tuned and not study.record.runs.get("confirm") and study.record.protocol.confirm_seeds:
        yield Check("warning", "Half-finished: the confirm phase has not begun.")
    absent = [arm for arm in study.arms if not (study.final.arm == arm).any()]
    if absent:
        yield Check("warning", f"No run to compare by: {listed(absent)}.")
    yield from _unreadable_files(study)
    yield from _unfinished_runs(study)
    if study.others:
        text = f"{plural(study.others, 'run')} in the folder belong to earlier commands. The report leaves them out."
        yield Check("remark", text)


def _unreadable_files(study: Study) -> Iterable[Check]:
    for run, reason in study.broken.items():
        yield Check("warning", f"Broken record: runs/{run}/run.json ({reason}).")
    for run, reason in study.unreadable_histories.items():
        yield Check("warning", f"Broken history: runs/{run}/history.csv ({reason}). No curve shows this run.")
    for run, reason in study.unreadable_predictions.items():
        yield Check("warning", f"Broken predictions: runs/{run}/predictions.npz ({reason}). No figure counts them.")
    if study.unreadable_examples:
        yield Check("warning", f"Broken examples: examples.npz ({study.unreadable_examples}). No figure shows them.")


def _unfinished_runs(study: Study) -> Iterable[Check]:
    failed = study.results.run[study.results.status == "failed"]
    if len(failed):
        reasons = Counter(_failure(study.records.get(run)) for run in failed)
        names, causes = listed(failed, most=10), capitalised(listed(reasons))
        yield Check("warning", f"{plural(len(failed), 'run')} failed: {names}. {causes}.")
    diverged = study.results.loc[study.results.status == "diverged"]
    if len(diverged):
        at_best = int((diverged.run.isin(study.final.run) | (diverged.phase == "confirm")).sum())
        each = listed(f"{count} of {arm}" for arm, count in diverged.arm.value_counts().sort_index().items())
        chosen = f", {at_best} of them at a chosen {study.choice}" if at_best else ""
        yield Check(
            "warning" if at_best else "remark",
            f"{plural(len(diverged), 'run')} diverged ({each}){chosen}. A diverged run counts at chance level.",
        )
    shares = (study.results.status == "diverged").groupby(study.results.arm).mean()
    most = [arm for arm in study.arms if shares.get(arm, 0) > 0.5]
    if most:
        text = f"Most runs of {listed(most)} diverged. What is said of {listed(most)} rests on the few that did not."
        yield Check("warning", text)


def _seeds(study: Study) -> Iterable[Check]:
    counts = study.final.groupby("arm").seed.nunique()
    if counts.empty:
        return
    fewest = int(counts.min())
    seeds = plural(fewest, "seed")
    if fewest < FEW_SEEDS:
        yield Check("warning", f"Few seeds: an arm has {seeds} to compare by. The default is {FEW_SEEDS}.")
    elif fewest < MODEST_SEEDS:
        yield Check("remark", f"{seeds} per arm detect large differences only. Small differences need more seeds.")
    if counts.nunique() > 1:
        each = listed(f"{count} of {arm}" for arm, count in counts.items())
        yield Check("warning", f"Arms have different numbers of seeds ({each}). Only shared seeds are compared.")


def _test_examples(study: Study) -> Iterable[Check]:
    """Warn where the test examples are too few to say how much depends on their choice."""
    tested = [run for run in study.records.values() if run.blocks and run.phase != "search"]
    counts = {len(run.blocks["size"]): run.blocks["size"] for run in tested}
    if not counts:
        return
    count = min(counts)
    examples = sum(size or 0 for size in counts[count])
    if count < FEW_BLOCKS:
        yield Check(
            "warning",
            f"Few test examples: {examples:.0f} make {plural(count, 'block')}, too few to tell how much a difference "
            "depends on their choice.",
        )


def _same_arms(study: Study) -> Iterable[Check]:
    """Remark on arms that are the same run by run, such as two ways to write one loss."""
    metrics = [name for name in ("test_accuracy", "test_nll") if study.is_measured(name)]
    runs = study.final.loc[study.final.status == "finished"]
    if len(metrics) < 2:
        return
    tables = [runs.pivot_table(index=["seed", "fold"], columns="arm", values=name) for name in metrics]
    arms = [arm for arm in study.arms if all(arm in table for table in tables)]
    accuracy, nll = ({arm: table[arm].to_numpy(float) for arm in arms} for table in tables)
    told: set[str] = set()
    for arm, other in combinations(arms, 2):
        paired = np.isfinite(nll[arm]) & np.isfinite(nll[other])
        apart = np.abs(nll[arm] - nll[other])[paired]
        same = (accuracy[arm] == accuracy[other])[paired] & (apart <= SAME_NLL * np.abs(nll[arm][paired]))
        pairs, alike = len(same), int(same.sum())
        if other in told or pairs < 2 or alike < SAME_PAIRS * pairs:
            continue
        told.add(other)
        what = "the same test results but for rounding" if apart.any() else "identical test results"
        share = f"all {pairs}" if alike == pairs else f"{alike} of {pairs}"
        yield Check("remark", f"{arm} and {other} are the same run by run: {what} in {share} pairs. Count them as one.")


def _unjudged(study: Study, verdicts: Sequence[Verdict]) -> Iterable[Check]:
    if verdicts and study.final.groupby("arm").seed.nunique().max() < 2:
        yield Check("warning", "No claim is judged: a verdict needs 2 seeds or more.")
        return
    claims: dict[str, list[str]] = {}
    for verdict in verdicts:
        if not verdict.seeds:
            claims.setdefault(verdict.note or "not judged", []).append(verdict.claim)
    for note, names in claims.items():
        unique = list(dict.fromkeys(names))
        # Who halves has chosen so.
        kind = "remark" if HALVED in note else "warning"
        yield Check(kind, f"{'Claim' if len(unique) == 1 else 'Claims'} {listed(unique, most=20)}: {note}.")


def _guesses(study: Study) -> Iterable[Check]:
    """Warn of arms that are no better than a guess, or whose probabilities are worse than one."""
    for arm, _ in study.by_arm(study.final):
        level = guess(study, arm)
        accuracy = final_interval(study, arm, f"{level.split}_accuracy")
        if not math.isnan(accuracy.mean) and not beats_by_accuracy(study, arm):
            reached, which = plus_minus(accuracy, 100, 2), "the largest class" if level.known else "one class"
            alone = ", but beats a guess by balanced accuracy" if beats_a_guess(study, arm) else ""
            yield Check(
                "warning",
                f"{arm} is not shown to beat a guess by accuracy{alone}: it is right for {reached} % of the "
                f"{level.split_name} examples, always naming {which} for {decimal(100 * level.accuracy, 2)} %.",
            )
        nll = final_interval(study, arm, f"{level.split}_nll")
        if nll.mean > level.nll + 1e-6:
            which = "the shares of the classes" if level.known else "equal probabilities"
            yield Check(
                "warning",
                f"The probabilities of {arm} are worse than a guess: their {level.split_name} NLL is "
                f"{plus_minus(nll, 1, 3)}, that of {which} {level.nll:.3f}.",
            )


def _small_data(study: Study) -> Iterable[Check]:
    """Warn of classes and of validation splits with hardly an example, and of test examples that are no new ones."""
    for data in study.record.data:
        where = f" of {listed(data.arms)}" if len(study.record.data) > 1 else ""
        few = {}
        for split, counts in data.counts.items():
            for place, count in enumerate(counts):
                if count <= FEW_EXAMPLES:
                    name = data.classes[place] if place < len(data.classes) else str(place)
                    few.setdefault(name, []).append(f"{count} in {split}")
        if few:
            each = listed(f"{name} ({', '.join(parts)})" for name, parts in few.items())
            yield Check("warning", f"Classes with {FEW_EXAMPLES} examples or fewer{where}: {each}.")
        if data.seen:
            tested = sum(data.counts.get("test", ()))
            text = f"{data.seen} of {plural(tested, 'test example')}{where} also occur in training or validation."
            yield Check("warning", f"Leak: {text}")
        validated = sum(data.counts.get("val", ()))
        if 0 < validated <= FEW_VALIDATED:
            text = (
                f"The validation split{where} has {plural(validated, 'example')}. What it chooses is chosen by chance."
            )
            yield Check("warning", text)


def _mixtures(study: Study) -> Iterable[Check]:
    """Warn of differences between runs that are no part of the comparison."""
    records = study.records.values()
    environments = [run.environment for run in records]
    mixed: dict[str, list[str | None]] = {
        "devices": [environment.full_device for environment in environments],
        "pack modes": [run.pack.mode for run in records],
        "commits": [environment.commit for environment in environments],
        "versions of Python": [environment.python for environment in environments],
    }
    for package in sorted({package for environment in environments for package in environment.versions}):
        mixed[f"versions of {package}"] = [environment.versions.get(package) for environment in environments]
    for code in sorted({name for run in records for name in run.sources if name.startswith("code of ")}):
        mixed[code] = [run.sources[code][:8] if code in run.sources else None for run in records]
    for what, values in mixed.items():
        counts = Counter(value for value in values if value is not None)
        if len(counts) > 1:
            each = listed(f"{value} ({count})" for value, count in counts.most_common())
            yield Check("warning", f"Mixed {what}: {each} runs.")
    if any((environment.commit or "").endswith("+") for environment in environments):
        yield Check("remark", "The code differed from its commit when runs were made (marked with a +).")
    yield from _strays(study)


def _strays(study: Study) -> Iterable[Check]:
    """Warn of runs whose config differs from that of most runs of their arm, or does not fit their own record."""
    for arm in study.arms:
        configs = {name: arm_config(run) for name, run in study.records.items() if run.arm == arm}
        if all(config == next(iter(configs.values())) for config in configs.values()):
            continue
        table = pd.DataFrame.from_dict(configs, orient="index").fillna("-")
        differs = table != table.mode().iloc[0]
        strays = differs.any(axis=1)
        if strays.any():
            keys = differs.columns[differs.any()]
            yield Check(
                "warning",
                f"Records of other configs under one name: {plural(int(strays.sum()), 'run')} of {arm}, such as "
                f"{strays.idxmax()}, differ from the rest in {listed(keys)}.",
            )
    for name, run in study.records.items():
        config = flat(run.config)
        own = {"seed": run.seed, "fold": run.fold, "optimizer.lr": run.lr} | run.tuned
        for key, value in own.items():
            if config.get(key, value) != value:
                yield Check("warning", f"The record of {name} does not fit its config: {key} differs.")


def _failure(run: RunRecord | None) -> str:
    """Return the last line of a failed run's traceback."""
    lines = (run.error or "").strip().splitlines() if run else []
    return lines[-1].strip().rstrip(".") if lines else "no reason given"
