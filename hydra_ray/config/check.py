"""Checks of settings as a whole, each error named by its dotted key and by what to do."""

import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hydra_ray.config.run import RunConfig
from hydra_ray.config.section import Section
from hydra_ray.config.users import DESCRIBED, NAMED
from hydra_ray.errors import ConfigError

_Section = TypeVar("_Section", bound=Section)


def check_config(settings: Mapping[str, Any], source: str) -> RunConfig:
    """Return `settings` as the checked configuration of a run.

    Raises:
        ConfigError: naming every wrong setting and `source`.
    """
    return check_settings(RunConfig, settings, source)


def check_settings(section: type[_Section], settings: Mapping[str, Any], source: str) -> _Section:
    """Return `settings` as a checked section.

    Raises:
        ConfigError: naming every wrong setting and `source`.
    """
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, _place(each['loc']))) or '(whole)'}: {_what_is_wrong(section, each)}"
            for each in error.errors()
        ]
        raise ConfigError(f"{source} is not a valid configuration:\n" + "\n".join(lines)) from error


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the keys that lead to a setting, without the tags of a choice."""
    return tuple(part for part in location if part not in (NAMED, DESCRIBED))


def _what_is_wrong(section: type[BaseModel], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(section, _place(error["loc"]))
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        value = json.dumps(error["input"])
        return f"got {value}, expected text; YAML reads words such as yes, no and on, and numbers, as no text: quote it"
    return error["msg"].removeprefix("Value error, ")


def _unknown(section: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """Return what to do about a setting that the section at `place`, seen from `section`, does not have."""
    *above, name = place
    for part in above:
        inner = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
        found = [each for each in (inner, *get_args(inner)) if isinstance(each, type) and issubclass(each, BaseModel)]
        if not found:
            return "there is no such setting"
        section = found[0]
    close = difflib.get_close_matches(str(name), section.model_fields, n=1)
    if close:
        return f"there is no such setting; did you mean {'.'.join(map(str, [*above, close[0]]))}?"
    return f"there is no such setting, only {', '.join(section.model_fields)}"
