"""The documents and the project's own commands say the same as the code."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import TINY
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_house import FORBIDDEN, ROOMS

from headtohead import cli
from headtohead.analysis.pairing import DERIVED
from headtohead.record.tags import metric_of, tag_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"))
)
HEADERS = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("configs/experiment/*.yaml")}
WITH_COMMANDS = [*DOCUMENTS, *sorted(f"configs/experiment/{name}.yaml" for name in HEADERS), "--help"]
# Columns of results.csv that only images have.
OF_IMAGES = {"shift_blur_accuracy", "shift_contrast_accuracy"}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def table(text: str, header: str) -> dict[str, list[str]]:
    """Return the rows of all Markdown tables whose first header cell is `header`, by each name in the first cell."""
    rows = {}
    for body in re.findall(rf"^\| {header} \|.*\n\|[ -|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for line in body.splitlines():
            first, *others = [cell.strip() for cell in line.strip("|").split("|")]
            rows |= dict.fromkeys(re.findall("`([^`]+)`", first), others)
    return rows


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_to_files(path):
    text = read(path)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / path).parent.joinpath(target).exists(), target
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


@pytest.mark.parametrize("path", DOCUMENTS)
def test_modules_that_are_named_exist(path):
    named = re.findall(
        r"`((?:src/headtohead/)?(?:training|record|runner|analysis|report)/[\w/]+(?:\.py)?)`", read(path)
    )
    for name in named:
        file = ROOT / "src/headtohead" / name.removeprefix("src/headtohead/")
        assert file.with_suffix(".py").is_file() or file.is_dir(), name


def commands(text: str) -> list[str]:
    """List the lines of code blocks and the inline code that call `headtohead`."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^    (headtohead .*)$", text, re.MULTILINE)]
    return [code for code in lines if code.startswith("headtohead ")]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("path", WITH_COMMANDS)
