"""The command `headtohead`: Hydra's command line, with errors of one or two lines.

torch is imported only once there is something to train, so that `--help` and `--cfg` answer at once.
"""

import argparse
import codecs
import errno
import gc
import io
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException

from headtohead.options import BREAKDOWNS, ConfigError, nearest, one_line, require, unresolved
from headtohead.runner import config_files
from headtohead.runner.asked import missing_option, prepare_overrides, refuse_word
from headtohead.runner.signals import INTERRUPTED, handled, interrupt
from hydra_plugins.headtohead import DataSweeper, PackSweeper

if TYPE_CHECKING:
    from headtohead.record.study import StudyRecord

# Exit statuses, beside INTERRUPTED.
BROKEN, WRONG_REQUEST = 1, 2
# What stands for the signs of a report where the terminal's encoding lacks them; "?" for all others.
PLAIN = {"±": "+-", "✓": "+", "✗": "x", "→": "->", "–": "-", "…": "...", "×": "x", "·": ".", "≤": "<=", "≥": ">="}

START = """\
headtohead measures which output head trains better: softmax + cross-entropy,
or per-class sigmoid + binary cross-entropy.

  headtohead experiment=digits   train the default study, which takes a minute
  headtohead data dataset=iris   see what data are, before anything is trained
  headtohead list                list the studies in outputs/ with their answers
  headtohead --help              see all that can be chosen
"""


@hydra.main(version_base="1.3", config_path="pkg://headtohead.configs", config_name="config")
def hydra_command(config: DictConfig) -> None:
    """Run Hydra's command line, which hands it to `PackSweeper`; the body is reached if Hydra is told not to sweep."""
    raise ConfigError("hydra.mode=RUN: a single run is a sweep of one; accepted: MULTIRUN")


def train_command(arguments: Sequence[str]) -> None:
    """Check the overrides of a command line, and hand it to Hydra."""
    if not arguments:
        print(START, end="")
        return
    if not arguments[0].startswith("-"):  # what follows a misspelt command would be refused first
        refuse_word(arguments[0], COMMANDS)
    options = _strict(get_args_parser()).parse_args(arguments)
    for override in options.overrides:
        refuse_word(override, COMMANDS)
    prepared = dict(zip(options.overrides, prepare_overrides(options.overrides, options.config_dir), strict=True))
    if options.cfg or options.info:  # which Hydra refuses to take with it
        arguments = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    # Hydra reads the command line from there.
    sys.argv[1:] = [prepared.get(argument, argument) for argument in arguments]
    config_files.register()
    hydra_command()


def data_command(arguments: Sequence[str]) -> None:
    """Print what the data of a command line are, and what looks wrong with them; nothing is written or trained."""
    overrides = _strict(get_args_parser()).parse_args(arguments).overrides
    # Hydra takes overrides in a row alone.
    place = arguments.index(overrides[0]) if overrides else len(arguments)
    sweeper = f"hydra.sweeper._target_={DataSweeper.__module__}.{DataSweeper.__name__}"
    train_command([*arguments[:place], sweeper, *arguments[place:]])


def report_command(arguments: Sequence[str]) -> None:
    """Rebuild a study's report from its records and print its short form.

    With --to, also publish the report, and the overview of all studies in the folder above. With --format, print a
    table of the verdicts for a paper, and write nothing.
    """
    parser = _strict(argparse.ArgumentParser(prog="headtohead report", description=report_command.__doc__))
    parser.add_argument("folder", type=Path, help="the folder of a study, such as outputs/digits")
    parser.add_argument("--to", type=Path, help="also publish to a folder, such as experiments/digits")
    parser.add_argument("--out", type=Path, help="write the report to this folder, and leave that of the study alone")
    parser.add_argument("--format", help="print the verdicts as a table instead: latex (with booktabs) or csv")
    options = parser.parse_args(arguments)

    record = _read_study(options.folder)
    if options.format is not None:
        _print_table(options)
        return
    print(f"study: {options.folder}, {sum(map(len, record.runs.values()))} runs; writing its report", flush=True)
    from headtohead.report.publish import publish, refuse_target
    from headtohead.report.render import write_report
    from headtohead.report.terminal import print_study

    # statsmodels collects garbage at every correction, and would look through all that was imported.
    gc.freeze()
    if options.to:
        refuse_target(options.folder, options.to)
    try:
        summary, figures = write_report(options.folder, options.out)
        if options.to:
            publish(summary, figures, options.to)
    except OSError as error:
        if options.out or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        accepted = "accepted: a folder that can be written; --out FOLDER writes the report elsewhere"
        raise ConfigError(f"{one_line(error)}; {accepted}") from error
    print_study(summary, to=options.out)
    if options.to:
        print(f"published:   {options.to / 'README.md'}, {options.to.parent / 'matrix.md'}")


