"""Results of commands as JSON, for other programs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import BaseModel


def as_json(found: object) -> str:
    """Return what a command found, as one JSON document: dataclasses are objects of their fields."""
    return json.dumps(_plain(found), ensure_ascii=False, indent=1, default=str)


def _plain(found: object) -> Any:
    if isinstance(found, BaseModel):
        return found.model_dump(mode="json")
    if is_dataclass(found) and not isinstance(found, type):
        return asdict(found)
    if isinstance(found, Mapping):
        return {str(name): _plain(each) for name, each in found.items()}
    if isinstance(found, list | tuple):
        return [_plain(each) for each in found]
    return found
