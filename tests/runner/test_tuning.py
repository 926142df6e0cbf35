"""Studies that tune settings by ranges: trials, their extension, search by halving, what is refused."""

import json
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from headtohead.record.run import read_run
from headtohead.record.study import Range, read_study_record
from headtohead.runner.space import points
from headtohead.runner.sweep import halving_rungs

CHEAP = ["name=x", "dataset=wine", "model=linear", "training.epochs=2", "training.points=2", "training.evaluations=1",
         "head=softmax,sigmoid", "claims=[accuracy,loss]"]  # fmt: skip
SPACE = ["optimizer.lr=tag(log,interval(1e-3,1))", "training.warmup=interval(0,0.3)",
         "head.label_smoothing=interval(0,0.2)"]  # fmt: skip
RANGES = {
    "optimizer.lr": Range(1e-3, 1.0, log=True),
    "training.warmup": Range(0.0, 0.3, log=False),
    "head.label_smoothing": Range(0.0, 0.2, log=False),
}


def records(folder):
    return {path.name: read_run(path) for path in sorted((folder / "outputs/x/runs").iterdir())}


def times(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("outputs/x/runs/*/run.json")}


def test_all_arms_and_seeds_are_tried_at_the_same_points(command, tmp_path):
    result = command(*CHEAP, *SPACE, "protocol.trials=4", "protocol.confirm_seeds=2", "seed=0,1", "fold=0")
    assert result.status == 0, result.err
    study, runs = read_study_record(tmp_path / "outputs/x"), records(tmp_path)
    assert study.space == RANGES and study.protocol.trials == 4 and study.protocol.search == "full"
    searched = [run for run in runs.values() if run.phase == "search"]
    assert len(searched) == 2 * 4 * 2
    expected = {number: {s.key: s.value for s in point} for number, point in enumerate(points(RANGES, 4), 1)}
    for run in runs.values():
        assert run.tuned == expected[run.trial]
        assert run.lr == run.tuned["optimizer.lr"] == run.config["optimizer"]["lr"]
        assert run.config["training"]["warmup"] == run.tuned["training.warmup"]
        assert run.config["head"]["label_smoothing"] == run.tuned["head.label_smoothing"]
    assert "head=softmax,dataset=wine,model=linear" in searched[0].run.replace("sigmoid", "softmax") or searched
    confirmed = [run for run in runs.values() if run.phase == "confirm"]
    for criterion, trials in study.protocol.best.items():
        for arm, trial in trials.items():
            assert trial.lr == expected[trial.number]["optimizer.lr"], criterion
            assert {run.seed for run in confirmed if run.arm == arm and run.trial == trial.number} == {2, 3}
    table = pd.read_csv(tmp_path / "outputs/x/results.csv")
    for key in RANGES:
        assert table[key].tolist() == [runs[name].tuned[key] for name in table.run]


def test_more_trials_train_what_is_lacking_and_another_space_is_refused(command, tmp_path):
    arguments = [*CHEAP, *SPACE, "protocol.confirm_seeds=0", "seed=0,1"]
    assert command(*arguments, "protocol.trials=4").status == 0
    before = times(tmp_path)
    assert command(*arguments, "protocol.trials=6").status == 0
    after = times(tmp_path)
    assert len(after) == 2 * 6 * 2
    assert {name: after[name] for name in before} == before
    assert read_study_record(tmp_path / "outputs/x").protocol.trials == 6
    # Fewer trials than before leave the rest out of the study.
    assert command(*arguments, "protocol.trials=4").status == 0
    assert times(tmp_path) == after
    assert len(read_study_record(tmp_path / "outputs/x").runs["search"]) == 2 * 4 * 2
    result = command(
        *CHEAP, SPACE[0], SPACE[1], "head.label_smoothing=interval(0,0.1)", "seed=0,1", "protocol.trials=4"
    )
    assert result.status == 2
    assert "space.head.label_smoothing.high" in result.err and "accepted: another name=" in result.err


