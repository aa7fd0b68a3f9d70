"""Settings from a YAML file, changed by dotted overrides such as `drafts.num_samples=4`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml

from hydra_ray.config.check import check_config
from hydra_ray.config.run import RunConfig
from hydra_ray.errors import ConfigError
from hydra_ray.shipped import find_configuration


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Return the configuration in the YAML file at `path`, changed by dotted `overrides`.

    Args:
        path: a file, or the name of a shipped configuration.
        overrides: each `section.key=value`, the value in YAML.

    Raises:
        ConfigError: the file cannot be read, an override has no such form, or a setting is wrong.
    """
    settings = read_settings(path)
    for override in overrides:
        settings = apply_override(settings, override)
    return check_config(settings, source=str(path))


def read_settings(path: str | Path) -> dict[str, Any]:
    """Return the settings in the YAML file at `path`, not checked yet.

    Args:
        path: a file, or the name of a shipped configuration.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    file = find_configuration(path)
    try:
        loaded = _yaml_value(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must be a mapping of sections, got {type(loaded).__name__}")
    return cast(dict[str, Any], loaded)


class _ConfigurationLoader(yaml.SafeLoader):
    """YAML's safe loader, in which a date is the text that was written.

    No setting is a date, and a run may be named by one. PyYAML's own loader depends on what else the process imported:
    lm-format-enforcer, which vLLM imports, changes how `SafeLoader` reads dates.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _yaml_value(text: str) -> Any:
    """Return the value that `text` is in YAML.

    Raises:
        ValueError: it is none, or one that cannot be made, such as a tagged number that has no digits.
    """
    try:
        return yaml.load(text, Loader=_ConfigurationLoader)
    # What PyYAML's constructors raise where a tag and its value do not fit is not a YAMLError.
    except (yaml.YAMLError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def apply_override(settings: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Return a copy of `settings` in which the dotted key of `override` has its value.

    Raises:
        ConfigError: `override` is not of the form `section.key=value`, or goes through something that has no keys.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"the override {override!r} is not of the form section.key=value")
    try:
        value = _yaml_value(text)
    except ValueError as error:
        raise ConfigError(f"the value of the override {override!r} is not YAML: {error}") from error
    return apply_setting(settings, key, value)


def apply_setting(settings: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of `settings` in which the dotted `key` has `value`.

    Raises:
        ConfigError: the key goes through something that has no keys.
    """
    head, _, rest = key.partition(".")
    if not rest:
        return {**settings, head: value}
    inner: Any = settings.get(head) or {}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"the setting {key!r} goes through {head!r}, which is {inner!r} and has no keys")
    return {**settings, head: apply_setting(cast(Mapping[str, Any], inner), rest, value)}
