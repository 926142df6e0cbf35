"""The rules of the house: which room may know of which."""

import ast
import subprocess
import sys
from pathlib import Path

import headtohead

SOURCE = Path(headtohead.__file__).parent
ANALYSIS = {
    "record", "statistics", "claims", "wording", "study", "doubts", "method", "findings", "figures", "report",
    "predictions", "dashboard", "viewer", "board", "ladder",
    "matrix", "publication", "plotting", "evidence", "example_figures", "sweep_figures",
}  # fmt: skip
# What each room of the house may import of it. A name that is missing here is a new room.
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": {"publication", "registry", "report", "reproduce", "viewer"},
    "registry": set(),
    # the training half
    "heads": {"registry"},
    "files": {"registry"},
    "data": {"files", "registry"},
    "datasets": {"data", "files", "registry"},
    "models": {"heads", "registry"},
    "optimizers": {"registry"},
    "packing": {"models"},
    "metrics": {"heads"},
    "diagnostics": set(),
    "config": {"datasets", "heads", "models", "optimizers", "registry"},
    "cohort": {"config", "data", "metrics", "models", "packing"},
    "evaluation": {"cohort", "data", "datasets", "metrics", "registry"},
    "training": {"cohort", "config", "data", "diagnostics", "evaluation", "metrics", "optimizers"},
    "progress": set(),
    "checkpoint": {"record"},
    "plan": {"record", "registry"},
    "compose": {"config", "plan"},
    "worker": {"board", "checkpoint", "compose", "config", "data", "plan", "progress", "record", "training"},
    "reproduce": {"config", "data", "record", "registry", "training", "worker"},
    "sweep": {
        "board", "claims", "compose", "config", "dashboard", "data", "evaluation", "models", "packing", "plan",
        "predictions", "progress", "record", "registry", "statistics", "study", "training", "worker",
    },
    # the analysis half
    "record": set(),
    "statistics": set(),
    "claims": {"record", "registry", "statistics", "study"},
    "wording": {"statistics"},
    "predictions": set(),
    "study": {"predictions", "record", "registry", "statistics", "wording"},
    "doubts": {"claims", "statistics", "study", "wording"},
    "method": {"study", "wording"},
    "findings": {"claims", "doubts", "ladder", "statistics", "study", "wording"},
    "plotting": set(),
    "evidence": {"predictions"},
    "example_figures": {"evidence", "plotting", "predictions"},
    "sweep_figures": {"evidence", "plotting", "statistics", "wording"},
    "figures": {"evidence", "example_figures", "plotting", "sweep_figures"},
    "ladder": {"claims", "plotting", "statistics", "study", "wording"},
    "report": {
        "claims", "evidence", "figures", "findings", "ladder", "method", "plotting", "record", "statistics", "study",
        "wording",
    },
    "matrix": {"plotting", "registry", "report", "wording"},
    "publication": {"claims", "findings", "matrix", "plotting", "record", "registry", "report", "study", "wording"},
    "dashboard": {"board", "evidence", "findings", "plotting", "predictions", "record", "registry", "report", "study"},
    "viewer": {"dashboard", "registry", "report", "study"},
    # event files, which either half writes
    "board": set(),
}  # fmt: skip


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
