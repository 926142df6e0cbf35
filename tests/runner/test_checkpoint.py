"""Whole checkpoints survive on disk, and so do studies whose process is killed."""

import hashlib
import os
import pickle
import random
import signal
import sys
import time
from glob import glob
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import run, vary

from headtohead import cli
from headtohead.runner import checkpoint
from headtohead.training import data
from headtohead.training.loop import train

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SHORT = ["dataset.train_size=64", "training.batch_size=16", "training.epochs=3", "training.points=5"]
FAMILIES = {
    "mlp": ["model=mlp", "model.widths=[8]", "optimizer=sgd"],
    "norm": ["model=mlp", "model.widths=[8]", "model.batch_norm=true", "model.dropout=0.3", "optimizer=adamw"],
    "alone": ["model=cnn", "model.widths=[4]", "optimizer=adamw", "dataset.crop_padding=1"],
    "vmap": ["model=cnn", "model.widths=[4]", "dataset.crop_padding=1"],
    "loop": ["model=factory", "model.path=factories:noisy", "dataset.crop_padding=1"],
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_training_goes_on_bitwise_from_every_point(config, family, tmp_path):
    common = [*FAMILIES[family], *SHORT, "training.evaluations=4"]
    runs = [vary(config(*common, f"head={head}"), seed=seed) for head in ("softmax", "sigmoid") for seed in (0, 1)]
    runs = runs[: 1 if family == "alone" else None]
    pool = data.load(runs[0].dataset, torch.device("cpu"))
    whole, expected = run(runs)
    for stop in range(len(whole) - 1):
        for index, point in enumerate(train(runs, pool, True)):
            if index == stop:
                checkpoint.save(tmp_path / "a.pt", {"identity": family, "training": point.state()})
                break
        state, flaws = checkpoint.load(tmp_path / "a.pt", family)
        *points, outcomes = train(runs, pool, True, state["training"])
        assert not flaws and len(points) == len(whole)
        for one, other in zip(points, whole, strict=True):
            assert one.step == other.step and {*one.values} == {*other.values}
            for metric, value_R in one.values.items():
                assert value_R.tobytes() == other.values[metric].tobytes(), (stop, one.step, metric)
        for one, other in zip(outcomes, expected, strict=True):
            assert repr(one.metrics) == repr(other.metrics)
            assert repr(one.curves) == repr(other.curves)


def test_a_damaged_checkpoint_yields_to_the_one_before(tmp_path):
    path = tmp_path / "a.pt"
    assert checkpoint.load(path, "x") == (None, [])
    for number in (1, 2):
        checkpoint.save(path, {"identity": "x", "number": number, "tensor": torch.arange(1000)})
    assert checkpoint.load(path, "x")[0]["number"] == 2
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:-1], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b"a text"):
        path.write_bytes(damaged)
        state, (flaw,) = checkpoint.load(path, "x")
        assert state["number"] == 1 and "a.pt: damaged" in flaw
    state, flaws = checkpoint.load(path, "y")
    assert state is None and "of other runs" in flaws[1]
    checkpoint.remove(path)
    assert checkpoint.load(path, "x") == (None, [])


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    checkpoint.save(tmp_path / "a.pt", {"identity": "x", "trap": Trap()})
    state, (flaw,) = checkpoint.load(tmp_path / "a.pt", "x")
    assert state is None and "a.pt: holds something else" in flaw
    assert not (tmp_path / "sprung").exists()


def holds(content):
    def make(path):
        path.write_bytes(checkpoint.MAGIC + hashlib.sha256(content).digest() + content)

    return make


