"""Make synthetic studies for tests: complete on disk, with known effects, without training."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from headtohead.analysis.choice import best_trials, better_half
from headtohead.analysis.claims import applicable
from headtohead.record.files import folder_name, to_json, write_atomically
from headtohead.record.run import (
    Environment,
    PackInfo,
    Phase,
    RunRecord,
    Status,
    blocks,
    results,
    write_results,
    write_run,
)
from headtohead.record.study import (
    Claim,
    Range,
    Search,
    StudyProtocol,
    StudyRecord,
    Trial,
    read_claims,
    write_study,
)

CLASSES = 10
BLOCKS, BLOCK_SIZE = 20, 90.0
EPOCHS, STEPS = 20, 400
# Each metric's value at the best learning rate and its standard deviation over seeds. Half of the variance
# belongs to the seed, whatever the arm, so that pairing pays.
METRICS = {
    "val_accuracy": (0.96, 0.004),
    "val_nll": (0.14, 0.01),
    "val_nll_calibrated": (0.13, 0.01),
    "val_brier": (0.06, 0.004),
    "val_ece": (0.015, 0.003),
    "val_macro_f1": (0.955, 0.005),
    "val_balanced_accuracy": (0.955, 0.005),
    "val_misclassification_auroc": (0.93, 0.01),
    "val_aurc": (0.006, 0.001),
    "val_ambiguity_none": (0.03, 0.004),
    "val_ambiguity_several": (0.0, 0.0),
    "val_ambiguity_error": (0.4, 0.04),
    "val_exact_match": (0.94, 0.005),
    "val_saturated": (0.8, 0.02),
    "val_loss": (0.2, 0.02),
    "train_loss": (0.02, 0.004),
    "train_accuracy": (0.99, 0.002),
    "grad_norm_mean": (0.8, 0.05),
    "grad_norm_max": (3.0, 0.3),
    "grad_norm_cv": (0.6, 0.04),
    "grad_norm_logits_init": (0.95, 0.01),
    "grad_norm_backbone_init": (1.1, 0.05),
    "backbone_cv": (0.5, 0.04),
    "loss_spikes": (2.0, 0.5),
    "coupling": (1.0, 0.0),
    "row_sum": (0.0, 0.0),
    "hessian_eigenvalue": (12.0, 1.0),
    "edge_of_stability": (0.6, 0.05),
}
# Measured in the phases confirm and run alone, beside the test metrics that mirror those of validation.
FINAL = {
    "gap_accuracy": (0.03, 0.004),
    "gap_nll": (0.1, 0.01),
    "shift_accuracy": (0.85, 0.01),
    "shift_nll": (0.6, 0.04),
    "shift_noise_accuracy": (0.84, 0.01),
    "shift_blur_accuracy": (0.86, 0.01),
    "ood_auroc": (0.9, 0.01),
}
# A claim, as configs/claims holds it.
ACCURACY = {
    "sentence": "Softmax reaches better accuracy.",
    "metric": "test_accuracy",
    "phase": "confirm",
    "direction": "higher",
    "margin": 0.005,
    "favours": "softmax",
}
# What a sigmoid differs in by construction; in all else two heads are alike unless `effects` says otherwise.
SIGMOID = {"coupling": -1.0, "val_ambiguity_several": 0.02, "test_ambiguity_several": 0.02}
ENVIRONMENT = Environment(
    python="3.11.7",
    versions={"headtohead": "0.0.0", "torch": "2.11.0", "numpy": "2.0.0"},
    device="cpu",
    device_name="x86_64",
    commit="0123456789abcdef0123456789abcdef01234567",
)
_History = list[dict[str, float]]
CHANCE_LEVEL = {
    **dict.fromkeys(["accuracy", "balanced_accuracy", "macro_f1"], 1 / CLASSES),
    "nll": math.log(CLASSES),
    "brier": 1 - 1 / CLASSES,
    "ece": 0.0,
}


def configured_claims() -> dict[str, Claim]:
    """Return the claims that a study tests unless it names others."""
    configs = files("headtohead.configs")
    defaults = yaml.safe_load((configs / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    names = next(entry["claims"] for entry in defaults if isinstance(entry, dict) and "claims" in entry)
    texts = [(configs / "claims" / f"{name}.yaml").read_text(encoding="utf-8") for name in sorted(names)]
    return read_claims({claim: fields for text in texts for claim, fields in yaml.safe_load(text).items()})


def make_study(
    folder: Path,
    *,
    arms: Sequence[str] | Mapping[str, Sequence[str]] = ("softmax", "sigmoid"),
    seeds: int = 10,
    lrs: Sequence[float] = (0.01, 0.1, 1.0),
    best_lr: float | Mapping[str, float] = 0.1,
    best_lr_of_nll: float | None = None,
    effects: Mapping[str, Mapping[str, float]] | None = None,
    tuned: bool = True,
    diverged: Iterable[tuple[str | None, float | None, int | None]] = (),
    failed: Iterable[tuple[str | None, float | None, int | None]] = (),
    noise: float = 1.0,
    claims: Mapping[str, Mapping[str, Any]] | None = None,
    space: Mapping[str, Range] | None = None,
    trials: int = 8,
    optima: Mapping[str, float] | None = None,
    lacks: Mapping[str, Collection[str]] | None = None,
    search: Search = "full",
    records: bool = True,
    seed: int = 0,
) -> Path:
    """Write a study named after `folder` to it, and return `folder`.

    Args:
        arms: heads, or labels of arms with their overrides, such as
            {"softmax,dropout=0.1": ["head=softmax", "model.dropout=0.1"], ...}.
        seeds: number of search seeds 0, 1, ...; the confirm phase has as many fresh ones, seeds, seeds + 1, ...
        lrs: grid of learning rates.
        best_lr: learning rate of the highest validation accuracy, of all arms or by arm.
        best_lr_of_nll: learning rate of the lowest NLL; None takes `best_lr`.
        effects: numbers added to an arm's metrics in all phases: {"sigmoid": {"test_accuracy": -0.02}}.
            The key "delay" adds steps to the time constant of the arm's learning curve.
        tuned: whether there is a search; without one every run is of the phase "run", at `lrs` or at 0.1.
        diverged, failed: patterns (arm, lr, seed) of runs; None matches any value.
        noise: factor of every metric's standard deviation over seeds.
        claims: claims of study.json; None takes those of configs/claims.
        space: ranges by dotted key, such as {"training.warmup": Range(0, 0.3, False)}. Then `lrs` are swept beside it
            where they are given, and the rate is 0.1 where it is in neither.
        trials: number of points of the space.
        optima: for settings that matter, the best place in their range, from 0 at its low to 1 at its high end. Of the
            learning rate `best_lr` tells.
        lacks: for some arms the settings of the space that their heads lack.
        search: whether every trial has all seeds, or the worse half of an arm's trials is dropped as seeds double.
        records: False writes study.json and the tables alone, for simulations that need thousands of studies.
        seed: seed of the random numbers.
    """
    if not isinstance(arms, Mapping):
        arms = {arm: [f"head={arm}"] for arm in arms}
    space = dict(space or {})
    if (not tuned or space) and tuple(lrs) == (0.01, 0.1, 1.0):
        lrs = (0.1,)
    first, fresh = range(seeds), range(seeds, 2 * seeds) if tuned else range(0)
    rng = np.random.default_rng(seed)
    luck = rng.normal(size=(2 * seeds, len(METRICS) + len(FINAL)))
    runs = _Runs(
        study=folder.name, arms=arms, best_lr=best_lr, best_lr_of_nll=best_lr_of_nll, effects=effects or {},
        diverged=tuple(diverged), failed=tuple(failed), noise=noise, rng=rng, luck=luck, space=space,
        points=_points(space, trials), optima=optima or {}, lacks=lacks or {},
        grid=() if space and len(lrs) == 1 else tuple(lrs),
    )  # fmt: skip
    phase: Phase = "search" if tuned else "run"
    chosen = applicable(configured_claims(), bool(space)) if claims is None else read_claims(claims)
    criteria = [*dict.fromkeys(["val_accuracy", *(claim.selected_by or "val_accuracy" for claim in chosen.values())])]
    made = runs.search(phase, first, criteria if search == "halving" else [])
    names = {phase: tuple(run.run for run, _ in made)}
    best: dict[str, dict[str, Trial]] = {}
    if tuned:
        table = results(run for run, _ in made)
        best = {criterion: best_trials(table, criterion) for criterion in criteria}
        of_arms = {arm: sorted({by_arm[arm] for by_arm in best.values()}) for arm in best["val_accuracy"]}
        confirmed = [runs.make(arm, at, seed, "confirm") for arm in of_arms for at in of_arms[arm] for seed in fresh]
        names["confirm"] = tuple(run.run for run, _ in confirmed)
        made += confirmed
    folder.mkdir(parents=True, exist_ok=True)
    protocol = StudyProtocol(
        search_seeds=tuple(first),
        confirm_seeds=tuple(fresh),
        selected_by="val_accuracy",
        extended={"below": 0, "above": 0},
        ladder=(),
        best=best,
        search=search,
        trials=len(runs.points),
    )
    write_study(folder, _study_record(runs, protocol, names, chosen))
    if records:
        for run, history in made:
            write_run(folder / "runs" / run.run, run, history)
        write_results(folder)
    else:
        results(run for run, _ in made).to_csv(folder / "results.csv", index=False)
        write_atomically(folder / "blocks.csv", blocks(run for run, _ in made).to_csv(index=False))
    return folder


def without_checksums(study: Path) -> Path:
    """Remove the checksums from the records of a study, so that a test may edit its files, and return the folder."""
    for path in study.glob("runs/*/run.json"):
        path.write_text(to_json(json.loads(path.read_text()) | {"checksum": "", "checksums": {}}))
    return study


def _points(space: Mapping[str, Range], trials: int) -> list[dict[str, float]]:
    """Return the settings of each point of a space; none without a space."""
    places_TD = np.random.default_rng(1).random((trials, len(space)))
    return [{key: _at(space[key], place) for key, place in zip(space, row, strict=True)} for row in places_TD if space]


def _at(space: Range, place: float) -> float:
    """Return the value at a place of a range, from 0 at its low to 1 at its high end."""
    if space.log:
        return float(space.low * (space.high / space.low) ** place)
    return float(space.low + (space.high - space.low) * place)


def _place(space: Range, value: float) -> float:
    """Return the place of a value in a range."""
    if space.log:
        return math.log(value / space.low) / math.log(space.high / space.low)
    return (value - space.low) / (space.high - space.low)


def _study_record(
    runs: "_Runs", protocol: StudyProtocol, names: Mapping[str, tuple[str, ...]], claims: dict[str, Claim]
) -> StudyRecord:
    return StudyRecord(
        name=runs.study,
        command=("headtohead", f"experiment={runs.study}"),
        common=(f"experiment={runs.study}",),
        started="2026-01-02T03:04:05+00:00",
        num_classes=dict.fromkeys(runs.arms, CLASSES),
        classes=(),
        arms={arm: tuple(overrides) for arm, overrides in runs.arms.items()},
        grid={"optimizer.lr": tuple(sorted(runs.grid))},
        protocol=protocol,
        runs=dict(names),
        hparams={},
        claims=claims,
        environment=ENVIRONMENT,
        space=dict(runs.space),
    )


@dataclass(frozen=True)
class _Runs:
    """Make the runs of a study; the attributes are the options of `make_study`.

    Attributes:
        luck: standard normal numbers, (seeds, metrics), that all arms share.
        points: settings of each point of the space.
        grid: learning rates that are swept.
    """

    study: str
    arms: Mapping[str, Sequence[str]]
    best_lr: float | Mapping[str, float]
    best_lr_of_nll: float | None
    effects: Mapping[str, Mapping[str, float]]
    diverged: tuple[tuple[str | None, float | None, int | None], ...]
    failed: tuple[tuple[str | None, float | None, int | None], ...]
    noise: float
    rng: np.random.Generator
    luck: np.ndarray
    space: Mapping[str, Range]
    points: Sequence[Mapping[str, float]]
    optima: Mapping[str, float]
    lacks: Mapping[str, Collection[str]]
    grid: Sequence[float]

    def search(self, phase: Phase, seeds: Sequence[int], halve_by: Sequence[str]) -> list[tuple[RunRecord, _History]]:
        """Make the runs of every arm over its trials.

        Args:
            halve_by: criteria by which half of the trials is dropped whenever the seeds have doubled; empty for none.
        """
        made: list[tuple[RunRecord, _History]] = []
        for arm in self.arms:
            trials, done = self._trials(), 0
            while done < len(seeds):
                rung = seeds[done : max(2 * done, 1)] if halve_by else seeds
                made += [self.make(arm, trial, seed, phase) for trial in trials for seed in rung]
                done += len(rung)
                if halve_by:
                    table = results(run for run, _ in made if run.arm == arm)
                    trials = sorted(better_half(table, halve_by)[arm])
        return made

    def _trials(self) -> list[Trial]:
        """Return every point at every swept learning rate; points that hold the rate have one of their own."""
        rates = self.grid or (0.1,)
        numbered = [*enumerate(self.points, 1)] or [(0, {})]
        trials = [Trial(point.get("optimizer.lr", lr), number) for lr in rates for number, point in numbered]
        return [*dict.fromkeys(trials)]

    def make(self, arm: str, trial: Trial, seed: int, phase: Phase) -> tuple[RunRecord, _History]:
        """Make the record and the history of one run."""
        head, lr = _head(self.arms[arm]), trial.lr
        point = self.points[trial.number - 1] if trial.number else {}
        tuned = {key: value for key, value in point.items() if key not in self.lacks.get(arm, ())}
        status = self._status(arm, lr, seed)
        own = self.luck[seed] / math.sqrt(2) + self.rng.normal(size=self.luck.shape[1]) / math.sqrt(2)
        shifts = [SIGMOID if head.startswith("sigmoid") else {}, self.effects.get(arm, {})]
        away = {key: _place(self.space[key], tuned[key]) - self.optima[key] for key in tuned if key in self.optima}
        far = sum(4 * distance**2 for distance in away.values())
        metrics = self._final_metrics(own, arm, lr, far, shifts, status, phase)
        delay = sum(shift.get("delay", 0.0) for shift in shifts)
        splits = ("val",) if phase == "search" else ("val", "test")
        run = RunRecord(
            run=self._name(arm, trial, seed),
            phase=phase,
            arm=arm,
            head=head,
            seed=seed,
            lr=lr,
            trial=trial.number,
            tuned=tuned,
            status=status,
            steps={"finished": STEPS, "diverged": STEPS // 4, "failed": 0}[status],
            wall_s=0.5,
            diverged_at=STEPS // 4 if status == "diverged" else None,
            error="Traceback (most recent call last):\nRuntimeError: made up" if status == "failed" else None,
            metrics=metrics,
            pack=PackInfo(size=16, mode="stacked", chosen_by="planner", threads=1),
            overrides=tuple(self.arms[arm]),
            config=_config(self.study, head, lr, seed, tuned),
            environment=ENVIRONMENT,
            blocks=_blocks(metrics, self.noise, seed) if phase != "search" and status == "finished" else {},
            curves={split: _curves(self.rng, head) for split in splits} if status == "finished" else None,
        )
        history = [] if status == "failed" else _history(metrics, lr, delay, own, status, head)
        return run, history

    def _name(self, arm: str, trial: Trial, seed: int) -> str:
        """Return a run's name, which has the learning rate where it is swept."""
        parts = [folder_name(",".join(self.arms[arm]))]
        parts += [f"optimizer.lr={trial.lr:g}"] if self.grid else []
        parts += [f"trial={trial.number}"] if trial.number else []
        return ",".join([*parts, f"seed={seed}"])

    def _status(self, *run: object) -> Status:
        if _any(self.failed, *run):
            return "failed"
        return "diverged" if _any(self.diverged, *run) else "finished"

    def _final_metrics(
        self,
        luck: np.ndarray,
        arm: str,
        lr: float,
        far: float,
        shifts: Sequence[Mapping[str, float]],
        status: Status,
        phase: Phase,
    ) -> dict[str, float]:
        optimum = self.best_lr[arm] if isinstance(self.best_lr, Mapping) else self.best_lr
        away = [math.log10(lr / rate) for rate in (optimum, self.best_lr_of_nll or optimum)]
        distances = [math.hypot(decades, math.sqrt(far)) for decades in away]
        metrics = _metrics(self.noise * luck, distances[0], distances[1], shifts, phase)
        if status == "failed":
            return {}
        if status == "diverged":
            chance = {f"{split}_{name}": value for split in ("val", "test") for name, value in CHANCE_LEVEL.items()}
            return {name: chance[name] for name in metrics if name in chance}
        return metrics


