"""Faults around a study, of its folder, the disk, file handles and files: no run that has ended is lost."""

import ctypes
import errno
import io
import json
import os
import re
import resource
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import TINY

from headtohead import cli
from headtohead.record import run
from headtohead.record.events import Events
from headtohead.report.render import write_report
from headtohead.runner import checkpoint, worker
from headtohead.testing import make_study

SHORT = ["dataset=iris", "fold=0", "model=linear", "training.epochs=2", "training.points=3", "training.evaluations=2"]
# Its best rate is not on the edge: the grid stays.
STUDY = [
    "-m", *SHORT, "name=x", "head=softmax,sigmoid", "optimizer.lr=1e-3,0.3,1e4", "seed=0,1", "protocol.confirm_seeds=1",
    "pack_size=2", "hydra.launcher.n_jobs=1",
]  # fmt: skip
X = Path("outputs/x")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def in_a_copy(folder, arguments, before=lambda: None):
    """Return the status and the output of `headtohead` in a copy of this process to which permissions apply."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(folder)
            # The streams of this copy are those of pytest.
            sys.stdout = sys.stderr = open("output", "w", buffering=1, encoding="utf-8")  # noqa: SIM115
            if os.geteuid() == 0:
                # Root without its capabilities: version 3 of the header, this process, and three empty sets.
                ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
            before()
            sys.argv = ["headtohead", *arguments]
            cli.main()
            status = 0
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            status = error.code if isinstance(error.code, int) else 1 if error.code else 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, (folder / "output").read_text()


def error_lines(output):
    """Return the lines of the error."""
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith("headtohead: ")]


def table(study):
    return pd.read_csv(study / "results.csv", dtype=str).drop(columns="wall_s")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the results of the study; all that it imports is then imported."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["headtohead", *STUDY])
        cli.main()
    return table(folder / X)


def is_a_file():
    Path("outputs").write_text("")


def study_is_a_file():
    is_folder()
    X.write_text("")


def runs_are_a_file():
    X.mkdir(parents=True)
    (X / "runs").write_text("")


def is_folder():
    X.parent.mkdir()


def is_read_only():
    is_folder()
    X.parent.chmod(0o555)


def study_is_read_only():
    (X / "runs").mkdir(parents=True)
    (X / "checkpoints").mkdir()
    (X / ".lock").touch()
    X.chmod(0o555)


@needs_fork
@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (is_a_file, "Not a directory"),
        (study_is_a_file, "File exists"),
        (runs_are_a_file, "File exists"),
        (is_read_only, "Permission denied"),
        (study_is_read_only, "Permission denied"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_cannot_be_written_is_named_before_anything_is_trained(tmp_path, undisturbed, before, reason):
    status, output = in_a_copy(tmp_path, STUDY, before)
    (line,) = error_lines(output)
    assert status == 2
    assert f"outputs/x: cannot be made or written ({reason}: '" in line and "accepted: another name=" in line


def folder_goes():
    shutil.rmtree(X)


def becomes_read_only():
    for path in (X, *X.glob("**/")):
        path.chmod(0o555)


def runs_become_read_only():
    (X / "runs").chmod(0o555)


def a_file_takes_its_place():
    X.parent.rename("aside")
    X.parent.write_text("")


def disk_is_full():
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def written(path, content, wait=True):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    os.fsync, run.write_atomically = full, written


def repair(folder):
    if (folder / "aside").exists():
        (folder / "outputs").unlink()
        (folder / "aside").rename(folder / "outputs")
    for path in (folder / "outputs").glob("**/"):
        path.chmod(0o755)


@needs_fork
@pytest.mark.parametrize(
    ("fault", "reason", "kept"),
    [
        (folder_goes, "outputs/x: has vanished", 0),
        (a_file_takes_its_place, "outputs/x: has vanished", 4),
        (becomes_read_only, "Permission denied: 'outputs/x/results.csv'", 4),
        (runs_become_read_only, "Permission denied: 'outputs/x/runs/", 4),
        (disk_is_full, "No space left on device: 'outputs/x/results.csv'", 4),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_in_the_middle_is_told_and_the_same_command_goes_on(tmp_path, undisturbed, fault, reason, kept):
    def before():
        write_run, written = worker.write_run, []

        def write_run_then_fail(folder, *rest):
            write_run(folder, *rest)
            written.append(folder)
            if len(written) == 4:
                fault()

        worker.write_run = write_run_then_fail

    status, output = in_a_copy(tmp_path, STUDY, before)
    assert status == 1
    lines = error_lines(output)
    assert len(lines) <= 2 and reason in lines[-1], output
    repair(tmp_path)
    ended = {path: path.stat().st_mtime_ns for path in (tmp_path / X).glob("runs/*/run.json")}
    assert len(ended) == kept, "the confirm phase does not follow a search that the fault has cut short"
    status, output = in_a_copy(tmp_path, STUDY)
    assert status == 0, output
    assert {path: path.stat().st_mtime_ns for path in ended} == ended
    pd.testing.assert_frame_equal(table(tmp_path / X), undisturbed)


@needs_fork
def test_a_pack_may_have_more_runs_than_the_process_may_open_files(tmp_path, undisturbed):
    def before():
        first_free = os.dup(0)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 20, first_free + 20))

    wide = ["-m", *SHORT, "name=x", "seed=range(60)", "pack_size=60", "hydra.launcher.n_jobs=1"]
    status, output = in_a_copy(tmp_path, wide, before)
    assert status == 0, output
    assert table(tmp_path / X).status.tolist() == ["finished"] * 60


def test_a_note_that_cannot_be_written_stops_no_training(command, tmp_path, monkeypatch):
    monkeypatch.setattr("headtohead.runner.progress.FOLDER", "study.json/notes")
    result = command(*SHORT, "name=x")
    assert result.status == 0, result.err


def edit(path, **values):
    """Replace parts of a checkpoint by others, with a checksum that fits."""
    state = torch.load(io.BytesIO(path.read_bytes()[len(checkpoint.MAGIC) + 32 :]))
    for name, value in values.items():
        (state if name in state else state["training"])[name] = value
    checkpoint.save(path, state)


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged, or no checkpoint"),
        (lambda path: checkpoint.save(path, {"identity": "another"}), "of other runs"),
        (lambda path: edit(path, training="a text"), "not used (TypeError: "),
        (lambda path: edit(path, seconds=None, step=-1), "not used (ValueError: trace: of another training)"),
        (lambda path: edit(path, alive=torch.tensor(True)), "not used (ValueError: alive: of another training)"),
    ],
    ids=["truncated", "foreign", "text", "step", "shape"],
)
def test_a_checkpoint_that_is_no_use_is_named_and_not_used(command, tmp_path, monkeypatch, undisturbed, damage, flaw):
    study = [*STUDY[:-1], "checkpoint_s=0"]
    add = Events.add

    def full(events, step, values):
        if step > 1:
            raise OSError(errno.ENOSPC, "No space left on device", "outputs/x")
        add(events, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(Events, "add", full)
        result = command(*study)
    assert result.status == 1 and "12 runs failed" in result.err and "No space left" in result.err
    saved = sorted((tmp_path / X / "checkpoints").glob("*.pt"))
    assert len(saved) == 6, "what a full disk has stopped goes on from its checkpoint"
    damage(saved[0])
    result = command(*study)
    assert result.status == 0, result.err
    told = result.err.replace("\n", "")
    assert f"{saved[0].name}: {flaw}" in told and told.count("not used") == 1
    pd.testing.assert_frame_equal(table(tmp_path / X), undisturbed)


def test_a_broken_study_json_and_results_csv_are_written_anew(command, tmp_path):
    assert command(*SHORT, "name=x").status == 0
    whole, results = json.loads((tmp_path / X / "study.json").read_text()), table(tmp_path / X)
    (path,) = (tmp_path / X).glob("runs/*/run.json")
    trained = path.stat().st_mtime_ns
    for content in ('{"common": ["seed=0"', "{}", '{"common": [1], "claims": {}}'):
        (tmp_path / X / "study.json").write_text(content)
        (tmp_path / X / "results.csv").write_text("run,phase\n\0")
        result = command(*SHORT, "name=x")
        assert result.status == 0, result.err
        again = json.loads((tmp_path / X / "study.json").read_text())
        assert again | {"started": ""} == whole | {"started": ""}
        pd.testing.assert_frame_equal(table(tmp_path / X), results)
        assert path.stat().st_mtime_ns == trained


def test_a_record_with_something_else_in_a_place_is_trained_again(command, tmp_path):
    arguments = ["-m", *SHORT, "name=x", "seed=range(8)", "pack_size=1"]
    assert command(*arguments).status == 0
    paths, results = sorted((tmp_path / X).glob("runs/*/run.json")), table(tmp_path / X)
    places = ["metrics", "config", "environment", "lr", "status", "pack", "val_nll"]
    made = [path.stat().st_mtime_ns for path in paths]
    for path, key in zip(paths, places, strict=False):
        run = json.loads(path.read_text())
        (run["metrics"] if key == "val_nll" else run)[key] = "x"
        path.write_text(json.dumps(run))
    result = command(*arguments)
    assert result.status == 0, result.err
    pd.testing.assert_frame_equal(table(tmp_path / X), results)
    assert paths[-1].stat().st_mtime_ns == made[-1]
    for path, key in zip(paths, places, strict=False):
        run = json.loads(path.read_text())
        assert (run["metrics"] if key == "val_nll" else run)[key] != "x"


@pytest.mark.parametrize("pattern", ["*tfevents*", "history.csv", "predictions.npz"])
def test_a_run_whose_files_are_truncated_is_trained_again_and_no_other(command, tmp_path, pattern):
    arguments = ["-m", *SHORT, "name=x", "seed=range(2)", "pack_size=1"]
    assert command(*arguments).status == 0
    (one, other), results = sorted((tmp_path / X).glob("runs/*")), table(tmp_path / X)
    (path,) = one.glob(pattern)
    whole = path.stat().st_size
    os.truncate(path, whole // 2)
    made = [(folder / "run.json").stat().st_mtime_ns for folder in (one, other)]
    result = command(*arguments)
    assert result.status == 0, result.err
    again = [(folder / "run.json").stat().st_mtime_ns for folder in (one, other)]
    assert again[0] > made[0] and again[1] == made[1]
    (path,) = one.glob(pattern)
    assert path.stat().st_size >= whole
    pd.testing.assert_frame_equal(table(tmp_path / X), results)


def test_no_rate_is_chosen_and_nothing_is_tested_after_a_part_of_a_search(command, tmp_path):
    study = ["-m", "name=x", "model=factory", "model.path=factories:breaking", "pack_size=1", "seed=0,1"]
    result = command(*study, "optimizer.lr=0.03,0.1,0.3", *TINY[:3], *TINY[-2:])
    assert result.status == 1
    assert "The search lacks 3 runs: no learning rate was chosen, and no test set was read" in result.err
    results = pd.read_csv(tmp_path / X / "results.csv")
    assert set(results.phase) == {"search"} and (results.status == "failed").sum() == 3
    assert not [*(tmp_path / X).glob("**/predictions.npz")] and not (tmp_path / X / "examples.npz").exists()
    assert "the confirm phase has not begun" in (tmp_path / X / "report.md").read_text()


MENDED = """
from pathlib import Path
from factories import Linear

