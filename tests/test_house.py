"""The rules of the house: which room may import which, and how the code is built."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import headtohead

SOURCE = Path(headtohead.__file__).parent
# The rooms, each with the others that it may import.
ROOMS = {
    "late": set(),
    "options": set(),
    "training": {"options", "late"},
    "record": {"options", "late"},
    "analysis": {"record", "options", "late"},
    "runner": {"training", "analysis", "record", "options", "late"},
    "report": {"analysis", "record", "options", "late"},
    "testing": {"analysis", "record", "options"},
    "notebook": {"report", "analysis", "record", "options"},
    "cli": {"runner", "report", "notebook", "training", "analysis", "record", "options", "late"},
}
# Packages that a room leaves to others.
FORBIDDEN = {
    "late": {"hydra"},
    "options": {"torch", "hydra"},
    "training": {"hydra", "tensorboard", "vl_convert"},
    "record": {"torch", "hydra"},
    "analysis": {"torch", "hydra", "tensorboard", "vl_convert"},
    "report": {"torch", "hydra"},
    "notebook": {"torch", "hydra"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_of_room(room: str) -> set[str]:
    files = [*(SOURCE / room).rglob("*.py")] or [SOURCE / f"{room}.py"]
    return set().union(*map(imports, files))


def test_every_file_is_in_a_room():
    found = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")}
    assert found - {"__init__", "__main__", "configs"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    names = imports_of_room(room)
    ours = {name.split(".")[1] for name in names if name.startswith("headtohead.")} & {*ROOMS}
    assert ours - {room} <= ROOMS[room]
    packages = {name.removeprefix("headtohead.late.").split(".")[0] for name in names}
    assert not FORBIDDEN.get(room, set()) & packages


def test_the_analysis_half_and_the_command_line_start_without_torch():
    rooms = [
        SOURCE / "cli.py",
        *(path for room in ("record", "analysis", "report") for path in (SOURCE / room).rglob("*.py")),
    ]
    modules = [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in rooms]
    modules = ", ".join(module.removesuffix(".__init__") for module in modules)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