def _head(overrides: Sequence[str]) -> str:
    return next((item.partition("=")[2] for item in overrides if item.startswith("head=")), "softmax")


def _any(patterns: Iterable[tuple], *run: object) -> bool:
    return any(all(want in (None, have) for want, have in zip(pattern, run, strict=True)) for pattern in patterns)


def _metrics(
    luck: np.ndarray, decades: float, decades_of_nll: float, shifts: Sequence[Mapping[str, float]], phase: str
) -> dict[str, float]:
    """Draw the final metrics of a run so many decades away from its arm's best settings for accuracy and NLL."""
    values = {}
    for (name, (mean, deviation)), own in zip((METRICS | FINAL).items(), luck, strict=True):
        values[name] = mean + deviation * own
    values["val_accuracy"] -= 0.05 * decades**2
    values["val_nll"] += 0.3 * decades_of_nll**2
    test = {f"test_{name[4:]}": value for name, value in values.items() if name.startswith("val_")}
    if phase == "search":
        values = {name: values[name] for name in METRICS}
    else:
        values |= test
    for shift in shifts:
        for name in shift.keys() & values.keys():
            values[name] += shift[name]
    return {name: float(value) for name, value in values.items()}


def _blocks(metrics: Mapping[str, float], noise: float, seed: int) -> dict[str, tuple[float, ...]]:
    """Draw the test metrics of a run on blocks, whose mean is the metric. An example is as hard for all arms."""
    hardness = np.random.default_rng(0).normal(size=BLOCKS)
    own = np.random.default_rng([seed, int(abs(metrics["test_accuracy"]) * 1e9)]).normal(size=BLOCKS)
    away = (hardness - hardness.mean()) * 2 + (own - own.mean()) * noise
    deviations = METRICS | FINAL
    tested = [name for name in metrics if name.startswith(("test_", "gap_", "shift_", "ood_"))]
    by_block: dict[str, tuple[float, ...]] = {"size": (BLOCK_SIZE,) * BLOCKS}
    for name in tested:
        _, deviation = deviations[name if name in deviations else f"val_{name[5:]}"]
        by_block[name] = tuple((metrics[name] + deviation * away).tolist())
    return by_block


