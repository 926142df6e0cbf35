"""The command line: the files it writes, what it prints, and the requests it refuses."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import headtohead.configs
import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from data_files import DOWNLOADED, Made, pictures
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from headtohead import cli
from headtohead.record.run import COLUMNS
from headtohead.testing import make_study

EXPERIMENTS = sorted(path.stem for path in Path(headtohead.configs.__path__[0]).glob("experiment/*.yaml"))
# What makes an experiment tiny, where 128 training examples do not.
SIZES = {
    "tabular": ["dataset.train_size=64", "model=mlp", "optimizer=sgd"],
    "optimizers": ["dataset.train_size=64", "model=linear"],
    "fashion_mnist": ["dataset.train_size=20", "training.batch_size=8"],
    "fashion_cnn": ["dataset.train_size=20", "training.batch_size=8"],
    "composite": ["dataset.images=1,2", "dataset.train_examples=200", "dataset.test_examples=100"],
    "digits_tuned": ["dataset.train_size=128", "protocol.trials=5"],
    "warmup_tuned": [
        "dataset.images=2",
        "dataset.train_examples=200",
        "dataset.test_examples=100",
        "protocol.trials=2",
    ],
    "imbalance": ["dataset.train_size=256", "dataset.imbalance=1,10"],
    "noise": ["dataset.train_size=128", "dataset.label_noise=0.0,0.4"],
    "long_tail": ["dataset.train_size=256", "dataset.imbalance=10", "head.class_weights=none"],
    "two_classes": ["dataset.train_size=64", "model=linear"],
    "capacity": ["dataset.train_size=64", "model.widths=[8]", "optimizer.lr=0.03,0.1"],
    "focal": ["dataset.train_size=64", "optimizer.lr=0.03,0.1"],
    "smoothing": ["dataset.train_size=64", "optimizer.lr=0.03,0.1"],
    "classes": ["dataset.classes=2,20", "dataset.examples=400"],
    "classes_10000": ["dataset.classes=20", "dataset.examples=800"],
    "ladder_classes": ["dataset.classes=20", "dataset.examples=400"],
}


# A test split in place of folds, on which these rates are the best.
FIXED = ["dataset.folds=null", "dataset.test_fraction=0.2"]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def records(study: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in study.glob("runs/*/run.json")}


def test_one_run(command, tmp_path):
    result = command("head=sigmoid", "dataset=digits", "model=mlp", "seed=3", *TINY)
    assert result.status == 0, result.err
    assert "outputs/digits_mlp/results.csv" in result.out
    ((name, run),) = records(tmp_path / "outputs/digits_mlp").items()
    assert name.startswith("head=sigmoid,dataset=digits,model=mlp,") and name.endswith("seed=3")
    assert (run["seed"], run["head"], run["status"], run["phase"]) == (3, "sigmoid", "finished", "run")
    assert run["config"]["training"]["epochs"] == 1
    assert run["pack"] == {"size": 1, "mode": "plain", "chosen_by": "planner", "threads": 1}
    assert {"test_accuracy", "test_nll", "val_brier", "test_ece", "grad_norm_cv"} <= set(run["metrics"])
    assert run["environment"]["versions"]["torch"]
    history = pd.read_csv(tmp_path / "outputs/digits_mlp/runs" / name / "history.csv")
    tags = ["train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/nll", "lr", "ambiguity/none"]
    tags += ["ambiguity/several", *(f"grad_norm/{part}" for part in ("total", "logits", "backbone", "classifier"))]
    tags += ["grad_norm/layer/hidden0", "grad_norm/layer/classifier"]
    assert set(tags) <= set(history.columns)
    # 64 examples are one batch, and one epoch one step: before it and after it there is something to log.
    assert history.step.tolist() == [0, 1] and history.epoch.tolist() == [0, 1] and run["steps"] == 1
    assert tree(tmp_path)[0] == "outputs"


def test_a_sweep_of_heads_and_seeds_is_simply_run(command, tmp_path):
    result = command("-m", "head=softmax,sigmoid", "seed=range(3)", *TINY)
    assert result.status == 0, result.err
    study = tmp_path / "outputs/digits_mlp"
    table = pd.read_csv(study / "results.csv")
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert sorted(zip(table["arm"], table["seed"], strict=True)) == [
        (arm, seed) for arm in ("sigmoid", "softmax") for seed in range(3)
    ]
    assert set(table.phase) == {"run"}
    assert table.test_accuracy.notna().all()
    assert {run["pack"]["size"] for run in records(study).values()} == {6}
    assert "±" in result.out


def test_a_sweep_over_learning_rates_is_searched_and_confirmed(command, tmp_path):
    # Batches of 16 make four steps: enough to diverge.
    steps = [*TINY, "training.batch_size=16", "claims=[accuracy]", *FIXED]
    result = command("-m", "name=s", "head=softmax,sigmoid", "optimizer.lr=1e-6,0.3,1e30", "seed=0,1", *steps)
    assert result.status == 0, result.err
    table = pd.read_csv(tmp_path / "outputs/s/results.csv")
    search, confirm = table[table.phase == "search"], table[table.phase == "confirm"]
    assert len(search) == 12 and len(confirm) == 4 and len(table) == 16
    assert search.test_accuracy.isna().all(), "the search never reads the test split"
    assert confirm.test_accuracy.notna().all()
    assert set(search.seed) == {0, 1} and set(confirm.seed) == {2, 3}
    means = search.groupby(["arm", "lr"]).val_accuracy.mean()
    for arm, rows in confirm.groupby("arm"):
        assert set(rows.lr) == {means[arm].idxmax()} == {0.3}
    diverged = search[search.status == "diverged"]
    assert set(diverged.lr) == {1e30} and set(diverged.val_accuracy) == {0.1}
    study = json.loads((tmp_path / "outputs/s/study.json").read_text())
    assert study["grid"] == {"optimizer.lr": [1e-6, 0.3, 1e30]}
    assert study["protocol"]["confirm_seeds"] == [2, 3]
    assert study["arms"] == {"softmax": ["head=softmax"], "sigmoid": ["head=sigmoid"]}
    assert set(study["runs"]["search"] + study["runs"]["confirm"]) == set(table.run)
    assert f"{len(diverged[diverged.arm == 'softmax'])}/8" in result.out


@pytest.mark.parametrize(
    ("rates", "extended", "grid"),
    [
        ("1e-6,1e-5,1e-4", {"below": 0, "above": 2}, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
        ("0.1,100,1e5", {"below": 1, "above": 0}, [1e-4, 0.1, 100, 1e5]),
    ],
)
def test_a_grid_with_the_best_rate_on_its_edge_is_extended_for_all_arms(command, tmp_path, rates, extended, grid):
    result = command("-m", "name=s", "head=softmax,sigmoid", f"optimizer.lr={rates}", "seed=0,1", *TINY, *FIXED)
    assert result.status == 0, result.err
    study = json.loads((tmp_path / "outputs/s/study.json").read_text())
    assert study["protocol"]["extended"] == extended
    assert study["grid"]["optimizer.lr"] == pytest.approx(grid)
    table = pd.read_csv(tmp_path / "outputs/s/results.csv")
    search = table[table.phase == "search"]
    assert (search.groupby(["arm", "lr"]).size() == 2).all()
    for _, rows in search.groupby("arm"):
        assert sorted(set(rows.lr)) == pytest.approx(grid)
    assert "extended the grid of every arm" in (tmp_path / "outputs/s/report.md").read_text()


def test_users_own_claims_are_yaml_files(command, tmp_path):
    (tmp_path / "mine/claims").mkdir(parents=True)
    claim = "softness:\n  sentence: Softmax is soft.\n  metric: test_saturated\n  phase: confirm\n"
    (tmp_path / "mine/claims/softness.yaml").write_text(
        claim + "  direction: lower\n  margin: 0.1\n  favours: softmax\n"
    )
    (tmp_path / "mine/claims/wrong.yaml").write_text(claim + "  direction: left\n  margin: 0.1\n  favours: softmax\n")
    sweep = ["--config-dir", "mine", "-m", "name=x", "head=softmax,sigmoid", "seed=range(4)", *TINY]
    refused = command(*sweep, "claims=[wrong]")
    assert refused.status == 2
    assert "left" in refused.err and "higher" in refused.err
    assert not (tmp_path / "outputs").exists()
    assert command(*sweep, "claims=[softness,accuracy]").status == 0
    rows = json.loads((tmp_path / "outputs/x/verdicts.json").read_text())["claims"]
    assert [row["claim"] for row in rows] == ["softness", "accuracy"]
    assert all(row["seeds"] == 4 for row in rows)


def test_the_report_is_rebuilt_from_the_records(command, tmp_path):
    assert command("-m", "name=x", "head=softmax,sigmoid", "seed=range(4)", *TINY).status == 0
    study = tmp_path / "outputs/x"
    made = {name: (study / name).read_bytes() for name in ("report.md", "report.html", "verdicts.json")}
    for name in made:
        (study / name).unlink()
    result = command("report", "outputs/x")
    assert result.status == 0, result.err
    assert "report.html" in result.out
    assert {name: (study / name).read_bytes() for name in made} == made


def test_a_report_on_a_folder_that_is_no_study_is_refused(command, tmp_path):
    for folder in ("nowhere", "."):
        result = command("report", folder)
        assert result.status == 2
        assert "study.json" in result.err
        assert len(result.err.strip().splitlines()) <= 2
    assert tree(tmp_path) == []


IRIS = ["dataset=iris", "fold=0", "training.epochs=1", "claims=[accuracy]"]


def test_a_study_of_several_models_or_datasets_has_one_folder_named_after_all(command, tmp_path):
    for models in ("model=mlp,linear", "model=linear,mlp"):
        result = command(models, "head=softmax,sigmoid", "seed=range(2)", *IRIS)
        assert result.status == 0, result.err
    (study, other) = sorted((tmp_path / "outputs").iterdir())
    assert (study.name, other.name) == ("iris_linear_mlp", "iris_mlp_linear")
    for folder in (study, other):
        assert len(pd.read_csv(folder / "results.csv")) == 8
        assert {run["config"]["name"] for run in records(folder).values()} == {folder.name}


def test_swept_values_reach_the_workers_as_they_are(command, tmp_path, fresh_workers):
    """Also by way of processes, and as runs of their own whatever their names have in common."""
    values = ["'a b'", "a_b", "a:b", r"'it\'s, [x]{y}=\\'", "'100% ü'", "''", "1", "'1'"]
    result = command(
        *IRIS, "name=x", "model=factory", "model.path=factories:tagged", f"+model.options.tag={','.join(values)}",
        "hydra.launcher.n_jobs=2", "pack_size=4",
    )  # fmt: skip
    assert result.status == 0, result.err
    tags = [run["config"]["model"]["options"]["tag"] for run in records(tmp_path / "outputs/x").values()]
    expected = ["a b", "a_b", "a:b", "it's, [x]{y}=\\", "100% ü", "", 1, "1"]
    assert sorted(map(repr, tags)) == sorted(map(repr, expected))
    assert len(pd.read_csv(tmp_path / "outputs/x/results.csv")) == len(values)


def test_a_value_that_refers_to_the_rate_follows_it_and_bounds_the_growth_of_the_grid(command, tmp_path):
    rates = ["optimizer.lr=1e-7,0.2", "training.warmup=${optimizer.lr}"]
    result = command(*IRIS, *FIXED, "model=linear", "name=x", *rates, "protocol.confirm_seeds=1")
    assert result.status == 0, result.err
    runs = records(tmp_path / "outputs/x").values()
    assert {run["config"]["training"]["warmup"] == run["lr"] for run in runs} == {True}
    assert "The grid does not grow to optimizer.lr=400000: training.warmup=400000.0" in result.err
    assert {run["lr"] for run in runs} == {1e-7, 0.2}


def is_full():
    return open("/dev/full", "w", encoding="utf-8")


def has_no_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


@pytest.mark.parametrize("stream", [is_full, has_no_reader, lambda: None])
def test_an_output_that_takes_nothing_stops_nothing(tmp_path, monkeypatch, stream):
    study = make_study(tmp_path / "study", seeds=2)
    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(sys, "stdout", (opened := stream()) and stack.enter_context(opened))
        monkeypatch.setattr(sys, "argv", ["headtohead", "report", str(study)])
        cli.main()
    assert (study / "report.html").exists()


@pytest.mark.parametrize(("encoding", "sign"), [("ascii", "+-"), ("latin-1", "±"), ("utf-16", "±")])
def test_an_output_in_another_encoding_shows_what_it_can(tmp_path, monkeypatch, encoding, sign):
    study = make_study(tmp_path / "study", seeds=2)
    with (tmp_path / "out").open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "argv", ["headtohead", "report", str(study)])
        cli.main()
    assert f"mean {sign} half of the 95 % interval" in (tmp_path / "out").read_text(encoding=encoding)


@pytest.mark.parametrize(
    "arguments",
    [["report", "study", "--to", "file"], ["report", "study", "--to", "file/x"], ["report", "study", "--to", "a" * 300],
     ["report", "a" * 300], ["board", "a" * 300], ["reproduce", "a" * 300], ["report", "file"], ["board", "file"],
     ["reproduce", "file"], ["board", "study", "--port", "-1"], ["board", "study", "--port", "65536"]],
)  # fmt: skip
def test_a_place_that_cannot_be_is_a_wrong_request(command, tmp_path, arguments):
    make_study(tmp_path / "study", seeds=2)
    (tmp_path / "file").touch()
    result = command(*arguments)
    (line,) = result.err.splitlines()
    assert result.status == 2 and arguments[-1][:100] in line and "accepted: " in line and "Error" not in line


FOLDED = ["dataset=iris", "model=linear", "training.epochs=2", "claims=[accuracy,loss,stability]"]


def test_a_sweep_trains_all_folds_and_a_single_run_the_first(command, tmp_path):
    study = tmp_path / "outputs/x"
    assert command("name=x", "head=softmax", "seed=0", *FOLDED).status == 0
    (alone,) = study.glob("runs/*/run.json")
    made = alone.stat().st_mtime_ns
    result = command("-m", "name=x", "head=softmax,sigmoid", "seed=0,1", *FOLDED)
    assert result.status == 0, result.err
    assert "90 train, 30 val, 150 test (in 5 folds) examples" in result.out
    table = pd.read_csv(study / "results.csv")
    assert table.groupby(["arm", "seed"]).fold.agg(sorted).tolist() == [[0, 1, 2, 3, 4]] * 4
    assert alone.stat().st_mtime_ns == made
    assert not any("fold=0" in run for run in table.run)
    tested = [np.load(path)["example"] for path in study.glob("runs/head=softmax*seed=1*/predictions.npz")]
    assert sorted(np.concatenate(tested).tolist()) == [*range(150)]
    rows = {row["claim"]: row for row in json.loads((study / "verdicts.json").read_text())["claims"]}
    assert (rows["accuracy"]["seeds"], rows["accuracy"]["examples"]) == (2, 150)
    assert rows["accuracy"]["mean_arm"] == pytest.approx(table[table.arm == "softmax"].test_accuracy.mean())
    again = command("reproduce", str(next(study.glob("runs/*sigmoid*seed=1,fold=3"))))
    assert again.status == 0 and "equal" in again.out


def test_the_search_trains_one_fold_and_the_confirm_phase_all(command, tmp_path):
    arguments = ["-m", "head=softmax,sigmoid", "optimizer.lr=1e-4,0.3,1e4", "seed=0,1", *FOLDED]
    assert command(*arguments, "name=x", "protocol.confirm_seeds=2").status == 0
    table = pd.read_csv(tmp_path / "outputs/x/results.csv")
    assert set(table.fold[table.phase == "search"]) == {0}
    confirmed = table[table.phase == "confirm"]
    assert (confirmed.groupby(["arm", "seed"]).fold.nunique() == 5).all()
    assert command(*arguments, "name=y", "protocol.confirm_seeds=1", "fold=2,4").status == 0
    table = pd.read_csv(tmp_path / "outputs/y/results.csv")
    assert set(table.fold[table.phase == "search"]) == {2}
    assert set(table.fold[table.phase == "confirm"]) == {2, 4}


def test_seeds_are_added_until_the_claims_are_decided_or_there_are_enough(command, tmp_path):
    arguments = ["-m", "name=x", "head=softmax,sigmoid", "optimizer.lr=1e-4,0.3,1e4", "seed=0,1", *FOLDED, "fold=0"]
    arguments += ["protocol.confirm_seeds=2", "protocol.until_decided=true", "protocol.max_seeds=7"]
    # No seeds decide whether a difference is within so narrow a margin, yet the examples would not be too few.
    assert command(*arguments).status == 0
    study = json.loads((tmp_path / "outputs/x/study.json").read_text())
    rows = json.loads((tmp_path / "outputs/x/verdicts.json").read_text())["claims"]
    looks, seeds = study["protocol"]["looks"], study["protocol"]["confirm_seeds"]
    assert looks[0] == 2 and looks == [2, 4, 7][: len(looks)] and len(seeds) == looks[-1] and seeds[0] == 2
    undecided = [
        row for row in rows if row["weight"] and row["verdict"] == "inconclusive" and not row["needs_examples"]
    ]
    assert bool(undecided) <= (looks[-1] == 7)
    table = pd.read_csv(tmp_path / "outputs/x/results.csv")
    assert set(table.seed[table.phase == "confirm"]) == set(seeds)
    assert all(
        row["confidence"] == pytest.approx(1 - 0.05 / (len(looks) * (len(looks) + 1))) for row in rows if row["seeds"]
    )
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs/x").glob("runs/*/run.json")}
    assert command(*arguments).status == 0
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert json.loads((tmp_path / "outputs/x/study.json").read_text())["protocol"]["looks"] == looks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fold=5"], "fold=5: from 0 to 4, as dataset.folds=5"),
        (["fold=-1"], "fold=-1: from 0 to 4"),
        (["fold=0,7"], "fold=7: from 0 to 4"),
        (["fold=x"], "fold=x: must be an integer"),
        (["fold=${seed}"], "fold=${seed}: may not refer to another key"),
        (["dataset=gaussians", "fold=1"], "fold=1: 0, as the dataset has no folds"),
        (["dataset.folds=1000000", "seed=0,1"], "dataset.folds=1000000: at most 50"),
        (["dataset.folds=51"], "dataset.folds=51: at most 50, the number of examples of the class setosa, or null"),
        (["dataset.test_fraction=0.2"], "dataset.folds=5: test_fraction=0.2; give either dataset.folds or"),
        (["dataset=mnist", "dataset.folds=5"], "dataset.folds"),
        (["protocol.until_decided=true"], "protocol.max_seeds=None: the most fresh seeds"),
        (["protocol.max_seeds=20"], "protocol.max_seeds=20: the most fresh seeds, with protocol.until_decided=true"),
        (["protocol.until_decided=true", "protocol.max_seeds=20"], "accepted with tuned settings"),
        (["protocol.until_decided=true", "protocol.max_seeds=2", "optimizer.lr=0.1,1", "seed=0,1,2"],
         "protocol.max_seeds=2: 3 or more, the seeds of the first look"),
    ],
)  # fmt: skip
def test_folds_and_seeds_that_cannot_be_are_refused_before_training(command, tmp_path, arguments, message):
    dataset = [] if arguments[0].startswith("dataset=") else ["dataset=iris"]
    result = command("model=linear", *dataset, *arguments)
    assert result.status == 2 and message in result.err, result.err
    assert not (tmp_path / "outputs").exists()


# After four steps sigmoid's accuracy is best at 0.3 and its NLL at 0.03; both of softmax are best at 0.3.
TWO_RATES = ["-m", "name=s", "head=softmax,sigmoid", "optimizer.lr=0.01,0.03,0.3,1e30", "seed=0,1", *TINY]
TWO_RATES += ["training.batch_size=16", "claims=[accuracy,loss]", *FIXED]


def confirmed(study: Path) -> dict[str, list[float]]:
    """Return the rates at which each arm is confirmed, by the last command, with two seeds each."""
    runs = [json.loads((study / "runs" / run / "run.json").read_text()) for run in studied(study)["runs"]["confirm"]]
    table = pd.DataFrame(runs).groupby(["arm", "lr"]).seed.agg(list)
    assert all(seeds == [2, 3] for seeds in table)
    return {arm: [*table[arm].index] for arm in ("softmax", "sigmoid")}


def studied(study: Path) -> dict:
    return json.loads((study / "study.json").read_text())


def test_an_arm_is_confirmed_at_its_best_rate_for_each_criterion(command, tmp_path):
    result = command(*TWO_RATES)
    assert result.status == 0, result.err
    study = tmp_path / "outputs/s"
    table = pd.read_csv(study / "results.csv")
    assert confirmed(study) == {"softmax": [0.3], "sigmoid": [0.03, 0.3]}
    rates = {"val_accuracy": {"softmax": 0.3, "sigmoid": 0.3}, "val_nll": {"softmax": 0.3, "sigmoid": 0.03}}
    best = {name: {arm: {"lr": lr, "number": 0} for arm, lr in of_arms.items()} for name, of_arms in rates.items()}
    assert studied(study)["protocol"]["best"] == best
    rows = {row["claim"]: row for row in json.loads((study / "verdicts.json").read_text())["claims"]}
    at_rates = table[table.phase == "confirm"].groupby(["arm", "lr"])[["test_accuracy", "test_nll"]].mean()
    assert rows["accuracy"]["mean_versus"] == pytest.approx(at_rates.test_accuracy["sigmoid", 0.3])
    assert rows["loss_nll"]["mean_versus"] == pytest.approx(at_rates.test_nll["sigmoid", 0.03])
    assert rows["loss_nll"]["note"] == "at the learning rates of the best val_nll: softmax 0.3 and sigmoid 0.03"
    # The TensorBoard page and the arms' table are about the first criterion alone.
    accuracy = 100 * at_rates.test_accuracy["sigmoid", 0.3]
    assert re.search(rf"^sigmoid +0.3 .* {accuracy:.2f} ± ", result.out, re.MULTILINE)


def test_claims_that_need_another_rate_are_confirmed_later(command, tmp_path):
    study = tmp_path / "outputs/s"
    assert command(*TWO_RATES, "claims.loss_nll.selected_by=null", "claims.loss_brier.selected_by=null").status == 0
    assert confirmed(study) == {"softmax": [0.3], "sigmoid": [0.3]}
    search = {run: (study / "runs" / run / "run.json").stat().st_mtime_ns for run in studied(study)["runs"]["search"]}
    for _ in range(2):
        result = command(*TWO_RATES)
        assert result.status == 0, result.err
        assert confirmed(study) == {"softmax": [0.3], "sigmoid": [0.03, 0.3]}
        assert set(studied(study)["protocol"]["best"]) == {"val_accuracy", "val_nll"}
    assert search == {run: (study / "runs" / run / "run.json").stat().st_mtime_ns for run in search}
    # Another margin is another claim.
    refused = command(*TWO_RATES, "claims.loss_nll.margin=0.5")
    assert refused.status == 2 and "claims.loss_nll.margin: 0.02, now 0.5" in refused.err


def test_the_primary_metric_of_a_study_can_be_changed(command, tmp_path):
    study = tmp_path / "outputs/s"
    assert command(*TWO_RATES).status == 0
    written = {path: path.stat().st_mtime_ns for path in study.glob("runs/*/run.json")}
    for metric, rates in (("nll", [0.03, 0.3]), ("macro_f1", [0.03, 0.3])):
        result = command(*TWO_RATES, f"protocol.metric={metric}")
        assert result.status == 0, result.err
        assert studied(study)["protocol"]["selected_by"] == f"val_{metric}"
        assert confirmed(study)["sigmoid"] == rates
    assert {path: path.stat().st_mtime_ns for path in written} == written, "no run is trained again"
    claim = studied(study)["claims"]["macro_f1"]
    assert (claim["metric"], claim["selected_by"], claim["weight"]) == ("test_macro_f1", "val_macro_f1", 0.25)
    assert claim["sentence"] == "Softmax reaches better macro F1."


def test_confirm_seeds_can_be_left_out(command, tmp_path):
    result = command("-m", "name=s", "optimizer.lr=0.01,0.1", "seed=0,1", "protocol.confirm_seeds=0", *TINY)
    assert result.status == 0, result.err
    assert set(pd.read_csv(tmp_path / "outputs/s/results.csv").phase) == {"search"}


def test_a_study_goes_on_with_more_fresh_seeds(command, tmp_path):
    arguments = ["-m", "name=s", "head=softmax,sigmoid", "optimizer.lr=0.01,0.1,1.0", "seed=0,1", *TINY]
    assert command(*arguments, "protocol.confirm_seeds=1").status == 0
    runs = tmp_path / "outputs/s/runs"
    before = {path.name: (path / "run.json").stat().st_mtime_ns for path in runs.iterdir()}
    assert command(*arguments, "protocol.confirm_seeds=2").status == 0
    after = {path.name: (path / "run.json").stat().st_mtime_ns for path in runs.iterdir()}
    assert {name: after[name] for name in before} == before
    fresh = after.keys() - before.keys()
    assert len(fresh) >= 2 and all(name.endswith("seed=3") for name in fresh)
    table = pd.read_csv(tmp_path / "outputs/s/results.csv")
    assert set(table[table.phase == "confirm"].seed) == {2, 3}
    # Each time with more seeds is a look; the same command once more is none.
    assert command(*arguments, "protocol.confirm_seeds=2").status == 0
    assert json.loads((tmp_path / "outputs/s/study.json").read_text())["protocol"]["looks"] == [1, 2]
    rows = json.loads((tmp_path / "outputs/s/verdicts.json").read_text())["claims"]
    confidences = [row["confidence"] for row in rows if row["seeds"]]
    assert confidences and set(confidences) == {1 - 0.05 / 6}


def test_the_same_command_gives_the_same_bits(command, tmp_path):
    arguments = ["head=softmax,sigmoid", "optimizer.lr=0.1,0.3", "seed=0,1", "model.dropout=0.2", *TINY]
    kept = {}
    for name in ("a", "b"):
        assert command("-m", f"name={name}", *arguments).status == 0
        runs = tmp_path / "outputs" / name / "runs"
        kept[name] = {
            folder.name: (
                (folder / "history.csv").read_bytes(),
                json.loads((folder / "run.json").read_text())["metrics"],
            )
            for folder in runs.iterdir()
        }
    assert len(kept["a"]) >= 12
    assert kept["a"] == kept["b"]


def test_the_same_command_again_trains_nothing(command, tmp_path):
    times = []
    for _ in range(2):
        assert command("name=again", "seed=0", *TINY).status == 0
        paths = [path for path in tmp_path.glob("outputs/again/runs/*/*") if "events" not in path.name]
        times.append({path: path.stat().st_mtime_ns for path in paths})
    assert {path.name for path in times[0]} == {"run.json", "history.csv", "predictions.npz"} and times[0] == times[1]


def test_a_broken_record_is_trained_again(command, tmp_path):
    arguments = ["-m", "name=b", "head=softmax,sigmoid", "seed=0,1", *TINY]
    assert command(*arguments).status == 0
    study = tmp_path / "outputs/b"
    before = pd.read_csv(study / "results.csv").drop(columns="wall_s")
    first, second, third, kept = sorted(study.glob("runs/*"))
    (first / "run.json").write_text("{")
    (second / "history.csv").unlink()
    (third / "run.json").write_text('{"run": "another"}')
    (next(third.glob("events*"))).write_bytes(b"truncated")
    untouched = (kept / "run.json").stat().st_mtime_ns
    assert command(*arguments).status == 0
    assert (kept / "run.json").stat().st_mtime_ns == untouched
    pd.testing.assert_frame_equal(pd.read_csv(study / "results.csv").drop(columns="wall_s"), before)
    assert EventAccumulator(str(third)).Reload().Scalars("train/loss")


def test_a_study_does_not_go_on_as_another(command, tmp_path):
    assert command("name=d", "seed=0", *TINY).status == 0
    refused = command("name=d", "seed=0", *TINY, "training.batch_size=16")
    assert refused.status == 2
    assert "training.batch_size: 64, now 16" in refused.err and "accept_drift=true" in refused.err
    (path,) = tmp_path.glob("outputs/d/runs/*/run.json")
    run = json.loads(path.read_text())
    torch_now = run["environment"]["versions"]["torch"]
    run["environment"]["versions"]["torch"], run["checksum"] = "1.0", ""
    path.write_text(json.dumps(run))
    refused = command("name=d", "seed=0", *TINY)
    assert refused.status == 2 and f"versions.torch: 1.0, now {torch_now}" in refused.err
    assert command("name=d", "seed=0", *TINY, "accept_drift=true").status == 0
    assert json.loads(path.read_text())["environment"]["versions"]["torch"] == "1.0"


def test_a_confirmed_run_does_not_stand_in_for_a_searched_one(command, tmp_path):
    arguments = ["-m", "name=p", "head=softmax,sigmoid", "optimizer.lr=0.01,0.1,1.0", "protocol.confirm_seeds=1"]
    assert command(*arguments, "seed=0", *TINY).status == 0
    table = pd.read_csv(tmp_path / "outputs/p/results.csv")
    assert set(table[table.phase == "confirm"].seed) == {1}
    assert command(*arguments, "seed=0,1", *TINY).status == 0
    table = pd.read_csv(tmp_path / "outputs/p/results.csv")
    assert set(table[table.phase == "confirm"].seed) == {2}
    assert table[table.seed < 2].phase.eq("search").all() and table[table.seed < 2].test_accuracy.isna().all()


def test_a_second_process_on_a_study_is_refused(command, tmp_path):
    (tmp_path / "outputs/x").mkdir(parents=True)
    with FileLock(tmp_path / "outputs/x/.lock"):
        refused = command("name=x", "seed=0", *TINY)
    assert refused.status == 2 and "outputs/x: another process is at work on it" in refused.err
    assert tree(tmp_path / "outputs/x") == [".lock"]


def test_a_pack_whose_process_is_killed_is_tried_again(tmp_path):
    study = ["-m", "name=k", "model=factory", "model.path=factories:doomed", "seed=0,1", *TINY[:3], *TINY[-2:]]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-m", "headtohead", *study, "pack_size=1", "hydra.launcher.n_jobs=2"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "TerminatedWorkerError" in result.stderr and "trying its" in result.stderr
    assert pd.read_csv(tmp_path / "outputs/k/results.csv").status.tolist() == ["finished"] * 2


def test_events_and_history_agree(command, tmp_path):
    assert command("name=x", "seed=0", *TINY).status == 0
    (folder,) = (tmp_path / "outputs/x/runs").iterdir()
    events, history = EventAccumulator(str(folder)).Reload(), pd.read_csv(folder / "history.csv")
    tags = [column for column in history.columns if column not in ("step", "epoch")]
    final = json.loads((folder / "run.json").read_text())["metrics"]
    final = {f"final/{name}": value for name, value in final.items() if value is not None}
    assert sorted(events.Tags()["scalars"]) == sorted([*tags, *final])
    for tag, value in final.items():
        assert [event.value for event in events.Scalars(tag)] == [pytest.approx(value, rel=1e-6)]
    for tag in tags:
        known = history[["step", tag]].dropna()
        read = [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        assert list(zip(known.step, known[tag], strict=True)) == read


def test_a_sweep_over_datasets_has_no_examples_in_common(command, tmp_path):
    """iris and wine have three classes each, digits ten: none lends its names or its inputs to another."""
    done = command("-m", "name=x", "dataset=iris,wine,digits", "model=linear", "seed=0,1", "training.epochs=1")
    assert done.status == 0, done
    study = tmp_path / "outputs/x"
    assert json.loads((study / "study.json").read_text())["classes"] == []
    assert not (study / "examples.npz").exists() and not (study / "figures/confusion.svg").exists()
    for arm, classes in (("iris", 3), ("wine", 3), ("digits", 10)):
        tags = EventAccumulator(str(study / "arms" / arm)).Reload().Tags()["tensors"]
        assert {f"class/{label}" for label in range(classes)} == {tag for tag in tags if tag.startswith("class/")}


def test_the_pack_size_can_be_set_by_hand(command, tmp_path):
    arguments = ["seed=range(4)", "fold=0", "model=cnn", "training.epochs=1", "dataset.train_size=64"]
    for name, size, mode in (("auto", None, "plain"), ("two", 2, "vmap")):
        assert command("-m", f"name={name}", *arguments, *([f"pack_size={size}"] if size else [])).status == 0
        for run in records(tmp_path / "outputs" / name).values():
            assert run["pack"]["size"] == (size or 1)
            assert run["pack"]["mode"] == mode
            assert run["pack"]["chosen_by"] == ("user" if size else "planner")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_at_a_tiny_size(command, tmp_path, monkeypatch, experiment):
    config = Path(headtohead.configs.__path__[0], f"experiment/{experiment}.yaml").read_text()
    for dataset in DOWNLOADED:
        if re.search(rf"\b{dataset}\b", config):
            Made(monkeypatch, dataset).write(tmp_path / "data")
    if "data/penguins.csv" in config:
        (tmp_path / "data").mkdir()
        pytest.importorskip("palmerpenguins").load_penguins().to_csv(tmp_path / "data/penguins.csv", index=False)
    size = SIZES.get(experiment, ["dataset.train_size=128"])
    result = command(f"experiment={experiment}", "seed=0,1", "training.epochs=1", "protocol.confirm_seeds=2", *size)
    assert result.status == 0, result.err
    table = pd.read_csv(tmp_path / f"outputs/{experiment}/results.csv")
    study = json.loads((tmp_path / f"outputs/{experiment}/study.json").read_text())
    best, trials = study["protocol"]["best"], study["protocol"]["trials"]
    tuned = trials or len(study["grid"]["optimizer.lr"]) > 1
    # By halving the second seed has half of the trials.
    searched = (
        1.5 * trials if study["protocol"]["search"] == "halving" else 2 * (trials or len(study["grid"]["optimizer.lr"]))
    )
    folds = {arm: data["folds"] or 1 for data in study["data"] for arm in data["arms"]}
    if "fold: 0" in config:
        folds = dict.fromkeys(folds, 1)
    seeds = len(study["protocol"]["confirm_seeds"]) if tuned else 2
    assert seeds == 2 or "until_decided: true" in config
    counts = {"search": searched * len(study["arms"])} if tuned else {}
    others = {
        (choice["criterion"], choice["arm"], choice["seed"], choice["fold"]): choice["trial"]["lr"]
        for choice in study["protocol"]["of_folds"]
    }
    fresh = study["protocol"]["confirm_seeds"] if tuned else range(2)
    counts["confirm" if tuned else "run"] = sum(
        # A run at each trial that is the best one of this fold by a criterion.
        len({others.get((name, arm, seed, fold), of_arms[arm]["lr"]) for name, of_arms in best.items()} or [0])
        for arm in study["arms"]
        for seed in fresh
        for fold in range(folds[arm])
    )
    assert table.phase.value_counts().to_dict() == counts


def test_control_prior_starts_with_the_gradients_of_softmax(command, tmp_path):
    assert command("experiment=control_prior", "seed=range(3)").status == 0
    runs = tmp_path / "outputs/control_prior/runs"
    for seed in range(3):
        softmax, sigmoid = (
            pd.read_csv(runs / f"head={head},seed={seed}" / "history.csv").filter(like="grad_norm/").iloc[0]
            for head in ("softmax", "sigmoid_prior")
        )
        assert softmax["grad_norm/logits"] > 0.9
        assert sigmoid.to_dict() == pytest.approx(softmax.to_dict(), rel=1e-6)


def test_the_default_study_has_four_arms_and_seven_rates(command, tmp_path):
    assert command("experiment=digits", "seed=0,1", "training.epochs=1", "dataset.train_size=64").status == 0
    study = json.loads((tmp_path / "outputs/digits/study.json").read_text())
    assert list(study["arms"]) == ["softmax", "sigmoid", "sigmoid_prior", "sigmoid_mean"]
    grid = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    assert set(grid) <= set(study["grid"]["optimizer.lr"])


def test_hydra_cannot_be_told_to_run_a_job_by_itself(command, tmp_path):
    result = command("hydra.mode=RUN")
    assert result.status == 2
    assert "hydra.mode=RUN: a single run is a sweep of one; accepted: MULTIRUN" in result.err
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["head=sofmax"], ["head=sofmax", "did you mean softmax"]),
        (["dataset=digit"], ["dataset=digit", "did you mean digits"]),
        (["model=mpl"], ["model=mpl", "did you mean mlp"]),
        (["experiment=digit"], ["experiment=digit", "digits"]),
        (["optimizer.lrr=1"], ["optimizer.lrr", "did you mean lr"]),
        (["sed=1"], ["sed", "did you mean seed"]),
        (["optimizer.lr=abc"], ["optimizer.lr=abc", "number"]),
        (["optimizer.lr=0"], ["optimizer.lr=0", "above 0"]),
        (["-m", "optimizer.lr=0.1,-1"], ["optimizer.lr=-1", "above 0"]),
        (["training.batch_size=0"], ["training.batch_size=0", "above 0"]),
        (["training.batch_size=large"], ["training.batch_size=large"]),
        (["training.epochs=1.5"], ["training.epochs=1.5"]),
        (["seed=x"], ["seed=x", "integer"]),
        (["dataset.val_fraction=2"], ["dataset.val_fraction=2"]),
        (["dataset.train_size=100000"], ["dataset.train_size=100000", "at most"]),
        (["dataset=mnist", "dataset.root=nowhere"], ["dataset.root=", "nowhere", "train-images"]),
        (["dataset=image_folder", "dataset.root=nowhere"], ["dataset.root=", "nowhere"]),
        (["model=factory", "model.path=factories:few", "+model.options.outputs=3"], ["10 classes", "out_features=3"]),
        (["model=factory", "model.path=nowhere:f"], ["nowhere"]),
        (["model=factory"], ["model.path"]),
        (["model=cnn", "dataset=iris"], ["cnn", "(4,)"]),
        (["dataset.flip=true", "dataset=iris"], ["dataset.flip"]),
        (["dataset.ood=digit"], ["dataset.ood=digit", "did you mean digits"]),
        (["dataset=iris", "dataset.ood=wine"], ["dataset.ood=wine", "(4,)", "(13,)"]),
        (["name=../../etc"], ["name=../../etc"]),
        (["name=" + "a" * 256], ["name=aa", "at most 255 bytes"]),
        (["model=factory", "model.path=x:y", "model.options.few=1"], ["model.options.few", "+model.options.few"]),
        (["-m", "name=a,b"], ["name", "cannot be swept"]),
        (["name=${seed}", "seed=1,2"], ["name=${seed}", "differs between the runs"]),
        (["name=${oc.env:NOT_SET}"], ["name=${oc.env:NOT_SET}", "'NOT_SET' not found", "accepted"]),
        (["seed=9223372036854775808"], ["seed=9223372036854775808", "below 2**63"]),
        (["seed=18446744073709551616,3"], ["seed=18446744073709551616", "below 2**63"]),
        (["seed=9223372036854775807", "optimizer.lr=0.1,1"], ["seed=9223372036854775808", "below 2**63"]),
        (["seed=-1,2"], ["seed=-1", "0 or more"]),
        (["+seed=0,1"], ["seed", "leave the plus out"]),
        (["+training.epochs=2"], ["training.epochs", "leave the plus out"]),
        (["~optimizer.lr"], ["optimizer.lr: missing"]),
        (["~training"], ["training: missing"]),
        (["protocol.confirm_seeds=1000000000"], ["protocol.confirm_seeds=1000000000", "accepted"]),
        (["protocol.metric=f1"], ["protocol.metric=f1", "accepted: accuracy, balanced_accuracy, macro_f1"]),
        (["claims.loss_nll.selected_by=val_foo"], ["claims.loss_nll.selected_by=val_foo", "val_accuracy"]),
        (["claims.loss_nll.selected_by=test_nll"], ["selected_by=test_nll", "did you mean", "val_nll"]),
        (["+claims.stability_lr.selected_by=val_nll"], ["claims.stability_lr.selected_by=val_nll", "phase search"]),
        (["claims=[accurcy]"], ["claims=accurcy", "did you mean accuracy"]),
        (["claims.accurcy.margin=1"], ["claims.accurcy", "did you mean accuracy"]),
        (
            ["claims.accuracy.metric=test_acuracy"],
            ["metric=test_acuracy", "did you mean test_accuracy"],
        ),
        (["claims.accuracy.metric=lr_sensitivity"], ["claims.accuracy.metric=lr_sensitivity", "phase confirm"]),
        (
            ["claims.speed.phase=search", "claims.speed.metric=test_nll"],
            ["metric=test_nll", "phase search"],
        ),
        (["dataset=iris", "claims.speed.metric=shift_blur_accuracy"], ["claims.speed.metric=shift_blur_accuracy"]),
        (["dataset.ood=null", "claims.speed.metric=ood_auroc"], ["claims.speed.metric=ood_auroc", "not recorded"]),
        (["claims.accuracy.favours=sofmax"], ["claims.accuracy.favours=sofmax", "did you mean softmax"]),
        (["claims.accuracy.margin=${optimizer.lr}", "optimizer.lr=0.1,1"], ["claims.accuracy.margin", "0.1, now 1.0"]),
        (["protocol.confirm_seeds=${seed}", "seed=1,2"], ["protocol.confirm_seeds", "1, now 2"]),
        (["optimizer.lr=${seed}", "seed=1,2"], ["optimizer.lr=[1.0, 2.0]", "seeds of an arm"]),
        # At the fresh seed 3 alone it is out of its range.
        (["training.evaluations=${seed}", "training.points=2", "seed=1,2", "optimizer.lr=0.1,1"], ["evaluations=3"]),
        (
            ["head=softmax,sigmoid", "head.reduction=sum"],
            ["head.reduction", "head=softmax", "accepted: adjustment"],
        ),
        (["model.dropout=0,0.0"], ["dropout=0.0: trains the same runs as dropout=0"]),
        (["dataset.root=bü"], ["dataset.root=bü", "needs quotes", 'dataset.root="bü"']),
        (["--config-dir", "nowhere"], ["nowhere", "not found"]),
        (["head=["], ["head=["]),
        (["repot", "outputs/digits"], ["repot: no command; did you mean report"]),
        (["bord", "--runs", "outputs/digits"], ["bord: no command; did you mean board"]),
        (["reprodce", "outputs/digits/runs/x"], ["reprodce: no command; did you mean reproduce"]),
        (["softmax"], ["softmax: names no key; did you mean head=softmax?"]),
        (["head=softmax", "report"], ["report: a command stands first"]),
        (["--foo"], ["--foo: no such option; did you mean --info"]),
        (["--cfg", "job", "head=softmax,sigmoid"], ["head=softmax,sigmoid: several values", "accepted"]),
        (["report"], ["required: folder", "accepted: headtohead report"]),
        (["report", "--too=x", "outputs/digits"], ["--too", "did you mean --to"]),
        (["board", "--port", "x", "outputs/digits"], ["--port", "'x'"]),
        (["list", "a", "b"], ["b: one argument too many", "accepted: headtohead list"]),
        (["data", "repot"], ["repot: no command"]),
        (["claims=[accuracy,los]"], ["claims=los", "did you mean loss"]),
        (["experiment=[digits,dgits]"], ["experiment=dgits", "did you mean digits"]),
        (["head=softmax,sigmoid", "protocol.ladder=[sigmod,softmax]"], ["ladder=sigmod", "did you mean sigmoid"]),
        (["protocol=3"], ["protocol=3: must be a group"]),
        (["training=null"], ["training=None: must be a group"]),
        (["~hed"], ["~hed: no such key", "accepted"]),
        (["seed=rnge(3)"], ["seed=rnge(3)", "did you mean range"]),
        (["optimizer.lr=interval(1)"], ["optimizer.lr=interval(1)", "accepted: interval(LOW,HIGH)"]),
        (["seed=range(x)"], ["seed=range(x)", "accepted: range(STOP)"]),
        (["model.widths=[8,x]"], ["model.widths.1=x", "integer"]),
        (["model={name:mlp,wdths:[8]}"], ["model.wdths: no such key; did you mean widths"]),
        (["device=cuda:99"], ["device=cuda:99", "auto"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_refused_in_two_lines_and_nothing_is_written(command, tmp_path, arguments, expected):
    result = command(*arguments)
    assert result.status == 2, result.err
    assert len(result.err.strip().splitlines()) <= 2
    assert result.err.startswith("headtohead: ")
    for part in expected:
        assert part in result.err
    assert tree(tmp_path) == []


def test_a_pack_that_breaks_is_recorded_and_the_others_go_on(command, tmp_path):
    result = command(
        "-m", "name=broken", "model=factory", "model.path=factories:breaking", "pack_size=1", "seed=range(3)",
        "training.epochs=1", "dataset.train_size=64", "fold=0",
    )  # fmt: skip
    assert result.status == 1
    assert "1 runs failed; the same command tries them again" in result.err
    assert "RuntimeError: seed 1 (1 runs, such as " in result.err and "run.json" in result.err
    runs = records(tmp_path / "outputs/broken")
    assert sorted((run["seed"], run["status"]) for run in runs.values()) == [
        (0, "finished"), (1, "failed"), (2, "finished"),
    ]  # fmt: skip
    (failed,) = [run for run in runs.values() if run["status"] == "failed"]
    assert "RuntimeError: seed 1" in failed["error"]
    assert pd.read_csv(tmp_path / "outputs/broken/results.csv").status.tolist().count("failed") == 1


def test_a_pack_that_does_not_fit_into_memory_is_halved(command, tmp_path):
    arguments = ["-m", "head=softmax,sigmoid", "seed=0,1", "model=factory", *TINY[:3], *TINY[-2:]]
    result = command(*arguments, "name=greedy", "model.path=factories:greedy", "pack_size=4")
    assert result.status == 0, result.err
    assert "4 runs do not fit into memory at once: 2 and 2 instead" in result.err
    runs = records(tmp_path / "outputs/greedy").values()
    assert [(run["pack"]["size"], run["pack"]["chosen_by"]) for run in runs] == [(2, "memory")] * 4
    assert command(*arguments, "name=modest", "model.path=factories:modest", "pack_size=2").status == 0
    greedy, modest = (pd.read_csv(tmp_path / f"outputs/{name}/results.csv") for name in ("greedy", "modest"))
    metrics = [name for name in greedy.columns if name not in COLUMNS]
    pd.testing.assert_frame_equal(greedy[metrics], modest[metrics], rtol=1e-4, atol=1e-4)


def test_users_own_configs_join_in(command, tmp_path):
    (tmp_path / "mine/head").mkdir(parents=True)
    (tmp_path / "mine/head/smooth.yaml").write_text(
        "defaults: [sigmoid, _self_]\nlabel_smoothing: 0.1\nprior_bias: frequencies\n"
    )
    result = command("--config-dir", "mine", "-m", "head=smooth,softmax", "name=x", *TINY)
    assert result.status == 0, result.err
    runs = records(tmp_path / "outputs/x").values()
    assert {run["arm"]: run["config"]["head"].get("label_smoothing") for run in runs} == {"smooth": 0.1, "softmax": 0.0}


def test_processes_side_by_side_give_the_same_results(command, tmp_path, fresh_workers):
    arguments = ["head=softmax,sigmoid", "seed=0,1", "pack_size=2", *TINY]
    assert command("-m", "name=one", *arguments).status == 0
    result = command("-m", "name=two", "hydra.launcher.n_jobs=2", *arguments)
    assert result.status == 0, result.err
    one, two = (pd.read_csv(tmp_path / f"outputs/{name}/results.csv").drop(columns="wall_s") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def headtohead_process(*arguments, **environment):
    """Run `headtohead` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "headtohead", *arguments],
        capture_output=True, text=True, check=True, env=os.environ | environment,
    )  # fmt: skip