def test_an_arm_is_tuned_in_the_settings_that_its_head_has(command, tmp_path):
    arguments = [argument for argument in CHEAP if not argument.startswith("head=")]
    space = ["optimizer.lr=tag(log,interval(1e-2,1))", "head.temperature=tag(log,interval(0.02,0.5))"]
    result = command(*arguments, "head=softmax,softmax_cosine", *space, "protocol.trials=3", "protocol.confirm_seeds=0")
    assert result.status == 0, result.err
    runs = records(tmp_path).values()
    of_arms = {arm: {run.trial: run.tuned for run in runs if run.arm == arm} for arm in ("softmax", "softmax_cosine")}
    assert [*of_arms["softmax"]] == [1, 2, 3]
    for trial, tuned in of_arms["softmax_cosine"].items():
        assert {*tuned} == {"optimizer.lr", "head.temperature"}
        assert of_arms["softmax"][trial] == {"optimizer.lr": tuned["optimizer.lr"]}


def test_a_reference_to_a_tuned_setting_follows_it(command, tmp_path):
    one = [*CHEAP[:-2], "claims=[accuracy]", "head=softmax", "optimizer.weight_decay=${training.warmup}"]
    result = command(*one, "training.warmup=interval(0.1,0.3)", "protocol.trials=2", "protocol.confirm_seeds=0")
    assert result.status == 0, result.err
    runs = records(tmp_path).values()
    assert len(runs) == 2
    assert all(run.config["optimizer"]["weight_decay"] == run.tuned["training.warmup"] for run in runs)
    assert "Records of other configs" not in result.out


@pytest.mark.parametrize("seeds", range(1, 18))
def test_each_rung_doubles_the_seeds(seeds):
    rungs = halving_rungs(range(10, 10 + seeds))
    assert [seed for rung in rungs for seed in rung] == [*range(10, 10 + seeds)]
    known = np.cumsum([len(rung) for rung in rungs])
    assert all(after == min(2 * before, seeds) for before, after in pairwise(known))
    assert len(rungs) == 1 + math.ceil(math.log2(seeds))


def test_halving_drops_the_worse_half_after_each_doubling_of_seeds(command, tmp_path):
    arguments = [*CHEAP, *SPACE, "protocol.trials=8", "protocol.search=halving", "seed=range(4)"]
    result = command(*arguments, "protocol.confirm_seeds=2", "fold=0")
    assert result.status == 0, result.err
    study, runs = read_study_record(tmp_path / "outputs/x"), records(tmp_path)
    searched = pd.DataFrame(
        [
            {"arm": run.arm, "trial": run.trial, "seed": run.seed, **run.metrics}
            for run in runs.values()
            if run.phase == "search"
        ]
    )
    for arm, of_arm in searched.groupby("arm"):
        # Every arm has the same budget: 8 trials of one seed, 4 of a second, 2 of two more.
        seeds = of_arm.groupby("trial").seed.nunique()
        assert sorted(seeds) == [1, 1, 1, 1, 2, 2, 4, 4]
        kept = {*of_arm.trial}
        for before, after in ((1, 4), (2, 2)):
            rows = of_arm.loc[of_arm.trial.isin(kept) & (of_arm.seed < before)]
            means = rows.groupby("trial")[["val_accuracy", "val_nll"]].mean()
            # The rank by accuracy, of equal ones by NLL, and the rank by NLL.
            by_accuracy = means.sort_values(["val_accuracy", "val_nll"], ascending=[False, True]).index.tolist()
            by_nll = means.sort_values("val_nll").index.tolist()
            ranks = {t: (min(by_accuracy.index(t), by_nll.index(t)), by_accuracy.index(t)) for t in kept}
            kept = {*sorted(kept, key=lambda t: ranks[t])[:after]}
            assert kept == {*seeds.index[seeds > before]}
        for trials in study.protocol.best.values():
            assert trials[arm].number in kept
    before = times(tmp_path)
    assert command(*arguments, "protocol.confirm_seeds=2", "fold=0").status == 0
    assert times(tmp_path) == before
    # A full search afterwards trains what halving left out.
    full = [argument for argument in arguments if "halving" not in argument]
    assert command(*full, "protocol.confirm_seeds=2", "fold=0").status == 0
    assert {name: after for name, after in times(tmp_path).items() if name in before} == before
    assert len(read_study_record(tmp_path / "outputs/x").runs["search"]) == 2 * 8 * 4