class make(Linear):
    def forward(self, images_BCHW):
        if self.seed in (1, 3) and not Path("mended").exists():
            raise RuntimeError(f"seed '{self.seed}'")
        return super().forward(images_BCHW)
"""


def test_what_failed_is_listed_and_alone_tried_again(command, tmp_path, monkeypatch):
    (tmp_path / "mending.py").write_text(MENDED)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["-m", "name=x", "model=factory", "model.path=mending:make", "pack_size=1", "seed=range(4)"]
    result = command(*arguments, *TINY[:3], *TINY[-2:])
    assert result.status == 1
    first, second = error_lines(result.err)
    assert first == "headtohead: 2 runs failed; the same command tries them again"
    (log,) = re.findall(r"RuntimeError: seed '\d' \(2 runs, such as .*, traceback in (.*)\)$", second) or [""]
    assert "RuntimeError: seed" in json.loads((tmp_path / log).read_text())["error"]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / X).glob("runs/*/run.json")}
    failed = {path for path in made if json.loads(path.read_text())["status"] == "failed"}
    assert len(failed) == 2 and len(made) == 4
    (tmp_path / "mended").touch()
    result = command(*arguments, *TINY[:3], *TINY[-2:])
    assert result.status == 0, result.err
    assert {path for path in made if path.stat().st_mtime_ns != made[path]} == failed
    assert set(table(tmp_path / X).status) == {"finished"}


@pytest.mark.parametrize(
    "override",
    ["name=../x", "name=..", "name=/tmp/x", "name=a/b", "hydra.sweep.dir=../x", "hydra.sweep.subdir=../../x",
     "hydra.output_subdir=../x"],
)  # fmt: skip
def test_no_path_of_a_config_leads_out_of_the_outputs(command, tmp_path, monkeypatch, override):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    result = command(*SHORT, override)
    assert result.status == 2 and error_lines(result.err) == result.err.splitlines() and override in result.err
    assert [path.name for path in tmp_path.glob("**/*")] == ["in"]


def test_values_with_slashes_and_of_many_bytes_make_one_folder(command, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "from factories import few\ndef make(*shape, note): return few(*shape, shape[1])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    value = "../../" + "é" * 150
    result = command("name=x", "model=factory", "model.path=nets:make", f"+model.options.note='{value}'", *TINY[:3])
    assert result.status == 0, result.err
    (folder,) = (tmp_path / X / "runs").iterdir()
    assert len(folder.name.encode()) <= 255 and (folder / "run.json").exists()
    assert value in json.loads((folder / "run.json").read_text())["config"]["model"]["options"]["note"]


def test_values_of_a_config_are_no_markup_in_the_report(tmp_path):
    study = make_study(tmp_path / "study", seeds=2)
    evil = "<script>alert(1)</script>"
    for path in study.glob("runs/*/run.json"):
        run = json.loads(path.read_text())
        run["config"] |= {"note": evil, evil: 1, "own": evil + run["arm"]}
        run["environment"]["versions"][evil], run["checksum"] = evil, ""
        path.write_text(json.dumps(run))
    record = json.loads((study / "study.json").read_text())
    record |= {"name": evil, "command": ["headtohead", evil], "classes": [evil] * 10}
    (study / "study.json").write_text(json.dumps(record))
    write_report(study)
    shown = (study / "report.html").read_text(encoding="utf-8")
    assert evil not in shown and "&lt;script&gt;alert(1)" in shown
    lines = (study / "report.md").read_text(encoding="utf-8").splitlines()
    # Lines that are indented are code.
    assert not [line for line in lines if "<script" in line and not line.startswith("    ")]