def test_help_names_the_groups_and_what_each_is_for():
    started = time.perf_counter()
    result = headtohead_process("--help")
    took = time.perf_counter() - started
    for group in ("dataset", "model", "head", "optimizer", "experiment"):
        assert f"\n  {group} " in result.stdout
    assert "sigmoid_mean" in result.stdout and "fashion_mnist" in result.stdout
    assert "headtohead experiment=digits" in result.stdout
    assert "headtohead --version" in result.stdout and "Hydra's version" not in result.stdout
    assert took < 10, "help imports something heavy"


def test_the_version_is_that_of_the_package():
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        number = tomllib.load(file)["project"]["version"]
    assert headtohead_process("--version").stdout == f"headtohead {number}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["head=wrong"]])
def test_answers_without_importing_torch(arguments):
    code = (
        "import sys\nfrom headtohead.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_shell_completion_offers_names():
    result = headtohead_process("-sc", "query=bash", COMP_LINE="headtohead head=sig", COMP_POINT="19")
    assert {"head=sigmoid", "head=sigmoid_mean", "head=sigmoid_prior"} <= set(result.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered", "others"),
    [
        ("headtohead re", {"report", "reproduce"}, {"board"}),
        ("headtohead ", {"report", "list", "data", "head="}, set()),
        ("headtohead data head=sig", {"head=sigmoid"}, {"head=softmax", "report"}),
        ("headtohead report ", set(), {"report", "head="}),
    ],
)
def test_shell_completion_offers_commands(line, offered, others):
    words = {*headtohead_process("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))).stdout.split()}
    assert offered <= words and not others & words
    assert words or not offered


def test_alone_it_says_what_to_do_first(command, tmp_path):
    result = command()
    assert result.status == 0 and tree(tmp_path) == []
    lines = re.findall("^  (headtohead.*?)  ", result.out, re.MULTILINE)
    assert lines[0] == "headtohead experiment=digits" and "headtohead --help" in lines
    assert max(map(len, result.out.splitlines())) <= 80


def test_a_log_file_tells_how_far_a_study_is(tmp_path):
    """Without a terminal: what takes long before it begins, the time and each tenth of a phase, what is reused."""
    arguments = ["head=softmax,sigmoid", "optimizer.lr=1e-6,1e-5", "seed=0,1", "name=s", *TINY, *FIXED]
    arguments += ["hydra.launcher.n_jobs=1", "pack_size=1"]

    def log():
        done = subprocess.run(
            [sys.executable, "-m", "headtohead", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, check=True,
        )  # fmt: skip
        assert "\x1b" not in done.stdout
        return done.stdout.splitlines()

    first = log()
    assert first[:2] == ["study: 2 arms x 2 trials x 2 seeds", "loading digits"] and "writing the report" in first
    told = [line[9:] for line in first if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert {"search: 0 of 8 runs", "search: 8 of 8 runs", "confirm: 4 of 4 runs"} <= {*told}
    why = "the best rate of softmax and sigmoid lay on the edge of the grid: each arm is tried at 0.0001 too"
    assert told.index(why) < told.index("search, grid extended to 0.0001: 0 of 4 runs")
    assert "search, grid extended to 0.0001: 4 of 4 runs" in told
    again = log()
    assert [line[9:] for line in again if "search: " in line] == ["search: reused 8 of 8 runs"]


def test_studies_are_listed_with_their_state_and_answer(command, tmp_path):
    (tmp_path / "outputs").mkdir()
    assert command("list").out == "outputs: no study yet; headtohead experiment=digits trains one\n"
    done = make_study(tmp_path / "outputs" / "done", seeds=3, failed=[("softmax", 0.1, 0)])
    assert command("report", str(done)).status == 0
    stopped = make_study(tmp_path / "outputs" / "stopped", seeds=3)
    shutil.rmtree(next((stopped / "runs").iterdir()))
    locked = make_study(tmp_path / "outputs" / "locked", seeds=3)
    broken = make_study(tmp_path / "outputs" / "broken", seeds=3)
    (broken / "study.json").write_text("{")
    with FileLock(locked / ".lock"):
        result = command("list")
    assert result.status == 0
    text = " ".join(result.out.split())
    runs = len(list((done / "runs").iterdir()))
    states = [f"finished, {runs} runs", f"stopped, {runs - 1}/{runs} runs", f"running, {runs}/{runs} runs", "broken:"]
    assert all(state.split()[0] in text for state in states), text
    alone = [" ".join(command("list", str(study)).out.split()) for study in (done, stopped)]
    answer = json.loads((done / "verdicts.json").read_text())["answer"]["headline"]
    assert all(word in alone[0] for word in answer.split()) and states[0] in alone[0] and states[1] in alone[1]
    assert command("list", "nowhere").err == (
        "headtohead: nowhere: no such folder; accepted: a folder of studies, such as outputs\n"
    )


def test_the_console_script_is_the_module():
    script = shutil.which("headtohead", path=str(Path(sys.executable).parent))
    assert script, "headtohead is not installed beside this Python"
    result = subprocess.run([script, "--cfg", "job"], capture_output=True, text=True, check=True)
    assert result.stdout == headtohead_process("--cfg", "job").stdout


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("dataset.root=~/pictures", "dataset.root='~/pictures'"),
        ("dataset.root=~/with space,~other/b,/c", "dataset.root='~/with space','~other/b',/c"),
        ("dataset.root=choice(~/a,~/b)", "dataset.root=choice('~/a','~/b')"),
        ("dataset.root='~/a'", "dataset.root='~/a'"),
        ('dataset.root="/a,~/b"', 'dataset.root="/a,~/b"'),
        ("dataset.root=/a~b/c~", "dataset.root=/a~b/c~"),
        ("~model", "~model"),
        ("--config-dir=~/mine", "--config-dir=/home/me/mine"),
        ("--to=experiments/x", "--to=experiments/x"),
    ],
)
def test_paths_may_begin_with_a_tilde(argument, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert cli.with_home(argument) == expected


def test_a_study_of_pictures_below_the_home_folder(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pictures(tmp_path / "home" / "pictures")
    data = ["dataset=image_folder", "dataset.root=~/pictures", "dataset.size=8", "dataset.workers=0"]
    result = command(*data, "model=linear", "training.epochs=1", "training.batch_size=4", "name=x")
    assert result.status == 0, result.err
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "outputs" / "x").glob("runs/*/run.json"))
    assert record["config"]["dataset"]["root"] == "~/pictures"
