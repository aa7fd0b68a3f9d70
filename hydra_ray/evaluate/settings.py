"""Configuration of a run as dotted settings, in the notation of overrides."""

from collections.abc import Iterator, Mapping
from typing import Any, cast


def dotted_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting by its dotted name, in order; lists and empty sections are values."""
    return dict(_dotted(config, ""))


def seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are seeds."""
    return {name: value for name, value in dotted_settings(config).items() if name.endswith("seed")}


def _dotted(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            yield prefix + name, value
