"""From a node of the configuration to a checked, frozen dataclass.

A thing that a config names (a head, a dataset, a model, an optimiser) is a frozen dataclass whose
fields are its options: types live there, values in YAML. A registry maps names to such classes.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


class ConfigError(Exception):
    """The user asked for what cannot be done. The message names the key, the value and what is accepted."""


def require(holds: bool, key: str, found: object, accepted: str) -> None:
    """Raise a ConfigError for `key` unless `holds`."""
    if not holds:
        raise ConfigError(f"{key}={found}: {accepted}")


def nearest(name: str, names: Iterable[str]) -> str:
    """What to write after a wrong name: the nearest valid ones, and all of them where they fit a line."""
    names = sorted(names)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    known = names if len(names) <= 20 or not close else [*names[:3], "...", names[-1], f"{len(names)} names in all"]
    return f"{hint}accepted: {', '.join(known)}"


def build(cls: type[T], node: DictConfig, key: str) -> T:
    """An instance of the dataclass `cls` from `node`, found at `key` in the configuration.

    Raises:
        ConfigError: an option is unknown, missing or of the wrong type, or the class refuses its value.
    """
    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, False)
    options = {}
    names = list(schema)  # `name in schema` would be False for every option that has no value yet
    for name in node:
        if name not in names:
            raise ConfigError(f"{_join(key, name)}: no such key; {nearest(name, names)}")
        try:
            schema[name] = node[name]
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{_join(key, name)}={node._get_node(name)}: {reason}") from error
    for name in schema:
        if OmegaConf.is_missing(schema, name):
            raise ConfigError(f"{_join(key, name)}: missing; it needs a value")
        options[name] = _frozen(schema[name])
    return cls(**options)


def build_named(registry: Mapping[str, type[T]], node: DictConfig, key: str) -> T:
    """As `build`, with the class that the registry holds under `node.name`."""
    require(isinstance(node, DictConfig) and "name" in node, key, node, "a group with a `name`")
    if node.name not in registry:
        raise ConfigError(f"{key}.name={node.name}: no such {key}; {nearest(node.name, registry)}")
    options = OmegaConf.masked_copy(node, [name for name in node if name != "name"])
    return build(registry[node.name], options, key)


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _frozen(value: Any) -> Any:
    if OmegaConf.is_list(value):
        return tuple(_frozen(item) for item in value)
    if OmegaConf.is_dict(value):
        return OmegaConf.to_container(value, resolve=True)
    return value
