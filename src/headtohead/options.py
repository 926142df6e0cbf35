"""Options: checked, frozen dataclasses from plain values, and errors of one line.

What a config names (a head, a dataset, a model, an optimiser) and what a record holds is a frozen dataclass. Its
fields give the types; the values come from YAML, the command line or JSON. A registry maps names to such classes.
"""

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

T = TypeVar("T")
Converter = Callable[[Any], Any]

# What breaks in the system whatever the request: a full disk, a broken one, too many open files, too little memory.
BREAKDOWNS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
MISSING_VALUE = "???"  # OmegaConf's mark in YAML of a value that the user must give


# White space other than a blank, and what no page or terminal shows: control characters, marks that turn the direction
# of writing, halves of surrogate pairs, and codes that are no characters.
_BREAKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class ConfigError(Exception):
    """A request that cannot be met. The message names the key or file, what was found and what is accepted."""


def require(holds: object, key: str, found: object, accepted: str) -> None:
    """Raise a ConfigError for `key` unless `holds` is true."""
    if not holds:
        raise ConfigError(f"{key}={found}: {accepted}")


def printable(text: object) -> str:
    """Return a text on one line, with U+FFFD for each character that no page or terminal shows."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _BREAKS.sub(" ", str(text)))


def one_line(error: BaseException, most: int = 300) -> str:
    """Describe an error in one line: what the system says of a file, else its kind and the first line of its message.

    A ConfigError needs no kind.
    """
    kind = "" if isinstance(error, ConfigError | OSError) and str(error) else type(error).__name__
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: '{error.filename}'" if error.filename is not None else error.strerror
    first = printable((message.strip().splitlines() or [""])[0])
    text = ": ".join(filter(None, (kind, first)))
    # What was found may be long; what is accepted stands at the end.
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) :]}"


# Letters that a list of names may have in an error.
MOST = 1000


def nearest(name: object, names: Iterable[str]) -> str:
    """Suggest the valid names nearest to a wrong one, and list all of them where they fit on a line."""
    names = sorted(names)
    # The group of a key, such as `head.`, is no likeness to the other keys of this group.
    group, dot, own = str(name).rpartition(".")
    mates = {key.rpartition(".")[2]: key for key in names if dot and key.rpartition(".")[0] == group}
    others = [key for key in names if key not in mates.values()]
    close = [mates[key] for key in difflib.get_close_matches(own, mates, n=3, cutoff=0.5)]
    close = close or difflib.get_close_matches(str(name), others, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    known = ", ".join(names)
    if (len(names) > 20 and close) or len(known) > MOST:
        few = [name[:80] for name in (*names[:3], "...", names[-1])]
        known = ", ".join([*few, f"{len(names)} names in all"])
    return f"{hint}accepted: {known}"


def unresolved(error: InterpolationResolutionError, names: Iterable[str] = ()) -> str:
    """Describe an interpolation that cannot be resolved: its key, its text and what is accepted.

    Args:
        names: the keys that it could refer to.
    """
    values = _plain_text(error.parent_node)
    text = values.get(error.key, "...")
    reason = str(error).splitlines()[0].removeprefix("KeyError raised while resolving interpolation: ").strip('"')
    accepted = "accepted: a key as in ${optimizer.lr}, a variable as in ${oc.env:NAME,DEFAULT}"
    if isinstance(error, InterpolationKeyError) and names:
        accepted = nearest(text.strip("${}"), names)
    return f"{error.full_key}={text}: {reason}; {accepted}"


def build(cls: type[T], node: DictConfig | Mapping[str, Any], key: str) -> T:
    """Build the dataclass `cls` from the values in `node`.

    Args:
        node: a group of a config, or an object read from JSON.
        key: where the node lies, for error messages; "" for the top.

    Raises:
        ConfigError: a value is unknown, missing, of the wrong type, or refused by the class.
    """
    try:
        return _dataclass_converter(cls)(_plain(node))
    except _Refusal as refusal:
        raise ConfigError(refusal.message(key)) from None


def build_named(registry: Mapping[str, type[T]], node: DictConfig, key: str) -> T:
    """Build the class that the registry holds under `node.name` from the other values in `node`."""
    require(isinstance(node, DictConfig) and "name" in node, key, node, "a group with a `name`")
    if node.name not in registry:
        raise ConfigError(f"{key}.name={node.name}: no such {key}; {nearest(node.name, registry)}")
    return build(registry[node.name], {name: value for name, value in _plain(node).items() if name != "name"}, key)


class _Refusal(Exception):
    """A value that does not fit, with the path to it from the value that was converted."""

    def __init__(self, reason: str, *path: object):
        self.reason, self.path = reason, path

    def under(self, *path: object) -> "_Refusal":
        return _Refusal(self.reason, *path, *self.path)

    def message(self, key: str) -> str:
        """`key.path=found: accepted`; the reason brings its own separator."""
        return f"{'.'.join(filter(None, (key, *map(str, self.path))))}{self.reason}"


def _plain_text(node: Any) -> dict[Any, str]:
    """Return the values of a group or a list as text, interpolations as they are written."""
    values = OmegaConf.to_container(node) if OmegaConf.is_config(node) else {}
    items = enumerate(values) if isinstance(values, list) else values.items() if isinstance(values, dict) else ()
    return {key: str(value) for key, value in items}


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


@cache
def _dataclass_converter(cls: type) -> Converter:
    hints = get_type_hints(cls)
    converters = {field.name: _converter(hints[field.name]) for field in fields(cls)}
    needed = [field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING]

    def convert(node: Any) -> Any:
        if not isinstance(node, Mapping):
            raise _Refusal(f"={node}: must be a group of named values")
        values = {}
        for name, value in node.items():
            if name not in converters:
                raise _Refusal(f": no such key; {nearest(name, converters)}", name)
            if isinstance(value, str) and value == MISSING_VALUE:
                continue
            try:
                values[name] = converters[name](value)
            except _Refusal as refusal:
                raise refusal.under(name) from None
        for name in needed:
            if name not in values:
                raise _Refusal(": missing; it needs a value", name)
        try:
            return cls(**values)
        except ConfigError as error:
            # A class that may lie anywhere names itself; where it lies is known here.
            own = f"{cls.__name__.lower()}."
            if str(error).startswith(own):
                key, separator, rest = str(error).removeprefix(own).partition("=")
                raise _Refusal(separator + rest, key) from None
            raise

    return convert


@cache
def _converter(hint: Any) -> Converter:
    """Return a function from a plain value to one of the type `hint`; it raises a _Refusal."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin in (Union, UnionType):
        return _union_converter(arguments)
    if origin is Literal:
        return _literal_converter(arguments)
    if origin is tuple:
        return _tuple_converter(_converter(arguments[0]))
    if origin in (dict, Mapping):
        return _dict_converter(_converter(arguments[1]))
    if is_dataclass(hint):
        return _dataclass_converter(hint)  # pyright: ignore[reportArgumentType]
    assert hint is Any, f"options of the type {hint} are not supported"
    return lambda value: value


