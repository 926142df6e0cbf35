"""Signals that ask a command to end: it saves what is trained, says a line, and no worker outlives it."""

import os
import signal
import subprocess
import sys
import time
from glob import glob

import pytest

LONG = [
    "head=softmax,sigmoid", "pack_size=1", "hydra.launcher.n_jobs=2", "name=x", "dataset=iris", "model=linear",
    "training.epochs=100000", "training.points=2000", "training.evaluations=2", "checkpoint_s=0",
]  # fmt: skip

GRACE = """
import os, signal, time
from headtohead.runner import signals
signals.GRACE_S = 0.2
with signals.handled(signals.interrupt):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)  # it is not raised again
        time.sleep(60)
"""


def until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_worker_outlives_its_study(tmp_path, number, status):
    process = subprocess.Popen(
        [sys.executable, "-m", "headtohead", *LONG], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True
    )
    until(lambda: len(glob(f"{tmp_path}/outputs/x/checkpoints/*.pt")) == 2 or process.poll() is not None)
    if number == signal.SIGTERM:
        os.killpg(process.pid, number)  # as systemd and Slurm do
    else:
        process.kill()
    assert process.wait(30) == status

    def group_has_ended():
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(group_has_ended)
    # Workers hold the pipe: it ends when they have.
    output = process.stderr.read().decode()
    process.stderr.close()
    assert ("the same command goes on where it stopped" in output) == (number == signal.SIGTERM), output


def test_a_process_that_cannot_be_interrupted_exits_before_it_is_killed():
    done = subprocess.run([sys.executable, "-c", GRACE], capture_output=True, text=True, timeout=30)
    assert done.returncode == 130 and done.stderr.startswith("headtohead: interrupted; the same command goes on")
