"""Files that `lamp.users_files` names: files themselves, folders of parts and glob patterns.

Of a folder the files that Spark and Hadoop hide are left out: names that begin with `_` or `.` and checksums; so are
those that describe a dataset. Folders such as `date=2024-01-01` give their files' rows a column, as in Hive.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from hydra_ray import storage
from hydra_ray.errors import InputError

_WILDCARDS = frozenset("*?[")
_HIDDEN_SUFFIXES = (".crc", ".tmp", "._COPYING_", "_$folder$")
_BESIDE = frozenset(
    ("README.md", "LICENSE", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "Thumbs.db",
     "desktop.ini")
)  # fmt: skip
"""Names of files that Hugging Face's `datasets`, its hub and desktops keep beside the data."""
_TRUTHS = {"true": True, "false": False}
_PARTITION = re.compile(r"(?P<name>user_id|date|is_new|kind|is_query)=(?!__HIVE_DEFAULT_PARTITION__$)(?P<value>.+)")
"""Folder whose name is the value of a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """File to read. Key: location."""

    location: str
    given: str
    """Entry of lamp.users_files that names it."""

    @property
    def partition(self) -> dict[str, Any]:
        """Values of the columns that the names of its folders give, where its rows do not hold them."""
        folders = map(_PARTITION.fullmatch, self.location.split("/")[:-1])
        values = {each["name"]: unquote(each["value"]) for each in folders if each}
        return {
            name: _TRUTHS.get(value.lower(), value) if name == "is_new" else value for name, value in values.items()
        }


def input_files(given: Sequence[str]) -> list[InputFile]:
    """Return the files that some entries name, in the order of the entries and of names in a folder, each file once.

    Raises:
        InputError: an entry is given twice, or names no file.
    """
    found: dict[str, InputFile] = {}
    for place, entry in enumerate(given):
        if entry in given[:place]:
            raise InputError(f"lamp.users_files names {entry} twice; name it once")
        for location in _locations(entry):
            found.setdefault(_identity(location), InputFile(location=location, given=entry))
    return list(found.values())


def is_pattern(entry: str) -> bool:
    """Return whether an entry holds a wildcard; a file of that very name counts before its pattern."""
    return not _WILDCARDS.isdisjoint(entry)


def parts_of(folder: str) -> list[str]:
    """Return the sorted paths, relative to a folder, of the files below it that are no by-products of Spark or Hadoop;
    folders such as `date=2024-01-01` are entered."""
    return [path for path in storage.list_tree(folder) if not any(map(_is_hidden, path.split("/")))]


def _locations(entry: str) -> list[str]:
    # At a key that ends with a slash, consoles of object stores put an empty object: the mark of a folder.
    if not entry.endswith("/") and storage.exists(entry):
        return [entry]
    parts = [storage.join(entry, path) for path in parts_of(entry)]
    if not parts and is_pattern(entry):
        parts = list(_matches(entry))
        if not parts:
            raise InputError(f"no file matches {entry}; check lamp.users_files")
    if parts:
        return parts
    if not storage.is_uri(entry) and os.path.isdir(entry):
        raise InputError(f"{entry} is a folder without a file to read; expected users' files in it (lamp.users_files)")
    raise InputError(f"no file {entry}; check lamp.users_files")


def _matches(pattern: str) -> Iterator[str]:
    try:
        matches = storage.glob_files(pattern)
    except ValueError as error:
        raise InputError(f"{pattern} is no pattern of files ({error}); check lamp.users_files") from error
    wildcard = next(place for place, letter in enumerate(pattern) if letter in _WILDCARDS)
    fixed = pattern[: pattern.rfind("/", 0, wildcard) + 1]
    for match in matches:
        if any(map(_is_hidden, match.removeprefix(fixed).split("/"))):
            continue
        if storage.exists(match):
            yield match
        else:
            yield from (storage.join(match, path) for path in parts_of(match))


def _is_hidden(name: str) -> bool:
    return (
        name.startswith(".")
        or name in _BESIDE
        or (name.startswith("_") and "=" not in name)
        or name.endswith(_HIDDEN_SUFFIXES)
    )


def _identity(location: str) -> str:
    return location if storage.is_uri(location) else os.path.realpath(location)