def _print_table(options: argparse.Namespace) -> None:
    """Print the verdicts of a study in the format that was asked for."""
    from headtohead.analysis.summary import summarise
    from headtohead.report.paper import FORMATS

    require(options.format in FORMATS, "--format", options.format, nearest(options.format, FORMATS))
    other = "--to" if options.to else "--out" if options.out else ""
    require(
        not other, other, getattr(options, other[2:], ""), "with --format nothing is written; accepted: one of the two"
    )
    print(FORMATS[options.format](summarise(options.folder)), end="")


def judge_command(arguments: Sequence[str]) -> None:
    """Judge runs that another program trained: a table of runs, or a folder of TensorBoard's event files.

    One arm is compared with each other one, by pairs of runs that share a seed. docs/notebook.md has examples.
    """
    parser = _strict(argparse.ArgumentParser(prog="headtohead judge", description=judge_command.__doc__))
    parser.add_argument("runs", type=Path, help="a table of runs, a folder, or a pattern: 'logs/{head}/seed_{seed}'")
    parser.add_argument("--arm", required=True, metavar="COLUMN", help="the column of the arms")
    parser.add_argument("--pair", required=True, metavar="COLUMN", help="the column that pairs runs, such as the seed")
    margin = "and the size below which a difference does not matter; the first metric is the primary one"
    metric = "NAME:MARGIN[:higher|lower]"
    parser.add_argument("--metric", required=True, action="append", metavar=metric, help=f"a metric, {margin}")
    shared = "a column of what the arms of a comparison share, such as the dataset"
    parser.add_argument("--setting", action="append", default=[], metavar="COLUMN", help=shared)
    parser.add_argument("--against", metavar="ARM", help="the arm to compare others with; else the first of the table")
    scores = "a table of scores per test example, with the columns of arm and pair, `example` and `score`"
    parser.add_argument("--examples", type=Path, metavar="TABLE", help=scores)
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="judge these runs alone")
    parser.add_argument("--look", type=int, default=1, help="1, and one more for each time that runs were added")
    parser.add_argument("--out", type=Path, help="write the report to this folder; judged/NAME unless given")
    options = parser.parse_args(arguments)

    from headtohead.analysis.runs import Asked, Metric

    metrics = tuple(map(Metric.parse, options.metric))
    asked = Asked(options.arm, options.pair, metrics, tuple(options.setting), options.against, options.look)
    from headtohead.report.judging import judge_files

    command = ["headtohead", "judge", *arguments]
    judge_files(options.runs, asked, options.where, options.examples, options.out, command)


def board_command(arguments: Sequence[str]) -> None:
    """Open TensorBoard on a study, its arms first, until interrupted."""
    parser = _strict(argparse.ArgumentParser(prog="headtohead board", description=board_command.__doc__))
    parser.add_argument("folder", type=Path, help="the folder of a study, such as outputs/digits")
    parser.add_argument("--runs", action="store_true", help="show every run beside the arms, and the HParams page")
    parser.add_argument("--port", type=int, help="the port; the first free one from 6006 on unless given")
    options = parser.parse_args(arguments)

    _read_study(options.folder)
    from headtohead.report.server import launch, wait

    print(f"{launch(options.folder, options.runs, options.port)}   (Ctrl-C ends it)", flush=True)
    wait()


def list_command(arguments: Sequence[str]) -> None:
    """List the studies in a folder, each with its state and its answer."""
    parser = _strict(argparse.ArgumentParser(prog="headtohead list", description=list_command.__doc__))
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("outputs"), help="the folder; outputs unless given"
    )
    options = parser.parse_args(arguments)

    from headtohead.report.studies import print_studies

    print_studies(options.folder)


