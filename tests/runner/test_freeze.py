"""Frozen networks through the command line: their records, their verdicts, and a killed study that goes on."""

import json
import os
import signal
import sys

import pandas as pd
import pytest

from headtohead import cli
from headtohead.record.run import read_history
from headtohead.runner import checkpoint
from headtohead.training import features

SHORT = [
    "name=x", "head=softmax,sigmoid", "seed=range(2)", "dataset=digits", "dataset.train_size=64", "training.epochs=3",
    "training.points=4", "training.evaluations=2", "checkpoint_s=0", "pack_size=8", "claims=[gradients,stability]",
]  # fmt: skip
CNN = ["model=cnn", "model.widths=[4]"]
STUDY = [*SHORT, *CNN, "model.freeze=backbone", "dataset.folds=2"]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed(folder):
    """Return the status of the study in a copy of this process that is killed after it has saved two checkpoints."""
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)
            sys.stdout = sys.stderr = open("output", "w", encoding="utf-8")  # noqa: SIM115
            save, saved = checkpoint.save, []

            def save_and_die(*arguments):
                save(*arguments)
                saved.append(True)
                if len(saved) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

            checkpoint.save = save_and_die
            sys.argv = ["headtohead", *STUDY, "hydra.launcher.n_jobs=1"]
            cli.main()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def records(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("outputs/x/runs/*/run.json")}


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_study_of_probes_in_folds_goes_on_and_a_run_of_it_is_reproduced(command, tmp_path, monkeypatch):
    result = command(*STUDY)
    assert result.status == 0, result.err
    undisturbed = records(tmp_path)
    assert len(undisturbed) == 8
    assert {(run["pack"]["size"], run["pack"]["mode"]) for run in undisturbed.values()} == {
        (4, "stacked")
    }  # 899 and 898 examples are tested
    (tmp_path / "again").mkdir()
    features._kept.clear()
    assert killed(tmp_path / "again") == -signal.SIGKILL
    assert not records(tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    result = command(*STUDY)
    assert result.status == 0, result.err
    again = records(tmp_path / "again")
    assert again.keys() == undisturbed.keys()
    for name, run in again.items():
        for part in ("metrics", "blocks", "curves"):
            assert run[part] == undisturbed[name][part]
    result = command("reproduce", str(next((tmp_path / "again").glob("outputs/x/runs/*"))))
    assert result.status == 0 and "equal" in result.out, result.out


def test_the_backbone_has_no_gradient_and_no_verdict_about_it(command, tmp_path):
    result = command(*SHORT, *CNN, "model.freeze=backbone", "optimizer.lr=0.03,0.1", "protocol.confirm_seeds=2")
    assert result.status == 0, result.err
    study = tmp_path / "outputs/x"
    for run in study.glob("runs/*"):
        columns = set(read_history(run))
        assert {name for name in columns if name.startswith("grad_norm_")} == {
            "grad_norm_total", "grad_norm_logits", "grad_norm_classifier", "grad_norm_layer_classifier"
        }  # fmt: skip
    results = pd.read_csv(study / "results.csv")
    assert results[["grad_norm_backbone_init", "backbone_cv"]].isna().all(axis=None)
    assert results.grad_norm_mean.notna().all()
    verdicts = json.loads((study / "verdicts.json").read_text())["claims"]
    reason = "not judged: no parameter below the classifier is trained, so that {} has no value (model.freeze=backbone)"
    notes = {verdict["metric"]: verdict["note"] for verdict in verdicts if not verdict["seeds"]}
    for metric in ("grad_norm_backbone_init", "backbone_cv"):
        assert notes[metric] == reason.format(metric)
    assert {"grad_norm_logits_init", "loss_spikes"}.isdisjoint(notes)
    assert "no parameter below the classifier is trained" in (study / "report.md").read_text()


@pytest.mark.parametrize(
    ("model", "freeze", "words"),
    [
        (CNN, "nothing", "model.freeze=nothing: names no parameter; accepted: none, backbone, or a regular"),
        (CNN, ".", "model.freeze=.: leaves no parameter to train; accepted: none, backbone, or a regular"),
        (CNN, "'(conv'", "model.freeze=(conv: no regular expression"),
        (CNN, "null", "model.freeze=None: must be text"),
        (["model=linear"], "backbone", "model.freeze=backbone: names no parameter"),
    ],
)
def test_a_freeze_without_sense_is_refused_in_one_line(command, tmp_path, model, freeze, words):
    result = command(*SHORT, *model, f"model.freeze={freeze}")
    assert result.status == 2
    (line,) = result.err.strip().splitlines()
    assert words in line
    assert not (tmp_path / "outputs").exists()