def _history(
    metrics: Mapping[str, float], lr: float, delay: float, luck: np.ndarray, status: str, head: str
) -> _History:
    """Learn exponentially towards the final accuracy; every second logged step evaluates."""
    rows = []
    time = max(40.0 + 6.0 * luck[0] + delay, 1.0)
    final = metrics["val_accuracy"] if status == "finished" else 0.5
    for index, step in enumerate(range(0, STEPS + 1, 8)):
        if status == "diverged" and step > STEPS // 4:
            break
        left = math.exp(-step / time)
        accuracy = final + (1 / CLASSES - final) * left
        norm = 0.3 + 2 * left
        row = {
            "step": step,
            "epoch": step * EPOCHS / STEPS,
            "train_loss": 0.05 + 2.2 * left,
            "train_accuracy": min(accuracy + 0.02, 1.0),
            "lr": lr,
            "grad_norm_total": 1.5 * norm,
            "grad_norm_logits": 0.5 * norm,
            "grad_norm_backbone": norm,
            "grad_norm_classifier": 1.1 * norm,
            "grad_norm_layer_hidden0": 0.6 * norm,
            "grad_norm_layer_hidden1": 0.8 * norm,
            "grad_norm_layer_classifier": 1.1 * norm,
        }
        if index % 2 == 0:
            row |= {
                "val_loss": 0.1 + 2.2 * left,
                "val_accuracy": accuracy,
                "val_nll": 0.14 + 2.16 * left,
                "val_brier": 0.06 + 0.84 * left,
                "val_ece": 0.015 + 0.1 * left,
                "val_ambiguity_none": 0.03 + 0.9 * left,
                "val_ambiguity_several": 0.0 if head == "softmax" else 0.01 + 0.1 * left,
            }
        rows.append(row)
    return rows