def test_commands_are_one_word_per_argument_in_shells(path, shell, help_text, tmp_path):
    """Unquoted, `seed=range(10)` is a syntax error in both shells."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    lines = commands_of(path, help_text)
    script = "".join(f"printf '%s\\0' {line}; printf '\\n'\n" for line in lines)
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert [line.split("\0")[:-1] for line in done.stdout.splitlines()] == [*map(shlex.split, lines)]


@pytest.mark.parametrize("path", WITH_COMMANDS)
def test_commands_are_understood(path, help_text, command, tmp_path):
    """Hydra composes what is to be trained; other commands find nothing but the folder wrong, which is not here."""
    (tmp_path / "my_configs/claims").mkdir(parents=True)
    shutil.copy(ROOT / "configs/claims/accuracy.yaml", tmp_path / "my_configs/claims/mine.yaml")
    own = ["--config-dir", "my_configs"]
    for line in dict.fromkeys(commands_of(path, help_text)):
        name, *rest = shlex.split(line)[1:]
        if name in cli.COMMANDS.keys() - {"data"}:
            if rest:  # a bare name speaks of the command
                result = command(name, *rest)
                assert not re.search("no such option|too many|required|invalid", result.err), result.err
        elif name != "data" or rest:
            result = command(*own, "--cfg", "job", *map(single, [name, *rest] if name != "data" else rest))
            assert result.status == 0, (line, result.err)


def single(argument: str) -> str:
    """Return an override with the last of the values that it sweeps; other arguments as they are."""
    if "=" not in argument or argument.startswith("-"):
        return argument
    (override,) = OverridesParser.create().parse_overrides([argument])
    if not override.is_sweep_override():
        return argument
    last = override.value().end if override.is_interval_sweep() else [*override.sweep_string_iterator()][-1]
    return f"{override.key_or_group}={last}"


@pytest.fixture(scope="module")
def help_text():
    return subprocess.run([sys.executable, "-m", "headtohead", "--help"], capture_output=True, text=True).stdout


def commands_of(path: str, help_text: str) -> list[str]:
    if path == "--help":
        return re.findall(r"^  (headtohead \S.*?)(?:  .*)?$", help_text, re.MULTILINE)
    if path.endswith(".yaml"):
        return re.findall(r"^# +(?:Command: )?(headtohead .*)$", read(path), re.MULTILINE)
    return commands(read(path))


def test_readme_has_commands():
    assert len(commands(read("README.md"))) > 10


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_headers_of_experiments_have_a_command_that_runs_as_written(name):
    lines = [line for line in HEADERS[name].splitlines() if line.startswith("#")]
    assert lines[1].endswith("?")
    starts = [word for line in lines for word in re.findall("^# (Cost|Expected|Command):", line)]
    assert starts == ["Cost", "Expected", "Command"]
    assert lines[-1] == f"# Command: headtohead experiment={name}"


def test_the_table_of_rooms_is_that_of_the_house():
    rooms = table(read("docs/architecture.md"), "room")
    assert set(rooms) == set(ROOMS)
    for room, (_, may_import, leaves) in rooms.items():
        named = set(ROOMS) - {"cli", "testing"} if room == "cli" else set(re.findall("`([^`]+)`", may_import))
        assert named == ROOMS[room], room
        assert set(filter(None, leaves.split(", "))) == FORBIDDEN.get(room, set()), room


def test_metrics_name_the_functions_that_compute_them():
    sources = [row[-1] for row in table(read("docs/metrics.md"), "column").values()]
    functions = re.findall(r"`(\w+)/(\w+)\.py`: `(\w+)`", "\n".join(sources))
    assert len(functions) > 40
    for room, module, function in functions:
        assert hasattr(importlib.import_module(f"headtohead.{room}.{module}"), function), (module, function)


def test_derived_metrics_are_documented():
    assert set(table(read("docs/metrics.md"), "metric")) == set(DERIVED)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/claims/*.yaml")), ids=lambda path: path.stem)
def test_claims_agree_on_the_better_direction(path):
    better = {name: row[3] for name, row in table(read("docs/metrics.md"), "column").items()}
    better |= {name: row[2] for name, row in table(read("docs/metrics.md"), "metric").items()}
    for claim in yaml.safe_load(path.read_text(encoding="utf-8")).values():
        assert better[claim["metric"]] in (claim["direction"], "-"), claim["metric"]


def test_every_column_and_tag_that_runs_write_is_documented(command, tmp_path):
    result = command("name=x", "dataset=digits", "dataset.unknown_classes=2", *TINY)
    assert result.status == 0, result.err
    documented = table(read("docs/metrics.md"), "column")
    assert set(pd.read_csv(tmp_path / "outputs/x/results.csv")) == set(documented)

    (path,) = tmp_path.glob("outputs/x/runs/*/history.csv")
    written = {re.sub("(?<=layer/).*", "<layer>", tag) for tag in pd.read_csv(path)}
    tags = {tag: re.findall("`([^`]+)`", name)[0] for tag, (name, _) in table(read("docs/metrics.md"), "tag").items()}
    assert written == set(tags)
    assert all(metric_of(tag) == name and tag_of(name) == tag for tag, name in tags.items())


def test_columns_of_images_alone_are_marked(command, tmp_path):
    result = command("name=x", "dataset=wine", "dataset.unknown_classes=1", *TINY)
    assert result.status == 0, result.err
    documented = table(read("docs/metrics.md"), "column")
    assert set(documented) - set(pd.read_csv(tmp_path / "outputs/x/results.csv")) == OF_IMAGES
    assert {name for name, row in documented.items() if "images only" in row[0]} == OF_IMAGES


def test_hooks_are_the_checks_of_make_lint():
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == recipe("lint")
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_workflow_runs_make_test_on_the_oldest_and_the_newest_python():
    (job,) = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"].values()
    project = tomllib.loads(read("pyproject.toml"))["project"]
    supported = re.findall(r":: (3\.\d+)", "\n".join(project["classifiers"]))
    assert project["requires-python"] == f">={supported[0]}"
    assert job["strategy"]["matrix"]["python"] == [supported[0], supported[-1]]
    assert any(step.get("run", "").startswith("make test") for step in job["steps"])
    actions = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
    assert actions == {"actions/checkout", "actions/setup-python"}