def _strict(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Have a parser refuse a wrong request in a line that says what is accepted."""

    def refuse(message: str) -> NoReturn:
        usage = parser.format_usage()
        _, unknown, rest = message.partition("unrecognized arguments: ")
        if message.startswith("argument "):
            raise ConfigError(message.removeprefix("argument "))
        extra = next((word for word in rest.split() if word.startswith("-")), rest.partition(" ")[0])
        if extra.startswith("-"):
            raise ConfigError(f"{extra}: no such option; {nearest(extra, re.findall(r'--[a-z-]+', usage))}")
        if "=" in extra:
            raise ConfigError(f"{extra}: stands apart; accepted: all overrides in a row")
        if unknown:
            message = f"{extra}: one argument too many"
        raise ConfigError(f"{message}; accepted: {' '.join(usage.removeprefix('usage: ').split())}")

    parser.error = refuse
    return parser


def _read_study(folder: Path) -> "StudyRecord":
    """Read study.json, or refuse a folder that has none, before what reads all of the study is imported."""
    from headtohead.record.study import read_study_record

    return read_study_record(folder)


def reproduce_command(arguments: Sequence[str]) -> None:
    """Train a recorded run again, alone, and compare it with its record; exit with 1 if it differs."""
    parser = _strict(argparse.ArgumentParser(prog="headtohead reproduce", description=reproduce_command.__doc__))
    example = "outputs/digits/runs/head=softmax,seed=0"
    parser.add_argument("folder", type=Path, help=f"the folder of a run, such as {example}")
    parser.add_argument("--allow-code", action="store_true", help="import the code of others that the record names")
    options = parser.parse_args(arguments)

    from headtohead.runner.reproduce import print_reproduction, reproduce

    reproduction = reproduce(options.folder, options.allow_code)
    print_reproduction(options.folder, reproduction)
    if reproduction.different:
        sys.exit(BROKEN)


def version_command(arguments: Sequence[str]) -> None:
    """Print the version of this package."""
    print(f"headtohead {version('headtohead')}")


COMMANDS = {
    "data": data_command,
    "list": list_command,
    "report": report_command,
    "judge": judge_command,
    "board": board_command,
    "reproduce": reproduce_command,
    "--version": version_command,
}


def with_home(argument: str) -> str:
    """Quote paths that begin with `~` in an override, for whose grammar they are none, and expand them in a flag."""
    if argument.startswith("-"):
        flag, separator, value = argument.partition("=")
        return f"{flag}{separator}{os.path.expanduser(value)}"
    if "'" in argument or '"' in argument:
        return argument
    return re.sub(r"(?<=[=,(\[])~[^,()\[\]{}]*", r"'\g<0>'", argument)


def complete() -> bool:
    """Offer commands to a shell that completes a line; return whether nothing is left to Hydra, which knows overrides.

    After a command that takes a folder nothing is offered, so that the shell offers files.
    """
    line = os.environ.get("COMP_LINE", "")
    word = "" if line.endswith(" ") else (line.split() or [""])[-1]
    before = line.removesuffix(word).split()[1:]
    if not before:
        print(*(name for name in COMMANDS if name.startswith(word)))
    elif before[0] == "data":
        os.environ["COMP_LINE"] = line.replace(" data ", " ", 1)
    return bool(before) and before[0] in COMMANDS.keys() - {"data"}


def main() -> None:
    """Run the command line. Exit with 2 for a wrong request, with 130 if interrupted, and with 1 for any other error.

    HYDRA_FULL_ERROR=1 in the environment shows the traceback instead of a line.
    """
    sys.argv[1:] = map(with_home, sys.argv[1:])
    # An editable install hides namespace packages from the scan by which Hydra finds its plugins.
    for sweeper in (PackSweeper, DataSweeper):
        Plugins.instance().register(sweeper)
    if {"-sc", "--shell-completion"} & {*sys.argv} and "query=" in " ".join(sys.argv) and complete():
        return
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    command = partial(COMMANDS[name], sys.argv[2:]) if name in COMMANDS else partial(train_command, sys.argv[1:])
    _hold_standard_streams()
    with redirect_stdout(_lenient(sys.stdout, 1)), redirect_stderr(_lenient(sys.stderr, 2)), handled(interrupt):
        try:
            _run(command)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


def _run(command: "partial[None]") -> None:
    """Run a command, and turn its errors into a line and an exit status."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        command()
        return
    # Left alone, Hydra prints a report of its own and exits with 1 whatever the error.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        command()
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        sys.exit(_print_error(_describe(error), WRONG_REQUEST))
    except KeyboardInterrupt as interruption:
        sys.exit(_print_error("; ".join(["interrupted", *map(str, interruption.args)]), INTERRUPTED))
    except OSError as error:
        # What the other commands read and write is named by the user.
        if command.func is train_command or error.errno in BREAKDOWNS:
            sys.exit(_print_error(one_line(error), BROKEN))
        accepted = "accepted: a folder that can be read and written"
        sys.exit(_print_error(f"{one_line(error)}; {accepted}", WRONG_REQUEST))
    except Exception as error:
        sys.exit(_print_error(f"{one_line(error)} (HYDRA_FULL_ERROR=1 shows where)", BROKEN))
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


class _Sink(io.FileIO):
    """A descriptor whose reader may have gone, as in `| head -1`: what cannot be written is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def _lenient(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream to the same place that takes what it can print and fails at nothing: the results are in files.

    Args:
        stream: a standard stream; None where it was closed when Python started.
        descriptor: its number.
    """
    encoding, lines = "utf-8", False
    if stream is not None:
        try:
            descriptor = stream.fileno()
        except io.UnsupportedOperation:
            return stream
        encoding, lines = stream.encoding, isinstance(stream, io.TextIOWrapper) and stream.line_buffering
    codecs.register_error("plain", _plain)
    sink = io.BufferedWriter(_Sink(descriptor, "w", closefd=False))
    return io.TextIOWrapper(sink, encoding, errors="plain", line_buffering=lines)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return for what an encoding lacks the nearest ASCII, and where to go on."""
    assert isinstance(error, UnicodeEncodeError)
    letters = (_ascii(sign) or "?" for sign in error.object[error.start : error.end])
    return "".join(letters), error.end


def _ascii(sign: str) -> str:
    return PLAIN.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()


def _hold_standard_streams() -> None:
    """Open the standard descriptors that are closed, so that no file of a study takes their numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _describe(error: Exception) -> str:
    """Describe an error in one or two lines: the key, its value, and what is accepted with the nearest names first."""
    cause = error.__cause__
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {error.message.splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "/" in error.missing_cfg_file:
        return missing_option(error.missing_cfg_file, error.options, None)
    if isinstance(error, InterpolationResolutionError):
        return unresolved(error)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        names = [name for name in cause.parent_node if name != "hydra"]
        hint = nearest(cause.key, names) if names else f"to add it, write +{cause.full_key}=VALUE"
        where = "".join(f" in {note}" for note in getattr(error, "__notes__", ()))
        return f"{cause.full_key}: no such key{where}; {hint}"
    if absent := re.match(r"Could not delete from config. '(.+)' does not exist", str(error)):
        return f"~{absent[1]}: no such key; accepted: a key that headtohead --cfg job prints"
    if several := re.match("Ambiguous value for argument '(.+)'", str(error)):
        return f"{several[1]}: several values; accepted with --cfg and --info: one"
    if existing := re.match(r"Could not append to config. An item is already at '(.+)'", str(error)):
        return f"+{existing[1]}: the key exists; leave the plus out: {existing[1]}=VALUE"
    if composed := re.match(r"In '(.+)': \w+ raised while composing config:\n(.*)", str(error)):
        return f"{composed[1]}.yaml: does not fit the other configs; {composed[2]}"
    lines = [*str(error).splitlines(), *str(cause or "").splitlines()]
    return " ".join(line.strip() for line in lines[:3] if line.strip())


def _print_error(message: str, status: int) -> int:
    print(f"headtohead: {message}", file=sys.stderr)
    return status
