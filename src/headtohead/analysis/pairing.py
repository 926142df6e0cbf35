"""Values of a metric for arms that share their seeds, also of metrics derived from several runs.

Shape suffixes: R runs, C cells of one run of each arm, A arms, S seeds, G blocks of test examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from headtohead.analysis import statistics
from headtohead.analysis.estimates import Crossed, Estimate, Shares, floor_of_shares
from headtohead.analysis.study import Scope, Study
from headtohead.analysis.text import listed
from headtohead.late import pd
from headtohead.options import nearest
from headtohead.record.run import COLUMNS

# Which value of a metric is the better one.
Direction = Literal["higher", "lower"]

# What the names of metrics of test examples begin with.
OF_TEST = ("test_", "gap_", "shift_", "ood_", "unknown_")
# Metrics that are shares of test examples, where an example counts or does not.
OF_EXAMPLES = {
    "test_accuracy",
    "test_ambiguity_none",
    "test_ambiguity_several",
    "test_exact_match",
    "test_decided_99",
}
# Metrics of the gradient at the parameters below the classifier.
OF_BACKBONE = {"grad_norm_backbone_init", "backbone_cv"}
# Metrics that are shares of runs, where a run counts or does not.
OF_RUNS = {"diverged_share", "stalled"}
# Metrics of all trials of a search. The first needs a grid of learning rates alone, the others a space.
OF_GRID, OF_SPACE = {"lr_sensitivity"}, {"near_best_share", "capped_nll"}
# By how much the accuracy of a trial that is near the best one may be lower.
NEAR = 0.01


# Why a comparison over all trials is not made after a search by halving.
HALVED = "a claim over all trials needs protocol.search=full, since halving gives bad trials fewer seeds"


class Unjudged(Exception):
    """The runs lack what a comparison needs. The message says what is missing."""


@dataclass(frozen=True)
class Pairs:
    """Values of a metric for arms that share their seeds, and what the errors of their differences rest on.

    Attributes:
        values: A row per seed and a column per arm.
        note: What a reader must know; None without a note.
        blocks: Values of each arm for each seed and block of test examples, (S, G); None for a metric of training.
        size_G: Number of examples of each block; None without blocks.
        of_runs: Whether each run has a property, a row per pair of runs and a column per arm, for a share of runs.
        of_examples: Whether the metric is a share of test examples.
    """

    values: pd.DataFrame
    note: str | None
    blocks: Mapping[str, np.ndarray] | None = None
    size_G: np.ndarray | None = None
    of_runs: pd.DataFrame | None = None
    of_examples: bool = False

    def mean(self, arm: str) -> float:
        """Return the mean of an arm over what the estimate rests on: pairs of runs for a share of runs, else seeds."""
        return float((self.values if self.of_runs is None else self.of_runs)[arm].to_numpy().mean())

    def differences(self, arm: str, versus: str) -> np.ndarray:
        """Return the differences of an arm from another one for each seed and block, (S, G); G = 1 without blocks."""
        if self.blocks is None:
            return (self.values[arm] - self.values[versus]).to_numpy()[:, None]
        return self.blocks[arm] - self.blocks[versus]

    def estimate(self, arm: str, versus: str) -> Estimate:
        """Estimate the difference of an arm from another one."""
        if self.of_runs is not None:
            first, second = (self.of_runs[name].to_numpy() > 0 for name in (arm, versus))
            return Shares(int((first & ~second).sum()), int((second & ~first).sum()), len(self.of_runs))
        differences_SG = self.differences(arm, versus)
        if self.blocks is None or self.size_G is None:
            return Crossed.over_seeds(differences_SG[:, 0])
        mean = float((self.values[arm] - self.values[versus]).to_numpy().mean())
        estimate = Crossed.over_seeds_and_blocks(mean, differences_SG)
        floor = floor_of_shares(differences_SG, self.size_G) if self.of_examples else 0.0
        return replace(estimate, floor=floor)


def pair_up(study: Study, metric: str, phase: Scope, arms: Sequence[str], selected_by: str | None = None) -> Pairs:
    """Pair the runs of arms by seed and fold. The value of a seed is the mean over its folds.

    In the search a seed's value is the mean over the trials at which all arms have one. A diverged run counts as a
    guess, and never as better than a finished run of these arms.

    Args:
        metric: Column of results.csv, or key of DERIVED.
        selected_by: Criterion by whose best trials the runs of the phase confirm count; None takes the primary one.

    Raises:
        Unjudged: fewer than two seeds have it.
    """
    if phase == "search" and study.record.protocol.search == "halving":
        raise Unjudged(HALVED)
    if study.compared(phase, selected_by).empty:
        raise Unjudged(f"the study has no runs of the phase {phase}")
    runs = study.compared(phase, selected_by, tuple(arms))
    if runs.empty:
        raise Unjudged(f"no arm has a run of the phase {phase}")
    if metric in DERIVED:
        values, note = DERIVED[metric](study, runs)
    else:
        values, note = statistics.no_better_diverged(_recorded(runs, metric), runs.status), None
    value_R = values.where(runs.status != "failed").to_numpy(float)
    # In the other phases each arm has a trial of its own.
    cells = ["seed", "lr", "trial"] if phase == "search" else ["seed", "fold"]
    seed_C, value_CA = _pivot(
        [runs[key].to_numpy() for key in cells], pd.Index(arms).get_indexer(runs.arm), value_R, len(arms)
    )
    measured_C = ~np.isnan(value_CA).any(axis=1)
    notes = [text for text in (note, _other_trials(study, phase, arms, selected_by)) if text]
    if not measured_C.all():
        lacking = runs.status[np.isnan(value_R) & (runs.status != "finished")].value_counts()
        reasons = "".join(f", {count} {status}" for status, count in lacking.items())
        notes.append(f"{(~measured_C).sum()} of {measured_C.size} pairs of runs lack {metric}{reasons}")
    if phase != "search":
        # Without one of its folds a seed has not tested every example.
        measured_C &= ~np.isin(seed_C, seed_C[~measured_C])
    value_CA, seed_C = value_CA[measured_C], seed_C[measured_C]
    seeds, seed_of_C = np.unique(seed_C, return_inverse=True)
    mean_SA = np.column_stack([_means(seed_of_C, value_C, len(seeds)) for value_C in value_CA.T])
    by_seed = pd.DataFrame(mean_SA, pd.Index(seeds, name="seed"), list(arms))
    if by_seed.empty and metric in OF_BACKBONE and np.isnan(value_R[runs.status == "finished"]).all():
        raise Unjudged(_without_gradient(study, runs, metric))
    if len(by_seed) < 2:
        raise Unjudged("; ".join([f"{len(by_seed)} pairs of seeds have {metric}, at least 2 are needed", *notes]))
    if metric in OF_RUNS:
        return Pairs(by_seed, "; ".join(notes) or None, of_runs=pd.DataFrame(value_CA, columns=list(arms)))
    blocks, size_G = _by_block(study, runs, metric, value_R, by_seed)
    if blocks is None and metric.startswith(OF_TEST):
        notes.append("no values on blocks of test examples: the interval covers new seeds on these examples alone")
    return Pairs(by_seed, "; ".join(notes) or None, blocks, size_G, of_examples=metric in OF_EXAMPLES)


def _pivot(
    keys: Sequence[np.ndarray], arm_R: np.ndarray, value_R: np.ndarray, num_arms: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put values into a row for each cell, which is what runs of the same keys share, and a column for each arm.

    Returns:
        The first key of each cell, (C,), and the means, (C, A); NaN where an arm has no value. Rows ascend by their
        keys.
    """
    order = np.lexsort(keys[::-1])
    is_new_R = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    cell_R = np.concatenate([[0], np.cumsum(is_new_R)])
    count = int(cell_R[-1]) + 1
    value_CA = _means(cell_R * num_arms + arm_R[order], value_R[order], count * num_arms).reshape(count, num_arms)
    first_C = np.searchsorted(cell_R, np.arange(count))
    return keys[0][order][first_C], value_CA