def _union_converter(kinds: tuple[Any, ...]) -> Converter:
    converters = [_converter(kind) for kind in kinds if kind is not NoneType]
    optional, exact = NoneType in kinds, {kind for kind in kinds if isinstance(kind, type)}

    def convert(value: Any) -> Any:
        if type(value) in exact:
            return value
        for converter in converters[:-1]:
            try:
                return converter(value)
            except _Refusal:
                continue
        try:
            return converters[-1](value)
        except _Refusal as refusal:
            if optional and not refusal.path:
                raise _Refusal(f"{refusal.reason}, or null") from None
            raise

    return convert


def _literal_converter(words: tuple[Any, ...]) -> Converter:
    def convert(value: Any) -> Any:
        if value not in words:
            raise _Refusal(f"={value}: {nearest(value, words)}")
        return value

    return convert


def _tuple_converter(item: Converter) -> Converter:
    def convert(value: Any) -> tuple:
        if not isinstance(value, list | tuple):
            raise _Refusal(f"={value}: must be a list")
        converted = []
        try:
            converted.extend(map(item, value))
        except _Refusal as refusal:
            raise refusal.under(len(converted)) from None
        return tuple(converted)

    return convert


def _dict_converter(item: Converter) -> Converter:
    def convert(value: Any) -> dict:
        if not isinstance(value, Mapping):
            raise _Refusal(f"={value}: must be a group of named values")
        converted = {}
        for name, element in value.items():
            try:
                converted[name] = item(element)
            except _Refusal as refusal:
                raise refusal.under(name) from None
        return converted

    return convert


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    try:
        return int(value) if isinstance(value, str) else _refuse(value, "an integer")
    except ValueError:
        return _refuse(value, "an integer")


def _number(value: Any) -> float:
    try:
        return float(value) if type(value) in (float, int, str) else _refuse(value, "a number")
    except (ValueError, OverflowError):
        return _refuse(value, "a number")


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else _refuse(value, "text")


def _truth(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    word = str(value).lower()
    return words[word] if word in words else _refuse(value, "true or false")


def _refuse(value: Any, accepted: str) -> Any:
    raise _Refusal(f"={value}: must be {accepted}")


_SCALARS: dict[Any, Converter] = {int: _integer, float: _number, str: _text, bool: _truth}
