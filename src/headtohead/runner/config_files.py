"""Config files of the user, checked as Hydra reads them: an error names the file and the line."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headtohead.options import ConfigError

# The most values of a file once its aliases are expanded: some double with every line.
MOST_VALUES = 100_000
ACCEPTED = "accepted: YAML in UTF-8, keys with values"


# Hydra keeps a source of this name for the scheme, however often it finds its own again.
class FileConfigSource(file_config_source.FileConfigSource):
    """A folder of configs whose files are checked before Hydra makes configs of them."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a config.

        Raises:
            ConfigError: the file cannot be read, or holds no mapping.
        """
        path = Path(self.path, self._normalize_file_name(config_path))
        if not path.is_file():
            return super().load_config(config_path)
        check_file(path)
        try:
            result = super().load_config(config_path)
        except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, AssertionError) as error:
            raise _refusal(path, error) from error
        defaults = cast(dict[str, Any], OmegaConf.to_container(result.config)).get("defaults", [])
        if not (isinstance(defaults, list) and all(map(_is_default, defaults))):
            raise ConfigError(f"{path}: defaults={defaults}: must be a list of options, such as [softmax, _self_]")
        return result


def register() -> None:
    """Let Hydra read files by this class in place of its own, and copy none of its stored configs needlessly."""
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
    store = ConfigStore.instance()
    # Each time Hydra composes a config, or lists a group, it would copy all stored configs, although it copies each
    # again when it is read: half of the time of `--help`.
    vars(store)["__deepcopy__"] = lambda memo: store


def check_file(path: Path) -> None:
    """Check that a file holds a mapping in YAML of a bounded size.

    Raises:
        ConfigError: it does not.
    """
    refuse = partial(_refusal, path)
    try:
        text = path.read_bytes().decode()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise ConfigError(f"{path}, line 1: empty; {ACCEPTED}")
        _count(root, {})
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; {ACCEPTED}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; {ACCEPTED}") from None
    except (yaml.YAMLError, OSError) as error:
        raise refuse(error) from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}, line {root.start_mark.line + 1}: no mapping; {ACCEPTED}")


def _is_default(item: object) -> bool:
    """Return whether an item of a defaults list names an option, or one or more of a group."""
    if not isinstance(item, dict):
        return isinstance(item, str)
    values = [part for value in item.values() for part in (value if isinstance(value, list) else [value])]
    return len(item) == 1 and all(value is None or isinstance(value, str) for value in values)


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the number of values under a node once its aliases are expanded.

    Args:
        counts: the numbers under the nodes that are known, by id; 0 for a node that is being counted.
    """
    if id(node) in counts:
        if not counts[id(node)]:
            raise yaml.MarkedYAMLError(problem="contains itself", problem_mark=node.start_mark)
        return counts[id(node)]
    counts[id(node)] = 0
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    total = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_count(part, counts) for part in parts))
    if total > MOST_VALUES:
        raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES} values", problem_mark=node.start_mark)
    counts[id(node)] = total
    return total


def _refusal(path: Path, error: Exception) -> ConfigError:
    """Return the refusal of a file, with the line where the error has one."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return ConfigError(f"{path}, line {mark.line + 1 if mark else 1}: {error.problem or error.context}; {ACCEPTED}")
    if isinstance(error, yaml.reader.ReaderError):
        line = path.read_bytes().decode(errors="replace").count("\n", 0, error.position) + 1
        return ConfigError(f"{path}, line {line}: {error.reason}; {ACCEPTED}")
    if isinstance(error, OSError):
        return ConfigError(f"{path}: cannot be read ({error.strerror})")
    return ConfigError(f"{path}: {str(error).splitlines()[0]}; {ACCEPTED}")
