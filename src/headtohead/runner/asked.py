"""Overrides as they were typed, checked and prepared before Hydra composes them: its own errors name no key."""

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException, OverrideParseException

from headtohead.options import ConfigError, nearest

# The config groups; those that a configuration cannot do without, and those that take a list of options.
GROUPS = ("dataset", "model", "head", "optimizer", "experiment", "claims")
NEEDED = {"dataset", "model", "head", "optimizer"}
LISTS = {"experiment", "claims"}
# The functions of Hydra's grammar that sweep values, as they are called.
CALLS = {
    "choice": "choice(A,B,...)",
    "range": "range(STOP), range(START,STOP) or range(START,STOP,STEP)",
    "interval": "interval(LOW,HIGH)",
    "tag": "tag(log,interval(LOW,HIGH))",
    "glob": "glob(PATTERN)",
}


def prepare_overrides(arguments: Sequence[str], config_dir: str | None) -> list[str]:
    """Check overrides, and return them such that Hydra can compose what the arms of a sweep share.

    Hydra leaves out what is swept, so that an option of a swept group would be looked for in the group's default. As
    a sweep of one value, such an option is left out as well.

    Args:
        arguments: the overrides.
        config_dir: the user's own folder of configs.

    Raises:
        ConfigError: an override is not in Hydra's grammar, or does not choose an option of its config group.
    """
    overrides = [_parse(argument) for argument in arguments]
    for argument, override in zip(arguments, overrides, strict=True):
        if not override.key_or_group:
            raise ConfigError(f"{argument!r}: names no key; accepted: KEY=VALUE")
        _check_plugin(override)
        check_choice(override, config_dir)
        if not override.is_sweep_override() and _holds_sweep(override.value()):
            raise ConfigError(f"{argument}: a sweep or a range within a value; accepted: KEY=interval(LOW,HIGH) alone")
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    return [
        _as_sweep_of_one(override) if override.key_or_group.partition(".")[0] in swept else argument
        for argument, override in zip(arguments, overrides, strict=True)
    ]


def refuse_word(argument: str, commands: Iterable[str]) -> None:
    """Refuse a word that is no override, such as a misspelt command.

    Raises:
        ConfigError: naming the options and the commands that it may stand for.
    """
    if not re.fullmatch(r"[\w.-]+", argument):
        return
    commands = [command for command in commands if not command.startswith("-")]
    if argument in commands:
        raise ConfigError(f"{argument}: a command stands first: headtohead {argument}")
    options = [f"{group}={argument}" for group in GROUPS if argument in options_of(group, None)]
    if options:
        raise ConfigError(f"{argument}: names no key; did you mean {' or '.join(options)}?")
    raise ConfigError(f"{argument}: no command; {nearest(argument, commands)}, or KEY=VALUE")


def _holds_sweep(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Sweep) or any(map(_holds_sweep, parts))


def options_of(group: str, config_dir: str | None) -> list[str]:
    """List the options of a config group, with the user's own."""
    folders = [str(files("headtohead.configs")), *([config_dir] if config_dir else [])]
    return sorted({path.stem for folder in folders for path in Path(folder, group).glob("*.yaml")})


def _check_plugin(override: Override) -> None:
    """Refuse a class that Hydra would not take for its sweeper or launcher."""
    group, _, name = (override.key_or_group or "").rpartition("._target_")
    known = isinstance(override.value(), str) and str(override.value()).startswith(
        ("hydra_plugins.", "hydra._internal.")
    )
    if group in ("hydra.sweeper", "hydra.launcher") and not name and not known:
        accepted = f"accepted: {group.replace('.', '/')}=NAME" if group == "hydra.launcher" else "leave it out"
        raise ConfigError(f"{override.input_line}: no plugin of Hydra; {accepted}")


