"""Arms that are no better than a guess."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from headtohead.analysis.guess import beats_a_guess, guess
from headtohead.analysis.study import read_study
from headtohead.analysis.summary import Summary, summarise, verdicts_json
from headtohead.record.files import write_arrays
from headtohead.testing import ACCURACY, CLASSES, make_study, without_checksums

NOTHING = "Use none of the arms"


def made(folder: Path, counts: dict | None = None, arms=("softmax", "sigmoid"), **metrics: float) -> Path:
    """Make a study whose final metrics are `metrics` with a little noise, and which knows its class counts."""
    study = without_checksums(make_study(folder, seeds=4, lrs=(0.1, 1.0), arms=arms, claims={"accuracy": ACCURACY}))
    rng = np.random.default_rng(0)
    for path in study.glob("runs/*/run.json"):
        content = json.loads(path.read_text())
        for name, value in metrics.items():
            for split in ("val", "test"):
                if f"{split}_{name}" in content["metrics"]:
                    content["metrics"][f"{split}_{name}"] = value + rng.normal(0, 0.002)
        path.write_text(json.dumps(content))
    (study / "results.csv").unlink()
    content = json.loads((study / "study.json").read_text())
    if counts is not None:
        data = {"arms": list(content["arms"]), "name": "d", "classes": [], "counts": counts, "skipped": []}
        content["data"] = [data]
    (study / "study.json").write_text(json.dumps(content))
    return study


def warned(summary: Summary) -> str:
    return "\n".join(check.text for check in summary.checks if check.kind == "warning")


def even(examples: int) -> dict[str, list[int]]:
    return {"test": [examples // CLASSES] * CLASSES, "val": [examples // CLASSES] * CLASSES}


def test_a_guess_names_the_largest_class_and_knows_the_shares(tmp_path):
    study = read_study(made(tmp_path / "study", {"test": [30, 10, 0, *[0] * 7]}))
    level = guess(study, "softmax")
    assert level.accuracy == 0.75 and level.balanced == 0.5 and level.known
    assert level.nll == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    # The spread of guesses, drawn: one that names classes evenly, by balanced accuracy.
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 10])
    drawn = rng.integers(0, 2, size=(20_000, 40)) == labels
    balanced = (drawn[:, labels == 0].mean(1) + drawn[:, labels == 1].mean(1)) / 2
    assert level.balanced_error == pytest.approx(balanced.std(), rel=0.03)


@pytest.mark.parametrize(
    ("counts", "metrics", "beaten"),
    [
        (None, {"accuracy": 0.1, "balanced_accuracy": 0.1}, False),
        (None, {"accuracy": 0.12, "balanced_accuracy": 0.1}, True),
        (even(1000), {"accuracy": 0.11, "balanced_accuracy": 0.11}, False),
        (even(100_000), {"accuracy": 0.11, "balanced_accuracy": 0.11}, True),
        ({"test": [90, 10, *[0] * 8]}, {"accuracy": 0.9, "balanced_accuracy": 0.5}, False),
        ({"test": [90, 10, *[0] * 8]}, {"accuracy": 0.8, "balanced_accuracy": 0.8}, True),
        ({"test": [50, *[0] * 9]}, {"accuracy": 1.0, "balanced_accuracy": 1.0}, False),
        ({"test": [1, 1, *[0] * 8]}, {"accuracy": 1.0, "balanced_accuracy": 1.0}, False),
    ],
    ids=["even", "above", "few", "many", "majority", "balanced", "one class", "two examples"],
)
def test_an_arm_must_be_above_a_guess_by_more_than_its_interval(tmp_path, counts, metrics, beaten):
    summary = summarise(made(tmp_path / "study", counts, **metrics))
    assert beats_a_guess(summary.study, "softmax") == beaten
    assert summary.answer.headline.startswith(NOTHING) != beaten
    assert json.loads(verdicts_json(summary))["answer"]["headline"] == summary.answer.headline


def test_the_reason_why_nothing_is_recommended_comes_first(tmp_path):
    lone = summarise(made(tmp_path / "a", {"test": [50, *[0] * 9]}, accuracy=1.0))
    assert lone.answer.headline == f"{NOTHING}: a guess is always right, as all test examples are of one class."
    poor = summarise(made(tmp_path / "b", {"test": [60, 40, *[0] * 8]}, accuracy=0.6, balanced_accuracy=0.5))
    assert "Always naming the largest class is right for 60.00 % of the test examples" in poor.answer.headline
    folder = make_study(tmp_path / "c", seeds=2, lrs=(0.1, 1.0), claims={}, diverged=[(None, None, None)])
    assert summarise(folder).answer.headline == f"{NOTHING}: every run to compare by diverged."


def test_each_setting_has_a_guess_of_its_own(tmp_path):
    arms = {f"{size},{head}": [f"x={size}", f"head={head}"] for size in (1, 2) for head in ("softmax", "sigmoid")}
    study = made(tmp_path / "study", arms=arms, accuracy=0.6, balanced_accuracy=0.5)
    content = json.loads((study / "study.json").read_text())
    shares = ([60, 40], [20, 20, 20, 20, 20])
    content["data"] = [
        {"arms": [arm for arm in arms if arm.startswith(size)], "name": "d", "classes": [], "skipped": []}
        | {"counts": {"test": counts + [0] * (CLASSES - len(counts))}}
        for size, counts in zip("12", shares, strict=True)
    ]
    (study / "study.json").write_text(json.dumps(content))
    answer = summarise(study).answer
    assert answer.headline == "An answer for each of 2 settings; in 1 of them no arm is shown to beat a guess."
    assert answer.sentences[0].startswith(f"x=1: {NOTHING}") and NOTHING not in answer.sentences[1]


def test_the_labels_beside_predictions_tell_the_shares(tmp_path):
    study = made(tmp_path / "study", accuracy=0.9, balanced_accuracy=0.1)
    label = np.array([0] * 90 + [1] * 10)
    arrays = {"label": label, "prediction": label, "activations": np.full((100, CLASSES), 0.1, dtype=np.float32)}
    for run in read_study(study).final.run:
        write_arrays(study / "runs" / run / "predictions.npz", arrays)
    assert guess(read_study(study), "softmax").accuracy == 0.9
    assert summarise(study).answer.headline.startswith(NOTHING)


def test_an_arm_that_gives_up_accuracy_or_calibration_is_told(tmp_path):
    counts = {"test": [90, 10, *[0] * 8]}
    summary = summarise(made(tmp_path / "study", counts, accuracy=0.8, balanced_accuracy=0.8, nll=0.5))
    text = warned(summary)
    assert "softmax is not shown to beat a guess by accuracy, but beats a guess by balanced accuracy" in text
    assert (
        "The probabilities of sigmoid are worse than a guess" in text
        and "that of the shares of the classes 0.325" in text
    )
    fine = warned(summarise(made(tmp_path / "fine", even(1000), nll=0.2)))
    assert "guess" not in fine


def test_tiny_classes_and_validation_splits_are_told(tmp_path):
    counts = {"train": [9, 2, *[9] * 8], "val": [1, *[1] * 9], "test": [50] * CLASSES}
    text = warned(summarise(made(tmp_path / "study", counts)))
    assert "The validation split has 10 examples" in text
    assert "Classes with 2 examples or fewer: 1 (2 in train, 1 in val), 0 (1 in val)" in text
    fine = warned(summarise(made(tmp_path / "fine", {split: [50] * CLASSES for split in counts})))
    assert "validation split" not in fine and "examples or fewer" not in fine


def test_test_examples_that_are_no_new_ones_are_told(tmp_path):
    study = made(tmp_path / "study", {"train": [9] * 10, "val": [9] * 10, "test": [5] * 10})
    content = json.loads((study / "study.json").read_text())
    content["data"][0]["seen"] = 4
    (study / "study.json").write_text(json.dumps(content))
    assert "Leak: 4 of 50 test examples also occur in training or validation." in warned(summarise(study))
