"""Users as they are given on the command line: files of one's own, or a folder of official LaMP files."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from hydra_ray import storage
from hydra_ray.errors import ConfigError
from hydra_ray.lamp.input_files import is_pattern, parts_of
from hydra_ray.lamp.lamp_files import QUESTIONS
from hydra_ray.lamp.raw_streams import COMPRESSED_SUFFIXES
from hydra_ray.lamp.row_files import ROW_SUFFIXES


def source_of(users: Sequence[str]) -> dict[str, Any]:
    """Return the settings of the section `lamp` that name the given users.

    Raises:
        ConfigError: a folder of LaMP files is given together with others.
    """
    are_lamp = [is_lamp_folder(location) for location in users]
    if not any(are_lamp):
        return {"root": None, "users_files": list(users)}
    if len(users) == 1:
        return {"root": users[0], "users_files": []}
    raise ConfigError(f"got the users {list(users)}; expected files and folders of users, or one folder of LaMP files")


def is_lamp_folder(location: str) -> bool:
    """Return whether a location is a folder of LaMP files, or of nothing at all, and not of parts of users' files."""
    if unpacked_name(location).lower().endswith(ROW_SUFFIXES) or is_pattern(location) or storage.exists(location):
        return False
    names = parts_of(location)
    return not names or any(QUESTIONS in name for name in names)


def unpacked_name(location: str) -> str:
    """Return the last part of a location, without the ending of a compression."""
    name = PurePosixPath(location).name
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name