def _parse(argument: str) -> Override:
    try:
        argument.encode()
        return OverridesParser.create().parse_overrides([argument])[0]
    except UnicodeEncodeError:
        raise ConfigError(f"{argument.encode(errors='replace').decode()}: no text in UTF-8") from None
    except OverrideParseException as error:
        reason, *more = error.message.splitlines()
        call = re.match(r"\w+ while evaluating '(\w+)\(.*': (.+)", "".join(more[:1]))
        if call and (why := _why_no_call(*call.groups())):
            raise ConfigError(f"{argument}: not in Hydra's grammar: {why}") from None
        # What begins so names classes of the parser, or says the same again.
        why = "" if reason.startswith(("Lexer", "Error parsing")) else f" ({reason})"
        quoted = _quoted(argument)
        hint = f"\ntext with other characters needs quotes: {shlex.quote(quoted)}" if quoted else ""
        raise ConfigError(f"{argument}: not in Hydra's grammar{why}{hint}") from None


def _why_no_call(name: str, reason: str) -> str:
    """Say what is wrong with the call of a function of the grammar; nothing where it is rather text with brackets."""
    if name in CALLS:
        return f"{reason}; accepted: {CALLS[name]}"
    near = difflib.get_close_matches(name, CALLS)
    return f"{name} is no function; {nearest(name, CALLS)}" if near else ""


def _quoted(argument: str) -> str | None:
    """Return an override with quotes around the values that are not in the grammar; None if this does not help."""
    key, _, text = argument.partition("=")
    parts = [text] if set("[](){}'\"") & set(text) else text.split(",")
    values = [part if _is_valid(f"{key}={part}") else QuotedString(part, Quote.double).with_quotes() for part in parts]
    quoted = f"{key}={','.join(values)}"
    return quoted if _is_valid(quoted) else None


def _is_valid(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def check_choice(override: Override, config_dir: str | None) -> None:
    """Refuse an override of a config group that chooses none of its options by name."""
    group, line = override.key_or_group, override.input_line or ""
    if override.package is not None or (group not in GROUPS and group != "hydra" and "/" not in group):
        return
    accepted = f"accepted: {', '.join(options_of(group, config_dir))}" if group in GROUPS else "accepted: a name"
    if override.is_delete():
        if group in NEEDED:
            raise ConfigError(f"{line}: the configuration needs this group; choose an option by {group}=; {accepted}")
        if group == "claims":
            raise ConfigError(f"{line}: to test no claims, write claims=[]")
    elif group in GROUPS and (override.is_force_add() or (override.is_add() and group != "claims")):
        raise ConfigError(f"{line}: {group} has an option already; leave the plus out: {line.lstrip('+')}")
    elif group in GROUPS or "/" in group or group == "hydra":
        for value in _choices(override):
            if not _is_choice(group, value):
                raise ConfigError(f"{line}: must name an option of {group}; {accepted}")


def _choices(override: Override) -> Iterable[Any]:
    """Return the values of an override, each where it is swept; none for a pattern or a range."""
    if not override.is_sweep_override():
        return [override.value()]
    return override.value().list if hasattr(override.value(), "list") else []  # pyright: ignore


def _is_choice(group: str, value: Any) -> bool:
    if isinstance(value, list) and group in LISTS:
        return all(isinstance(item, str | QuotedString) for item in value)
    if isinstance(value, dict):
        return group in NEEDED | {"claims"}  # values for keys of the group
    return isinstance(value, str | QuotedString) or (value is None and (group == "experiment" or "/" in group))


def _as_sweep_of_one(override: Override) -> str:
    line = override.input_line or ""
    key, _, value = line.partition("=")
    one = f"{key}=choice({value})"
    return line if override.is_sweep_override() or override.is_delete() or not _is_valid(one) else one


def missing_option(file: str, options: Sequence[str] | None, config_dir: str | None) -> str:
    """Describe an option, such as `head/sofmax`, that its config group does not have."""
    group, _, name = file.rpartition("/")
    return f"{group}={name}: no such {group}; {nearest(name, options or options_of(group, config_dir))}"