def _means(place: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Return the mean of the values at each of `count` places, without NaN; NaN where there is none."""
    known = ~np.isnan(values)
    numbers = np.bincount(place[known], minlength=count)
    total = _sums(place[known], values[known], count)
    return np.divide(total, numbers, out=np.full(count, math.nan), where=numbers > 0)


def _sums(place: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Return the sum of the values at each of `count` places, (count,)."""
    # With more digits than those of the result, the order of the runs does not matter.
    total = np.zeros(count, np.longdouble)
    np.add.at(total, place, values.astype(np.longdouble))
    return total.astype(float)


def _without_gradient(study: Study, runs: pd.DataFrame, metric: str) -> str:
    """Return why no run has a metric of the backbone's gradient."""
    configs = [study.records[run].config for run in runs.run if run in study.records]
    frozen = dict.fromkeys(str(config.get("model", {}).get("freeze", "none")) for config in configs)
    cause = listed(f"model.freeze={which}" for which in frozen if which != "none")
    return f"no parameter below the classifier is trained, so that {metric} has no value{cause and f' ({cause})'}"


def _by_block(
    study: Study, runs: pd.DataFrame, metric: str, value_R: np.ndarray, by_seed: pd.DataFrame
) -> tuple[dict[str, np.ndarray] | None, np.ndarray | None]:
    """Return the values of each arm for each seed and block, (S, G), and the sizes of the blocks, (G,).

    None where a run lacks the metric on a block, or a seed has tested no example of it.
    """
    if metric not in study.blocks:
        return None, None
    used_R = runs.seed.isin(by_seed.index).to_numpy()
    places = [study.places_of_blocks.get(run, ()) for run in runs.run[used_R]]
    if not all(map(len, places)):
        return None, None
    rows, counts = np.concatenate(places), [*map(len, places)]
    size, block = (study.blocks[name].to_numpy()[rows] for name in ("size", "block"))
    diverged, value = (
        np.repeat(of_run[used_R], counts) for of_run in ((runs.status == "diverged").to_numpy(), value_R)
    )
    total = np.where(diverged, value, study.blocks[metric].to_numpy(float)[rows]) * size
    total[size == 0] = 0.0  # a fold may have no example of a block
    if np.isnan(total).any():
        return None, None
    arm, seed = (
        np.repeat(names.get_indexer(labels[used_R]), counts)
        for names, labels in ((by_seed.columns, runs.arm), (by_seed.index, runs.seed))
    )
    blocks, block = np.unique(block, return_inverse=True)
    shape = (by_seed.shape[1], len(by_seed), len(blocks))
    cell, count = np.ravel_multi_index((arm, seed, block), shape), math.prod(shape)
    size_ASG = _sums(cell, size, count).reshape(shape)
    if len(blocks) < 2 or not size_ASG.all():  # one fold alone does not test every block
        return None, None
    values_ASG = _sums(cell, total, count).reshape(shape) / size_ASG
    return dict(zip(map(str, by_seed), values_ASG, strict=True)), size_ASG[0, 0]


def _other_trials(study: Study, phase: Scope, arms: Sequence[str], selected_by: str | None) -> str | None:
    """Return a note on the trials of arms where they are not those by which the study compares first."""
    if phase != "confirm" or not study.tuned or selected_by is None:
        return None
    best = study.best_by(selected_by)
    of_folds = [study.best_of_folds(criterion) for criterion in (selected_by, study.record.protocol.selected_by)]
    if of_folds[0] == of_folds[1] and all(best.get(arm) == study.best.get(arm) for arm in arms):
        return None
    trials = listed((f"{arm} {study.label(best[arm])}" for arm in arms if arm in best), most=len(arms))
    return f"at the {study.choice}s of the best {selected_by}: {trials}"


def _recorded(runs: pd.DataFrame, metric: str) -> pd.Series:
    if metric not in runs:
        known = [*(name for name in runs if name not in COLUMNS), *DERIVED]
        raise Unjudged(f"no run has the metric {metric}; {nearest(metric, known)}")
    return pd.Series(runs[metric])


# A derived metric maps a study and the runs of some arms in one phase to a value per run, NaN where there is none,
# and a note. A value that belongs to all trials is repeated for each of their runs.
Derived: TypeAlias = "Callable[[Study, pd.DataFrame], tuple[pd.Series, str | None]]"


def _diverged_share(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    return (runs.status == "diverged").astype(float), None


def _lr_sensitivity(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Sensitivity of each arm and seed to the learning rate; NaN where a run of the grid is missing.

    The window has the same width for all arms and lies around each arm's own optimum, so that arms that are the same
    but for a scale get the same value.
    """
    rates = np.sort(runs.lr.unique())
    if study.record.space:
        others = listed(study.record.space)
        raise Unjudged(f"lr_sensitivity needs the learning rate as the only tuned setting; the study tunes {others}")
    if len(rates) < 2:
        raise Unjudged("lr_sensitivity needs a grid of learning rates: its phase must be search")
    guess = np.log(runs.arm.map(study.record.num_classes))
    capped = runs.assign(nll=np.minimum(_recorded(runs, "val_nll"), guess))
    means = capped.groupby(["arm", "lr"]).nll.mean()
    best = {arm: float(means[arm].idxmin()) for arm in means.index.unique("arm") if means[arm].notna().any()}
    rooms = {arm: min(math.log10(rate / rates[0]), math.log10(rates[-1] / rate)) for arm, rate in best.items()}
    narrowest = min(rooms, key=lambda arm: rooms[arm], default="")
    if not narrowest or rooms[narrowest] <= 0:
        where = f"; that of {narrowest}, {best[narrowest]:g}, is on the edge" if narrowest else ""
        raise Unjudged(f"lr_sensitivity needs learning rates on both sides of each arm's lowest NLL{where}")
    half_width = rooms[narrowest]

    def sensitivity(group: pd.Series) -> float:
        arm = str(runs.arm[group.index[0]])
        nll = group.set_axis(runs.lr[group.index]).reindex(rates)
        num_classes = study.record.num_classes[arm]
        return float(statistics.learning_rate_sensitivity(rates, nll.to_numpy(), num_classes, best[arm], half_width))

    values = capped.groupby(["arm", "seed"]).nll.transform(sensitivity)
    return values, f"within a factor of {10**half_width:.3g} of each arm's lowest NLL"


def _near_best_share(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Whether a run's validation accuracy is at most a point below that of the arm's best trial with the same seed.

    An arm's best trial is that of the highest mean over seeds.
    """
    if not (runs.phase == "search").all():
        raise Unjudged("near_best_share needs all trials: its phase must be search")
    recorded = statistics.no_better_diverged(_recorded(runs, "val_accuracy"), runs.status)
    accuracy, near = recorded.where(runs.status != "failed"), pd.Series(math.nan, runs.index)
    for _, rows in runs.assign(accuracy=accuracy).groupby("arm"):
        by_trial = rows.pivot_table(index=["lr", "trial"], columns="seed", values="accuracy")
        if len(by_trial):
            best = rows.seed.map(by_trial.loc[by_trial.mean(axis=1).idxmax()])
            known = rows.accuracy.notna() & best.notna()
            near[rows.index] = (rows.accuracy >= best - NEAR - 1e-12).astype(float).where(known)
    return near, None


def _capped_nll(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Validation NLL of a run, at most that of a uniform guess."""
    guess = np.log(runs.arm.map(study.record.num_classes))
    return pd.Series(np.minimum(_recorded(runs, "val_nll"), guess)), None


def _stalled(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Whether a run has gone less than a tenth of the way from chance level to certainty, as diverged runs do."""
    nll = _recorded(runs, "val_nll")
    stalled = nll > 0.9 * np.log(runs.arm.map(study.record.num_classes))
    return stalled.astype(float).where(nll.notna()), None


def _seed_spread(study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Distance of each seed's validation accuracy from the median over seeds (Brown and Forsythe, 1974)."""
    # In other phases than the search the folds of a seed may have trials of their own.
    of_arm = [runs.arm, runs.lr, runs.trial] if (runs.phase == "search").all() else [runs.arm]
    accuracy = _recorded(runs, "val_accuracy").groupby([*of_arm, runs.seed]).transform("mean")
    return (accuracy - accuracy.groupby(of_arm).transform("median")).abs(), None


def _time_to_target(unit: Literal["step", "epoch"], study: Study, runs: pd.DataFrame) -> tuple[pd.Series, str | None]:
    """Time at which a run first reaches a share of the best arm's accuracy."""
    arms = [arm for arm in study.arms if study.context(arm) == study.context(runs.arm.iloc[0])]
    tuning = study.results.loc[study.results.arm.isin(arms) & (study.results.phase != "confirm")]
    _recorded(tuning, "val_accuracy")
    target = statistics.target_accuracy(tuning)
    times, horizon, unread = pd.Series(math.nan, index=runs.index), 0.0, 0
    ended = runs.run[runs.status != "failed"]
    histories, _ = study.histories.read(ended)
    for index, name in ended.items():
        history = histories.get(name)
        if history is None or not {unit, "val_accuracy"} <= {*history}:
            unread += 1
            continue
        time, accuracy = (history[column].to_numpy(float) for column in (unit, "val_accuracy"))
        times[index] = statistics.first_reach(time, accuracy, target)
        horizon = max([horizon, *time.tolist()])
    unreached = int(np.isinf(times).sum())
    note = f"target: {target:.3g} validation accuracy"
    if unreached:
        note += f"; {unreached} of {times.count()} runs never reach it and count at the horizon, {horizon:g} {unit}s"
    if unread:
        note += f"; {unread} runs have no readable history.csv with {unit} and val/accuracy"
    return pd.Series(statistics.restricted_times(times.to_numpy(), horizon), index=runs.index), note


DERIVED: dict[str, Derived] = {
    "diverged_share": _diverged_share,
    "lr_sensitivity": _lr_sensitivity,
    "near_best_share": _near_best_share,
    "capped_nll": _capped_nll,
    "stalled": _stalled,
    "seed_spread": _seed_spread,
    "steps_to_target": partial(_time_to_target, "step"),
    "epochs_to_target": partial(_time_to_target, "epoch"),
}
