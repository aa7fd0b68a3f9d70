"""Settings from a YAML file, changed by dotted overrides such as `drafts.num_samples=4`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from hydra_ray.config.check import check_config, kind_of
from hydra_ray.config.generator import looks_secret
from hydra_ray.config.run import RunConfig
from hydra_ray.config.yaml_documents import MAX_DEPTH, parse_document, read_document
from hydra_ray.errors import ConfigError, shortened
from hydra_ray.shipped import find_configuration

_MAX_SHOWN = 200


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
        loaded = read_document(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(loaded, dict):
        got = "nothing" if loaded is None else kind_of(loaded)
        raise ConfigError(f"{path} must be a mapping of sections, got {got}")
    return cast(dict[str, Any], loaded)


def apply_override(settings: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Return a copy of `settings` in which the dotted key of `override` has its value.

    Raises:
        ConfigError: `override` is not of the form `section.key=value`, or goes through something that has no keys.
    """
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or len(parts) > MAX_DEPTH or not all(part and part == part.strip() for part in parts):
        told = _shown(key) if equals else "without =" if looks_secret(override) else _shown(override)
        raise ConfigError(f"the override {told} is not of the form section.key=value")
    try:
        value = parse_document(text)
    except ValueError as error:
        # The value, in which a secret may stand, is not told.
        raise ConfigError(f"the value of the override {_shown(key)} is not YAML: {error}") from error
    return apply_setting(settings, key, value)


def apply_setting(settings: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of `settings` in which the dotted `key` has `value`.

    Raises:
        ConfigError: the key goes through something that has no keys.
    """
    head, _, rest = key.partition(".")
    if not rest:
        return {**settings, head: value}
    inner: Any = settings.get(head)
    if inner is None:
        inner = {}
    if not isinstance(inner, Mapping):
        whole = " as a whole" if isinstance(inner, list | tuple) else ""
        raise ConfigError(
            f"the setting {_shown(key)} goes through {_shown(head)}, which is {kind_of(cast(object, inner))} and "
            f"has no keys: set {_shown(head)}{whole}"
        )
    return {**settings, head: apply_setting(cast(Mapping[str, Any], inner), rest, value)}


def _shown(text: str) -> str:
    return repr(shortened(text, _MAX_SHOWN))