def test_a_grid_grows_before_trials_are_dropped(command, tmp_path):
    rates = ["optimizer.lr=1e-4,2e-4", "training.warmup=interval(0,0.3)", "protocol.trials=2"]
    result = command(*CHEAP, *rates, "protocol.search=halving", "seed=0,1", "protocol.confirm_seeds=0")
    assert result.status == 0, result.err
    study = read_study_record(tmp_path / "outputs/x")
    assert study.protocol.extended["above"] == 2 and len(study.grid["optimizer.lr"]) == 4
    runs = [run for run in records(tmp_path).values() if run.arm == "softmax"]
    trials = {(run.lr, run.trial) for run in runs if run.seed == 0}
    assert len(trials) == 4 * 2
    assert len({(run.lr, run.trial) for run in runs if run.seed == 1}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lr=interval(0,1)"], "optimizer.lr=interval(0,1): its low end is not accepted: optimizer.lr=0.0"),
        (
            ["optimizer.momentum=interval(0.5,1)"],
            "its high end is not accepted: optimizer.momentum=1.0: accepted: [0, 1)",
        ),
        (["training.schedule=interval(0,1)"], "only numbers with a fraction can be tuned"),
        (["training.batch_size=interval(8,64)"], "only numbers with a fraction can be tuned"),
        (["training.epochs=interval(1,9)"], "only numbers with a fraction can be tuned"),
        (["model=mlp", "model.widths=interval(8,64)"], "only numbers with a fraction can be tuned"),
        (["optimizer.nesterov=interval(0,1)"], "only numbers with a fraction can be tuned"),
        (["head.temperature=interval(0.1,1)"], "head.temperature=interval(0.1,1): no arm has this setting; accepted"),
        (["head.label_smothing=interval(0.1,1)"], "did you mean head.label_smoothing?"),
        (["+optimizer.foo=interval(0.1,1)"], "optimizer.foo=interval(0.1,1): no arm has this setting"),
        (["optimizer.lr=[interval(0.1,1)]"], "a sweep or a range within a value"),
        (["optimizer.lr={a:interval(0.1,1)}"], "a sweep or a range within a value"),
        ([SPACE[0], "protocol.trials=0"], "protocol.trials=0: accepted: 1 to"),
        ([SPACE[0], "protocol.trials=1.5"], "protocol.trials=1.5: must be an integer"),
        ([*SPACE, "protocol.trials=2"], "protocol.trials=2: 3 or more, as many as the settings that are tuned"),
        (["protocol.trials=5"], "protocol.trials=5: accepted with a range"),
        ([SPACE[0], "protocol.search=half"], "protocol.search=half: did you mean halving?"),
        (["protocol.search=halving", "seed=0,1"], "protocol.search=halving: accepted with tuned settings"),
        ([SPACE[0], "protocol.search=halving"], "protocol.search=halving: accepted with two seeds or more"),
        ([SPACE[0], "protocol.search=halving", "seed=3"], "protocol.search=halving: accepted with two seeds or more"),
        (["head=softmax,softmax_smoothed", SPACE[2], SPACE[0]], "trains the same runs as softmax"),
    ],
)
def test_bad_ranges_are_refused_before_anything_is_written(command, tmp_path, arguments, message):
    keys = {argument.partition("=")[0] for argument in arguments}
    common = ["dataset=iris", "model=linear", "training.epochs=2", "head=softmax,sigmoid"]
    result = command(*(argument for argument in common if argument.partition("=")[0] not in keys), *arguments)
    assert result.status == 2
    assert message in result.err
    assert not (tmp_path / "outputs").exists()


def test_the_record_of_a_tuned_run_can_be_reproduced(command, tmp_path):
    arguments = [*CHEAP, *SPACE, "protocol.trials=3", "protocol.confirm_seeds=1", "fold=0"]
    assert command(*arguments).status == 0
    for name in [*json.loads((tmp_path / "outputs/x/study.json").read_text())["runs"]["search"]][:2]:
        assert command("reproduce", f"outputs/x/runs/{name}").status == 0


@pytest.mark.parametrize(
    ("tuned", "claims"),
    [
        (["optimizer.lr=0.1,0.3"], {"stability_lr"}),
        (["training.warmup=interval(0,0.3)", "protocol.trials=2"], {"stability_space_share", "stability_space_loss"}),
    ],
)
def test_claims_on_sensitivity_are_those_of_what_is_tuned(command, tmp_path, tuned, claims):
    result = command(*CHEAP[:-1], "claims=[stability]", *tuned, "protocol.confirm_seeds=0")
    assert result.status == 0, result.err
    of_all = {"stability_lr", "stability_space_share", "stability_space_loss"}
    assert {*read_study_record(tmp_path / "outputs/x").claims} & of_all == claims
