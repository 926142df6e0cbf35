"""What a folder holds is compared with a command: what was resolved, not what was typed."""

import json

import pytest
from conftest import TINY

SHORT = ["fold=0", "training.epochs=1", "training.points=3", "training.evaluations=2"]
X = "outputs/x"


def test_commands_that_mean_the_same_are_one_study(command, tmp_path):
    assert command("head=sigmoid", "dataset=digits", "model=mlp", "seed=3", *TINY).status == 0
    result = command("head=softmax,sigmoid", "seed=range(2)", "training.batch_size=64", *TINY)
    assert result.status == 0, result.err
    (study,) = tmp_path.glob("outputs/*")
    assert len([*study.glob("runs/*/run.json")]) == 5


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ("dataset.val_fraction=0.3", "seed=1", "dataset.val_fraction: 0.3, now 0.2"),
        ("training.batch_size=16", "seed=1", "training.batch_size: 16, now 64"),
        ("seed=1", "training.batch_size=16", "training.batch_size: 64, now 16"),
        ("optimizer=adamw", "head=sigmoid", "optimizer.name: adamw, now sgd"),
        ("claims=[loss]", "claims=[accuracy]", "claims."),
    ],
)
def test_commands_that_mean_something_else_are_another_study(command, first, second, difference):
    arguments = ["name=x", "model=linear", *SHORT]
    assert command(*arguments, "dataset=iris", first).status == 0
    refused = command(*arguments, "dataset=iris", second)
    assert refused.status == 2 and difference in refused.err and len(refused.err.splitlines()) == 2


def test_another_version_is_told_also_where_no_run_is_repeated(command, tmp_path):
    arguments = ["name=x", "model=linear", "dataset=iris", *SHORT]
    assert command(*arguments).status == 0
    path = tmp_path / X / "study.json"
    record = json.loads(path.read_text())
    record["environment"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(record))
    refused = command(*arguments, "seed=7")
    assert refused.status == 2 and "versions.torch: 1.0, now" in refused.err


def test_a_number_that_was_changed_is_named(command, tmp_path):
    arguments = ["name=x", "model=linear", "dataset=iris", "seed=0,1,2", "pack_size=1", *SHORT]
    assert command(*arguments).status == 0
    folders = sorted((tmp_path / X / "runs").iterdir())
    whole = [(folder / "run.json").read_text() for folder in folders]
    lr, history = '"lr": 0.1', folders[1] / "history.csv"
    assert whole[0].count(lr) == 2
    (folders[0] / "run.json").write_text(whole[0].replace(lr, '"lr": 0.2'))
    history.write_text(history.read_text().replace("0.", "1."))
    for folder in folders[:2]:
        refused = command("reproduce", str(folder))
        assert refused.status == 2 and str(folder) in refused.err
    shown = "".join(command("report", X).out.split())
    assert f"runs/{folders[0].name}/run.json(checksum:not" in shown and "history.csv(itschecksumdiffers" in shown
    result = command(*arguments)
    assert result.status == 0
    told = "".join(result.err.split())
    assert f"{folders[0].name}:run.jsonisbroken(checksum:" in told and "history.csvhaschanged;trainedagain" in told
    again = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert [run["metrics"] for run in again] == [json.loads(text)["metrics"] for text in whole]
    assert (folders[2] / "run.json").read_text() == whole[2]
