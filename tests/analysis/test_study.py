"""Reading a study: all that its folder holds, also from the release that wrote no version."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from headtohead.analysis.checks import run_checks
from headtohead.analysis.study import over_steps, read_study
from headtohead.record.run import read_history
from headtohead.record.study import Trial
from headtohead.testing import make_study

# The keys of run.json and study.json that release 0.1 did not write.
LATER = {"version", "sources", "checksums", "checksum", "data", "settings", "contents"}


@pytest.fixture
def study(tmp_path):
    failed, diverged = [("softmax", 0.01, 1)], [("sigmoid", 0.1, 4)]
    return make_study(tmp_path / "s", seeds=3, claims={}, failed=failed, diverged=diverged)


def test_a_study_of_the_first_release_is_read_without_loss(study):
    whole = read_study(study)
    for path in (study / "study.json", *study.glob("runs/*/run.json")):
        content = json.loads(path.read_text())
        assert content["version"] == 1
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in LATER}))
    again = read_study(study)
    assert (again.record, again.broken) == (whole.record, {})
    assert again.records == {name: replace(run, checksums={}, checksum="") for name, run in whole.records.items()}
    pd.testing.assert_frame_equal(again.results, whole.results)


def test_a_metric_over_the_steps_has_a_column_per_seed(study):
    whole = read_study(study)
    tables = whole.over_steps("val_accuracy", diverged=0.1)
    assert list(tables) == whole.arms
    for arm, values_SR in tables.items():
        final = whole.final[whole.final.arm == arm]
        assert sorted(values_SR.columns) == sorted(final.seed)
        for run, seed, status in zip(final.run, final.seed, final.status, strict=True):
            logged = read_history(study / "runs" / run).set_index("step").val_accuracy.dropna()
            values = values_SR[seed]
            assert (values[logged.index] == logged).all()
            assert set(values.drop(logged.index)) == ({0.1} if status == "diverged" else set())
    assert whole.over_steps("val_charm") == {}


def test_the_value_of_a_seed_over_the_steps_is_the_mean_over_its_folds():
    rows = pd.DataFrame({"run": ["a", "b", "c"], "seed": [3, 3, 4], "status": ["finished", "diverged", "finished"]})
    history = pd.DataFrame({"run": ["a", "a", "b", "c", "c"], "step": [0, 5, 0, 0, 5], "loss": [1.0, 2, 3, 4, 5]})
    table = over_steps([("arm", rows)], history, "loss", diverged=9.0)["arm"]
    assert table[3].tolist() == [2, 5.5] and table[4].tolist() == [4, 5]


def test_a_part_of_a_study_has_its_arms_alone_under_their_new_names(study):
    whole = read_study(study)
    part = whole.part({"sigmoid": "mine"})
    assert part.arms == ["mine"] and part.context("mine") == () and part.head_of("mine") == "sigmoid"
    assert part.best == {"mine": whole.best["sigmoid"]}
    rows = whole.results[whole.results.arm == "sigmoid"]
    pd.testing.assert_frame_equal(part.results.drop(columns="arm"), rows.drop(columns="arm"))


@pytest.fixture
def both(tmp_path):
    """A study whose accuracy is best at the rate 0.1 and whose NLL is best at 0.01."""
    return make_study(tmp_path / "both", seeds=4, best_lr_of_nll=0.01)


def test_arms_are_compared_first_at_the_best_rate_by_the_primary_criterion(both):
    whole = read_study(both)
    arms = ("softmax", "sigmoid")
    assert whole.record.criteria == ("val_accuracy", "val_nll")
    assert whole.best == dict.fromkeys(arms, Trial(0.1))
    assert whole.best_by("val_nll") == dict.fromkeys(arms, Trial(0.01))
    confirmed = whole.results[whole.results.phase == "confirm"]
    assert confirmed.groupby(["arm", "lr"]).size().tolist() == [4] * 4
    assert set(whole.final.lr) == {0.1} and len(whole.final) == 8
    assert {*whole.history.run, *whole.predictions} == {*whole.final.run}
    assert whole.part({"sigmoid": "mine"}).best_by("val_nll") == {"mine": Trial(0.01)}


def test_what_was_chosen_is_what_the_record_says(both):
    path = both / "study.json"
    content = json.loads(path.read_text())
    content["protocol"]["best"]["val_accuracy"] = {"softmax": {"lr": 0.01, "number": 0}, "sigmoid": {"lr": 0.1}}
    path.write_text(json.dumps(content))
    whole = read_study(both)
    assert whole.best == {"softmax": Trial(0.01), "sigmoid": Trial(0.1)}
    assert whole.final.groupby("arm").lr.unique().map(list).to_dict() == {"sigmoid": [0.1], "softmax": [0.01]}


def test_a_study_without_recorded_rates_has_those_at_which_its_arms_were_confirmed(tmp_path):
    folder = make_study(tmp_path / "old", seeds=4, claims={})
    path = folder / "study.json"
    content = json.loads(path.read_text())
    del content["protocol"]["best"]
    path.write_text(json.dumps(content))
    whole = read_study(folder)
    # As if the accuracy had chosen another rate than it does today.
    table = whole.results.assign(val_accuracy=whole.results.val_accuracy - 0.1 * (whole.results.lr == 0.1))
    again = replace(whole, results=table)
    assert again.best == {"softmax": Trial(0.1), "sigmoid": Trial(0.1)} and len(again.final) == 8
    # Before the confirm phase the search tells.
    searched = replace(whole, results=table[table.phase == "search"])
    assert set(searched.best.values()) != {Trial(0.1)} and set(searched.final.phase) == {"search"}


def test_a_history_that_was_changed_is_not_used(study):
    run = read_study(study).final.run.iloc[0]
    path = study / "runs" / run / "history.csv"
    path.write_text(path.read_text().replace("0.9", "0.8"))
    changed = read_study(study)
    assert [*changed.unreadable_histories] == [run] and "checksum" in changed.unreadable_histories[run]
    assert run not in {*changed.history.run}


def test_code_that_changed_between_runs_is_a_warning(study):
    names = [*read_study(study).records]
    for name in names:
        path = study / "runs" / name / "run.json"
        content = json.loads(path.read_text()) | {"checksum": "", "sources": {"code of nets": f"{name == names[0]}"}}
        path.write_text(json.dumps(content))
    (check,) = [check for check in run_checks(read_study(study), []) if "Mixed" in check.text]
    assert check.text == f"Mixed code of nets: False ({len(names) - 1}) and True (1) runs."
