"""Values that a configuration takes from environment variables: used, but never written down."""

import hashlib
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

# The variables that were read since the list was last cleared.
_read: list[str] = []


def _environment_variable(*arguments: Any) -> Any:
    _read.append(arguments[0])
    return oc.env(*arguments)


OmegaConf.register_new_resolver("oc.env", _environment_variable, replace=True)


def recorded_values(node: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a configuration as a record holds it, and what it does not hold.

    Returns:
        The resolved values, with the expression in place of each that depends on an environment variable, and these
        values themselves by dotted key.
    """
    hidden: dict[str, Any] = {}
    return _recorded(node, "", hidden), hidden


def fingerprint(value: object, salt: str) -> str:
    """Return a short text that tells a value from others, and from which it is costly to guess."""
    return hashlib.scrypt(str(value).encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=4).hex()


def _recorded(node: DictConfig | ListConfig, prefix: str, hidden: dict[str, Any]) -> Any:
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
    expressions: Any = OmegaConf.to_container(node, resolve=False)
    values: dict[Any, Any] = {}
    for key in keys:
        _read.clear()
        value = node[key]
        if OmegaConf.is_config(value) and not OmegaConf.is_interpolation(node, key):
            values[key] = _recorded(value, f"{prefix}{key}.", hidden)
            continue
        values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if _read:
            hidden[f"{prefix}{key}"], values[key] = values[key], expressions[key]
    return [*values.values()] if isinstance(node, ListConfig) else values
