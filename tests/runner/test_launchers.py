"""Hydra's launchers train packs: as processes, as submitit's jobs, and on a Ray instance of this machine."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": [
        "hydra.launcher.ray.init.address=local", "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init.include_dashboard=false",
    ],
    "ray_cluster": ["+hydra.launcher.ray.remote.max_retries=0"],
}  # fmt: skip
MODULES = {"submitit_local": "submitit", "ray": "ray", "ray_cluster": "ray"}
# Networks that the studies name lie in the folder of the tests.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
}  # fmt: skip
CLUSTER = """
import sys, ray
node = ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80_000_000)
print(node.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


def sweep(folder, launcher, *arguments, name=None):
    if launcher in MODULES:
        pytest.importorskip(MODULES[launcher])
    return subprocess.run(
        [sys.executable, "-m", "headtohead", "-m", "seed=0,1", "claims=[accuracy]", f"name={name or launcher}",
         f"hydra/launcher={launcher}", *LAUNCHERS[launcher], *arguments],
        capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=300,
    )  # fmt: skip


def results(folder, name):
    return pd.read_csv(folder / "outputs" / name / "results.csv", dtype=str).drop(columns="wall_s")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a folder, the arguments of a study of two packs, and its results with Hydra's basic launcher."""
    folder = tmp_path_factory.mktemp("small")
    study = ["head=softmax,sigmoid", "pack_size=2", "dataset=iris", "model=linear", "training.epochs=2"]
    assert sweep(folder, "basic", *study).returncode == 0
    return folder, study, results(folder, "basic")


@pytest.fixture
def cluster(tmp_path_factory):
    """Return the address of a Ray cluster that was started in another folder than the study's."""
    pytest.importorskip("ray")
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, cwd=tmp_path_factory.mktemp("elsewhere"), env=ENVIRONMENT,
    ) as process:  # fmt: skip
        yield process.stdout.readline().strip()
        # The end of its input ends the process, and with it all of Ray's.
        process.stdin.close()


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_every_launcher_gives_the_same_results(small, launcher):
    folder, study, expected = small
    done = sweep(folder, launcher, *study)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(results(folder, launcher), expected)


# For the result of a job that was killed submitit waits 15 s.
@pytest.mark.parametrize(("launcher", "deaths"), [("joblib", 9), ("submitit_local", 1), ("ray_cluster", 2)])
def test_a_killed_worker_is_tried_again_then_reported_and_the_same_command_goes_on(tmp_path, request, launcher, deaths):
    study = ["pack_size=1", "model=factory", "model.path=factories:doomed", f"+model.options.deaths={deaths}"]
    study += [*TINY[:3], *TINY[-2:]]
    if launcher == "ray_cluster":
        study += [f"hydra.launcher.ray.init.address={request.getfixturevalue('cluster')}"]
    done = sweep(tmp_path, launcher, *study)
    assert "trying its" in done.stderr
    if deaths == 9:
        assert done.returncode == 1 and "1 runs failed; the same command tries them again" in done.stderr
        for death in range(deaths):
            (tmp_path / f"died{death}").touch()
        done = sweep(tmp_path, launcher, *study)
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("died*")]) == deaths
    # The network lives once it has died so often.
    assert sweep(tmp_path, launcher, *study, name="whole").returncode == 0
    pd.testing.assert_frame_equal(results(tmp_path, launcher), results(tmp_path, "whole"))
