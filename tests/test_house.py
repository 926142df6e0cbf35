"""The rules of the house: which room may know of which."""

import ast
import subprocess
import sys
from pathlib import Path

import headtohead

SOURCE = Path(headtohead.__file__).parent
ANALYSIS = {"record", "statistics", "report"}
# What each room of the training half may import of the house. A name that is missing here is a new room.
ALLOWED = {
    "registry": set(),
    "heads": {"registry"},
    "data": {"registry"},
    "datasets": {"data", "registry"},
    "models": {"registry"},
    "optimizers": {"registry"},
    "packing": set(),
    "metrics": {"heads"},
    "diagnostics": set(),
    "config": {"datasets", "heads", "models", "optimizers", "registry"},
    "training": {"config", "data", "diagnostics", "heads", "metrics", "models", "optimizers", "packing"},
    "board": set(),
    "plan": {"registry"},
    "compose": {"config", "plan"},
    "worker": {"board", "compose", "config", "data", "plan", "record", "training"},
    "sweep": {"compose", "config", "data", "models", "packing", "plan", "record", "statistics", "training", "worker"},
    "cli": {"registry"},
    "record": set(),
    "statistics": set(),
    "report": {"record", "statistics"},
    "__init__": set(),
    "__main__": {"cli"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_run_one_way():
    rooms = {path.stem: path for path in SOURCE.glob("*.py")}
    assert set(rooms) == set(ALLOWED)
    for room, path in rooms.items():
        known = {name.split(".")[1] for name in imports(path) if name.startswith("headtohead.")}
        assert known & set(rooms) <= ALLOWED[room], room
        assert not {"experiments", "benchmarks"} & {name.split(".")[0] for name in imports(path)}


def test_the_analysis_half_and_the_command_line_start_without_torch():
    modules = ", ".join(f"headtohead.{room}" for room in sorted(ANALYSIS | {"cli"}))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