def _curves(rng: np.random.Generator, head: str) -> dict[str, Any]:
    confidence = np.linspace(0.35, 0.995, 15)
    accuracy = np.clip(confidence - 0.03 + rng.normal(0, 0.01, 15), 0, 1)
    threshold = np.linspace(0.05, 0.95, 19)
    several = np.where((threshold >= 0.5) & (head == "softmax"), 0.0, 0.3 * (1 - threshold) ** 3)
    return {
        "reliability": {"confidence": confidence.tolist(), "accuracy": accuracy.tolist()},
        "ambiguity": {
            "threshold": threshold.tolist(),
            "none": (0.15 * threshold**2).tolist(),
            "several": several.tolist(),
        },
    }


def _config(name: str, head: str, lr: float, seed: int, tuned: Mapping[str, float]) -> dict[str, Any]:
    kind = {"name": "softmax"} if head == "softmax" else {"name": "sigmoid", "reduction": "sum"}
    config: dict[str, Any] = {
        "dataset": {"name": "digits", "root": "data", "train_size": None, "val_fraction": 0.2, "label_noise": 0.0},
        "model": {"name": "mlp", "widths": [128, 128], "batch_norm": False, "dropout": 0.0},
        "head": {**kind, "label_smoothing": 0.0, "prior_bias": "none"},
        "optimizer": {"name": "sgd", "lr": lr, "weight_decay": 0.0, "clip_norm": None, "momentum": 0.9},
        "name": name,
        "seed": seed,
        "device": "auto",
        "precision": "float32",
        "pack_size": None,
        "training": {"epochs": EPOCHS, "batch_size": 64, "schedule": "cosine"},
        "protocol": {"confirm_seeds": None, "metric": "accuracy"},
    }
    for key, value in tuned.items():
        group, _, name_in_group = key.partition(".")
        config[group][name_in_group] = value
    return config
