"""The wheel alone is the whole program: it runs in an environment of its own, from another working directory."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd):
    """Return the standard output of a command that must succeed and sees no other headtohead."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "repository"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in ("src", "configs"):
        shutil.copytree(ROOT / part, copy / part, ignore=ignore)
    for part in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(part, copy)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, copy, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Interpreter of an environment that holds the wheel and borrows our dependencies."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", code, cwd=environment).strip())
    # The borrowed paths come after the environment's own. Python does not read the .pth files in them, such as ours.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-index", "--no-deps", "--ignore-installed", wheel, cwd=environment)
    return python


def test_wheel_contains_every_module_and_config(wheel):
    modules = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*.py")}
    configs = {f"headtohead/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "configs").rglob("*.yaml")}
    assert "hydra_plugins/headtohead/__init__.py" in modules
    assert configs
    missing = (modules | configs) - set(zipfile.ZipFile(wheel).namelist())
    assert not missing


def test_wheel_names_its_licence_and_brings_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        fields = message_from_string(archive.read(metadata).decode())
        text = archive.read(metadata.replace("METADATA", "licenses/LICENSE")).decode()
    assert fields["License-Expression"] == "MIT"
    assert text == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_hydra_discovers_the_sweeper_without_torch(python, tmp_path):
    code = """
import json, sys
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
sweepers = [f"{c.__module__}.{c.__name__}" for c in Plugins.instance().discover(Sweeper)]
plugin = sys.modules["hydra_plugins.headtohead"]
print(json.dumps([sweepers, plugin.__file__, "torch" in sys.modules]))
"""
    sweepers, file, torch_imported = json.loads(run(python, "-c", code, cwd=tmp_path))
    assert "hydra_plugins.headtohead.PackSweeper" in sweepers
    assert Path(file).is_relative_to(python.parents[1])
    assert not torch_imported


def test_prints_its_config_from_another_working_directory(python, tmp_path):
    printed = run(python, "-m", "headtohead", "--cfg", "job", cwd=tmp_path)
    assert re.search(r"^dataset:", printed, re.MULTILINE)
    assert printed == run(python.with_name("headtohead"), "--cfg", "job", cwd=tmp_path)


def test_runs_from_another_working_directory(python, tmp_path):
    arguments = ("name=tiny", "dataset=iris", "model=linear", "training.epochs=1")
    run(python, "-m", "headtohead", *arguments, cwd=tmp_path)
    (record,) = tmp_path.glob("outputs/tiny/runs/*/run.json")
    assert json.loads(record.read_text())


def test_the_version_is_in_one_place():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (Unreleased|\S+ - \d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].startswith(f"{version} - ")
    others = [ROOT / "CITATION.cff", *(ROOT / "src").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    assert [path for path in others if re.search(rf"version\W+{re.escape(version)}\b", path.read_text())] == []


def test_lock_pins_every_dependency_from_any_index():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = [*project["dependencies"], *extras["dev"], *extras["ray"], *extras["submitit"]]
    wanted = {re.match(r"[\w-]+", requirement)[0] for requirement in locked}
    lock = (ROOT / "requirements.lock").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE))
    assert wanted <= pinned.keys()
    assert not any("+" in version for version in pinned.values())  # builds that only another index has
    assert "://" not in lock
