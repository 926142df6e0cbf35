"""The record of a study on disk."""

import json

import pytest

from headtohead.options import ConfigError
from headtohead.record.run import OtherReleaseError
from headtohead.record.study import Range, read_claims, read_study_record, write_study
from headtohead.testing import ACCURACY, make_study

RANGE = {"low": 0.1, "high": 1, "log": True}


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", seeds=2, records=False)


def test_a_study_is_read_back_as_it_was(study, tmp_path):
    record = read_study_record(study)
    write_study(tmp_path, record)
    assert read_study_record(tmp_path) == record
    assert record.arms == {"softmax": ("head=softmax",), "sigmoid": ("head=sigmoid",)}
    assert record.claims["accuracy"].margin == 0.005


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {}}, "arms={}: a study has one arm or more"),
        ({"arms": None}, "arms=None: must be a group of named values"),
        ({"runs": ["a"]}, "runs=['a']: must be a group of named values"),
        ({"grid": {"optimizer.lr": ["x"]}}, "grid.optimizer.lr.0=x: must be a number"),
        (
            {"space": {"optimizer.lr": RANGE | {"low": 2}}},
            "space.optimizer.lr.low=2.0: must be finite and below high=1.0",
        ),
        (
            {"space": {"optimizer.lr": RANGE | {"low": 0}}},
            "space.optimizer.lr.low=0.0: must be above 0 for a logarithm",
        ),
        ({"space": {"optimizer.lr": {"low": 0.1, "high": 1}}}, "space.optimizer.lr.log: missing"),
        ({"space": {"optimizer.lr": RANGE | {"high": "x"}}}, "space.optimizer.lr.high=x: must be a number"),
        ({"space": {"lr": RANGE}}, "space=lr: must be dotted keys, such as optimizer.momentum"),
        ({"space": ["optimizer.lr"]}, "space=['optimizer.lr']: must be a group of named values"),
        ({"num_classes": {"softmax": 10}}, "num_classes=softmax: must name every arm, also ['sigmoid']"),
        ({"claims": {"mine": ACCURACY | {"margin": -1}}}, "claims.mine.margin=-1.0: must be positive and finite"),
        ({"claims": {"mine": ACCURACY | {"phase": "x"}}}, "claims.mine.phase=x: accepted: confirm, search"),
        (
            {"claims": {"mine": ACCURACY | {"phase": "search", "selected_by": "val_nll"}}},
            "claims.mine.selected_by=val_nll: null, as a claim of the phase search",
        ),
    ],
)
def test_a_broken_study_is_refused_with_file_key_and_what_is_accepted(study, change, message):
    path = study / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError) as refusal:
        read_study_record(study)
    text = str(refusal.value)
    assert text.startswith(f"{path}: broken ({message}") and "\n" not in text
    assert text.endswith("; run the study's command again to write it anew")


def test_best_trials_are_of_arms_of_the_study(study):
    path = study / "study.json"
    content = json.loads(path.read_text())
    content["protocol"]["best"] = {"val_nll": {"sigmiod": {"lr": 0.1}}}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"protocol\.best\.val_nll=sigmiod: no arm; did you mean sigmoid\?"):
        read_study_record(study)


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ({"lr": 0.1, "number": -1}, "protocol.best.val_nll.sigmoid.number=-1: must be 0 or more"),
        ({"lr": 0.1, "number": 1.5}, "protocol.best.val_nll.sigmoid.number=1.5: must be an integer"),
        ({"number": 1}, "protocol.best.val_nll.sigmoid.lr: missing"),
    ],
)
def test_a_broken_trial_is_refused(study, trial, message):
    path = study / "study.json"
    content = json.loads(path.read_text())
    content["protocol"]["best"] = {"val_nll": {"sigmoid": trial}}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as refusal:
        read_study_record(study)
    assert f"broken ({message}" in str(refusal.value)


def test_a_study_with_a_space_is_read_back_as_it_was(tmp_path):
    space = {"optimizer.lr": Range(0.001, 1, True), "training.warmup": Range(0, 0.3, False)}
    record = read_study_record(make_study(tmp_path / "s", seeds=2, space=space, trials=8, records=False))
    write_study(tmp_path, record)
    assert read_study_record(tmp_path) == record and record.space == space and record.protocol.trials == 8
    assert {trial.number for trial in record.protocol.best["val_nll"].values()} <= {*range(1, 9)}


def test_a_ladder_names_arms_of_the_study(study):
    path = study / "study.json"
    content = json.loads(path.read_text())
    content["protocol"]["ladder"] = ["softmax", "sigmiod"]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"protocol\.ladder=sigmiod: no arm of the study; did you mean sigmoid\?"):
        read_study_record(study)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"not a study's folder, as it has no study\.json"):
        read_study_record(tmp_path)


def test_claims_are_checked():
    assert read_claims({"mine": ACCURACY})["mine"].metric == "test_accuracy"
    with pytest.raises(ConfigError, match=r"^claims\.mine\.margn: no such key; did you mean margin\?"):
        read_claims({"mine": ACCURACY | {"margn": 1}})


def test_a_study_of_another_layout_is_refused(study):
    path = study / "study.json"
    path.write_text(json.dumps({"version": 2}))
    with pytest.raises(OtherReleaseError, match=r"study\.json: version=2: another release .*; accepted: 1$"):
        read_study_record(study)
