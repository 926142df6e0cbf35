"""The learning rates of folds, against a calculation from the records of the search."""

import json

import numpy as np

CHEAP = ["dataset=iris", "model=linear", "training.epochs=3", "training.points=2", "training.evaluations=2"]
RATES = "optimizer.lr=0.03,0.1,0.3,1.0"


def chosen_by_hand(searched, tested, criterion):
    """Return the rate of the lowest mean over seeds of a validation loss on blocks that are not tested."""
    means = {}
    for run in searched:
        size = np.array(run["blocks"]["size"])
        size[tested] = 0
        values = np.array([np.nan if value is None else value for value in run["blocks"][criterion]])
        means.setdefault(run["lr"], []).append(np.nansum(values * size) / size.sum())
    means = {lr: np.mean(values) for lr, values in means.items()}
    return min(sorted(means), key=lambda lr: means[lr])


def test_each_fold_is_confirmed_at_the_rate_that_the_examples_outside_of_it_choose(command, tmp_path):
    criterion = "val_brier"
    own = [f"claims.accuracy.selected_by={criterion}", "protocol.confirm_seeds=2"]
    result = command("name=x", *CHEAP, "head=softmax,sigmoid", RATES, "seed=range(2)", *own)
    assert result.status == 0, result.err
    study = json.loads((tmp_path / "outputs/x/study.json").read_text())
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/x/runs/*/run.json")]
    of_folds = {
        (choice["arm"], choice["seed"], choice["fold"]): choice["trial"]["lr"]
        for choice in study["protocol"]["of_folds"]
        if choice["criterion"] == criterion
    }
    best = study["protocol"]["best"][criterion]
    confirmed = {}
    for run in runs:
        if run["phase"] == "confirm":
            confirmed.setdefault((run["arm"], run["seed"], run["fold"]), []).append(run)
    assert len(confirmed) == 2 * 2 * 5
    for of, at_rates in confirmed.items():
        searched = [run for run in runs if run["phase"] == "search" and run["arm"] == of[0]]
        tested = np.flatnonzero(at_rates[0]["blocks"]["size"])
        assert len(tested) == 4
        expected = chosen_by_hand(searched, tested, criterion)
        assert of_folds.get(of, best[of[0]]["lr"]) == expected
        assert expected in {run["lr"] for run in at_rates}
        # No more than a rate for each criterion: accuracy, NLL and this one.
        assert len(at_rates) <= len(study["protocol"]["best"])
    assert of_folds, "no fold chose another rate, so that nothing was tested"
    # A later command with the same settings trains nothing.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/x/runs/*/run.json")}
    assert command("name=x", *CHEAP, "head=softmax,sigmoid", RATES, "seed=range(2)", *own).status == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/x/runs/*/run.json")} == before
    assert json.loads((tmp_path / "outputs/x/study.json").read_text())["protocol"] == study["protocol"]