@pytest.mark.parametrize(
    "make",
    [holds(b""), holds(pickle.dumps({"identity": "x"})), holds(b"PK\3\4"), Path.mkdir, os.mkfifo,
     lambda path: path.symlink_to(path), lambda path: checkpoint.save(path, ["x"])],
    ids=["nothing", "pickle", "zip", "folder", "pipe", "loop", "list"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_named_and_the_one_before_taken(tmp_path, make):
    checkpoint.save(tmp_path / "good", {"identity": "x", "number": 1})
    (tmp_path / "good").rename(tmp_path / "a.pt.before")
    make(tmp_path / "a.pt")
    state, (flaw,) = checkpoint.load(tmp_path / "a.pt", "x")
    assert state["number"] == 1 and flaw.startswith(f"{tmp_path / 'a.pt'}: ")
    checkpoint.remove(tmp_path / "a.pt")


def test_a_state_of_another_training_is_refused(config):
    """`copy_` would broadcast a state of one run to all."""
    several = [vary(config(*FAMILIES["mlp"], *SHORT, "training.evaluations=4"), seed=seed) for seed in (0, 1)]
    pool = data.load(several[0].dataset, torch.device("cpu"))
    state = next(train(several[:1], pool, True)).state()
    with pytest.raises(ValueError, match="models: of another training"):
        next(train(several, pool, True, state))


STUDY = [
    "-m", "head=softmax,sigmoid", "optimizer.lr=0.03,0.1,0.3", "seed=0,1", "pack_size=4", "model.dropout=0.2",
    "model.widths=[8]", "dataset.train_size=128", "training.epochs=8", "training.points=12",
    "training.evaluations=4", "hydra/launcher=basic", "checkpoint_s=0",
]  # fmt: skip


def start(name, folder):
    """Start `headtohead` on the study in a copy of this process, which has imported all that it needs."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    # The streams of this copy are those of pytest.
    sys.stdout = sys.stderr = open("output", "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["headtohead", *STUDY, f"name={name}"]
    status = 1
    try:
        cli.main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1 if error.code else 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def interrupted(child):
    """Send Ctrl-C once the study has its first checkpoint."""
    until(lambda: glob("outputs/stopped/checkpoints/*.pt"))
    os.kill(child, signal.SIGINT)
    return ended(child)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def outcome(folder, name):
    return pd.read_csv(folder / "outputs" / name / "results.csv", dtype=str).drop(columns="wall_s")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_study_killed_at_random_points_ends_as_if_it_never_was(tmp_path):
    from headtohead.report import render  # noqa: F401
    from headtohead.runner import sweep  # noqa: F401

    started = time.monotonic()
    assert ended(start("whole", tmp_path)) == 0
    longest = time.monotonic() - started
    chance = random.Random(0)
    kills = 0
    while kills < 24:
        child = start("killed", tmp_path)
        time.sleep(chance.uniform(0, longest / 2))
        os.kill(child, signal.SIGKILL)
        if ended(child) == 0:
            break
        kills += 1
    assert ended(start("killed", tmp_path)) == 0
    pd.testing.assert_frame_equal(outcome(tmp_path, "killed"), outcome(tmp_path, "whole"))
    histories = [
        {path.parent.name: path.read_bytes() for path in (tmp_path / "outputs" / name / "runs").glob("*/history.csv")}
        for name in ("killed", "whole")
    ]
    assert histories[0] == histories[1]
    assert not (tmp_path / "outputs/killed/checkpoints").exists()
    assert kills >= 5


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_interrupted_study_saves_its_state_and_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert interrupted(start("stopped", tmp_path)) == 130
    output = (tmp_path / "output").read_text()
    assert "saving what is trained" in output and "the same command goes on where it stopped" in output
    assert glob("outputs/stopped/checkpoints/*.pt")
    assert ended(start("stopped", tmp_path)) == 0
    assert ended(start("whole", tmp_path)) == 0
    pd.testing.assert_frame_equal(outcome(tmp_path, "stopped"), outcome(tmp_path, "whole"))


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_ends_a_study_is_heeded_as_ctrl_c(tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may be run under nohup
    try:
        child = start("stopped", tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    until(lambda: glob("outputs/stopped/checkpoints/*.pt"))
    os.kill(child, number)
    os.kill(child, number)  # programs such as `timeout` send it twice
    assert ended(child) == 130
    output = (tmp_path / "output").read_text()
    assert "saving what is trained" in output and "the same command goes on where it stopped" in output
    assert glob("outputs/stopped/checkpoints/*.pt")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_study_that_ignores_the_end_of_its_terminal_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        child = start("stopped", tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    until(lambda: glob("outputs/stopped/checkpoints/*.pt"))
    os.kill(child, signal.SIGHUP)
    assert ended(child) == 0
